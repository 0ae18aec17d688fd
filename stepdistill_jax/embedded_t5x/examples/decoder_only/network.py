"""T5's decoder without attention to an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import linen as nn, struct
import jax.numpy as jnp

from stepdistill_jax.embedded_t5x.examples.decoder_only import layers
from stepdistill_jax.embedded_t5x.examples.t5 import network as t5_network

Array = Any


@struct.dataclass
class TransformerConfig:
  """Sizes and choices, as in `examples.t5.network.T5Config`."""

  vocab_size: int
  dtype: Any = jnp.float32
  emb_dim: int = 512
  num_heads: int = 8
  num_layers: int = 6
  head_dim: int = 64
  mlp_dim: int = 2048
  mlp_activations: Sequence[str] = ("relu",)
  dropout_rate: float = 0.1
  logits_via_embedding: bool = False

  def __post_init__(self):
    t5_network.check_dtype(self.dtype)

  @property
  def float32_attention_logits(self) -> bool:
    return False


class DecoderLayer(t5_network.Layer):
  """Self-attention, then the feed-forward block."""

  @nn.compact
  def __call__(
      self, inputs: Array, decoder_mask: Array | None = None,
      deterministic: bool = False, decode: bool = False,
      max_decode_length: int | None = None, prefill: bool = False,
      prefill_lengths: Array | None = None, *,
      decoder_bias: Array | None = None, network_cache: bool = False,
      decode_index: Array | None = None) -> Array:
    """[batch, length, embed] -> [batch, length, embed].

    The arguments are those of T5's `DecoderLayer`, and the attention's.
    """
    length = decode and max_decode_length or inputs.shape[-2]
    decoder_bias = self.bias(decoder_bias, length, False, decode=decode)
    x = self.norm(inputs, "pre_self_attention_layer_norm")
    x = self.attention("self_attention")(
        x, x, decoder_mask, decoder_bias, deterministic=deterministic,
        decode=decode, prefill=bool(prefill), prefill_lengths=prefill_lengths,
        network_cache=network_cache, decode_index=decode_index)
    x = self.residual(inputs, x, deterministic, "post_self_attention_dropout")
    return self.mlp_block(x, deterministic, "post_mlp_dropout")


class Decoder(nn.Module):
  """From tokens to logits."""

  config: TransformerConfig

  @nn.compact
  def __call__(
      self, decoder_input_tokens: Array, decoder_target_tokens: Array,
      decoder_segment_ids: Array | None = None,
      decoder_positions: Array | None = None,
      decoder_causal_attention: Array | None = None, *,
      enable_dropout: bool = True, decode: bool = False,
      max_decode_length: int | None = None, prefill: bool | None = False,
      prefill_lengths: Array | None = None) -> Array:
    """Logits of all positions.

    Decoding takes three kinds of calls: with `decode`, one that makes the
    cache; with `prefill`, one that fills in the prompts; with `decode`, one
    for each new position.

    Args:
      decoder_input_tokens: int `[batch, length]`, the targets shifted by one.
      decoder_target_tokens: int `[batch, length]`, for the mask.
      decoder_causal_attention: `[batch, length]`, 1 where attention goes both
        ways, or None.
      max_decode_length: static length of the cache.
      prefill_lengths: int `[batch]`, how many positions they have.

    Returns:
      float32 `[batch, length, vocab]`.
    """
    del decoder_positions
    cfg = self.config
    deterministic = not enable_dropout
    embedding = t5_network.token_embedder(cfg)
    y = embedding(decoder_input_tokens.astype("int32"))
    y = t5_network.dropout(cfg, "input_dropout")(
        y, deterministic=deterministic).astype(cfg.dtype)

    mask, index = None, None
    if decode:
      index = t5_network.next_position(self, max_decode_length)
      if index is not None:
        mask = t5_network.causal_row(max_decode_length, index)
    else:
      mask = layers.make_decoder_mask(
          decoder_target_tokens, cfg.dtype, decoder_causal_attention,
          decoder_segment_ids)
    if prefill:
      self.put_variable("cache", "cache_index", prefill_lengths)
    bias = t5_network.decoder_bias(
        t5_network.relative_bias(cfg), y.shape[-2], max_decode_length, index)
    for i in range(cfg.num_layers):
      y = DecoderLayer(cfg, name=f"layers_{i}")(
          y, mask, deterministic, decode, prefill=prefill, decoder_bias=bias,
          network_cache=True, decode_index=index)

    y = layers.LayerNorm(dtype=cfg.dtype, name="decoder_norm")(y)
    y = t5_network.dropout(cfg, "output_dropout")(
        y, deterministic=deterministic)
    return t5_network.logits_of(cfg, embedding, y)


class DecoderWrapper(nn.Module):
  """Gives the parameters the prefix `decoder/`."""

  config: TransformerConfig

  def setup(self):
    self.decoder = Decoder(self.config)

  def __call__(self, *args, **kwargs) -> Array:
    return self.decoder(*args, **kwargs)
