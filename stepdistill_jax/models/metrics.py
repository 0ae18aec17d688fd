"""Train and eval metrics of a student, T5X's names and one set per task.

Every metric is a sum and a count until it is written; microbatches, steps and
hosts add them up. Division happens in `compute` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import functools
from typing import NamedTuple

from clu import metrics as clu_metrics
import flax
import jax
import jax.numpy as jnp
from t5x import metrics as t5x_metrics

from stepdistill_jax.models import batches, losses

MetricsMap = dict[str, clu_metrics.Metric]


class TaskTotals(NamedTuple):
  """What a batch or microbatch adds to each task; all `[tasks]` float32."""

  loss: jnp.ndarray  # Σ v·(CE + z-loss), in nats.
  z_loss: jnp.ndarray  # Its share of that.
  weight: jnp.ndarray  # Σ v.
  tokens: jnp.ndarray  # Target tokens with a weight.
  correct: jnp.ndarray  # Of these, those with the highest logit.
  sequences: jnp.ndarray  # Targets begun.


def task_totals(
    batch: batches.Batch, token_loss: losses.TokenLoss, correct: jnp.ndarray,
    num_tasks: int) -> TaskTotals:
  """Sums a flat batch's token losses and counts by task.

  Args:
    batch: flat features, `[batch, length]`.
    token_loss: the losses of each token, `[batch, length]`.
    correct: which tokens have the highest logit, bool `[batch, length]`.
    num_tasks: the number of tasks.

  Returns:
    The totals of each task.
  """
  ids, weights = batches.task_ids(batch), batches.loss_weights(batch)
  targets = batch["decoder_target_tokens"]
  total = functools.partial(
      losses.task_sums, task_ids=ids, num_tasks=num_tasks)
  real = (weights > 0).astype(jnp.float32)
  if "decoder_positions" in batch:
    first = batch["decoder_positions"] == 0
  else:
    first = jnp.arange(targets.shape[1])[None, :] == 0
  return TaskTotals(
      loss=total(
          weights * (token_loss.cross_entropy + token_loss.z_loss)),
      z_loss=total(weights * token_loss.z_loss),
      weight=total(weights),
      tokens=total(real),
      correct=total(real * correct),
      sequences=total(jnp.broadcast_to(first, targets.shape) * 1.0))


@flax.struct.dataclass
class WeightedTaskLoss(clu_metrics.Metric):
  """Σ_k w_k·L_k with each L_k a mean over everything that was merged.

  An eval's loss: its batches' losses cannot be averaged, as their tasks have
  different numbers of tokens.
  """

  sums: jnp.ndarray  # [tasks]
  weights: jnp.ndarray  # [tasks], Σ v.
  task_weights: jnp.ndarray  # [tasks], w_k; equal for all that is merged.

  def merge(self, other: WeightedTaskLoss) -> WeightedTaskLoss:
    return WeightedTaskLoss(
        sums=self.sums + other.sums, weights=self.weights + other.weights,
        task_weights=self.task_weights)

  def compute(self) -> jnp.ndarray:
    return jnp.sum(
        self.task_weights * losses.safe_divide(self.sums, self.weights))


@flax.struct.dataclass
class Mean(clu_metrics.Average):
  """An average that is 0, not NaN, where there was nothing to average.

  A task may have no token between two summaries; a NaN there would look like
  a diverged run.
  """

  @property
  def is_empty(self) -> bool:
    """Whether nothing was averaged; such a metric is not written."""
    return not self.count

  def compute(self) -> jnp.ndarray:
    return losses.safe_divide(self.total, self.count)


def _average(total: jax.typing.ArrayLike, count: jax.typing.ArrayLike) -> Mean:
  return Mean(
      total=jnp.asarray(total, jnp.float32),
      count=jnp.asarray(count, jnp.float32))


def _constant(value: jax.typing.ArrayLike) -> Mean:
  """A value that is the same in all microbatches of a step."""
  return _average(value, 1)


def _rate(numerator: jax.typing.ArrayLike) -> t5x_metrics.TimeRate:
  return t5x_metrics.TimeRate(numerator=jnp.asarray(numerator, jnp.float32))


def task_metrics(
    names: Sequence[str], totals: TaskTotals, *, denominators: jnp.ndarray,
    task_weights: jnp.ndarray, coefficients: jnp.ndarray) -> MetricsMap:
  """Metrics of each task by name, and its weight in the loss.

  Args:
    names: the tasks' names, in the order of their ids.
    totals: of this batch or microbatch.
    denominators: D_k of the global batch, `[tasks]`.
    task_weights: w_k, `[tasks]`.
    coefficients: what each task's loss sum is multiplied with, `[tasks]`.

  Returns:
    `loss/TASK`: mean over the steps that had the task; `accuracy/TASK`: of
    tokens; `loss_weight/TASK`: w_k; `effective_loss_weight/TASK`: what the
    mean loss of the task really weighs, as a share of all tasks. The last two
    agree for per-task means of weights that sum to 1. For a plain sum over
    tokens the effective weight is the task's share of the tokens.
  """
  effective = coefficients * denominators
  effective = losses.safe_divide(effective, jnp.sum(effective))
  # Microbatches add up to loss 1/D·Σ and share 1, or to 0 without tokens.
  mean = losses.safe_divide(totals.loss, denominators)
  share = losses.safe_divide(totals.weight, denominators)
  metrics: MetricsMap = {}
  for k, name in enumerate(names):
    metrics |= {
        f"loss/{name}": _average(mean[k], share[k]),
        f"accuracy/{name}": _average(totals.correct[k], totals.tokens[k]),
        f"loss_weight/{name}": _constant(task_weights[k]),
        f"effective_loss_weight/{name}": _constant(effective[k]),
    }
  return metrics


def mutual_information_metrics(
    term: jnp.ndarray, weight: jnp.ndarray) -> MetricsMap:
  """The term's mean over records, and β."""
  return {
      "loss/mutual_information": t5x_metrics.AveragePerStep(total=term),
      "loss_weight/mutual_information": _constant(weight)}


