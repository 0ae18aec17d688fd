"""Attention masks: which query position may look at which key position.

A mask has the shape `[batch, 1, q_length, kv_length]`; the axis of size 1 is
there for the heads. Nonzero means "may look".
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

import jax.numpy as jnp

Array = Any
DType = Any


def make_attention_mask(
    query_input: Array, key_input: Array,
    pairwise_fn: Callable[[Array, Array], Array] = jnp.multiply,
    extra_batch_dims: int = 0, dtype: DType = jnp.float32) -> Array:
  """Applies `pairwise_fn` to every pair of a query and a key position.

  Args:
    query_input: `[batch, q_length]`, e.g. `tokens > 0` or segment ids.
    key_input: `[batch, kv_length]`.
    pairwise_fn: elementwise with broadcasting: `jnp.multiply` lets real tokens
      see real tokens, `jnp.equal` keeps packed examples apart.
    extra_batch_dims: how many leading axes of size 1 to add.

  Returns:
    `[batch, 1, q_length, kv_length]`, behind the extra axes.
  """
  mask = pairwise_fn(query_input[..., :, None], key_input[..., None, :])
  mask = jnp.expand_dims(mask, -3)  # The heads' axis.
  mask = jnp.expand_dims(mask, tuple(range(extra_batch_dims)))
  return mask.astype(dtype)


def make_causal_mask(
    x: Array, extra_batch_dims: int = 0, dtype: DType = jnp.float32) -> Array:
  """A position sees itself and what is before it; only x's shape matters.

  >>> make_causal_mask(jnp.zeros((1, 3)), dtype=jnp.int32)[0, 0].tolist()
  [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
  """
  positions = jnp.broadcast_to(jnp.arange(x.shape[-1]), x.shape)
  return make_attention_mask(
      positions, positions, jnp.greater_equal, extra_batch_dims, dtype)


def _present(kind: str, arrays: tuple[Array | None, ...]) -> list[Array]:
  """Those that are not None; ValueError unless they have one rank."""
  present = [array for array in arrays if array is not None]
  if len({array.ndim for array in present}) > 1:
    raise ValueError(f"{kind} must have one rank, got ranks "
                     f"{[array.ndim for array in present]}")
  return present


def combine_masks(
    *masks: Array | None, dtype: DType = jnp.float32) -> Array | None:
  """The logical and of the masks that are not None; None if none is left."""
  present = _present("masks", masks)
  return functools.reduce(jnp.logical_and, present).astype(
      dtype) if present else None


def combine_biases(*biases: Array | None) -> Array | None:
  """The sum of the biases that are not None; None if none is left."""
  present = _present("biases", biases)
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
