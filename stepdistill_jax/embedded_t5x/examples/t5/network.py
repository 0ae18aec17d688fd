"""The T5 encoder-decoder; T5 1.0, 1.1, mT5, ByT5 and Flan-T5 are sizes of it.

Pre-norm residual blocks, relative position biases shared by all layers of a
stack, no biases in linear maps. Logical axis names stand beside each
parameter (`layers`); which mesh axis they mean is the partitioner's business.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
from typing import Any

from flax import linen as nn, struct
import jax.numpy as jnp

from stepdistill_jax.embedded_t5x.examples.t5 import layers
from stepdistill_jax.util import errors

Array = Any


def check_dtype(dtype: Any) -> None:
  """Raises UserError where the activations' dtype is none."""
  try:
    jnp.dtype(dtype)
  except TypeError as error:
    raise errors.InvalidValue(
        f"the network's dtype {dtype!r} is none; give for instance 'float32' "
        "or 'bfloat16'") from error


@struct.dataclass
class T5Config:
  """Sizes and choices of a T5 network."""

  vocab_size: int
  dtype: Any = jnp.float32  # Of activations; parameters are float32.
  emb_dim: int = 512
  num_heads: int = 8
  num_encoder_layers: int = 6
  num_decoder_layers: int = 6
  head_dim: int = 64
  mlp_dim: int = 2048
  # `("relu",)` in T5 1.0, `("gelu", "linear")` in T5 1.1.
  mlp_activations: Sequence[str] = ("relu",)
  dropout_rate: float = 0.1
  # True ties the output projection to the token embeddings (T5 1.0).
  logits_via_embedding: bool = False
  # Attention logits in float32 whatever `dtype`.
  float32_attention_logits: bool = False

  def __post_init__(self):
    check_dtype(self.dtype)


def dropout(cfg: T5Config, name: str | None = None) -> nn.Dropout:
  """Dropout that draws once for all positions of a row."""
  return nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,), name=name)


def relative_bias(cfg: T5Config) -> layers.RelativePositionBiases:
  return layers.RelativePositionBiases(
      num_buckets=32, max_distance=128, num_heads=cfg.num_heads,
      dtype=cfg.dtype, name="relpos_bias",
      embedding_init=nn.initializers.variance_scaling(
          1.0, "fan_avg", "uniform"))


def token_embedder(cfg: T5Config) -> layers.Embed:
  return layers.Embed(
      num_embeddings=cfg.vocab_size, features=cfg.emb_dim, dtype=cfg.dtype,
      attend_dtype=jnp.float32,  # Logits are float32.
      embedding_init=nn.initializers.normal(stddev=1.0),
      name="token_embedder")


def logits_of(cfg: T5Config, embedding: layers.Embed, y: Array) -> Array:
  """[batch, length, embed] -> float32 [batch, length, vocab]."""
  if cfg.logits_via_embedding:
    # The embeddings have unit variance, a projection's kernel 1/embed.
    return embedding.attend(y) / jnp.sqrt(y.shape[-1])
  return layers.DenseGeneral(
      cfg.vocab_size, dtype=jnp.float32, kernel_axes=("embed", "vocab"),
      name="logits_dense")(y)


