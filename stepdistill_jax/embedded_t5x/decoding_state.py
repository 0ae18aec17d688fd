"""What decoding loops share: the state they show, beams, caches of beams.

Beams (or samples) of one batch row stand side by side: row `b`, beam `k` of
`[batch, beams, ...]` is row `b * beams + k` of the flat `[batch * beams, ...]`
that the network sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax
from flax import traverse_util
import jax
from jax import lax
import jax.numpy as jnp

Array = Any
PyTree = Any

# What masked logits are set to, and what a sequence that is none has.
NEG_INF_VALUE = -1.0e7
# A counter: one for all rows, unless rows started at different positions.
_INDEX_LEAF = "cache_index"
# The same for all beams of a row; the network expands them where it uses them.
_SHARED_LEAVES = (
    "cross_key", "cross_value", "cached_bias", "position_embedder_index")
# Tokens whose maximum `top_k` takes first; vocabularies are multiples of it.
_GROUP = 128


@flax.struct.dataclass
class DecodingState:
  """What `tokens_to_logits` is given.

  Attributes:
    cur_index: position being decoded: `[batch * decodes]` when sampling, a
      scalar in beam search.
    sequences: int `[batch * decodes, length]`, tokens so far.
    cur_token: int `[batch * decodes, 1]`, the last token.
  """

  cur_index: Array
  sequences: Array
  cur_token: Array
  cache: Mapping[str, Any]


TokensToLogits = Callable[[DecodingState], tuple[Array, Mapping[str, Any]]]


def cache_map(
    fn: Callable[[Array], Array], cache: PyTree, apply_to_index: bool = False
) -> PyTree:
  """Applies `fn` to the arrays of a cache that have a row for each decode.

  Args:
    apply_to_index: also to counters of positions, which are `[batch]` when
      rows started at different positions.
  """
  skipped = _SHARED_LEAVES if apply_to_index else (
      *_SHARED_LEAVES, _INDEX_LEAF)
  flat = traverse_util.flatten_dict(flax.core.unfreeze(cache))
  mapped = traverse_util.unflatten_dict({
      path: leaf if path[-1] in skipped else fn(leaf)
      for path, leaf in flat.items()})
  if isinstance(cache, flax.core.FrozenDict):
    return flax.core.freeze(mapped)
  return mapped


def add_beam_dim(x: Array, beam_size: int, offset: int = 0) -> Array:
  """[batch, ...] -> [batch, beams, ...] with copies; batch is at `offset`."""
  return jnp.repeat(jnp.expand_dims(x, offset + 1), beam_size, offset + 1)


def flatten_beam_dim(x: Array, offset: int = 0) -> Array:
  """[batch, beams, ...] -> [batch * beams, ...]; batch is at `offset`."""
  return x.reshape(x.shape[:offset] + (-1,) + x.shape[offset + 2:])


def unflatten_beam_dim(
    x: Array, batch_size: int, beam_size: int, offset: int = 0) -> Array:
  """[batch * beams, ...] -> [batch, beams, ...]; batch is at `offset`."""
  return x.reshape(
      x.shape[:offset] + (batch_size, beam_size) + x.shape[offset + 1:])


def flat_batch_beam_expand(x: Array, beam_size: int, offset: int = 0) -> Array:
  """[batch, ...] -> [batch * beams, ...] with copies."""
  return flatten_beam_dim(add_beam_dim(x, beam_size, offset), offset)


def _pick_beams(nested: PyTree, beam_indices: Array, offset: int) -> PyTree:
  """Picks beams of each row; the arrays' batch axis is at `offset`."""
  pick = jax.vmap(
      lambda x, i: jnp.take(x, i, axis=offset), in_axes=(offset, 0),
      out_axes=offset)
  return jax.tree.map(lambda x: pick(x, beam_indices), nested)


def gather_beams(
    nested: PyTree, beam_indices: Array, batch_size: int | None = None,
    old_beam_size: int | None = None, new_beam_size: int | None = None,
    one_hot: bool = True) -> PyTree:
  """Picks beams of each row: [batch, old, ...] -> [batch, new, ...].

  Args:
    nested: a tree of `[batch, old beams, ...]` arrays.
    beam_indices: int `[batch, new beams]`.

  The other arguments are T5X's; the arrays' shapes say the same.
  """
  del batch_size, old_beam_size, new_beam_size, one_hot
  return _pick_beams(nested, beam_indices, 0)


def cache_gather_beams(
    nested: PyTree, beam_indices: Array, batch_size: int | None = None,
    old_beam_size: int | None = None, new_beam_size: int | None = None,
    one_hot: bool = True, offset: int = 0) -> PyTree:
  """`gather_beams` of a cache, but for what all beams of a row share.

  Args:
    offset: where the cache's arrays have their batch axis.
  """
  del batch_size, old_beam_size, new_beam_size, one_hot
  return cache_map(lambda x: _pick_beams(x, beam_indices, offset), nested)


def gather_topk_beams(
    nested: PyTree, score_or_log_prob: Array, batch_size: int,
    new_beam_size: int) -> PyTree:
  """The best beams of each row, the best last.

  Args:
    nested: a tree of `[batch, beams, ...]` arrays.
    score_or_log_prob: `[batch, beams]`.
    new_beam_size: how many.
  """
  del batch_size
  _, best = lax.top_k(score_or_log_prob, new_beam_size)
  return gather_beams(nested, best[:, ::-1])


def top_k(x: Array, k: int) -> tuple[Array, Array]:
  """`lax.top_k` of the last axis; for vocabularies, in two passes.

  The k largest are in the k groups with the largest maxima. Maxima are vector
  instructions, while `lax.top_k` and argmax go from token to token on a CPU,
  which takes about ten times as long.

  Args:
    x: `[..., n]`, without NaN.
    k: how many.

  Returns:
    `[..., k]` values, the largest first, and their int32 indices; of equal
    values the first.
  """
  groups, rest = divmod(x.shape[-1], _GROUP)
  if rest or groups <= k:
    return lax.top_k(x, k)
  grouped = x.reshape(x.shape[:-1] + (groups, _GROUP))
  _, best = lax.top_k(jnp.max(grouped, axis=-1), k)
  best = jnp.sort(best, axis=-1)  # So that indices rise: the first wins.
  chosen = jnp.take_along_axis(grouped, best[..., None], axis=-2)
  values, places = lax.top_k(
      chosen.reshape(x.shape[:-1] + (k * _GROUP,)), k)
  group = jnp.take_along_axis(best, places // _GROUP, axis=-1)
  return values, group * _GROUP + places % _GROUP


top_k_two_stage = top_k  # T5X's name.
