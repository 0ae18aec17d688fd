"""T5X's trainer, with the means of the loss taken over the global batch."""

from __future__ import annotations

import functools
from typing import Any

from t5x import trainer as t5x_trainer

from stepdistill_jax.config import inherited_bindings


@inherited_bindings.followed_by_class
class StepDistillTrainer(t5x_trainer.Trainer):
  """Prepares the global batch before it is cut into microbatches.

  T5X's trainer hands each microbatch to the model's loss, which then cannot
  know how many tokens of each task the whole batch has. This one asks the
  model first (`prepare_batch`), so that the loss and its gradient do not
  depend on the number of microbatches, and a weight may follow a schedule.

  Gin bindings of `trainer.Trainer` (`num_microbatches`, `learning_rate_fn`,
  ...) count for this class too, unless it has its own.
  """

  @functools.cached_property
  def _partitioned_train_step(self) -> Any:
    def train_step(train_state: Any, batch: Any) -> Any:
      return t5x_trainer.train_with_lr(
          train_state,
          self._model.prepare_batch(batch, train_state.step),
          learning_rate=self._learning_rate_fn(train_state.step),
          dropout_rng=self._get_step_rng(train_state.step),
          model=self._model,
          num_microbatches=self._num_microbatches,
          weight_metrics_computer=self._weight_metrics_computer,
          data_partition_spec=self._partitioner.data_partition_spec)

    return self._partitioner.partition(
        train_step,
        in_axis_resources=(
            self._train_state_axes, self._partitioner.data_partition_spec),
        out_axis_resources=(self._train_state_axes, None),
        donate_argnums=(0,))

  @functools.cached_property
  def _partitioned_eval_step(self) -> Any:
    def eval_step(train_state: Any, batch: Any) -> Any:
      batch = self._model.prepare_batch(batch, train_state.step)
      return t5x_trainer.eval_step(self._model, train_state, batch)

    return self._partitioner.partition(
        eval_step,
        in_axis_resources=(
            self._train_state_axes, self._partitioner.data_partition_spec),
        out_axis_resources=None)