class Layer(nn.Module):
  """What encoder and decoder layers have in common.

  The scanned network overrides the two classes; the decoder-only one names
  its dropout layers.
  """

  config: T5Config
  # Biases of this layer's pairs of positions: T5X's networks hand the stack's
  # module to each layer, ours the biases.
  relative_embedding: nn.Module | None = None

  attention_cls = layers.MultiHeadDotProductAttention
  mlp_cls = layers.MlpBlock

  def bias(self, given: Array | None, length: int, *arguments: Any,
           **options: Any) -> Array | None:
    """Biases of all pairs of `length` positions, where none are given."""
    if given is not None or self.relative_embedding is None:
      return given
    return self.relative_embedding(length, length, *arguments, **options)

  def norm(self, x: Array, name: str) -> Array:
    return layers.LayerNorm(dtype=self.config.dtype, name=name)(x)

  def attention(self, name: str):
    cfg = self.config
    return self.attention_cls(
        num_heads=cfg.num_heads, head_dim=cfg.head_dim, dtype=cfg.dtype,
        dropout_rate=cfg.dropout_rate, name=name,
        float32_logits=cfg.float32_attention_logits)

  def residual(
      self, x: Array, update: Array, deterministic: bool,
      name: str | None = None) -> Array:
    return dropout(self.config, name)(update, deterministic=deterministic) + x

  def mlp_block(
      self, x: Array, deterministic: bool, dropout_name: str | None = None
  ) -> Array:
    cfg = self.config
    y = self.norm(x, "pre_mlp_layer_norm")
    y = self.mlp_cls(
        intermediate_dim=cfg.mlp_dim, activations=cfg.mlp_activations,
        intermediate_dropout_rate=cfg.dropout_rate, dtype=cfg.dtype,
        name="mlp")(y, deterministic=deterministic)
    return self.residual(x, y, deterministic, dropout_name)


class EncoderLayer(Layer):
  """Self-attention, then the feed-forward block."""

  @nn.compact
  def __call__(
      self, inputs: Array, encoder_mask: Array | None = None,
      deterministic: bool = False, *, encoder_bias: Array | None = None
  ) -> Array:
    """[batch, length, embed] -> [batch, length, embed]."""
    encoder_bias = self.bias(encoder_bias, inputs.shape[-2], True)
    x = self.norm(inputs, "pre_attention_layer_norm")
    x = self.attention("attention")(
        x, x, encoder_mask, encoder_bias, deterministic=deterministic)
    return self.mlp_block(self.residual(inputs, x, deterministic),
                          deterministic)


class DecoderLayer(Layer):
  """Self-attention, attention to the encoder, the feed-forward block."""

  @nn.compact
  def __call__(
      self, inputs: Array, encoded: Array, decoder_mask: Array | None = None,
      encoder_decoder_mask: Array | None = None, deterministic: bool = False,
      decode: bool = False, max_decode_length: int | None = None, *,
      decoder_bias: Array | None = None, network_cache: bool = False,
      decode_index: Array | None = None) -> Array:
    """[batch, length, embed] -> [batch, length, embed].

    Args:
      inputs: `[batch, length, embed]`; when decoding, length is 1.
      encoded: `[batch, encoder length, embed]`.
      decoder_mask: of self-attention.
      encoder_decoder_mask: of attention to the encoder.
      deterministic: True switches dropout off.
      decode: use the caches.
      max_decode_length: static length of the cache; for relative positions.
      decoder_bias: relative position biases of self-attention.
      network_cache: the caller counts positions, for all layers; False lets
        each attention count its own.
      decode_index: the caller's; None when the caches are made.
    """
    length = decode and max_decode_length or inputs.shape[-2]
    decoder_bias = self.bias(decoder_bias, length, False)
    x = self.norm(inputs, "pre_self_attention_layer_norm")
    x = self.attention("self_attention")(
        x, x, decoder_mask, decoder_bias, deterministic=deterministic,
        decode=decode, network_cache=network_cache, decode_index=decode_index)
    x = self.residual(inputs, x, deterministic)

    y = self.norm(x, "pre_cross_attention_layer_norm")
    y = self.attention("encoder_decoder_attention")(
        y, encoded, encoder_decoder_mask, deterministic=deterministic,
        static_kv=decode and network_cache)
    return self.mlp_block(self.residual(x, y, deterministic), deterministic)