def base_metrics(
    batch: batches.Batch, totals: TaskTotals, loss: jnp.ndarray,
    z_loss: jnp.ndarray) -> MetricsMap:
  """The metrics that T5X gives for every model, over all tasks.

  Args:
    batch: the flat batch or microbatch.
    totals: its totals by task.
    loss: scalar, its share of the step's loss.
    z_loss: scalar, the z-loss in it.

  Returns:
    T5X's names; `timing/pairs_per_second` counts the first task's targets:
    pairs, or records where there is one task.
  """
  rows, length = batch["decoder_target_tokens"].shape
  devices = jax.device_count()
  tokens, real = float(rows * length), jnp.sum(totals.tokens)
  metrics = {
      "accuracy": _average(jnp.sum(totals.correct), real),
      "loss": t5x_metrics.AveragePerStep(total=loss),
      "z_loss": t5x_metrics.AveragePerStep(total=z_loss),
      "cross_ent_loss": t5x_metrics.AveragePerStep(total=loss - z_loss),
      "loss_per_nonpadding_target_token": _average(
          jnp.sum(totals.loss), jnp.sum(totals.weight)),
      "timing/seconds": t5x_metrics.Time(),
      "timing/steps_per_second": t5x_metrics.StepsPerTime.from_model_output(),
      "timing/seqs": t5x_metrics.Sum(jnp.asarray(float(rows))),
      "timing/seqs_per_second": _rate(rows),
      "timing/seqs_per_second_per_core": _rate(rows / devices),
      "timing/target_tokens_per_second": _rate(tokens),
      "timing/target_tokens_per_second_per_core": _rate(tokens / devices),
      "timing/nonpadding_target_tokens_per_second": _rate(real),
      "timing/pairs_per_second": _rate(totals.sequences[0]),
      "non_padding_fraction/loss_weights": _average(real, tokens),
  }
  used: jnp.ndarray | float = 0.0
  size = 0.0
  for side, tokens_of in (("encoder", "encoder_input_tokens"),
                          ("decoder", "decoder_target_tokens")):
    ids = batch.get(f"{side}_segment_ids", batch[tokens_of] != 0)
    filled = jnp.sum((ids != 0).astype(jnp.float32))
    metrics |= {
        f"non_padding_fraction/{side}": _average(filled, ids.size),
        f"effective_batch_size/{side}": t5x_metrics.AveragePerStep(
            total=jnp.sum(jnp.max(ids, axis=-1)).astype(jnp.float32)),
    }
    used, size = used + filled, size + ids.size
  metrics["non_padding_fraction/overall"] = _average(used, size)
  return metrics


def eval_metrics(
    names: Sequence[str], totals: TaskTotals, task_weights: jnp.ndarray,
    metrics: Mapping[str, clu_metrics.Metric]) -> MetricsMap:
  """Replaces losses per step by means over a whole evaluation.

  Args:
    names: the tasks' names.
    totals: the batch's totals by task.
    task_weights: w_k, `[tasks]`.
    metrics: the metrics of a train step on the batch.

  Returns:
    The metrics, with losses that do not depend on how the data was batched.
  """
  metrics = dict(metrics)
  metrics["loss"] = WeightedTaskLoss(
      sums=totals.loss, weights=totals.weight, task_weights=task_weights)
  metrics["cross_ent_loss"] = metrics["loss"].replace(
      sums=totals.loss - totals.z_loss)
  metrics["z_loss"] = metrics["loss"].replace(sums=totals.z_loss)
  for k, name in enumerate(names):
    metrics[f"loss/{name}"] = _average(totals.loss[k], totals.weight[k])
  return metrics
