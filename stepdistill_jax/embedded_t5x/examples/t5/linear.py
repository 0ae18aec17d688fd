"""Dense layers, the feed-forward block, embeddings, T5's layer norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import math
import operator
from typing import Any

from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
import jax
from jax import lax
import jax.numpy as jnp

from stepdistill_jax.util import errors

Array = Any
DType = Any
Initializer = Callable[..., Array]
param_with_axes = nn_partitioning.param_with_axes
with_sharding_constraint = nn_partitioning.with_sharding_constraint

default_embed_init = nn.initializers.variance_scaling(
    1.0, "fan_in", "normal", out_axis=0)


def _as_tuple(x) -> tuple[int, ...]:
  return (x,) if isinstance(x, int) else tuple(x)


class DenseGeneral(nn.Module):
  """A linear map without bias over one or several axes.

  The kernel is stored as a matrix, `[product of inputs, product of features]`,
  so that Adafactor factors it as T5 was trained.

  Attributes:
    features: size or sizes of the output axes.
    dtype: of the computation; the kernel is float32.
  """

  features: Sequence[int] | int
  axis: Sequence[int] | int = -1
  dtype: DType = jnp.float32
  kernel_init: Initializer = nn.initializers.variance_scaling(
      1.0, "fan_in", "truncated_normal")
  kernel_axes: tuple[str, ...] = ()

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    inputs = jnp.asarray(inputs, self.dtype)
    features = _as_tuple(self.features)
    axes = tuple(a % inputs.ndim for a in _as_tuple(self.axis))
    in_shape = tuple(inputs.shape[a] for a in axes)
    kernel = self.stored_kernel(in_shape, features)
    kernel = jnp.asarray(kernel, self.dtype).reshape(in_shape + features)
    contract = (axes, tuple(range(len(axes))))
    return lax.dot_general(inputs, kernel, (contract, ((), ())))

  def stored_kernel(self, in_shape, features) -> Array:
    return param_with_axes(
        "kernel", self.kernel_init,
        (math.prod(in_shape), math.prod(features)), jnp.float32,
        axes=self.kernel_axes)


def _activation(fn_or_name: str | Callable[[Array], Array]) -> Callable:
  """`linear`, a function's name in `flax.linen`, or a function."""
  if fn_or_name == "linear":
    return lambda x: x
  if isinstance(fn_or_name, str) and hasattr(nn, fn_or_name):
    return getattr(nn, fn_or_name)
  if callable(fn_or_name):
    return fn_or_name
  raise errors.InvalidValue(
      f"an activation is 'linear', a name in flax.linen or a function; got "
      f"{fn_or_name!r}")


class MlpBlock(nn.Module):
  """The feed-forward block; with two activations it is gated.

  Attributes:
    activations: one for each input projection; `("relu",)` is T5 1.0's
      (kernel `wi`), `("gelu", "linear")` is T5 1.1's (`wi_0`, `wi_1`), whose
      outputs are multiplied.
    intermediate_dropout_rate: of the hidden layer; one draw serves all
      positions.
  """

  intermediate_dim: int = 2048
  activations: Sequence[str | Callable[[Array], Array]] = ("relu",)
  kernel_init: Initializer = nn.initializers.variance_scaling(
      1.0, "fan_in", "truncated_normal")
  intermediate_dropout_rate: float = 0.1
  dtype: Any = jnp.float32

  dense_cls = DenseGeneral

  @nn.compact
  def __call__(
      self, inputs: Array, decode: bool = False, deterministic: bool = False
  ) -> Array:
    """[batch, length, embed] -> [batch, length, embed]."""
    del decode  # Every position stands alone.
    dense = functools.partial(
        self.dense_cls, dtype=self.dtype, kernel_init=self.kernel_init)
    hidden = []
    for i, activation in enumerate(self.activations):
      name = "wi" if len(self.activations) == 1 else f"wi_{i}"
      x = dense(
          self.intermediate_dim, kernel_axes=("embed", "mlp"), name=name)(
              inputs)
      hidden.append(_activation(activation)(x))
    x = functools.reduce(operator.mul, hidden)
    x = nn.Dropout(self.intermediate_dropout_rate, broadcast_dims=(-2,))(
        x, deterministic=deterministic)
    x = with_sharding_constraint(x, ("batch", "length", "mlp"))
    return dense(
        inputs.shape[-1], kernel_axes=("mlp", "embed"), name="wo")(x)