class Encoder(nn.Module):
  """Embeds tokens and runs the encoder's layers."""

  config: T5Config
  shared_embedding: nn.Module

  @nn.compact
  def __call__(
      self, encoder_input_tokens: Array, encoder_mask: Array | None = None,
      deterministic: bool = False) -> Array:
    """int [batch, length] -> [batch, length, embed]."""
    cfg = self.config
    x = self.shared_embedding(encoder_input_tokens.astype("int32"))
    x = dropout(cfg)(x, deterministic=deterministic).astype(cfg.dtype)
    x = self.run_layers(x, encoder_mask, deterministic)
    x = layers.LayerNorm(dtype=cfg.dtype, name="encoder_norm")(x)
    # T5X draws this dropout for each position; parity needs the same draws.
    return nn.Dropout(cfg.dropout_rate)(x, deterministic=deterministic)

  def run_layers(self, x, encoder_mask, deterministic):
    bias = relative_bias(self.config)(x.shape[-2], x.shape[-2], True)
    for i in range(self.config.num_encoder_layers):
      x = EncoderLayer(self.config, name=f"layers_{i}")(
          x, encoder_mask, deterministic, encoder_bias=bias)
    return x


class Decoder(nn.Module):
  """Embeds tokens, runs the decoder's layers, gives logits."""

  config: T5Config
  shared_embedding: nn.Module

  @nn.compact
  def __call__(
      self, encoded: Array, decoder_input_tokens: Array,
      decoder_positions: Array | None = None,
      decoder_mask: Array | None = None,
      encoder_decoder_mask: Array | None = None, deterministic: bool = False,
      decode: bool = False, max_decode_length: int | None = None) -> Array:
    """int [batch, length] -> float32 [batch, length, vocab].

    With `decode`, the first call makes the caches from whole sequences and
    each later one brings a single position; the collection `cache` counts
    them.
    """
    del decoder_positions  # T5's positions are relative.
    cfg = self.config
    y = self.shared_embedding(decoder_input_tokens.astype("int32"))
    y = dropout(cfg)(y, deterministic=deterministic).astype(cfg.dtype)
    index = next_position(self, max_decode_length) if decode else None
    if index is not None:
      decoder_mask = causal_row(max_decode_length, index)
    y = self.run_layers(
        y, encoded, decoder_mask, encoder_decoder_mask, deterministic, decode,
        max_decode_length, index)
    y = layers.LayerNorm(dtype=cfg.dtype, name="decoder_norm")(y)
    y = dropout(cfg)(y, deterministic=deterministic)
    return logits_of(cfg, self.shared_embedding, y)

  def run_layers(
      self, y, encoded, decoder_mask, encoder_decoder_mask, deterministic,
      decode, max_decode_length, index):
    bias = decoder_bias(
        relative_bias(self.config), y.shape[-2], max_decode_length, index)
    for i in range(self.config.num_decoder_layers):
      y = DecoderLayer(self.config, name=f"layers_{i}")(
          y, encoded, decoder_mask, encoder_decoder_mask, deterministic, decode,
          decoder_bias=bias, network_cache=True, decode_index=index)
    return y


def next_position(
    decoder: nn.Module, max_decode_length: int | None) -> Array | None:
  """Counts a decoding step; its position, or None as the cache is made."""
  if not decoder.has_variable("cache", "cache_index"):
    decoder.put_variable("cache", "cache_index", jnp.zeros((), jnp.int32))
    return None
  if not max_decode_length:
    raise ValueError("decoding step by step needs max_decode_length")
  index = decoder.get_variable("cache", "cache_index")
  decoder.put_variable("cache", "cache_index", index + 1)
  return index


def causal_row(length: int, index: Array) -> Array:
  """The causal mask's row at `index`: `[1 or batch, 1, 1, length]`."""
  return jnp.arange(length) <= jnp.reshape(index, (-1, 1, 1, 1))


def decoder_bias(
    biases: layers.RelativePositionBiases, length: int,
    max_decode_length: int | None, index: Array | None) -> Array:
  """Biases of all pairs of positions or, at a decoding step, of one row."""
  if index is None:
    return biases(length, length, False)
  return biases.decoding_row(max_decode_length, index)


