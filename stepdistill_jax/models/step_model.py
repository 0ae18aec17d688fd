"""The student: an encoder-decoder whose loss weighs tasks, not tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import seqio
from t5x import decoding, models as t5x_models

from stepdistill_jax.config import inherited_bindings
from stepdistill_jax.models import (
  batches,
  optimization,
  scanned_network,
  schedules,
  task_loss,
  weights as weights_lib,
)


@inherited_bindings.followed_by_class
class StepDistillModel(task_loss.TaskLoss, t5x_models.EncoderDecoderModel):
  """T5X's encoder-decoder with distilling step-by-step's loss.

  Gin bindings of `models.EncoderDecoderModel` and of its methods
  (`predict_batch_with_aux.num_decodes`, ...) count for this class too, unless
  it has its own.
  """

  def __init__(
      self, module: Any, input_vocabulary: seqio.Vocabulary,
      output_vocabulary: seqio.Vocabulary, optimizer_def: Any,
      decode_fn: Callable[..., Any] = decoding.beam_search,
      feature_converter_cls: Callable[..., Any] | None = None,
      label_smoothing: float = 0.0, z_loss: float = 0.0,
      default_decoder_params: t5x_models.DecoderParams | None = None,
      task_weights: weights_lib.TaskWeights | None = None,
      aggregation: str = "task_mean",
      loss_normalizing_factor: float | None = None,
      mutual_information: schedules.Weight = 0.0,
      logits_in_blocks: bool | None = None,
      loop_layers: bool | None = None):
    """Makes a student.

    Args:
      module: the flax module, e.g. `t5x.examples.t5.network.Transformer`.
      input_vocabulary: of the encoder's tokens.
      output_vocabulary: of the decoder's tokens.
      optimizer_def: T5X's optimizer definition, or a name of
        `optimization.OPTIMIZERS`.
      decode_fn: T5X's decoding function.
      feature_converter_cls: another feature converter than the class's.
      label_smoothing: see `losses.token_loss`.
      z_loss: see `losses.token_loss`.
      default_decoder_params: T5X's defaults of decoding.
      task_weights: see `TaskLoss`, also for what follows.
      aggregation: `task_mean` or `token_sum`.
      loss_normalizing_factor: with `token_sum`, what the sum is divided by.
      mutual_information: β.
      logits_in_blocks: None for where it may pay: on one accelerator.
      loop_layers: whether layers of `t5x.examples.t5.network` run in a loop;
        None for where it pays, see `layer_loop.wanted`. Parameters and values
        are the same; dropout draws other bits.
    """
    super().__init__(
        module=scanned_network.in_loop(module, loop_layers),
        input_vocabulary=input_vocabulary,
        output_vocabulary=output_vocabulary,
        optimizer_def=optimization.by_name(optimizer_def),
        decode_fn=decode_fn, feature_converter_cls=feature_converter_cls,
        label_smoothing=label_smoothing, z_loss=z_loss,
        loss_normalizing_factor=loss_normalizing_factor,
        default_decoder_params=default_decoder_params)
    self._set_loss(
        task_weights=task_weights, aggregation=aggregation,
        loss_normalizing_factor=loss_normalizing_factor,
        mutual_information=mutual_information,
        logits_in_blocks=logits_in_blocks)

  def predict_batch_with_aux(
      self, params: Any, batch: batches.Batch, rng: jax.Array | None = None,
      **kwargs: Any) -> Any:
    """Decodes; a paired batch answers with its first target, the label."""
    return super().predict_batch_with_aux(
        params, batches.first_targets(batch), rng=rng, **kwargs)
