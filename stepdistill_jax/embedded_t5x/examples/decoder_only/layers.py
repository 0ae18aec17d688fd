"""T5's layers, with biases that decoding computes once."""

from __future__ import annotations

from typing import Any

from stepdistill_jax.embedded_t5x.examples.t5 import position_bias
from stepdistill_jax.embedded_t5x.examples.t5.layers import *  # noqa: F403


class RelativePositionBiases(position_bias.RelativePositionBiases):
  """T5's; with `decode` they are kept in the cache, as `cached_bias`."""

  def __call__(self, qlen: int, klen: int, bidirectional: bool = True,
               decode: bool = False) -> Any:
    """Biases of all pairs: `[1, num_heads, qlen, klen]`.

    Raises:
      ValueError: `decode` with `bidirectional` or while the parameters are
        made, or a cache of other lengths.
    """
    if not decode:
      return super().__call__(qlen, klen, bidirectional)
    if bidirectional:
      raise ValueError("biases of both directions cannot be decoded with")
    if self.is_initializing():
      raise ValueError("decode needs parameters: make the cache with `apply`")
    if not self.has_variable("cache", "cached_bias"):
      self.put_variable(
          "cache", "cached_bias", super().__call__(qlen, klen, False))
    bias = self.get_variable("cache", "cached_bias")
    expected = (1, self.num_heads, qlen, klen)
    if bias.shape != expected:
      raise ValueError(
          f"the cached biases are of shape {bias.shape}, expected {expected}")
    return bias
