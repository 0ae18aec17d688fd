"""T5 v1.1 whose layers run in a loop and are computed again going backward.

The network, its parameters and their names are those of
`t5x.examples.t5.network`: the same checkpoints, the same values. Only what XLA
sees differs: the layers' parameters are cast and stacked, and one layer is
compiled, not all of them, with `remat_policy` saying what the backward pass
computes again instead of keeping. (T5X's scanned network, scalable_t5, has
other parameters: each of its layers has position biases of its own.)

Costs: a stacked copy of the layers' parameters in the compute dtype, sharded
as they are. Dropout draws other bits than the loopless network's.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

from flax.linen import spmd
import jax
import jax.numpy as jnp

from stepdistill_jax.config import inherited_bindings
from stepdistill_jax.embedded_t5x.examples.scalable_t5 import (
  network as scalable,
)
from stepdistill_jax.embedded_t5x.examples.t5 import network as t5_network
from stepdistill_jax.util import errors

Array = Any
# What people ask for; any other policy of `jax.checkpoint_policies` works too.
REMAT_POLICIES = ("none", "minimal", "full")


def _run_in_loop(
    stack: Any, layer: Callable[..., Array], x: Array, length: int,
    deterministic: bool) -> Array:
  """Runs a stack's layers one after the other, in a compiled loop.

  Args:
    stack: the encoder or decoder, whose parameters are there.
    layer: (parameters of a layer, [batch, length, embed], dropout key or None)
      -> [batch, length, embed].
    x: the first layer's input.
    length: number of layers.
    deterministic: True switches dropout off.
  """
  cfg = stack.config
  params = stack.variables["params"]
  # The layers cast them to this dtype anyway; so the copy is a small one.
  stacked = jax.tree.map(
      lambda *leaves: jnp.stack([jnp.asarray(p, cfg.dtype) for p in leaves]),
      *(params[f"layers_{i}"] for i in range(length)))
  keys = None
  if not deterministic and cfg.dropout_rate > 0:
    keys = jax.random.split(stack.make_rng("dropout"), length)

  def body(x: Array, of_layer: Any) -> tuple[Array, None]:
    x = spmd.with_logical_constraint(x, ("batch", "length", "embed"))
    return layer(of_layer[0], x, of_layer[1]), None

  if stack.remat_policy not in (None, "none"):
    body = jax.checkpoint(
        body, prevent_cse=False, policy=_policy(stack.remat_policy))
  return jax.lax.scan(body, x, (stacked, keys))[0]


def _policy(name: str) -> Any:
  try:
    return scalable.checkpoint_policy(name)
  except ValueError as error:
    raise errors.UserError(str(error)) from error


def _apply(module: Any, params: Any, key: Array, *arguments: Any,
           **options: Any) -> Array:
  rngs = {} if key is None else {"dropout": key}
  return module.apply({"params": params}, *arguments, rngs=rngs, **options)


class Encoder(t5_network.Encoder):
  """T5's, its layers in a loop."""

  remat_policy: str | None = "minimal"

  def run_layers(
      self, x: Array, encoder_mask: Array, deterministic: bool) -> Array:
    if self.is_initializing():
      return super().run_layers(  # type: ignore[no-untyped-call]  # T5X's.
          x, encoder_mask, deterministic)
    bias = t5_network.relative_bias(self.config)(
        x.shape[-2], x.shape[-2], True)
    module = t5_network.EncoderLayer(self.config, parent=None)

    def layer(params: Any, x: Array, key: Array) -> Array:
      return _apply(
          module, params, key, x, encoder_mask, deterministic,
          encoder_bias=bias)

    return _run_in_loop(
        self, layer, x, self.config.num_encoder_layers, deterministic)


class Decoder(t5_network.Decoder):
  """T5's; its layers are in a loop but while it decodes step by step."""

  remat_policy: str | None = "minimal"

  def run_layers(
      self, y: Array, encoded: Array, decoder_mask: Array,
      encoder_decoder_mask: Array, deterministic: bool, decode: bool,
      max_decode_length: int | None, index: Array) -> Array:
    if self.is_initializing() or decode:
      # Each layer's cache stays where it is: a loop would copy all of them.
      return super().run_layers(  # type: ignore[no-untyped-call]  # T5X's.
          y, encoded, decoder_mask, encoder_decoder_mask, deterministic,
          decode, max_decode_length, index)
    bias = t5_network.decoder_bias(
        t5_network.relative_bias(self.config), y.shape[-2],
        max_decode_length, index)
    module = t5_network.DecoderLayer(self.config, parent=None)

    def layer(params: Any, y: Array, key: Array) -> Array:
      return _apply(
          module, params, key, y, encoded, decoder_mask, encoder_decoder_mask,
          deterministic, decoder_bias=bias)

    return _run_in_loop(
        self, layer, y, self.config.num_decoder_layers, deterministic)


@inherited_bindings.followed_by_class
class Transformer(t5_network.Transformer):
  """The whole network; its config is that of `t5x.examples.t5.network`.

  Gin bindings of the plain `Transformer` count for this one too.

  Attributes:
    remat_policy: 'none' keeps all that the backward pass needs, 'minimal'
      recomputes all but matrix products without batch axes, 'full' keeps the
      layers' inputs alone; or a name in `jax.checkpoint_policies`.
  """

  remat_policy: str | None = "minimal"

  @property
  def encoder_cls(self) -> Any:  # type: ignore[override]  # Never set.
    return functools.partial(Encoder, remat_policy=self.remat_policy)

  @property
  def decoder_cls(self) -> Any:  # type: ignore[override]  # Never set.
    return functools.partial(Decoder, remat_policy=self.remat_policy)
