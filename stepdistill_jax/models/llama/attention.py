"""Grouped-query self-attention with rotary positions and a cache."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from stepdistill_jax.embedded_t5x.examples.t5 import layers
from stepdistill_jax.models.llama import rotary

Array = Any


class Dense(layers.DenseGeneral):
  """A linear map with what a decoder's have besides a kernel.

  Attributes:
    use_bias: whether there is a bias.
    lora_rank: of the adapter, 0 for none; see `models.lora`.
    lora_alpha: what it is multiplied with, times the rank.
  """

  use_bias: bool = False
  lora_rank: int = 0
  lora_alpha: float = 16.0

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    outputs = super().__call__(inputs)
    kept = inputs.ndim - len(np.atleast_1d(self.axis))
    features = outputs.shape[kept:]
    size = int(np.prod(features))
    if self.lora_rank:
      # [..., in] -> [..., rank] -> [..., out]
      flat = inputs.reshape((*inputs.shape[:kept], -1)).astype(self.dtype)
      first = nn_partitioning.param_with_axes(
          "lora_a", nn.initializers.he_uniform(),
          (flat.shape[-1], self.lora_rank), jnp.float32,
          axes=(self.kernel_axes[0], "kv"))
      second = nn_partitioning.param_with_axes(
          "lora_b", nn.initializers.zeros, (self.lora_rank, size), jnp.float32,
          axes=("kv", self.kernel_axes[-1]))
      update = flat @ first.astype(self.dtype) @ second.astype(self.dtype)
      outputs += (update * (self.lora_alpha / self.lora_rank)).reshape(
          outputs.shape)
    if self.use_bias:
      bias = nn_partitioning.param_with_axes(
          "bias", nn.initializers.zeros, (size,), jnp.float32,
          axes=self.kernel_axes[-1:])
      outputs += jnp.asarray(bias, self.dtype).reshape(features)
    return outputs


def dense(config: Any, name: str) -> Callable[..., Dense]:
  """Makes the linear map of a name, with its adapter if it has one."""
  rank = config.lora_rank if name in config.lora_targets else 0
  return functools.partial(
      Dense, dtype=config.dtype, lora_rank=rank, lora_alpha=config.lora_alpha,
      name=name)


class SelfAttention(nn.Module):
  """Projects to heads, turns them by their positions, attends.

  Attributes:
    config: a `network.LlamaConfig`.
  """

  config: Any

  @nn.compact
  def __call__(
      self, inputs: Array, mask: Array | None, positions: Array, *,
      decode: bool = False, index: Array | None = None,
      prefill: bool = False) -> Array:
    """`[batch, length, embed]` -> `[batch, length, embed]`.

    The collection `cache` holds keys, turned already, and values, as `[batch,
    positions, key-value heads, head_dim]`. With `decode`, a first call on
    whole sequences makes it; with `prefill` a call fills in whole prompts;
    each later call with `decode` brings one position.

    Args:
      inputs: `[batch, length, embed]`.
      mask: bool `[batch, 1, length, key length]`, True where a position sees
        another one; None where the cache is made.
      positions: int32 `[batch, length]`.
      decode: use the cache.
      index: position being decoded, a scalar or `[batch]`; None where the
        cache is made.
      prefill: keep keys and values; what is after a prompt is overwritten
        before anything sees it.
    """
    cfg = self.config
    query = self._heads("query", inputs, cfg.num_heads)
    key = self._heads("key", inputs, cfg.num_kv_heads)
    value = self._heads("value", inputs, cfg.num_kv_heads)
    if cfg.qk_norm:
      # Qwen 3 divides each head by its root mean square.
      query, key = (
          layers.LayerNorm(
              epsilon=cfg.rms_norm_epsilon, dtype=cfg.dtype,
              scale_axes=("kv",), name=name)(heads)
          for name, heads in (("query_norm", query), ("key_norm", key)))
    radians = cfg.rotary_frequencies()
    query = rotary.rotate(query, positions, radians)
    key = rotary.rotate(key, positions, radians)
    if prefill:
      self.put_variable("cache", "cached_key", key)
      self.put_variable("cache", "cached_value", value)
    elif decode:
      key = self._cached("cached_key", key, index)
      value = self._cached("cached_value", value, index)
    # Scores and softmax are in float32; query heads share key-value heads.
    x = jax.nn.dot_product_attention(
        query, key, value, mask=mask,
        implementation=None if decode or prefill else cfg.attention)
    return dense(cfg, "out")(
        features=inputs.shape[-1], axis=(-2, -1),
        kernel_init=nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
        kernel_axes=("joined_kv", "embed"))(x)

  def _heads(self, name: str, inputs: Array, heads: int) -> Array:
    """[batch, length, embed] -> [batch, length, heads, head_dim]."""
    cfg = self.config
    return dense(cfg, name)(
        features=(heads, cfg.head_dim),
        kernel_init=nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
        kernel_axes=("embed", "joined_kv"), use_bias=cfg.qkv_bias)(inputs)

  def _cached(self, name: str, new: Array, index: Any) -> Array:
    """Makes a cache, or writes one position; all that is to be seen."""
    if not self.has_variable("cache", name):
      self.put_variable("cache", name, jnp.zeros_like(new))
      return new
    old: Any = self.get_variable("cache", name)
    if jnp.ndim(index) == 0:
      old = lax.dynamic_update_slice_in_dim(old, new, index, axis=1)
    else:
      old = old.at[jnp.arange(new.shape[0]), index].set(new[:, 0])
    self.put_variable("cache", name, old)
    return old
