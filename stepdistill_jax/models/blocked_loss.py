"""The loss of a batch whose logits are never stored whole.

Logits are a head's product with hidden states, `[tokens, vocab]` in float32:
the largest array of a step, and its gradient is as large. Most of it is of
padding. Here the tokens with a weight are brought together, and a loop takes
them a block at a time: logits, losses, and the gradients of hidden states and
of the head. A block of padding alone is left out.

The loss is linear in what each token counts, which is known before: so a
block's gradient is computed with its logits, and nothing is computed again
going backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import functools
import math
from typing import Any, NamedTuple

from flax import linen as nn
from flax.linen import spmd
import jax
import jax.numpy as jnp
import numpy as np
from t5x.examples.t5 import network as t5_network

from stepdistill_jax.distributed import device_mesh
from stepdistill_jax.models import losses, scanned_network

# Logits of a block: 256 MiB in float32. Smaller ones make matrix products of
# too few rows, larger ones save no time.
BLOCK_LOGITS = 2**26
# Logits of ids that are not tokens: exp() of it is 0, and sums stay finite.
NO_TOKEN = -1e9


class Head(NamedTuple):
  """What makes logits of hidden states.

  Attributes:
    kernel: float32 `[embed, vocab]`.
    is_token: bool `[vocab]`, which ids can be predicted; None is all.
  """

  kernel: jnp.ndarray
  is_token: np.ndarray | None


class Result(NamedTuple):
  """Losses of a batch.

  Attributes:
    loss: scalar, the sum of what tokens count times their losses. It alone is
      to be differentiated.
    tokens: losses of each token, 0 where it has no weight.
    correct: bool `[batch, length]`, the tokens that have the highest logit.
  """

  loss: jnp.ndarray
  tokens: losses.TokenLoss
  correct: jnp.ndarray


@dataclasses.dataclass
class _Found:
  """The head of a network, as its methods are called."""

  path: tuple[str, ...] | None = None
  tied: bool = False
  is_token: np.ndarray | None = None
  given: Any = None

  def head(self, module: nn.Module, params: Mapping[str, Any], output: Any
           ) -> Head | None:
    """The head; None where the network is not known to end with it.

    Args:
      module: the network.
      params: its parameters.
      output: what it returned.
    """
    if self.path is None or not (
        output is self.given
        # Which divides by a number what it multiplies with its embeddings.
        or self.tied and type(module) in (
            t5_network.Transformer, scanned_network.Transformer)):
      return None
    layer: Any = params
    for name in self.path[:-1]:
      layer = layer[name]
    if set(layer) != {self.path[-1]}:
      return None  # A bias.
    kernel = jnp.asarray(layer[self.path[-1]], jnp.float32)
    return Head(kernel.T if self.tied else kernel, self.is_token)


@contextlib.contextmanager
def without_head() -> Iterator[_Found]:
  """Networks applied inside return what their head would be given.

  The head is what T5X's networks call so: the layer `logits_dense`, or the
  embeddings' `attend`; a method `only_tokens` hides ids that are not tokens.
  Nothing else may come after it: `_Found.head` is None where something does.
  """
  found = _Found()

  def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    module, method = context.module, context.method_name
    if method == "only_tokens" and args[0] is found.given:
      found.is_token = module.is_token()
      return args[0]
    is_dense = module.name == "logits_dense" and method == "__call__"
    if not is_dense and method != "attend" or not _is_float32(module):
      return call(*args, **kwargs)
    found.tied, found.given = not is_dense, args[0].astype(jnp.float32)
    found.path = (*module.path, "kernel" if is_dense else "embedding")
    return found.given

  with nn.intercept_methods(intercept):
    yield found


def _is_float32(layer: nn.Module) -> bool:
  """Whether a layer's products are in float32."""
  dtype = getattr(layer, "attend_dtype", None) or getattr(layer, "dtype", None)
  return dtype is not None and jnp.dtype(dtype) == jnp.float32


def pay_here() -> bool:
  """Whether blocks may be the better choice on the devices of the run.

  They save memory and the time of padding's logits. A CPU has memory enough.
  Of several devices, what XLA makes of them has not been looked at.
  """
  return device_mesh.on_one_accelerator()


