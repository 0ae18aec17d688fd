"""Models of a decoder-only network (language models, prefix LMs)."""

from __future__ import annotations

from collections.abc import Mapping
import functools
from typing import Any

import flax
from flax import linen as nn
import jax
import jax.numpy as jnp
import seqio

from stepdistill_jax.config import inherited_bindings
from stepdistill_jax.embedded_t5x import base_models, decoding, optimizers
from stepdistill_jax.util import errors

Array = Any
PyTree = Any
Batch = base_models.Batch


@inherited_bindings.followed_by_class
class DecoderOnlyModel(base_models.BaseTransformerModel):
  """A decoder that reads inputs and targets as one sequence.

  The loss is on the targets. With `inputs_bidirectional_attention` the inputs
  see each other both ways (a prefix LM), else attention is causal throughout.
  """

  FEATURE_CONVERTER_CLS = seqio.DecoderFeatureConverter

  def __init__(
      self, module: nn.Module, vocabulary: seqio.Vocabulary,
      optimizer_def: optimizers.OptimizerDefType,
      decode_fn: base_models.DecodeFnCallable = decoding.temperature_sample,
      inputs_bidirectional_attention: bool = False,
      feature_converter_cls: type[seqio.FeatureConverter] | None = None,
      label_smoothing: float = 0.0, z_loss: float = 0.0,
      loss_normalizing_factor: base_models.LossNormalizingFactor = None):
    """Sets the model up; arguments as in `EncoderDecoderModel`."""
    if feature_converter_cls is not None:
      self.FEATURE_CONVERTER_CLS = feature_converter_cls
    self._inputs_bidirectional_attention = inputs_bidirectional_attention
    super().__init__(
        module, vocabulary, vocabulary, optimizer_def, decode_fn,
        label_smoothing, z_loss, loss_normalizing_factor)

  def get_initial_variables(self, rng, input_shapes, input_types=None):
    tokens = base_models.ones(
        "decoder_input_tokens", input_shapes, input_types, jnp.float32)
    return flax.core.freeze(
        self.module.init(rng, tokens, tokens, enable_dropout=False))

  def _get_decoder_causal_attention(self, batch: Batch) -> Array | None:
    """Where attention goes both ways, `[batch, length]`, or None."""
    if not self._inputs_bidirectional_attention:
      return None
    return _marks(batch, "inputs_bidirectional_attention")

  def _compute_logits(self, params, batch, dropout_rng=None, mutable=False,
                      other_variables=None):
    return self._apply(
        params, dropout_rng, mutable, other_variables,
        batch["decoder_input_tokens"], batch["decoder_target_tokens"],
        decoder_segment_ids=batch.get("decoder_segment_ids"),
        decoder_positions=batch.get("decoder_positions"),
        decoder_causal_attention=self._get_decoder_causal_attention(batch))

  def _compute_logits_from_slice(
      self, decoding_state: decoding.DecodingState, params: PyTree,
      max_decode_length: int) -> tuple[Array, Mapping[str, Any]]:
    """One decoding step: logits `[batch * beams, vocab]`, the new cache."""
    logits, variables = self.module.apply(
        {"params": params, "cache": decoding_state.cache},
        decoding_state.cur_token, decoding_state.cur_token,
        enable_dropout=False, decode=True,
        max_decode_length=max_decode_length, mutable=["cache"])
    return jnp.squeeze(logits, axis=1), variables["cache"]

  def _compute_kv_cache(
      self, params: PyTree, inputs: Array, causal_attention_mask: Array
  ) -> tuple[PyTree, Array]:
    """A cache that holds the prompts, and each prompt's last position.

    The last prompt token is fed once more by the first decoding step, whose
    logits give the first new token.

    Args:
      inputs: int `[batch, length]`, start token, prompt, zeros.
      causal_attention_mask: `[batch, length]`, 1 on start token and prompt.
    """
    last = jnp.sum(inputs[:, 1:] != 0, axis=-1)
    ones = jnp.ones_like(inputs)
    _, variables = self.module.apply(
        {"params": params}, ones, ones, enable_dropout=False, decode=True,
        mutable=["cache"])
    both_ways = self._get_decoder_causal_attention(
        {"decoder_causal_attention": causal_attention_mask})
    _, variables = self.module.apply(
        {"params": params, "cache": variables["cache"]},
        decoder_input_tokens=inputs,
        # As targets they make the mask cover the start token too.
        decoder_target_tokens=causal_attention_mask,
        decoder_causal_attention=both_ways, mutable=["cache"],
        enable_dropout=False, prefill=True, prefill_lengths=last)
    return variables["cache"], last

  def predict_batch_with_aux(
      self, params: PyTree, batch: Batch, rng: jax.Array | None = None, *,
      return_all_decodes: bool = False, num_decodes: int = 1,
      decoder_params: Mapping[str, Any] | None = None,
  ) -> tuple[Array, Mapping[str, Array]]:
    """Continues the inputs of a batch.

        decoder_input_tokens     = [[0, 9, 4, 6, 1, 3, 9, 1, 0]]
        decoder_causal_attention = [[1, 1, 1, 1, 1, 0, 0, 0, 0]]
        prompt                   =     9, 4, 6, 1
        returned                 = [[a, b, c, d, e, 0, 0, 0, 0]]

    Args and returns are those of `EncoderDecoderModel`; the batch's
    `decoder_causal_attention` marks the inputs.
    """
    marks = _marks(batch, "prediction")
    inputs = batch["decoder_input_tokens"] * marks
    cache, last = self._compute_kv_cache(params, inputs, marks)
    tokens_to_logits = functools.partial(
        self._compute_logits_from_slice, params=params,
        max_decode_length=inputs.shape[1])
    decodes, aux = self._decode(
        inputs, cache, tokens_to_logits, num_decodes, return_all_decodes, rng,
        decoder_params, last)
    return remove_prefix(decodes, last), aux


def _marks(batch: Batch, needed_by: str) -> Array:
  if "decoder_causal_attention" not in batch:
    raise errors.InvalidValue(
        f"{needed_by} needs the feature decoder_causal_attention; give "
        "task_feature_lengths for both inputs and targets")
  return batch["decoder_causal_attention"]


@jax.vmap
def remove_prefix(sequence: Array, prefix_length: Array) -> Array:
  """Drops each row's first tokens; zeros fill the end.

  >>> remove_prefix(jnp.array([[1, 2, 3, 4]]), jnp.array([1])).tolist()
  [[2, 3, 4, 0]]

  Args:
    sequence: int `[batch, length]` or `[batch, num_decodes, length]`.
    prefix_length: int `[batch]`.
  """
  positions = jnp.arange(sequence.shape[-1])
  kept = jnp.where(positions < prefix_length, 0, sequence)
  return jnp.roll(kept, -prefix_length, axis=-1)
