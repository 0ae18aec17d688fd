"""T5 whose layers are one scanned layer, with rematerialization.

`scan_layers` stacks all layers' parameters (axis `layers`) and compiles one
layer. `remat_policy` says what the backward pass computes again instead of
keeping it. Unlike in `examples.t5`, each layer has relative position biases
of its own, because a scanned layer shares nothing but its code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import linen as nn, struct
from flax.linen import partitioning as nn_partitioning
import jax

from stepdistill_jax.embedded_t5x.examples.scalable_t5 import layers
from stepdistill_jax.embedded_t5x.examples.t5 import network as t5_network
from stepdistill_jax.util import errors

Array = Any


@struct.dataclass
class T5Config(t5_network.T5Config):
  """Sizes and choices of a scanned T5."""

  # 'none' keeps everything, 'minimal' recomputes all but matrix products
  # without batch axes, 'full' keeps the layers' inputs alone; or any policy
  # without arguments in `jax.checkpoint_policies`.
  remat_policy: str | None = "none"
  scan_layers: bool = True
  # Position of the axis `layers` in stacked parameters.
  param_scan_axis: int = 1

  def __post_init__(self):
    super().__post_init__()
    if self.param_scan_axis > 1:
      raise errors.InvalidValue(
          "T5Config.param_scan_axis must be 0 or 1, as layer norms' parameters "
          f"have one axis besides; got {self.param_scan_axis}")


def checkpoint_policy(name: str) -> Callable[..., Any] | None:
  """The `jax.checkpoint` policy of that name; None recomputes everything."""
  policies = jax.checkpoint_policies
  if name == "full":
    return None
  if name == "minimal":
    return policies.checkpoint_dots_with_no_batch_dims
  # The others make policies, of arguments.
  known = [n for n in dir(policies)
           if not n.startswith(("_", "save_", "offload_"))]
  if name not in known:
    known = ["none", "minimal", "full", *known]
    raise errors.InvalidValue(
        f"unknown remat_policy {name!r}; known: {', '.join(known)}")
  return getattr(policies, name)


class _ScalableLayer:
  """What both layers change in T5's."""

  attention_cls = layers.MultiHeadDotProductAttention
  mlp_cls = layers.MlpBlock

  def norm(self, x: Array, name: str) -> Array:
    axes = ("batch", "length", "embed")
    x = nn_partitioning.with_sharding_constraint(x, axes)
    return nn_partitioning.with_sharding_constraint(super().norm(x, name), axes)

  def output(self, y: Array) -> Any:
    """What a layer returns: a scanned one, a carry and no output."""
    return (y, None) if self.config.scan_layers else y


class EncoderLayer(_ScalableLayer, t5_network.EncoderLayer):
  """T5's, with its own relative position biases."""

  @nn.compact
  def __call__(self, inputs, encoder_mask=None, deterministic=False):
    bias = t5_network.relative_bias(self.config)(
        inputs.shape[-2], inputs.shape[-2], True)
    return self.output(super().__call__(
        inputs, encoder_mask, deterministic, encoder_bias=bias))


class DecoderLayer(_ScalableLayer, t5_network.DecoderLayer):
  """T5's, with its own relative position biases."""

  @nn.compact
  def __call__(
      self, inputs, encoded, decoder_mask=None, encoder_decoder_mask=None,
      deterministic=False, decode=False, max_decode_length=None,
      network_cache=False, decode_index=None):
    length = inputs.shape[-2]
    if decode and not network_cache:
      length = max_decode_length or length
    bias = t5_network.decoder_bias(
        t5_network.relative_bias(self.config), length, max_decode_length,
        decode_index)
    return self.output(super().__call__(
        inputs, encoded, decoder_mask, encoder_decoder_mask, deterministic,
        decode, max_decode_length, decoder_bias=bias,
        network_cache=network_cache, decode_index=decode_index))


def _run_stack(
    stack: nn.Module, layer_cls: type[nn.Module], name: str, length: int,
    static_arguments: tuple[int, ...], x: Array, *arguments: Any) -> Array:
  """Runs `length` layers, scanned or one by one, rematerialized or not.

  Args:
    stack: the encoder or decoder that calls.
    layer_cls: class of its layers.
    name: of the scanned layer.
    length: number of layers.
    static_arguments: positions of Python values among a layer's arguments.
    x: `[batch, length, embed]`.
    *arguments: the layers' further arguments, the same for all.
  """
  cfg = stack.config
  if cfg.remat_policy not in (None, "none"):
    layer_cls = nn_partitioning.remat(
        layer_cls, prevent_cse=not cfg.scan_layers,
        policy=checkpoint_policy(cfg.remat_policy),
        static_argnums=static_arguments)
  if not cfg.scan_layers:
    for i in range(length):
      x = layer_cls(config=cfg, name=f"layers_{i}")(x, *arguments)
    return x
  params_axis = cfg.param_scan_axis
  if not stack.is_mutable_collection("params"):
    params_axis = nn_partitioning.ScanIn(params_axis)
  scanned = nn_partitioning.scan_with_axes(
      layer_cls, variable_axes={"params": params_axis, "cache": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=(nn.broadcast,) * len(arguments), length=length,
      axis_name="layers")
  return scanned(config=cfg, name=name)(x, *arguments)[0]


class Encoder(t5_network.Encoder):
  """T5's, its layers scanned."""

  def run_layers(self, x, encoder_mask, deterministic):
    return _run_stack(
        self, EncoderLayer, "encoder", self.config.num_encoder_layers, (2,), x,
        encoder_mask, deterministic)


class Decoder(t5_network.Decoder):
  """T5's, its layers scanned."""

  def run_layers(
      self, y, encoded, decoder_mask, encoder_decoder_mask, deterministic,
      decode, max_decode_length, index):
    return _run_stack(
        self, DecoderLayer, "decoder", self.config.num_decoder_layers,
        (4, 5, 6, 7), y, encoded, decoder_mask, encoder_decoder_mask,
        deterministic, decode, max_decode_length, True, index)


class Transformer(t5_network.Transformer):
  """The whole network; `scan_layers` tells decoding where the batch axis is."""

  config: T5Config

  encoder_cls = Encoder
  decoder_cls = Decoder

  @property
  def scan_layers(self) -> bool:
    return self.config.scan_layers
