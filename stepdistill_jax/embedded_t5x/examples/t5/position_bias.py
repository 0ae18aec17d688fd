"""T5's relative position bias: one learned number per head and distance bucket.

Near distances have a bucket each, far ones share buckets whose width grows
with the logarithm of the distance; everything from `max_distance` on shares
the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
from jax import lax
import jax.numpy as jnp
import numpy as np

Array = Any


def relative_position_bucket(
    relative_position: np.ndarray, bidirectional: bool = True,
    num_buckets: int = 32, max_distance: int = 128) -> np.ndarray:
  """The bucket of each (key position - query position).

  Args:
    relative_position: int array of any shape; negative looks back.
    bidirectional: False puts all that look forward into bucket 0; True gives
      them the upper half of the buckets.
    max_distance: from here on all distances share the last bucket.

  Returns:
    int32 array of the same shape, in `[0, num_buckets)`.
  """
  offset = 0
  distance = -relative_position
  if bidirectional:
    num_buckets //= 2
    offset = (distance < 0).astype(np.int32) * num_buckets
    distance = np.abs(distance)
  else:
    distance = np.maximum(distance, 0)
  exact = num_buckets // 2  # Below this every distance has its own bucket.
  # float32 with this epsilon, as T5 was trained: other roundings move a few
  # distances to the neighbouring bucket.
  log_ratio = np.log(
      distance.astype(np.float32) / exact + np.finfo(np.float32).eps)
  far = exact + (
      log_ratio / np.log(max_distance / exact) * (num_buckets - exact)
  ).astype(np.int32)
  far = np.minimum(far, num_buckets - 1)
  return (offset + np.where(distance < exact, distance, far)).astype(np.int32)


class RelativePositionBiases(nn.Module):
  """Learned biases for attention logits.

  Attributes:
    dtype: of the biases given out; the parameter is float32.
    embedding_init: initializer of the `[num_heads, num_buckets]` parameter.
  """

  num_buckets: int
  max_distance: int
  num_heads: int
  dtype: Any
  embedding_init: Callable[..., Array] = nn.linear.default_embed_init

  def setup(self):
    self.rel_embedding = nn_partitioning.param_with_axes(
        "rel_embedding", self.embedding_init,
        (self.num_heads, self.num_buckets), jnp.float32,
        axes=("heads", "relpos_buckets"))

  def __call__(self, qlen: int, klen: int, bidirectional: bool = True) -> Array:
    """Biases of all pairs: `[1, num_heads, qlen, klen]`."""
    # A bucket is a range of relative positions, and its two ends are all that
    # the program needs to know: a one-hot constant of all pairs would add 256
    # MiB to it at 2,048 positions.
    position = np.arange(1 - qlen, klen)
    in_bucket = (np.arange(self.num_buckets)[:, None]
                 == self._bucket(position, bidirectional))
    first = np.where(in_bucket, position, klen).min(axis=1)  # None has klen.
    last = np.where(in_bucket, position, -qlen).max(axis=1)
    relative_position = (lax.broadcasted_iota(jnp.int32, (qlen, klen), 1)
                         - lax.broadcasted_iota(jnp.int32, (qlen, klen), 0))
    return self._of_one_hot((relative_position >= first[:, None, None])
                            & (relative_position <= last[:, None, None]))

  def decoding_row(self, length: int, index: Array) -> Array:
    """The row of one query position that is known only at run time.

    In a causal decoder a bias depends on the distance alone, so the row of
    position `index` is a window of one vector; the `[length, length]` table
    of all pairs is never built.

    Args:
      length: number of key positions.
      index: the query's position: a scalar, or `[batch]`.

    Returns:
      `[1, num_heads, 1, length]`, or `[batch, num_heads, 1, length]` for an
      index of each row. Keys after the query get the bias of distance 0:
      the causal mask hides them.
    """
    # Distances length-1, ..., 1, 0, and then 0 for what lies ahead.
    relative_position = np.minimum(np.arange(2 * length - 1) - (length - 1), 0)
    bucket = self._bucket(relative_position, False)
    biases = self._of_one_hot(
        np.arange(self.num_buckets)[:, None, None] == bucket)
    biases = biases[0, :, 0, :]  # [num_heads, 2 * length - 1]
    start = length - 1 - jnp.reshape(index, (-1,))  # [batch or 1]
    if start.shape[0] == 1:
      return lax.dynamic_slice_in_dim(
          biases, start[0], length, axis=-1)[None, :, None, :]
    window = start[:, None] + np.arange(length)  # [batch, length]
    # [num_heads, batch, length] -> [batch, num_heads, 1, length]
    return jnp.moveaxis(biases[:, window], 0, 1)[:, :, None, :]

  _relative_position_bucket = staticmethod(relative_position_bucket)

  def _bucket(self, relative_position, bidirectional):
    return relative_position_bucket(
        relative_position, bidirectional, self.num_buckets, self.max_distance)

  def _of_one_hot(self, one_hot: Array) -> Array:
    """bool [buckets, qlen, klen] -> [1, num_heads, qlen, klen] biases."""
    embedding = jnp.asarray(self.rel_embedding, self.dtype)
    # A contraction: its gradient is a matrix product, where a gather's would
    # be a slow scatter.
    return jnp.tensordot(embedding, jnp.asarray(one_hot, self.dtype), 1)[None]