def _data_shards(rows: int) -> int | None:
  """In how many parts the mesh cuts batches; None where it cannot cut this."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return None
  (axes,) = spmd.logical_to_mesh_axes(("batch",)) or (None,)
  if axes is None or not isinstance(axes, (str, tuple)):
    return None
  shards = math.prod(mesh.shape[axis] for axis in (
      (axes,) if isinstance(axes, str) else axes))
  return shards if rows % shards == 0 else None


@dataclasses.dataclass(frozen=True)
class _Settings:
  """What is static of a loss."""

  label_smoothing: float
  z_loss: float
  head_is_trained: bool
  block: int
  shards: int | None


def weighted_loss(
    hidden: jnp.ndarray, head: Head, targets: jnp.ndarray,
    counts: jnp.ndarray, has_weight: jnp.ndarray, *, label_smoothing: float,
    z_loss: float, head_is_trained: bool = True,
    block: int | None = None) -> Result:
  """Σ_n counts_n·(CE_n + z-loss_n), see `losses.token_loss`.

  Args:
    hidden: `[batch, length, embed]`, what the head is given.
    head: of the network.
    targets: int32 `[batch, length]`.
    counts: float32 `[batch, length]`; no gradient goes through them.
    has_weight: bool `[batch, length]`; all other tokens are left out.
    label_smoothing: see `losses.token_loss`.
    z_loss: see `losses.token_loss`.
    head_is_trained: False computes no gradient of the head.
    block: tokens of a block, on each device; None chooses.
  """
  rows, length = targets.shape
  shards = _data_shards(rows)
  tokens = rows * length // (shards or 1)
  if block is None:
    vocab = head.kernel.shape[1]
    block = 2 ** int(math.log2(max(BLOCK_LOGITS // vocab, 1)))
  settings = _Settings(label_smoothing, z_loss, head_is_trained,
                       min(block, tokens), shards)
  is_token = None if head.is_token is None else tuple(head.is_token.tolist())
  return _weighted_loss(settings, is_token, hidden, head.kernel, targets,
                        jax.lax.stop_gradient(counts), has_weight)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _weighted_loss(
    settings: _Settings, is_token: tuple[bool, ...] | None,
    *arrays: jnp.ndarray) -> Result:
  return _compute(settings, is_token, *arrays, with_gradient=False)[0]


def _forward(
    settings: _Settings, is_token: tuple[bool, ...] | None,
    *arrays: jnp.ndarray) -> tuple[Result, Any]:
  return _compute(settings, is_token, *arrays, with_gradient=True)


def _backward(
    unused_settings: _Settings, unused_is_token: tuple[bool, ...] | None,
    gradients: Any, cotangent: Result) -> tuple[Any, ...]:
  of_hidden, of_kernel = gradients
  return ((cotangent.loss * of_hidden).astype(of_hidden.dtype),
          None if of_kernel is None else cotangent.loss * of_kernel,
          None, None, None)


_weighted_loss.defvjp(_forward, _backward)


def _compute(
    settings: _Settings, is_token: tuple[bool, ...] | None,
    hidden: jnp.ndarray, kernel: jnp.ndarray, targets: jnp.ndarray,
    counts: jnp.ndarray, has_weight: jnp.ndarray, *, with_gradient: bool,
) -> tuple[Result, tuple[jnp.ndarray | None, jnp.ndarray | None]]:
  """The result and, if asked for, the gradients of hidden states and head."""
  shards, block = settings.shards or 1, settings.block

  def constrained(x: jnp.ndarray, *axes: str | None) -> jnp.ndarray:
    if settings.shards is None:
      return x
    value: jnp.ndarray = spmd.with_logical_constraint(x, axes)
    return value

  def by_shard(x: jnp.ndarray) -> jnp.ndarray:
    """[batch, length, ...] -> [shards, tokens, ...]"""
    return x.reshape((shards, -1, *x.shape[2:]))

  # Of parameters that are cut over `data`, the kernel comes here once.
  kernel = constrained(kernel, None, "vocab")
  arrays = [by_shard(x) for x in (hidden, targets, counts * has_weight)]
  place, order, sizes = _in_front(by_shard(has_weight))
  num_blocks = -(-order.shape[1] // block)
  # The last block's room is filled with places that it leaves out.
  order = jnp.pad(order, ((0, 0), (0, num_blocks * block - order.shape[1])))
  is_counted = jnp.arange(num_blocks * block) < sizes[:, None]
  blocks = jax.tree.map(
      lambda x: jnp.moveaxis(x.reshape(shards, num_blocks, block), 1, 0),
      (order, is_counted))

  def losses_of(logits: jnp.ndarray, targets: jnp.ndarray,
                counts: jnp.ndarray) -> Any:
    if is_token is not None:
      logits = jnp.where(np.array(is_token), logits, NO_TOKEN)
    tokens = losses.token_loss(
        logits, targets, label_smoothing=settings.label_smoothing,
        z_loss=settings.z_loss)
    correct = jnp.argmax(logits, axis=-1) == targets
    # As one array: a GPU starts a kernel for each that a loop gives back.
    return (jnp.sum(counts * (tokens.cross_entropy + tokens.z_loss)),
            jnp.stack([*tokens, correct], axis=-1))

  def of_block(of_kernel: Any, places: Any) -> Any:
    order, is_counted = places
    hidden, targets, counts = (_at(x, order) for x in arrays)
    hidden = constrained(hidden.astype(jnp.float32), "batch", None, None)
    counts = jnp.where(is_counted, counts, 0.0)
    logits = constrained(
        jnp.einsum("sbe,ev->sbv", hidden, kernel), "batch", None, "vocab")
    if not with_gradient:
      return of_kernel, (losses_of(logits, targets, counts)[1], None)
    gradient, tokens = jax.grad(losses_of, has_aux=True)(
        logits, targets, counts)
    if of_kernel is not None:
      # Of each shard its own: they are added up once, after the loop.
      of_kernel = constrained(
          of_kernel + jnp.einsum("sbe,sbv->sev", hidden, gradient),
          "batch", None, "vocab")
    return of_kernel, (tokens, jnp.einsum(
        "sbv,ev->sbe", gradient, kernel).astype(arrays[0].dtype))

  def step(of_kernel: Any, places: Any) -> Any:
    shapes = jax.eval_shape(of_block, of_kernel, places)[1]

    def left_out(of_kernel: Any, unused_places: Any) -> Any:
      return of_kernel, jax.tree.map(
          lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    return jax.lax.cond(
        jnp.any(places[1]), of_block, left_out, of_kernel, places)

  of_kernel = None
  if with_gradient and settings.head_is_trained:
    of_kernel = constrained(
        jnp.zeros((shards, *kernel.shape), jnp.float32),
        "batch", None, "vocab")
  of_kernel, (tokens, of_hidden) = jax.lax.scan(
      step, of_kernel, blocks)

  def back(x: jnp.ndarray) -> jnp.ndarray:
    """[blocks, shards, block, ...] -> [batch, length, ...]"""
    x = jnp.moveaxis(x, 0, 1)
    x = _at(x.reshape((shards, -1, *x.shape[3:])), place)
    return x.reshape((*targets.shape, *x.shape[2:]))

  tokens = jnp.where(has_weight[..., None], back(tokens), 0.0)
  token_loss = losses.TokenLoss(tokens[..., 0], tokens[..., 1])
  loss = jnp.sum(counts * (token_loss.cross_entropy + token_loss.z_loss))
  result = Result(loss, token_loss, tokens[..., 2] > 0)
  if not with_gradient:
    return result, (None, None)
  of_hidden = back(of_hidden)
  return result, (
      jnp.where(has_weight[..., None], of_hidden, 0),
      None if of_kernel is None else jnp.sum(of_kernel, axis=0))


def _in_front(
    mask: jnp.ndarray) -> tuple[jnp.ndarray, jnp.ndarray, jnp.ndarray]:
  """The order that brings the marked to the front of each row.

  Args:
    mask: bool `[rows, n]`.

  Returns:
    int32 `[rows, n]`, the place that each one gets; the same size, who gets
    each place; and `[rows]`, how many are marked.
  """
  sizes = jnp.sum(mask, axis=1, dtype=jnp.int32)
  marked = jnp.cumsum(mask, axis=1, dtype=jnp.int32)
  index = jnp.broadcast_to(
      jnp.arange(mask.shape[1], dtype=jnp.int32), mask.shape)
  place = jnp.where(mask, marked - 1, sizes[:, None] + index - marked)
  order = jax.vmap(lambda place, index: jnp.zeros_like(index).at[place].set(
      index, unique_indices=True, mode="promise_in_bounds"))(place, index)
  return place, order, sizes


def _at(x: jnp.ndarray, index: jnp.ndarray) -> jnp.ndarray:
  """`[rows, n, ...]`, int `[rows, m]` -> `[rows, m, ...]`."""
  found: jnp.ndarray = jax.vmap(lambda row, i: row.at[i].get(
      mode="promise_in_bounds"))(x, index)
  return found
