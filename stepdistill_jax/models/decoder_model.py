"""The student: a decoder that reads prompt and target as one sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import inspect
from typing import Any

import flax
import jax
import jax.numpy as jnp
import seqio
from t5x import decoding, models as t5x_models

from stepdistill_jax.config import inherited_bindings
from stepdistill_jax.models import (
  batches,
  lora,
  optimization,
  schedules,
  task_loss,
  weights as weights_lib,
)

# What decoding functions call the most tokens that they add to a prompt.
_STEP_LIMITS = ("max_decode_steps", "max_decode_step")


@inherited_bindings.followed_by_class
class StepDistillDecoder(task_loss.TaskLoss, t5x_models.DecoderOnlyModel):
  """T5X's decoder-only model with distilling step-by-step's loss.

  Takes the batches that an encoder-decoder takes: what is the encoder's are
  the prompts, which the targets continue (see `sequences`). So a record's
  label and rationale are two continuations, packing and pairs are T5's, and
  logits are computed for targets alone.

  Gin bindings of `models.DecoderOnlyModel` and of its methods count for this
  class too, unless it has its own.
  """

  def __init__(
      self, module: Any, vocabulary: seqio.Vocabulary, optimizer_def: Any,
      decode_fn: Callable[..., Any] = decoding.temperature_sample,
      feature_converter_cls: Callable[..., Any] | None = None,
      z_loss: float = 0.0,
      task_weights: weights_lib.TaskWeights | None = None,
      aggregation: str = "task_mean",
      loss_normalizing_factor: float | None = None,
      mutual_information: schedules.Weight = 0.0,
      logits_in_blocks: bool | None = None):
    """Makes a student.

    Args:
      module: the flax module, e.g. `models.llama.network.Transformer`.
      vocabulary: of prompts and targets; id 0 is padding.
      optimizer_def: T5X's optimizer definition, or a name of
        `optimization.OPTIMIZERS`.
      decode_fn: T5X's decoding function.
      feature_converter_cls: another feature converter than the class's.
      z_loss: see `losses.token_loss`.
      task_weights: see `TaskLoss`, also for what follows.
      aggregation: `task_mean` or `token_sum`.
      loss_normalizing_factor: with `token_sum`, what the sum is divided by.
      mutual_information: β.
      logits_in_blocks: None for where it may pay: on one accelerator.
    """
    super().__init__(
        module=module, vocabulary=vocabulary,
        optimizer_def=optimization.by_name(optimizer_def),
        decode_fn=decode_fn, feature_converter_cls=feature_converter_cls,
        z_loss=z_loss, loss_normalizing_factor=loss_normalizing_factor)
    self._set_loss(
        task_weights=task_weights, aggregation=aggregation,
        loss_normalizing_factor=loss_normalizing_factor,
        mutual_information=mutual_information,
        logits_in_blocks=logits_in_blocks)

  def get_initial_variables(
      self, rng: jax.Array, input_shapes: Mapping[str, tuple[int, ...]],
      input_types: Mapping[str, Any] | None = None) -> Any:
    """Initial variables; their shapes do not depend on the batch's."""
    del input_shapes, input_types
    tokens = jnp.ones((1, 2), jnp.int32)
    variables = dict(
        self.module.init(rng, tokens, tokens, enable_dropout=False))
    if getattr(self.module.config, "lora_rank", 0):
      variables["params"] = lora.cast_the_rest(
          variables["params"], self.module.config.lora_base_dtype)
    return flax.core.freeze(variables)

  @property
  def _head_is_trained(self) -> bool:
    return not getattr(self.module.config, "lora_rank", 0)

  def _compute_logits(
      self, params: Any, batch: batches.Batch,
      dropout_rng: jax.Array | None = None, mutable: Any = False,
      other_variables: Any = None) -> Any:
    """Logits of the targets, float32 `[batch, target length, vocab]`."""
    if getattr(self.module.config, "lora_rank", 0):
      params = lora.freeze_the_rest(params)
    return self.module.apply(
        {"params": params, **(other_variables or {})}, **sequences(batch),
        num_logits=batch["decoder_target_tokens"].shape[1], decode=False,
        enable_dropout=dropout_rng is not None, mutable=mutable)

  def predict_batch_with_aux(
      self, params: Any, batch: batches.Batch, rng: jax.Array | None = None,
      *, return_all_decodes: bool = False, num_decodes: int = 1,
      decoder_params: Mapping[str, Any] | None = None) -> Any:
    """Continues the prompts of a batch; of a paired one those of the labels.

    Args:
      params: the student's parameters.
      batch: prompts in `encoder_input_tokens`, without segments;
        `decoder_target_tokens` gives the output's length.
      rng: key for sampling.
      return_all_decodes: all decodes or the best alone.
      num_decodes: beams, or samples of each row.
      decoder_params: arguments of `decode_fn`.

    Returns:
      int `[batch, target length]` and `{"scores": [batch]}`; with
      `return_all_decodes`, `[batch, num_decodes, target length]` and
      `[batch, num_decodes]`, the best last.
    """
    batch = batches.first_targets(batch)
    prompts = batch["encoder_input_tokens"]
    length = batch["decoder_target_tokens"].shape[1]
    room = jnp.pad(prompts, ((0, 0), (0, length)))
    takes = inspect.signature(self.decode_fn).parameters
    limits = {name: length for name in _STEP_LIMITS if name in takes}
    tokens, aux = super().predict_batch_with_aux(
        params, {"decoder_input_tokens": room,
                 "decoder_causal_attention": (room > 0).astype(room.dtype)},
        rng=rng, return_all_decodes=return_all_decodes,
        num_decodes=num_decodes,
        decoder_params={**limits, **(decoder_params or {})})
    return tokens[..., :length], aux


