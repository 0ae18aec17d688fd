"""Multi-head attention, with the caches that decoding needs.

There are two caches. T5X's networks hand over `decode` alone, and each
attention counts its positions in its own `cache_index`. Our networks count
once for all layers (`network_cache`), keep heads before positions, so that a
step transposes nothing, and compute the encoder's keys and values once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from stepdistill_jax.embedded_t5x.examples.t5 import linear, masks

Array = Any
DType = Any
with_sharding_constraint = nn_partitioning.with_sharding_constraint

# Added to the logits of hidden positions. Not -inf: a row that sees nothing
# (padding) must give finite numbers.
_HIDDEN = -1e10
HEADS = "heads"  # Of queries, keys and values, for `jax.checkpoint_policies`.


def dot_product_attention(
    query: Array, key: Array, value: Array, bias: Array | None = None,
    dropout_rng: Array | None = None, dropout_rate: float = 0.0,
    deterministic: bool = False, dtype: DType = jnp.float32,
    float32_logits: bool = False, from_cache: bool = False) -> Array:
  """softmax(query · keyᵀ + bias) · value, with dropout on the softmax.

  T5 does not divide the logits by sqrt(head_dim): its query initializer does.

  Args:
    query: `[batch, q_length, heads, head_dim]`.
    key: `[batch, kv_length, heads, head_dim]`.
    value: `[batch, kv_length, heads, v_dim]`.
    bias: broadcastable to `[batch, heads, q_length, kv_length]`: hidden
      positions, relative positions.
    dropout_rng: a key; or what is kept, bool `[batch, heads, 1, kv_length]`.
    dropout_rate: share of weights dropped. One draw serves all query
      positions, as in T5.
    dtype: of the attention weights and the result.
    float32_logits: computes the logits in float32 whatever the inputs' dtype.
    from_cache: key and value are as a cache has them, `[batch, heads,
      kv_length, head_dim]`.

  Returns:
    `[batch, q_length, heads, v_dim]`.
  """
  if not from_cache:
    key, value = _as_cached(key), _as_cached(value)
  # A loop of layers keeps them as the backward pass reads them.
  query, key, value = (checkpoint_name(x, HEADS)
                       for x in (_as_cached(query), key, value))
  if float32_logits:
    query, key = query.astype(jnp.float32), key.astype(jnp.float32)
  logits = jnp.einsum("bhqd,bhkd->bhqk", query, key)
  if bias is not None:
    logits = logits + bias.astype(logits.dtype)
  weights = jax.nn.softmax(logits).astype(dtype)
  if not deterministic and dropout_rate > 0.0:
    keep_prob, keep = 1.0 - dropout_rate, dropout_rng
    if keep.dtype != bool:
      batch, heads, _, kv_length = weights.shape
      keep = jax.random.bernoulli(
          dropout_rng, keep_prob, (batch, heads, 1, kv_length))
    # One draw for all queries: it can act on the values, and the backward pass
    # need not keep the weights twice.
    scale = (keep.astype(value.dtype) / jnp.asarray(keep_prob, dtype))[:, :, 0]
    value = value * scale[..., None]
  return jnp.einsum("bhqk,bhkd->bqhd", weights, value)


def _as_cached(heads: Array) -> Array:
  """`[batch, length, heads, head_dim]` -> `[batch, heads, length, head_dim]`.

  The order in which a step's products read keys and values: kept otherwise,
  each step would transpose the whole cache. A step writes whole rows of it.
  """
  return jnp.swapaxes(heads, 1, 2)


class MultiHeadDotProductAttention(nn.Module):
  """Projects to heads, attends, projects back.

  Attributes:
    dtype: of the computation; parameters are float32.
    kernel_init: initializer of all kernels; the query's is divided by
      sqrt(head_dim), which stands for the usual scaling of logits.
  """

  num_heads: int
  head_dim: int
  dtype: DType = jnp.float32
  dropout_rate: float = 0.0
  kernel_init: Callable[..., Array] = nn.initializers.variance_scaling(
      1.0, "fan_in", "normal")
  float32_logits: bool = False

  # What the scanned network overrides: its kernels keep heads and kv apart.
  dense_cls = linear.DenseGeneral
  in_axes = ("embed", "joined_kv")
  out_axes = ("joined_kv", "embed")

  @nn.compact
  def __call__(
      self, inputs_q: Array, inputs_kv: Array, mask: Array | None = None,
      bias: Array | None = None, *, decode: bool = False,
      deterministic: bool = False, prefill: bool = False,
      prefill_lengths: Array | None = None, network_cache: bool = False,
      decode_index: Array | None = None, static_kv: bool = False) -> Array:
    """Attends from `inputs_q` to `inputs_kv`.

    Decoding begins with a call with `decode` on whole sequences, which makes
    room in the collection `cache` for the keys and values of all positions.
    A call with `prefill` then keeps those of whole prompts, if there are any.
    Each later call with `decode` brings one position of each row:

        cached_key, cached_value: [batch, heads, head_dim, length]
        cache_index: int32, a scalar, or [batch] after `prefill`

    With `network_cache` the position comes from the caller, as
    `decode_index`, and the mask and the biases are those of that position;
    the cache is `[batch, heads, length, head_dim]`. Attention to the encoder
    (`static_kv`) keeps its keys and values as the first call gave them. Later
    calls use them and ignore `inputs_kv`; they may bring several rows (beams)
    for each row of the cache, side by side.

    Args:
      inputs_q: `[batch, q_length, embed]`.
      inputs_kv: `[batch, kv_length, embed]`.
      mask: `[batch, 1 or heads, q_length, kv_length]`, nonzero = visible.
      bias: broadcastable to `[batch, heads, q_length, kv_length]`; at a
        decoding step of T5X's, that of all pairs of positions.
      decode: use the self-attention cache.
      prefill: fill the self-attention cache.
      prefill_lengths: int `[batch]`, positions of each prompt; None takes
        those that the mask's first row shows.
      decode_index: position being decoded: a scalar, or `[batch]`.

    Returns:
      `[batch, q_length, embed]`.

    Raises:
      ValueError: `decode` and `prefill` together, or a step of another shape
        than the cache's.
    """
    if prefill and decode:
      raise ValueError("prefill and decode are different calls")
    # The division is in the compute dtype, as T5X has it.
    scale = jnp.sqrt(self.head_dim).astype(self.dtype)
    query = self._to_heads(
        "query", inputs_q, lambda *args: self.kernel_init(*args) / scale)
    from_cache = False
    if static_kv and self.has_variable("cache", "cross_key"):
      from_cache = True
      key = self.get_variable("cache", "cross_key")
      value = self.get_variable("cache", "cross_value")
    else:
      key = self._to_heads("key", inputs_kv, self.kernel_init)
      value = self._to_heads("value", inputs_kv, self.kernel_init)
      if static_kv:
        self._put_in_cache("cross", key, value)
    if not network_cache:
      if prefill or decode:
        key, value, mask, bias = self._with_own_index(
            key, value, mask, bias, prefill, prefill_lengths)
    elif prefill:
      self._put_in_cache("cached", key, value)
    elif decode:
      from_cache = self.has_variable("cache", "cached_key")
      key, value = self._cached(key, value, decode_index)

    batch = query.shape[0]
    beams = batch // key.shape[0]
    if beams > 1:
      # Beams of one row share its keys: [batch * beams, 1, ...] -> beams as
      # query positions, so that the keys need no copies.
      query = query.reshape((key.shape[0], beams) + query.shape[2:])
      mask = jnp.swapaxes(
          mask.reshape((key.shape[0], beams) + mask.shape[1:3] + (-1,))
          [:, :, :, 0], 1, 2)

    if mask is not None:
      hidden = jnp.where(mask > 0, 0.0, _HIDDEN).astype(self.dtype)
      bias = masks.combine_biases(hidden, bias)
    dropout_rng = None
    if not deterministic and self.dropout_rate > 0.0:
      dropout_rng = self.weights_dropout(
          (batch, self.num_heads, 1, key.shape[2 if from_cache else 1]))
    x = dot_product_attention(
        query, key, value, bias, dropout_rng, self.dropout_rate, deterministic,
        self.dtype, self.float32_logits, from_cache)
    if beams > 1:
      x = x.reshape((batch, 1) + x.shape[2:])
    # [batch, q_length, heads, head_dim] -> [batch, q_length, embed]
    return self.dense_cls(
        features=inputs_q.shape[-1], axis=(-2, -1), dtype=self.dtype,
        kernel_init=self.kernel_init, kernel_axes=self.out_axes, name="out")(x)

  def weights_dropout(self, shape: tuple[int, ...]) -> Array:
    """The key of a draw of this shape; a loop of layers gives what is kept."""
    del shape
    return self.make_rng("dropout")

  def _to_heads(self, name: str, inputs: Array, init) -> Array:
    """[batch, length, embed] -> [batch, length, heads, head_dim]."""
    heads = self.dense_cls(
        features=(self.num_heads, self.head_dim), axis=-1, dtype=self.dtype,
        kernel_init=init, kernel_axes=self.in_axes, name=name)(inputs)
    return with_sharding_constraint(heads, ("batch", "length", "heads", "kv"))

  def _with_own_index(
      self, key: Array, value: Array, mask: Array | None, bias: Array | None,
      prefill: bool, prefill_lengths: Array | None) -> tuple[Any, ...]:
    """Makes, fills or reads the cache that T5X documents.

    Returns:
      The keys and values to attend to, `[batch, length, heads, head_dim]`, and
      their mask and biases.
    """
    made = not self.has_variable("cache", "cached_key")
    names = "cached_key", "cached_value"
    cached = [
        self.variable("cache", name, lambda x=x: jnp.zeros_like(
            jnp.moveaxis(x, -3, -1))) for name, x in zip(names, (key, value))]
    index = self.variable("cache", "cache_index", jnp.zeros, (), jnp.int32)
    if made:
      return key, value, mask, bias
    *batch, heads, head_dim, length = cached[0].value.shape
    positions = jnp.arange(length)
    as_column = lambda i: jnp.reshape(i, (-1, 1, 1, 1))
    if prefill:
      if prefill_lengths is None:
        prefill_lengths = jnp.sum(mask[:, 0, 0], -1).astype(jnp.int32)
      for variable, new in zip(cached, (key, value)):
        variable.value = jnp.where(
            positions < as_column(prefill_lengths),
            jnp.moveaxis(new, -3, -1), jnp.zeros_like(variable.value))
      index.value = prefill_lengths
      return key, value, mask, bias
    expected = (*batch, 1, heads, head_dim)
    if key.shape != expected:
      raise ValueError(
          f"{'/'.join(self.path)}: decoding takes one position a call: "
          f"expected keys of shape {expected}, got {key.shape}")
    at = as_column(index.value)
    index.value = index.value + 1  # A numpy array is not to change in place.
    for variable, new in zip(cached, (key, value)):
      variable.value = jnp.where(
          positions == at, jnp.moveaxis(new, -3, -1), variable.value)
    key, value = (jnp.moveaxis(x.value, -1, -3) for x in cached)
    mask = masks.combine_masks(
        mask, jnp.broadcast_to(positions <= at, (*batch, 1, 1, length)))
    if bias is not None:  # Of all pairs: the row of this position.
      bias = jnp.take_along_axis(bias, at, axis=-2, mode="clip")
    return key, value, mask, bias

  def _put_in_cache(self, kind: str, key: Array, value: Array) -> None:
    self.put_variable("cache", f"{kind}_key", _as_cached(key))
    self.put_variable("cache", f"{kind}_value", _as_cached(value))

  def _cached(
      self, key: Array, value: Array, index: Array | None
  ) -> tuple[Array, Array]:
    """Makes the self-attention cache, or writes one position into it.

    Args:
      key: `[batch, length, heads, head_dim]`: whole sequences in the first
        call (only the shape counts), else of length 1.
      value: as `key`.
      index: where to write; a scalar, or `[batch]`.

    Returns:
      The keys and values to attend to; after the first call as the cache has
      them.
    """
    if not self.has_variable("cache", "cached_key"):
      self._put_in_cache("cached", jnp.zeros_like(key), jnp.zeros_like(value))
      return key, value
    cached = []
    for name, new in (("cached_key", key), ("cached_value", value)):
      old, new = self.get_variable("cache", name), _as_cached(new)
      expected = old.shape[:2] + (1,) + old.shape[3:]
      if new.shape != expected:
        raise ValueError(
            f"{'/'.join(self.path)}/{name}: decoding takes one position a "
            f"call: expected shape {expected}, got {new.shape}")
      if jnp.ndim(index) == 0:
        old = lax.dynamic_update_slice_in_dim(old, new, index, axis=2)
      else:
        old = jax.vmap(
            lambda c, n, i: lax.dynamic_update_slice_in_dim(c, n, i, axis=1)
        )(old, new, index)
      self.put_variable("cache", name, old)
      cached.append(old)
    return tuple(cached)

