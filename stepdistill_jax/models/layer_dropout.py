"""All of a layer's dropout from one draw of random numbers, on one device.

A draw is four kernels on a GPU, however few numbers it draws, and T5's are few:
one serves all positions of a row. A layer has four to six of them, and draws
them again going backward.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
import contextlib
import itertools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from stepdistill_jax.distributed import device_mesh

Array = Any
Shape = tuple[int, ...]


def apply(layer: Callable[[Any, Array], Array], params: Any, x: Array,
          key: Array) -> Array:
  """Applies a layer whose dropout draws nothing for itself.

  Args:
    layer: (parameters, `[batch, length, embed]`) -> the same shape, of modules
      that drop out by `nn.Dropout` or T5's attention; it needs no keys.
    params: of the layer.
    x: its input.
    key: of the layer's one draw; of one for each rate, where they differ.
  """
  shapes = collections.defaultdict(list)  # Rate -> of what it is asked for.

  def note(rate: float, shape: Shape) -> Array:
    shapes[rate].append(shape)
    return jnp.ones(shape, bool)

  with _kept_by(note):
    jax.eval_shape(layer, params, x)
  keys = [key] if len(shapes) == 1 else jax.random.split(key, len(shapes))
  kept = {rate: _draw(key, 1 - rate, shapes[rate])
          for key, rate in zip(keys, shapes, strict=True)}
  with _kept_by(lambda rate, unused_shape: next(kept[rate])):
    return layer(params, x)


def _draw(key: Array, keep_prob: float, shapes: Sequence[Shape]
          ) -> Iterator[Array]:
  """Bool arrays of these shapes, true with this probability."""
  if len(device_mesh.devices_here()) > 1:
    # Each has a part of an array: parts of one draw would have to be moved.
    for i, shape in enumerate(shapes):
      yield jax.random.bernoulli(
          jax.random.fold_in(key, i), keep_prob, shape)
    return
  ends = list(itertools.accumulate(map(math.prod, shapes)))
  kept = jax.random.bernoulli(key, keep_prob, (ends[-1],))
  for part, shape in zip(jnp.split(kept, ends[:-1]), shapes, strict=True):
    yield part.reshape(shape)


@contextlib.contextmanager
def _kept_by(kept: Callable[[float, Shape], Array]) -> Iterator[None]:
  """Dropout inside keeps what `kept(rate, shape)` says, a bool array."""

  def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    module = context.module
    if context.method_name == "weights_dropout":
      return kept(module.dropout_rate, args[0])
    if not isinstance(module, nn.Dropout) or kwargs.get("deterministic"):
      return call(*args, **kwargs)
    x, rate = args[0], module.rate
    once = {axis % x.ndim for axis in module.broadcast_dims}
    shape = tuple(1 if i in once else n for i, n in enumerate(x.shape))
    keep = jnp.broadcast_to(kept(rate, shape), x.shape)
    return jax.lax.select(keep, x / (1 - rate), jnp.zeros_like(x))

  with nn.intercept_methods(intercept):
    yield
