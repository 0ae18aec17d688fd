"""T5 v1.1 whose layers run in a loop and are computed again going backward.

The network, its parameters and their names are those of
`t5x.examples.t5.network`: the same checkpoints, the same values; see
`layer_loop`. (T5X's scanned network, scalable_t5, has other parameters: each
of its layers has position biases of its own.)
"""

from __future__ import annotations

import functools
from typing import Any

from stepdistill_jax.config import inherited_bindings
from stepdistill_jax.embedded_t5x.examples.t5 import network as t5_network
from stepdistill_jax.models import layer_loop

Array = Any


class Encoder(t5_network.Encoder):
  """T5's, its layers in a loop."""

  remat_policy: str | None = "minimal"
  loop_layers: bool | None = True

  def run_layers(
      self, x: Array, encoder_mask: Array, deterministic: bool) -> Array:
    if self.is_initializing() or not layer_loop.wanted(
        self.loop_layers, self.config.num_encoder_layers):
      return super().run_layers(  # type: ignore[no-untyped-call]  # T5X's.
          x, encoder_mask, deterministic)
    bias = t5_network.relative_bias(self.config)(
        x.shape[-2], x.shape[-2], True)
    module = t5_network.EncoderLayer(self.config, parent=None)

    def layer(params: Any, x: Array) -> Array:
      return module.apply(
          {"params": params}, x, encoder_mask, deterministic,
          encoder_bias=bias)

    return layer_loop.run_in_loop(
        self, layer, x, self.config.num_encoder_layers,
        remat_policy=self.remat_policy,
        dropout=not deterministic and self.config.dropout_rate > 0)


class Decoder(t5_network.Decoder):
  """T5's; its layers are in a loop but while it decodes step by step."""

  remat_policy: str | None = "minimal"
  loop_layers: bool | None = True

  def run_layers(
      self, y: Array, encoded: Array, decoder_mask: Array,
      encoder_decoder_mask: Array, deterministic: bool, decode: bool,
      max_decode_length: int | None, index: Array) -> Array:
    if self.is_initializing() or decode or not layer_loop.wanted(
        self.loop_layers, self.config.num_decoder_layers):
      # Each layer's cache stays where it is: a loop would copy all of them.
      return super().run_layers(  # type: ignore[no-untyped-call]  # T5X's.
          y, encoded, decoder_mask, encoder_decoder_mask, deterministic,
          decode, max_decode_length, index)
    bias = t5_network.decoder_bias(
        t5_network.relative_bias(self.config), y.shape[-2],
        max_decode_length, index)
    module = t5_network.DecoderLayer(self.config, parent=None)

    def layer(params: Any, y: Array) -> Array:
      return module.apply(
          {"params": params}, y, encoded, decoder_mask, encoder_decoder_mask,
          deterministic, decoder_bias=bias)

    return layer_loop.run_in_loop(
        self, layer, y, self.config.num_decoder_layers,
        remat_policy=self.remat_policy,
        dropout=not deterministic and self.config.dropout_rate > 0)


@inherited_bindings.followed_by_class
class Transformer(t5_network.Transformer):
  """The whole network; its config is that of `t5x.examples.t5.network`.

  Gin bindings of the plain `Transformer` count for this one too.

  Attributes:
    remat_policy: see `layer_loop.run_in_loop`.
    loop_layers: see `layer_loop.wanted`.
  """

  remat_policy: str | None = "minimal"
  loop_layers: bool | None = True

  @property
  def encoder_cls(self) -> Any:  # type: ignore[override]  # Never set.
    return functools.partial(Encoder, remat_policy=self.remat_policy,
                             loop_layers=self.loop_layers)

  @property
  def decoder_cls(self) -> Any:  # type: ignore[override]  # Never set.
    return functools.partial(Decoder, remat_policy=self.remat_policy,
                             loop_layers=self.loop_layers)


def in_loop(module: Any, loop_layers: bool | None) -> Any:
  """The plain network with its layers in a loop; others as they are.

  Args:
    module: a network.
    loop_layers: False leaves all as they are; None decides as the network is
      applied, see `layer_loop.wanted`.
  """
  if type(module) is not t5_network.Transformer or loop_layers is False:
    return module
  return Transformer(module.config, loop_layers=loop_layers)
