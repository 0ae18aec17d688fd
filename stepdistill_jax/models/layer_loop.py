"""Equal layers in one compiled loop, computed again going backward.

The layers keep their own parameters, `layers_0`, `layers_1`, …: checkpoints
and values are those of layers that run one after the other. Only what XLA sees
differs: parameters are cast and stacked, and one layer is compiled, not all of
them.

Costs: a stacked copy of the layers' parameters in the compute dtype, sharded
as they are. Dropout draws other bits than without a loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax.linen import spmd
import jax
import jax.numpy as jnp

from stepdistill_jax.distributed import device_mesh
from stepdistill_jax.embedded_t5x.examples.scalable_t5 import (
  network as scalable,
)
from stepdistill_jax.embedded_t5x.examples.t5 import attention
from stepdistill_jax.models import joined_kernels, layer_dropout
from stepdistill_jax.util import errors

Array = Any
# From so many on, in a stack, a loop pays: those of `base`.
_MANY_LAYERS = 12
# What people ask for; any other policy of `jax.checkpoint_policies` works too.
REMAT_POLICIES = ("none", "minimal", "full")


def wanted(loop_layers: bool | None, length: int) -> bool:
  """Whether layers run in a loop; None does so where it pays.

  On accelerators compiling many layers takes minutes, and each is large enough
  that the loop costs nothing beside it. A CPU's are as quick to compile.
  """
  if loop_layers is None:
    return length >= _MANY_LAYERS and device_mesh.on_accelerators()
  return loop_layers


def run_in_loop(
    stack: Any, layer: Callable[[Any, Array], Array], x: Array, length: int, *,
    remat_policy: str | None, dropout: bool = False) -> Array:
  """Runs a stack's layers one after the other, in a compiled loop.

  Args:
    stack: the encoder or decoder, whose parameters are there.
    layer: (parameters of a layer, `[batch, length, embed]`) -> the same shape.
    x: the first layer's input.
    length: number of layers.
    remat_policy: 'none' keeps all that the backward pass needs, 'minimal'
      recomputes all but matrix products without batch axes, 'full' keeps the
      layers' inputs alone; or a name in `jax.checkpoint_policies`.
    dropout: whether layers drop out, see `layer_dropout.apply`.

  Raises:
    errors.UserError: an unknown policy.
  """
  cfg = stack.config
  params = stack.variables["params"]
  layers = [params[f"layers_{i}"] for i in range(length)]
  # Of several devices each has a part of every kernel.
  join = len(device_mesh.devices_here()) == 1
  # The layers cast them to this dtype anyway; so the copy is a small one.
  stacked = jax.tree.map(
      lambda *leaves: jnp.stack([jnp.asarray(p, cfg.dtype) for p in leaves]),
      *(map(joined_kernels.join, layers) if join else layers))
  keys = None
  if dropout:
    keys = jax.random.split(stack.make_rng("dropout"), length)

  def body(x: Array, of_layer: Any) -> tuple[Array, None]:
    params, key = of_layer
    if join:
      params = joined_kernels.separate(params, layers[0])
    x = spmd.with_logical_constraint(x, ("batch", "length", "embed"))
    return (layer(params, x) if key is None else
            layer_dropout.apply(layer, params, x, key)), None

  if remat_policy not in (None, "none"):
    body = jax.checkpoint(
        body, prevent_cse=False, policy=_policy(remat_policy))
  return jax.lax.scan(body, x, (stacked, keys))[0]


def _policy(name: str) -> Any:
  try:
    policy = scalable.checkpoint_policy(name)
  except ValueError as error:
    raise errors.UserError(str(error)) from error
  if name != "minimal":
    return policy
  # Heads as attention takes them, not as the products give them.
  policies = jax.checkpoint_policies
  return policies.save_from_both_policies(
      policy, policies.save_only_these_names(attention.HEADS))
