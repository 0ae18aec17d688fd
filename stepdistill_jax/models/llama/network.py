"""Llama's decoder; SmolLM2, Qwen 2.5 and Qwen 3 are choices of it.

Pre-norm residual blocks, rotary positions, grouped-query attention, gated
MLPs. Parameters have T5X's names where T5 has the same thing, and T5X's
logical axes; a layer's are `decoder/layers_N/...` whether or not the layers
run in a loop.

Id 0 is padding, as everywhere in T5X; the tokens are ids 1 to `num_tokens`.
Rows of the embedding beyond them, and row 0, can never be predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import operator
from typing import Any

from flax import linen as nn, struct
from flax.linen import spmd
import jax.numpy as jnp
import numpy as np

from stepdistill_jax.config import decoder_dimensions, setting_checks
from stepdistill_jax.embedded_t5x.examples.t5 import (
  layers,
  network as t5_network,
)
from stepdistill_jax.models import blocked_loss, layer_loop
from stepdistill_jax.models.llama import attention, rotary
from stepdistill_jax.util import errors

Array = Any
LORA_TARGETS = ("query", "key", "value", "out", "wi_0", "wi_1", "wo")


@struct.dataclass
class LlamaConfig(  # type: ignore[misc]  # It is frozen by flax.
    decoder_dimensions.DecoderDimensions):
  """A decoder's dimensions, and how it is computed and trained.

  Attributes:
    dtype: of activations; parameters are float32.
    loop_layers: whether layers run in a compiled loop.
    remat_policy: of that loop, see `layer_loop.run_in_loop`.
    attention: of training, see `jax.nn.dot_product_attention`: None and `xla`
      run everywhere; `cudnn` is fused, and compiles on GPUs alone.
    lora_rank: of adapters, which are then all that is trained; 0 for none.
    lora_alpha: what they are multiplied with, times the rank.
    lora_targets: which matrices have one.
    lora_base_dtype: of all other parameters, where there are adapters.
  """

  dtype: Any = jnp.float32
  loop_layers: bool = False
  remat_policy: str | None = "minimal"
  attention: str | None = None
  lora_rank: int = 0
  lora_alpha: float = 16.0
  lora_targets: Sequence[str] = LORA_TARGETS
  lora_base_dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    t5_network.check_dtype(self.dtype)
    t5_network.check_dtype(self.lora_base_dtype)
    if self.num_heads % self.num_kv_heads:
      raise errors.UserError(
          f"LlamaConfig.num_heads = {self.num_heads} must be a multiple of "
          f"num_kv_heads = {self.num_kv_heads}")
    if self.rope_scaling not in rotary.SCALINGS:
      raise errors.UserError(
          f"LlamaConfig.rope_scaling = {self.rope_scaling!r} is unknown; "
          f"known: {', '.join(rotary.SCALINGS)}")
    if self.attention is not None:
      setting_checks.one_of(
          "LlamaConfig.attention", self.attention, ("cudnn", "xla"))
    for target in self.lora_targets:
      setting_checks.one_of("LlamaConfig.lora_targets", target, LORA_TARGETS)
    if not 0 < self.last_token < self.vocab_size:
      raise errors.UserError(
          f"LlamaConfig.num_tokens = {self.num_tokens} must be from 1 to "
          f"vocab_size - 1 = {self.vocab_size - 1}, as id 0 is padding")

  def rotary_frequencies(self) -> np.ndarray:
    return rotary.frequencies(
        self.head_dim, self.rope_theta, scaling=self.rope_scaling,
        factor=self.rope_factor, low_freq_factor=self.rope_low_freq_factor,
        high_freq_factor=self.rope_high_freq_factor,
        original_length=self.rope_original_length)


def _norm(cfg: LlamaConfig, name: str) -> layers.LayerNorm:
  return layers.LayerNorm(
      epsilon=cfg.rms_norm_epsilon, dtype=cfg.dtype, name=name)


class DecoderLayer(nn.Module):
  """Self-attention, then the feed-forward block."""

  config: LlamaConfig

  @nn.compact
  def __call__(
      self, x: Array, mask: Array | None, positions: Array,
      decode: bool = False, index: Array | None = None,
      prefill: bool = False) -> Array:
    """[batch, length, embed] -> [batch, length, embed]."""
    cfg = self.config
    y = _norm(cfg, "pre_self_attention_layer_norm")(x)
    x = x + attention.SelfAttention(cfg, name="self_attention")(
        y, mask, positions, decode=decode, index=index, prefill=prefill)
    y = _norm(cfg, "pre_mlp_layer_norm")(x)
    return x + Mlp(cfg, name="mlp")(y)


class Mlp(nn.Module):
  """The gated feed-forward block."""

  config: LlamaConfig

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """[batch, length, embed] -> [batch, length, embed]."""
    cfg = self.config
    hidden = []
    for i, activation in enumerate(cfg.mlp_activations):
      x = attention.dense(cfg, f"wi_{i}")(
          features=cfg.mlp_dim, kernel_axes=("embed", "mlp"))(inputs)
      hidden.append(
          x if activation == "linear" else getattr(nn, activation)(x))
    x = spmd.with_logical_constraint(
        functools.reduce(operator.mul, hidden), ("batch", "length", "mlp"))
    return attention.dense(cfg, "wo")(
        features=inputs.shape[-1], kernel_axes=("mlp", "embed"))(x)


class Decoder(nn.Module):
  """From tokens to logits."""

  config: LlamaConfig
  shared_embedding: nn.Module

  @nn.compact
  def __call__(
      self, tokens: Array, mask: Array | None, positions: Array,
      decode: bool = False, index: Array | None = None, prefill: bool = False,
      num_logits: int | None = None) -> Array:
    """int [batch, length] -> float32 [batch, length or num_logits, vocab]."""
    cfg = self.config
    x = self.shared_embedding(tokens.astype("int32"))
    if cfg.loop_layers and not (
        decode or prefill or self.is_initializing()):
      module = DecoderLayer(cfg, parent=None)
      x = layer_loop.run_in_loop(
          self, lambda params, x: module.apply(
              {"params": params}, x, mask, positions),
          x, cfg.num_layers, remat_policy=cfg.remat_policy)
    else:
      for i in range(cfg.num_layers):
        x = DecoderLayer(cfg, name=f"layers_{i}")(
            x, mask, positions, decode, index, prefill)
    if num_logits is not None:
      x = x[:, x.shape[1] - num_logits:]
    x = _norm(cfg, "decoder_norm")(x)
    if cfg.logits_via_embedding:
      logits = self.shared_embedding.attend(x)
    else:
      logits = layers.DenseGeneral(
          cfg.vocab_size, dtype=jnp.float32, kernel_axes=("embed", "vocab"),
          name="logits_dense")(x)
    return self.only_tokens(logits)

  def is_token(self) -> np.ndarray:
    """Which ids can be predicted, bool `[vocab]`."""
    ids = np.arange(self.config.vocab_size)
    return (ids > 0) & (ids <= self.config.last_token)

  def only_tokens(self, logits: Array) -> Array:
    """Hides ids that are not tokens, see `blocked_loss.without_head`."""
    return jnp.where(self.is_token(), logits, blocked_loss.NO_TOKEN)


class Transformer(nn.Module):
  """The whole network, as `t5x.models.DecoderOnlyModel` calls it."""

  config: LlamaConfig

  def setup(self) -> None:
    cfg = self.config
    self.shared_embedding = layers.Embed(
        num_embeddings=cfg.vocab_size, features=cfg.emb_dim, dtype=cfg.dtype,
        attend_dtype=jnp.float32,  # Logits are float32.
        embedding_init=nn.initializers.normal(stddev=0.02),
        name="token_embedder")
    self.decoder = Decoder(cfg, self.shared_embedding)

  def __call__(
      self, decoder_input_tokens: Array, decoder_target_tokens: Array,
      decoder_segment_ids: Array | None = None,
      decoder_positions: Array | None = None,
      decoder_causal_attention: Array | None = None, *,
      enable_dropout: bool = True, decode: bool = False,
      max_decode_length: int | None = None, prefill: bool = False,
      prefill_lengths: Array | None = None,
      num_logits: int | None = None) -> Array:
    """Logits of all positions, or of the last `num_logits`.

    A position sees those of its own segment that are not after it, wherever
    in the row they are. Decoding takes three kinds of calls: with `decode`,
    one that makes the cache; with `prefill`, one that fills in the prompts;
    with `decode`, one for each new position.

    Args:
      decoder_input_tokens: int `[batch, length]`.
      decoder_target_tokens: int `[batch, length]`, 0 where the input is
        padding.
      decoder_segment_ids: int `[batch, length]`, the packed example's number
        from 1, 0 on padding; None where rows hold one example.
      decoder_positions: int `[batch, length]`, within the example; None where
        rows hold one example from their beginning.
      decoder_causal_attention: `[batch, length]`, 1 where attention goes both
        ways, or None.
      enable_dropout: without effect, as these networks have no dropout.
      decode: use the cache.
      max_decode_length: static length of the cache.
      prefill: fill in whole prompts.
      prefill_lengths: int `[batch]`, how many positions they have.
      num_logits: static; None is all.

    Returns:
      float32 `[batch, length or num_logits, vocab]`.
    """
    del enable_dropout
    if prefill and decode:
      raise ValueError("prefill and decode are different calls")
    tokens = decoder_input_tokens
    if decoder_positions is None:
      decoder_positions = jnp.broadcast_to(
          jnp.arange(tokens.shape[1]), tokens.shape)
    mask, index = None, None
    if decode:
      index = t5_network.next_position(self, max_decode_length)
      if index is not None:
        mask = t5_network.causal_row(int(max_decode_length or 0), index)
        decoder_positions = jnp.broadcast_to(
            jnp.reshape(index, (-1, 1)), tokens.shape)
    else:
      mask = _mask(decoder_target_tokens, decoder_segment_ids,
                   decoder_positions, decoder_causal_attention)
    if prefill:
      self.put_variable("cache", "cache_index", prefill_lengths)
    return self.decoder(
        tokens, mask, decoder_positions, decode, index, prefill, num_logits)


def _mask(
    targets: Array, segments: Array | None, positions: Array,
    both_ways: Array | None) -> Array:
  """bool `[batch, 1, length, length]`: which position sees which."""
  if segments is None:
    segments = (targets > 0).astype(jnp.int32)

  def pairs(x: Array, fn: Callable[[Array, Array], Array]) -> Array:
    return fn(x[:, None, :, None], x[:, None, None, :])

  visible = pairs(positions, jnp.greater_equal)
  if both_ways is not None:
    visible |= pairs(both_ways > 0, jnp.logical_and)
  return visible & pairs(segments, jnp.equal) & (
      segments[:, None, None, :] > 0)
