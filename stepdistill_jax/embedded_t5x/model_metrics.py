"""The metrics that every text model reports for a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import clu.metrics as clu_metrics
import jax
import jax.numpy as jnp

from stepdistill_jax.embedded_t5x import metrics as metrics_lib

Array = Any
MetricsMap = metrics_lib.MetricsMap


def count_packed_examples(segment_ids: Array) -> Array:
  """How many examples the rows of a batch hold.

      segment_ids = [[1, 1, 3, 3, 0, 0],
                     [2, 2, 2, 2, 2, 2]]    -> 3

  Ids may have gaps: an example of another task has no tokens here.

  Args:
    segment_ids: int `[batch, length]`, 0 on padding, which comes last.
  """
  changes = jnp.sum(jnp.diff(segment_ids, axis=1) != 0)
  padded_rows = jnp.sum(segment_ids[:, -1] == 0)
  return changes + segment_ids.shape[0] - padded_rows


def compute_weighted_accuracy(
    logits: Array, targets: Array, weights: Array | None = None) -> Array:
  """The weight of the targets that have the largest logit, a scalar.

  Args:
    logits: float `[batch, length, vocab]`.
    targets: int `[batch, length]`.
    weights: `[batch, length]`; None counts each target.
  """
  if logits.ndim != targets.ndim + 1:
    raise ValueError(
        "logits must have one axis more than targets, got shapes "
        f"{logits.shape} and {targets.shape}")
  right = jnp.argmax(logits, -1) == targets
  return jnp.sum(right if weights is None else right * weights)


def compute_metrics(
    logits: Array, targets: Array, weights: Array, loss: Array,
    weight_sum: Array, additional_metrics: MetricsMap) -> MetricsMap:
  """The sums that T5X once reported; see `compute_base_metrics`."""
  return {**metrics_lib.create_metrics_dict({
      "loss": loss,
      "accuracy": compute_weighted_accuracy(logits, targets, weights),
      "weight_sum": weight_sum, "num_examples": targets.shape[0],
      "num_tokens": targets.size}), **additional_metrics}


def compute_base_metrics(
    logits: Array, targets: Array, mask: Array | None, loss: Array,
    z_loss: Array | None = None, segment_ids: Mapping[str, Array] | None = None
) -> MetricsMap:
  """Accuracy, loss, speed and how full the batch is.

  Args:
    logits: float `[batch, length, vocab]`.
    targets: int `[batch, length]`.
    mask: `[batch, length]` loss weights of 0 and 1, or None.
    loss: scalar, summed over the batch (and normalized, if so configured).
    z_loss: scalar part of `loss`, or None.
    segment_ids: for each feature int `[batch, length]`: packed examples'
      numbers, or just nonzero on real tokens.

  Returns:
    Metrics by name, T5X's names.
  """
  average = lambda total, count: clu_metrics.Average(total=total, count=count)
  per_step = lambda total: metrics_lib.AveragePerStep(total=total)
  rate = lambda n: metrics_lib.TimeRate.from_model_output(numerator=n)
  num_seqs, num_tokens = jnp.array(targets.shape[0]), jnp.array(targets.size)
  num_real = num_tokens if mask is None else jnp.sum(mask)
  devices = jax.device_count()
  metrics = {
      "accuracy": clu_metrics.Accuracy.from_model_output(
          logits=logits, labels=targets.astype(jnp.int32), mask=mask),
      "loss": per_step(loss),
      "loss_per_nonpadding_target_token": average(loss, num_real),
      "loss_per_all_target_tokens": average(loss, num_tokens),
      "timing/seqs_per_second": rate(num_seqs),
      "timing/steps_per_second": metrics_lib.StepsPerTime.from_model_output(),
      "timing/seconds": metrics_lib.Time(),
      "timing/seqs": metrics_lib.Sum(num_seqs),
      "timing/seqs_per_second_per_core": rate(num_seqs / devices),
      "timing/target_tokens_per_second": rate(num_tokens),
      "timing/target_tokens_per_second_per_core": rate(num_tokens / devices),
      "non_padding_fraction/loss_weights": average(num_real, num_tokens),
  }
  if z_loss is not None:
    cross_entropy = loss - z_loss
    metrics |= {
        "z_loss": per_step(z_loss),
        "z_loss_per_all_target_tokens": average(z_loss, num_tokens),
        "cross_ent_loss": per_step(cross_entropy),
        "cross_ent_loss_per_all_target_tokens": average(
            cross_entropy, num_tokens),
    }
  if segment_ids is not None:
    metrics |= _fill_metrics(segment_ids)
  return metrics


def _fill_metrics(segment_ids: Mapping[str, Array]) -> MetricsMap:
  """Examples a batch and shares of real tokens, by feature."""
  metrics = {}
  all_real, all_tokens = jnp.array(0), jnp.array(0)
  for feature, ids in segment_ids.items():
    if ids is None or ids.shape[1] == 0:
      continue
    real, tokens = jnp.sum(ids != 0), jnp.array(ids.size)
    all_real, all_tokens = all_real + real, all_tokens + tokens
    metrics[f"effective_batch_size/{feature}"] = metrics_lib.AveragePerStep(
        total=count_packed_examples(ids))
    metrics[f"non_padding_fraction/{feature}"] = clu_metrics.Average(
        total=real, count=tokens)
  metrics["non_padding_fraction/overall"] = clu_metrics.Average(
      total=all_real, count=all_tokens)
  return metrics
