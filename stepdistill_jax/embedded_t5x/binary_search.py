"""Thresholds by bisection over bits: top-k and top-p without sorting.

A search takes 32 passes over its values, where sorting them would take many
more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from jax import lax
import jax.numpy as jnp

Array = jax.Array
_SIGN = 1 << 31


def int32_bsearch(
    batch_shape: Sequence[int], predicate: Callable[[Array], Array]) -> Array:
  """The largest int32 for which a predicate is False.

  Args:
    batch_shape: shape of the answer: each element is a search of its own.
    predicate: int32 `batch_shape` to bool; False up to some number, then True.

  Returns:
    int32 `batch_shape`; the smallest int32 where the predicate is always True.
  """
  # As unsigned numbers, whose bits are in the order of their weight.
  signed = lambda order: lax.bitcast_convert_type(
      order ^ jnp.uint32(_SIGN), jnp.int32)

  def set_bit(i, order):
    candidate = order | (jnp.uint32(_SIGN) >> jnp.asarray(i, jnp.uint32))
    return jnp.where(predicate(signed(candidate)), order, candidate)

  return signed(lax.fori_loop(
      0, 32, set_bit, jnp.zeros(batch_shape, jnp.uint32)))


def float32_bsearch(
    batch_shape: Sequence[int], predicate: Callable[[Array], Array]) -> Array:
  """The largest finite float32 for which a predicate is False.

  As `int32_bsearch`; minus infinity where the predicate is always True.
  """

  def to_float(x):
    # Negative floats' bits rise as the numbers fall.
    bits = jnp.where(x < 0, x ^ jnp.int32(_SIGN - 1), x)
    return lax.bitcast_convert_type(bits, jnp.float32)

  def of_bits(x):
    value = to_float(x)
    return jnp.where(jnp.isfinite(value), predicate(value), x >= 0)

  return to_float(int32_bsearch(batch_shape, of_bits))


def topk_mask(x: Array, k: int | Array, replace_val: float | Array) -> Array:
  """Replaces all but the k largest of the last axis; ties of the k-th stay.

  Args:
    x: float `[..., n]`.
  """
  fewer = lambda threshold: jnp.sum(x >= threshold[..., None], -1) < k
  threshold = float32_bsearch(x.shape[:-1], fewer)[..., None]
  return jnp.where(x < threshold, replace_val, x)


def topp_mask(
    logits: Array, p: float | Array, replace_val: float | Array) -> Array:
  """Replaces all but the likeliest tokens that make up probability p.

  Args:
    logits: float `[..., n]`.
  """
  probs = jax.nn.softmax(logits, axis=-1)
  too_few = lambda threshold: jnp.sum(
      jnp.where(probs >= threshold[..., None], probs, 0.0), -1) < p
  threshold = float32_bsearch(logits.shape[:-1], too_few)[..., None]
  return jnp.where(probs < threshold, replace_val, logits)