def sequences(batch: batches.Batch) -> dict[str, jnp.ndarray]:
  """Prompts and targets of a flat batch as a decoder's sequences.

  The last token of a prompt is read where an encoder-decoder reads its start
  token, so that outputs stand where T5's do. Prompt 7, 8, 9 and target 4, 5:

      encoder_input_tokens  = [[7, 8, 9, 0]]
      decoder_target_tokens = [[4, 5, 0]]
      decoder_input_tokens  = [[0, 4, 5]]

  give, prompts first,

      decoder_input_tokens  = [[7, 8, 9, 0, 9, 4, 5]]
      decoder_segment_ids   = [[1, 1, 0, 0, 1, 1, 0]]
      decoder_positions     = [[0, 1, 2, 3, 2, 3, 1]]

  Args:
    batch: features of `StepDistillFeatureConverter`; packed, targets continue
      the prompt of their segment.

  Returns:
    The network's arguments, `[batch, input length + target length]` int32.
  """
  prompts, targets = (
      batch["encoder_input_tokens"], batch["decoder_target_tokens"])
  segments, positions = {}, {}
  for side, tokens in (("encoder", prompts), ("decoder", targets)):
    segments[side] = batch.get(
        f"{side}_segment_ids", (tokens > 0).astype(jnp.int32))
    positions[side] = batch.get(f"{side}_positions", jnp.broadcast_to(
        jnp.arange(tokens.shape[1]), tokens.shape))
  # [batch, target length, input length]
  own = ((segments["decoder"][:, :, None] == segments["encoder"][:, None, :])
         & (segments["decoder"][:, :, None] > 0))
  sizes = jnp.sum(own, axis=-1)  # Tokens of each target's prompt.
  is_last = own & (
      positions["encoder"][:, None, :] == sizes[:, :, None] - 1)
  last = jnp.sum(jnp.where(is_last, prompts[:, None, :], 0), axis=-1)
  following = jnp.pad(segments["encoder"][:, 1:], ((0, 0), (0, 1)))
  inputs = jnp.where(
      positions["decoder"] == 0, last, batch["decoder_input_tokens"])

  def joined(first: jnp.ndarray, second: jnp.ndarray) -> jnp.ndarray:
    return jnp.concatenate([first, second], axis=1)

  return {
      "decoder_input_tokens": joined(prompts, inputs),
      "decoder_target_tokens": joined(prompts, targets),  # For its shape.
      "decoder_segment_ids": joined(
          jnp.where(segments["encoder"] == following, segments["encoder"], 0),
          segments["decoder"]),
      "decoder_positions": joined(
          positions["encoder"],
          jnp.maximum(sizes - 1 + positions["decoder"], 0)),
  }
