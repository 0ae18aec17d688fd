"""A student's loss, which weighs tasks, not tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from t5x import models as t5x_models

from stepdistill_jax.config import setting_checks
from stepdistill_jax.data import feature_converter
from stepdistill_jax.models import (
  batches,
  blocked_loss,
  data_check,
  losses,
  metrics as metrics_lib,
  mutual_information as mutual_information_lib,
  schedules,
  weights as weights_lib,
)

AGGREGATIONS = ("task_mean", "token_sum")


class TaskLoss(t5x_models.BaseTransformerModel):
  """Distilling step-by-step's loss, for a model of T5X to inherit first.

  L = Σ_k w_k·L_k, each L_k a mean over the target tokens of task k in the
  global batch (`stepdistill_jax.models.losses`). `StepDistillTrainer` puts
  the global denominators and the weights of the step into the batch; without
  it a batch's own are used, which is the same thing with one microbatch and
  constant weights.

  Takes batches of `StepDistillFeatureConverter`: of one task or of several,
  `[batch, length]`, packed or not, or paired, `[records, K, length]`. Of a
  paired batch, predictions and scores are the first target's: the label's.
  """

  FEATURE_CONVERTER_CLS = feature_converter.StepDistillFeatureConverter
  verify_data_fn = staticmethod(data_check.verify_data)

  def _set_loss(
      self, *, task_weights: weights_lib.TaskWeights | None, aggregation: str,
      loss_normalizing_factor: float | None,
      mutual_information: schedules.Weight,
      logits_in_blocks: bool | None) -> None:
    """Checks and sets what the loss depends on.

    Args:
      task_weights: the tasks with their weights; None is one task, the label.
      aggregation: `task_mean`: L_k as above; `token_sum`: what a plain T5X
        mixture does, for comparison: token losses of all tasks are added and
        divided once, so that a task weighs as many tokens as it has.
      loss_normalizing_factor: with `token_sum`, what the sum is divided by.
      mutual_information: β of `mutual_information`'s term; 0 leaves it out.
        Batches must then have one record a row: paired or joined, not packed.
      logits_in_blocks: whether logits are computed a block of tokens at a
        time (`blocked_loss`); the loss is the same. None does so on one
        accelerator. With `mutual_information`, all are stored.
    """
    setting_checks.require_choice("aggregation", aggregation, AGGREGATIONS)
    if loss_normalizing_factor is not None and aggregation != "token_sum":
      raise ValueError(
          "loss_normalizing_factor applies to aggregation 'token_sum' alone; "
          f"got {loss_normalizing_factor} with {aggregation!r}, whose means "
          "are normalized already")
    self.task_weights = task_weights or weights_lib.single_task()
    self.aggregation = aggregation
    self._logits_in_blocks = logits_in_blocks
    self._mutual_information = schedules.as_schedule(mutual_information)
    beta = self._mutual_information
    if schedules.is_constant(beta) and beta.value < 0:
      raise ValueError(
          "mutual_information (BETA) must not be negative, got "
          f"{beta.value}: its term is a cross-entropy, which is added")
    if self.has_mutual_information and len(self.task_names) < 2:
      raise ValueError(
          "mutual_information ties the rationale to the label, but the model "
          f"weighs {', '.join(self.task_names)} alone")

  @property
  def task_names(self) -> tuple[str, ...]:
    """Names of the tasks, in the order of their ids from 1."""
    return self.task_weights.names

  @property
  def has_mutual_information(self) -> bool:
    schedule = self._mutual_information
    return not schedules.is_constant(schedule) or schedule.value != 0

  @property
  def is_constant(self) -> bool:
    """True if the loss is the same function at every step."""
    return self.task_weights.is_constant and schedules.is_constant(
        self._mutual_information)

  # ---------------------------------------------------------------- batches

  def get_initial_variables(
      self, rng: jax.Array, input_shapes: Mapping[str, tuple[int, ...]],
      input_types: Mapping[str, Any] | None = None) -> Any:
    """Initial variables; the pairs' axis does not reach the network."""
    flat = {
        name: (shape[0] * shape[1], *shape[2:]) if len(shape) == 3 else shape
        for name, shape in input_shapes.items()}
    return super().get_initial_variables(rng, flat, input_types)

  def prepare_batch(
      self, batch: batches.Batch, step: schedules.Step) -> batches.Batch:
    """Adds to a global batch what its microbatches need to know of it.

    Args:
      batch: the global batch.
      step: int32 scalar, the global step.

    Returns:
      The batch with each task's denominator and weight at this step.
    """
    features = {
        batches.DENOMINATORS: batches.denominators(
            batch, len(self.task_names)),
        batches.WEIGHTS: self.task_weights.at(step)}
    if self.has_mutual_information:
      ids = batches.by_record(
          batch, batches.task_ids(batches.flatten_pairs(batch)))
      both = mutual_information_lib.has_both(ids)
      features |= {
          batches.RECORDS: jnp.sum(both, dtype=jnp.float32)[None],
          batches.MUTUAL_INFORMATION: jnp.asarray(
              self._mutual_information(step), jnp.float32)[None]}
    return batches.with_step_features(batch, features)

  def _prepared(self, batch: batches.Batch) -> batches.Batch:
    """The batch, prepared by itself where no trainer has done it."""
    self._check_targets(batch)
    if batches.DENOMINATORS in batch:
      return batch
    if not self.is_constant:
      raise ValueError(
          "the weights of the loss follow a schedule, but the batch does not "
          "say at which step it is; bind trainer_cls = "
          "@models.StepDistillTrainer (stepdistill_jax.models)")
    return self.prepare_batch(batch, 0)

  def _check_targets(self, batch: batches.Batch) -> None:
    found, expected = batches.num_targets(batch), len(self.task_names)
    if found is not None and found != expected:
      raise ValueError(
          f"the batch pairs {found} targets a record, but the model weighs "
          f"{expected} ({', '.join(self.task_names)}); use a method of "
          "gin/methods that fits the SeqIO task, or give TaskWeights a weight "
          "for each target")

  # ------------------------------------------------------------------- loss

  def loss_fn(
      self, params: Any, batch: batches.Batch, dropout_rng: jax.Array | None,
  ) -> tuple[jnp.ndarray, metrics_lib.MetricsMap]:
    """The weighted loss of a batch, or a microbatch's share of it.

    Args:
      params: the student's parameters.
      batch: see the class.
      dropout_rng: None for no dropout.

    Returns:
      The loss, a float32 scalar, and the metrics.
    """
    loss, metrics, _, _ = self._loss(params, batch, dropout_rng)
    return loss, metrics

  def eval_fn(
      self, params: Any, batch: batches.Batch,
  ) -> tuple[jnp.ndarray, metrics_lib.MetricsMap]:
    """The loss without dropout; its metrics are means over all batches."""
    loss, metrics, totals, weights = self._loss(params, batch, None)
    if self.aggregation == "task_mean" and not self.has_mutual_information:
      metrics = metrics_lib.eval_metrics(
          self.task_names, totals, weights, metrics)
    return loss, metrics

  def _loss(
      self, params: Any, batch: batches.Batch, dropout_rng: jax.Array | None,
  ) -> tuple[jnp.ndarray, metrics_lib.MetricsMap, metrics_lib.TaskTotals,
             jnp.ndarray]:
    prepared = self._prepared(batch)
    batch = batches.flatten_pairs(prepared)
    denominators = batches.of_step(batch, batches.DENOMINATORS)  # [tasks]
    weights = batches.of_step(batch, batches.WEIGHTS)  # [tasks]
    coefficients = self._coefficients(weights, denominators)
    logits, losses_of = self._token_losses(
        params, batch, dropout_rng, coefficients)
    totals = metrics_lib.task_totals(
        batch, losses_of.tokens, losses_of.correct, len(self.task_names))
    loss = losses_of.loss
    metrics = metrics_lib.task_metrics(
        self.task_names, totals, denominators=denominators,
        task_weights=weights, coefficients=coefficients)
    if self.has_mutual_information:
      assert logits is not None  # In blocks there are none, and no such term.
      term = self._mutual_information_loss(prepared, logits)
      loss += batches.of_step(batch, batches.MUTUAL_INFORMATION)[0] * term
      metrics |= metrics_lib.mutual_information_metrics(
          term, batches.of_step(batch, batches.MUTUAL_INFORMATION)[0])
    metrics |= metrics_lib.base_metrics(
        batch, totals, loss, jnp.sum(coefficients * totals.z_loss))
    return loss, metrics, totals, weights

  def _token_losses(
      self, params: Any, batch: batches.Batch, dropout_rng: jax.Array | None,
      coefficients: jnp.ndarray,
  ) -> tuple[jnp.ndarray | None, blocked_loss.Result]:
    """Logits, or None where they are not stored; losses of a flat batch."""
    targets, weights = (
        batch["decoder_target_tokens"], batches.loss_weights(batch))
    in_blocks = self._logits_in_blocks
    if in_blocks is None:
      in_blocks = blocked_loss.pay_here()
    if in_blocks and not self.has_mutual_information:
      with blocked_loss.without_head() as found:
        hidden = self._compute_logits(params, batch, dropout_rng)
      head = found.head(self.module, params, hidden)
      if head is not None:
        counts = weights * jnp.sum(coefficients * losses.task_mask(
            batches.task_ids(batch), len(self.task_names)), axis=-1)
        return None, blocked_loss.weighted_loss(
            hidden, head, targets, counts, weights != 0,
            label_smoothing=self._label_smoothing, z_loss=self._z_loss,
            head_is_trained=self._head_is_trained)
    logits = self._compute_logits(params, batch, dropout_rng)
    tokens = losses.token_loss(
        logits, targets, label_smoothing=self._label_smoothing,
        z_loss=self._z_loss)
    sums = losses.task_sums(
        weights * (tokens.cross_entropy + tokens.z_loss),
        batches.task_ids(batch), len(self.task_names))
    return logits, blocked_loss.Result(
        jnp.sum(coefficients * sums), tokens,
        jnp.argmax(logits, axis=-1) == targets)

  @property
  def _head_is_trained(self) -> bool:
    return True

  def _mutual_information_loss(
      self, batch: batches.Batch, logits: jnp.ndarray) -> jnp.ndarray:
    """This microbatch's share of the mean over the global batch's records."""
    ids = batches.task_ids(batches.flatten_pairs(batch))
    by_record = mutual_information_lib.record_losses(
        batches.by_record(batch, logits), batches.by_record(batch, ids))
    return losses.safe_divide(
        jnp.sum(by_record), batches.of_step(batch, batches.RECORDS)[0])

  def _coefficients(
      self, weights: jnp.ndarray, denominators: jnp.ndarray) -> jnp.ndarray:
    """What each task's sum of token losses is multiplied with, `[tasks]`."""
    if self.aggregation == "token_sum":
      return jnp.divide(weights, self._loss_normalizing_factor or 1.0)
    return losses.safe_divide(weights, denominators)

  # ------------------------------------------------------------- prediction

  def score_batch(
      self, params: Any, batch: batches.Batch,
      return_intermediates: bool = False) -> Any:
    """Log likelihoods `[batch]`; of a paired batch the first targets'."""
    return super().score_batch(
        params, batches.first_targets(batch),
        return_intermediates=return_intermediates)