def _one_hot(ids: Array, size: int, dtype: DType) -> Array:
  """int [...] -> [..., size]; zeros for ids outside."""
  return jnp.asarray(ids[..., None] == jnp.arange(size, dtype=jnp.int32), dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _look_up(table: Array, ids: Array, size: int, dtype: DType) -> Array:
  """Rows of a table: float32 [size, features], int [...] -> [..., features].

  Zeros for ids outside. On TPUs the table's gradient is a matrix product with
  a one-hot matrix, which is never stored: it needs less memory than the scatter
  that it is elsewhere, where the product costs more. Both add up in float32.
  """
  del size
  return jnp.asarray(table).at[ids].get(  # A checkpoint may be NumPy's.
      mode="fill", fill_value=0, wrap_negative_indices=False).astype(dtype)


def _look_up_forward(table, ids, size, dtype):
  return _look_up(table, ids, size, dtype), ids


def _sums_by_product(ids: Array, rows: Array, size: int) -> Array:
  """Sums of the rows of each id: [..., features] -> [size, features]."""
  axes = tuple(range(ids.ndim))
  return lax.dot_general(
      _one_hot(ids, size, rows.dtype), rows, ((axes, axes), ((), ())),
      preferred_element_type=jnp.float32)


def _sums_by_scatter(ids: Array, rows: Array, size: int) -> Array:
  # Padding's gradient is exactly zero, and all of it has one id: on a GPU
  # these additions would wait for each other. Out of range they are left out.
  ids = jnp.where(jnp.any(rows != 0, axis=-1), ids, size)
  return jnp.zeros((size, rows.shape[-1]), jnp.float32).at[ids].add(
      rows.astype(jnp.float32), mode="drop", wrap_negative_indices=False)


def _look_up_backward(size, unused_dtype, ids, gradient):
  of_table = lax.platform_dependent(
      ids, gradient, tpu=functools.partial(_sums_by_product, size=size),
      default=functools.partial(_sums_by_scatter, size=size))
  return of_table, None


_look_up.defvjp(_look_up_forward, _look_up_backward)


class Embed(nn.Module):
  """Token embeddings, and the tied output projection.

  Attributes:
    dtype: of the embeddings given out; the table is float32.
    one_hot: multiplies by a one-hot matrix instead of gathering. The result
      is the same; on a CPU or GPU it costs as much as computing logits.
  """

  num_embeddings: int
  features: int
  cast_input_dtype: DType | None = None
  dtype: DType = jnp.float32
  attend_dtype: DType | None = None
  embedding_init: Initializer = default_embed_init
  one_hot: bool = False

  def setup(self):
    self.embedding = param_with_axes(
        "embedding", self.embedding_init,
        (self.num_embeddings, self.features), jnp.float32,
        axes=("vocab", "embed"))

  def __call__(self, inputs: Array) -> Array:
    """int [batch, length] -> [batch, length, features].

    Ids outside the vocabulary give zeros, as the one-hot product does.
    """
    if self.cast_input_dtype:
      inputs = inputs.astype(self.cast_input_dtype)
    if not jnp.issubdtype(inputs.dtype, jnp.integer):
      raise ValueError(f"token ids must be integers, got {inputs.dtype}")
    if self.one_hot:
      table = jnp.asarray(self.embedding, self.dtype)
      return _one_hot(inputs, self.num_embeddings, self.dtype) @ table
    output = _look_up(
        self.embedding, inputs, self.num_embeddings, self.dtype)
    return with_sharding_constraint(output, ("batch", "length", "embed"))

  def attend(self, query: Array) -> Array:
    """Logits from the table: [..., features] -> [..., num_embeddings]."""
    dtype = self.dtype if self.attend_dtype is None else self.attend_dtype
    return jnp.dot(query, jnp.asarray(self.embedding, dtype).T)


class LayerNorm(nn.Module):
  """T5's layer norm: divides by the root mean square; no mean, no bias.

  The reduction is in float32 whatever `dtype`.
  """

  epsilon: float = 1e-6
  dtype: Any = jnp.float32
  scale_init: Initializer = nn.initializers.ones
  scale_axes: tuple[str, ...] = ("embed",)

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = jnp.asarray(x, jnp.float32)
    mean_square = jnp.mean(lax.square(x), axis=-1, keepdims=True)
    y = jnp.asarray(x * lax.rsqrt(mean_square + self.epsilon), self.dtype)
    scale = param_with_axes(
        "scale", self.scale_init, (x.shape[-1],), jnp.float32,
        axes=self.scale_axes)
    return y * jnp.asarray(scale, self.dtype)
