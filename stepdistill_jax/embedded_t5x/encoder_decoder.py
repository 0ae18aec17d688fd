"""Models of an encoder-decoder network such as T5."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import inspect
from typing import Any

import flax
from flax import linen as nn, traverse_util
import jax
import jax.numpy as jnp
import seqio

from stepdistill_jax.config import inherited_bindings
from stepdistill_jax.embedded_t5x import base_models, decoding, optimizers

Array = Any
PyTree = Any
Batch = base_models.Batch


@dataclasses.dataclass(frozen=True)
class DecoderParams:
  """How many sequences to decode, and whether to return all of them."""

  return_all_decodes: bool = False
  num_decodes: int = 1


@inherited_bindings.followed_by_class
class EncoderDecoderModel(base_models.BaseTransformerModel):
  """A network with `encode` and `decode`, e.g. `examples.t5.network`."""

  FEATURE_CONVERTER_CLS = seqio.EncDecFeatureConverter

  def __init__(
      self, module: nn.Module, input_vocabulary: seqio.Vocabulary,
      output_vocabulary: seqio.Vocabulary,
      optimizer_def: optimizers.OptimizerDefType,
      decode_fn: base_models.DecodeFnCallable = decoding.beam_search,
      feature_converter_cls: type[seqio.FeatureConverter] | None = None,
      label_smoothing: float = 0.0, z_loss: float = 0.0,
      loss_normalizing_factor: base_models.LossNormalizingFactor = None,
      default_decoder_params: DecoderParams | None = None):
    """Sets the model up; further arguments as in `BaseTransformerModel`.

    Args:
      default_decoder_params: for predictions that do not say otherwise.
    """
    if feature_converter_cls is not None:
      self.FEATURE_CONVERTER_CLS = feature_converter_cls
    self._default_decoder_params = default_decoder_params or DecoderParams()
    super().__init__(
        module, input_vocabulary, output_vocabulary, optimizer_def, decode_fn,
        label_smoothing, z_loss, loss_normalizing_factor)

  def get_initial_variables(self, rng, input_shapes, input_types=None):
    ones = functools.partial(
        base_models.ones, shapes=input_shapes, types=input_types)
    tokens = [
        ones(name, default=jnp.float32)
        for name in ("encoder_input_tokens", "decoder_input_tokens",
                     "decoder_input_tokens")]
    packing = {
        name: ones(name, default=jnp.int32)
        for name in ("encoder_positions", "decoder_positions",
                     "encoder_segment_ids", "decoder_segment_ids")}
    return flax.core.freeze(self.module.init(
        rng, *tokens, **packing, decode=False, enable_dropout=False))

  def _compute_logits(self, params, batch, dropout_rng=None, mutable=False,
                      other_variables=None):
    return self._apply(
        params, dropout_rng, mutable, other_variables,
        batch["encoder_input_tokens"], batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        **{name: batch.get(name) for name in (
            "encoder_segment_ids", "decoder_segment_ids", "encoder_positions",
            "decoder_positions")})

  def _compute_logits_from_slice(
      self, decoding_state: decoding.DecodingState, params: PyTree,
      encoded_inputs: Array, raw_inputs: Array, max_decode_length: int
  ) -> tuple[Array, Mapping[str, Any]]:
    """One decoding step: logits `[batch * beams, vocab]`, the new cache."""
    logits, variables = self.module.apply(
        {"params": params, "cache": decoding_state.cache}, encoded_inputs,
        raw_inputs,  # For the mask.
        decoding_state.cur_token, decoding_state.cur_token,
        enable_dropout=False, decode=True,
        max_decode_length=max_decode_length, mutable=["cache"],
        method=self.module.decode)
    return jnp.squeeze(logits, axis=1), variables["cache"]

  def _compute_kv_cache(
      self, params: PyTree, encoded_inputs: Array,
      encoder_input_tokens: Array, decoder_input_tokens: Array,
      prefill_decoder_prompt: bool = False) -> tuple[PyTree, Array | None]:
    """The cache that decoding starts from.

    It has room for all positions and, in our networks, the keys and values
    of attention to the encoder, computed here once for all steps.

    Args:
      encoded_inputs: `[batch, encoder length, embed]`.
      encoder_input_tokens: `[batch, encoder length]`, for the mask.
      decoder_input_tokens: `[batch, length]`, the prompt or zeros.
      prefill_decoder_prompt: fill in the prompt at once, where the network's
        `decode` has an argument `prefill`.

    Returns:
      The cache and, with `prefill_decoder_prompt`, the prompts' last
      positions `[batch]`, else None.
    """
    ones = jnp.ones_like(decoder_input_tokens)
    decode = lambda variables, tokens, **options: self.module.apply(
        variables, encoded_inputs, encoder_input_tokens, tokens, ones,
        enable_dropout=False, mutable=["cache"], method=self.module.decode,
        **options)
    _, variables = decode(
        {"params": params}, ones, decode=True,
        max_decode_length=decoder_input_tokens.shape[1])
    if not prefill_decoder_prompt:
      return variables["cache"], None
    # 0 is the start token and padding.
    last = jnp.sum(decoder_input_tokens != 0, axis=1)
    _, variables = decode(
        {"params": params, "cache": variables["cache"]},
        decoder_input_tokens, prefill=True, prefill_lengths=last)
    # Flaxformer's position embedders count by themselves.
    cache = traverse_util.flatten_dict(flax.core.unfreeze(variables["cache"]))
    return traverse_util.unflatten_dict({
        path: last if path[-1] == "position_embedder_index" else leaf
        for path, leaf in cache.items()}), last

  def predict_batch_with_aux(
      self, params: PyTree, batch: Batch, rng: jax.Array | None = None,
      decoder_params: Mapping[str, Any] | None = None,
      return_all_decodes: bool | None = None, num_decodes: int | None = None,
      prompt_with_targets: bool = False,
  ) -> tuple[Array, Mapping[str, Array]]:
    """Decodes a batch.

    Args:
      batch: model features; `decoder_input_tokens` gives the output's length.
      return_all_decodes: all decodes or the best alone; None means the
        model's default.
      num_decodes: beams, or samples of each row; None means the model's
        default.
      prompt_with_targets: force the batch's targets, without their end token,
        as the output's beginning.

    Returns:
      int `[batch, length]` and `{"scores": [batch]}`; with
      `return_all_decodes`, `[batch, num_decodes, length]` and
      `[batch, num_decodes]`, the best last.
    """
    defaults = self._default_decoder_params
    if return_all_decodes is None:
      return_all_decodes = defaults.return_all_decodes
    if num_decodes is None:
      num_decodes = defaults.num_decodes
    encoder_tokens = batch["encoder_input_tokens"]
    prompt = jnp.zeros_like(batch["decoder_input_tokens"])
    if prompt_with_targets:
      prompt = batch["decoder_input_tokens"]
      # An end token would stop decoding at once.
      prompt = jnp.where(prompt == self.output_vocabulary.eos_id, 0, prompt)

    encoded = self.module.apply(
        {"params": params}, encoder_tokens, enable_dropout=False,
        method=self.module.encode)
    takes = lambda fn, name: name in inspect.signature(fn).parameters
    cache, initial_index = self._compute_kv_cache(
        params, encoded_inputs=encoded, encoder_input_tokens=encoder_tokens,
        decoder_input_tokens=prompt,
        prefill_decoder_prompt=takes(self.decode_fn, "initial_index")
        and takes(self.module.decode, "prefill"))
    expand = functools.partial(
        decoding.flat_batch_beam_expand, beam_size=num_decodes)
    tokens_to_logits = functools.partial(
        self._compute_logits_from_slice, params=params,
        encoded_inputs=expand(encoded), raw_inputs=expand(encoder_tokens),
        max_decode_length=prompt.shape[1])
    return self._decode(
        prompt, cache, tokens_to_logits, num_decodes, return_all_decodes, rng,
        decoder_params, initial_index)
