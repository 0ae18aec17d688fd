"""T5's layers with kernels that keep heads apart.

`[embed, heads, kv]` instead of `[embed, heads * kv]`: each axis has its own
logical name, so that a mesh can shard heads, and Adafactor factors stacked
layers one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
import jax.numpy as jnp

from stepdistill_jax.embedded_t5x.examples.t5 import layers as t5_layers
from stepdistill_jax.embedded_t5x.examples.t5.layers import *  # noqa: F403

Array = Any
InitializerAxis = int | tuple[int, ...]
NdInitializer = Callable[..., Array]
variance_scaling = nn.initializers.variance_scaling


def nd_dense_init(
    scale: float, mode: str, distribution: str) -> Callable[..., Array]:
  """Variance scaling whose input and output axes are arguments of its calls."""

  def init(key, shape, dtype, in_axis, out_axis):
    initializer = nn.initializers.variance_scaling(
        scale, mode, distribution, in_axis, out_axis)
    return initializer(key, shape, dtype)

  return init


class DenseGeneral(t5_layers.DenseGeneral):
  """As T5's, with the kernel stored as `[*input axes, *features]`."""

  kernel_init: Callable[..., Array] = nd_dense_init(
      1.0, "fan_in", "truncated_normal")

  def stored_kernel(self, in_shape, features) -> Array:
    in_axes = tuple(range(len(in_shape)))
    out_axes = tuple(range(len(in_shape), len(in_shape) + len(features)))
    return nn_partitioning.param_with_axes(
        "kernel", self.kernel_init, in_shape + features, jnp.float32, in_axes,
        out_axes, axes=self.kernel_axes)


class MultiHeadDotProductAttention(t5_layers.MultiHeadDotProductAttention):
  """As T5's, on kernels that keep heads apart."""

  kernel_init: Callable[..., Array] = nd_dense_init(1.0, "fan_in", "normal")

  dense_cls = DenseGeneral
  in_axes = ("embed", "heads", "kv")
  out_axes = ("heads", "kv", "embed")


class MlpBlock(t5_layers.MlpBlock):
  """As T5's."""

  kernel_init: Callable[..., Array] = nd_dense_init(
      1.0, "fan_in", "truncated_normal")

  dense_cls = DenseGeneral