class Transformer(nn.Module):
  """The whole network, from tokens to logits."""

  config: T5Config

  encoder_cls = Encoder
  decoder_cls = Decoder

  def setup(self):
    self.shared_embedding = token_embedder(self.config)
    self.encoder = self.encoder_cls(self.config, self.shared_embedding)
    self.decoder = self.decoder_cls(self.config, self.shared_embedding)

  def encode(
      self, encoder_input_tokens: Array,
      encoder_segment_ids: Array | None = None,
      enable_dropout: bool = True) -> Array:
    """int [batch, length] -> [batch, length, embed]; 0 is padding."""
    if encoder_input_tokens.ndim != 2:
      raise ValueError(
          "encoder_input_tokens must be [batch, length], got shape "
          f"{encoder_input_tokens.shape}")
    real = encoder_input_tokens > 0
    mask = self._pair_mask(
        real, real, encoder_segment_ids, encoder_segment_ids)
    return self.encoder(
        encoder_input_tokens, mask, deterministic=not enable_dropout)

  def decode(
      self, encoded: Array, encoder_input_tokens: Array,
      decoder_input_tokens: Array, decoder_target_tokens: Array,
      encoder_segment_ids: Array | None = None,
      decoder_segment_ids: Array | None = None,
      decoder_positions: Array | None = None, enable_dropout: bool = True,
      decode: bool = False, max_decode_length: int | None = None) -> Array:
    """Logits of the decoder's positions, float32 `[batch, length, vocab]`.

    Args:
      encoded: `[batch, encoder length, embed]`, from `encode`.
      encoder_input_tokens: `[batch, encoder length]`, for the mask.
      decoder_input_tokens: `[batch, length]`, the targets shifted by one.
      decoder_target_tokens: `[batch, length]`, for the mask.
      encoder_segment_ids: numbers of packed examples, or None.
      decoder_positions: unused, positions are relative.
      enable_dropout: False at evaluation.
      decode: incremental decoding, see `Decoder`.
      max_decode_length: static length of the decoder's cache.
    """
    if decode and encoder_segment_ids is not None:
      raise ValueError(
          "decoding works on unpacked examples, but encoder_segment_ids were "
          "given; set pack=False in the dataset's config")
    if decode:
      real, decoder_mask = jnp.ones_like(decoder_target_tokens), None
    else:
      real = decoder_target_tokens > 0
      decoder_mask = layers.make_decoder_mask(
          decoder_target_tokens, dtype=self.config.dtype,
          decoder_segment_ids=decoder_segment_ids)
    cross_mask = self._pair_mask(
        real, encoder_input_tokens > 0, decoder_segment_ids,
        encoder_segment_ids)
    return self.decoder(
        encoded, decoder_input_tokens, decoder_positions, decoder_mask,
        cross_mask, deterministic=not enable_dropout, decode=decode,
        max_decode_length=max_decode_length)

  def __call__(
      self, encoder_input_tokens: Array, decoder_input_tokens: Array,
      decoder_target_tokens: Array,
      encoder_segment_ids: Array | None = None,
      decoder_segment_ids: Array | None = None,
      encoder_positions: Array | None = None,
      decoder_positions: Array | None = None, *, enable_dropout: bool = True,
      decode: bool = False) -> Array:
    """Encodes and decodes; arguments as in those."""
    del encoder_positions
    encoded = self.encode(
        encoder_input_tokens, encoder_segment_ids, enable_dropout)
    return self.decode(
        encoded, encoder_input_tokens, decoder_input_tokens,
        decoder_target_tokens, encoder_segment_ids, decoder_segment_ids,
        decoder_positions, enable_dropout, decode)

  def _pair_mask(self, query_real, key_real, query_segments, key_segments):
    """Real tokens see real tokens of the same packed example."""
    make = functools.partial(
        layers.make_attention_mask, dtype=self.config.dtype)
    same = None if key_segments is None else make(
        query_segments, key_segments, jnp.equal)
    return layers.combine_masks(make(query_real, key_real), same)
