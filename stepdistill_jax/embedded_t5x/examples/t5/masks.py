"""Attention masks: which query position may look at which key position.

A mask has the shape `[batch, 1, q_length, kv_length]`; the axis of size 1 is
there for the heads. Nonzero means "may look".
"""

from __future__ import annotations

import functools
from typing import Any

from flax import linen as nn
import jax.numpy as jnp

Array = Any
DType = Any


# Of every pair of a query and a key position: with `jnp.multiply` real tokens
# see real tokens, with `jnp.equal` segment ids keep packed examples apart.
make_attention_mask = nn.make_attention_mask
make_causal_mask = nn.make_causal_mask
# The logical and of the masks that are not None; None if none is left.
combine_masks = nn.combine_masks


def combine_biases(*biases: Array | None) -> Array | None:
  """The sum of the biases that are not None; None if none is left."""
  present = [bias for bias in biases if bias is not None]
  ranks = [bias.ndim for bias in present]
  if len(set(ranks)) > 1:
    raise ValueError(f"biases must have one rank, got ranks {ranks}")
  return functools.reduce(jnp.add, present) if present else None


def make_decoder_mask(
    decoder_target_tokens: Array, dtype: DType,
    decoder_causal_attention: Array | None = None,
    decoder_segment_ids: Array | None = None) -> Array:
  """The decoder's self-attention mask: causal, without padding, per segment.

  Two packed examples, the first with a prefix of two tokens that see each
  other both ways (a "prefix LM"):

      decoder_target_tokens    = [[6, 7, 8, 3, 4, 0]]
      decoder_segment_ids      = [[1, 1, 1, 2, 2, 0]]
      decoder_causal_attention = [[1, 1, 0, 0, 0, 0]]

      mask[0, 0] = [[1, 1, 0, 0, 0, 0],
                    [1, 1, 0, 0, 0, 0],
                    [1, 1, 1, 0, 0, 0],
                    [0, 0, 0, 1, 0, 0],
                    [0, 0, 0, 1, 1, 0],
                    [0, 0, 0, 0, 0, 0]]

  Args:
    decoder_target_tokens: `[batch, length]`, 0 is padding.
    decoder_causal_attention: `[batch, length]`, 1 where positions see each
      other both ways, or None.
    decoder_segment_ids: `[batch, length]`, the packed example's number, or
      None where rows hold one example.

  Returns:
    `[batch, 1, length, length]`.
  """
  pairs = lambda x, fn: make_attention_mask(x, x, fn, dtype=dtype)
  visible = make_causal_mask(decoder_target_tokens, dtype=dtype)
  if decoder_causal_attention is not None:
    visible = jnp.logical_or(
        visible, pairs(decoder_causal_attention, jnp.logical_and))
  same_segment = None
  if decoder_segment_ids is not None:
    same_segment = pairs(decoder_segment_ids, jnp.equal)
  return combine_masks(
      visible, pairs(decoder_target_tokens > 0, jnp.multiply), same_segment,
      dtype=dtype)
