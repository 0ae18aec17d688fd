"""The trainer: global means under microbatches, schedules, bindings."""

import jax
import numpy as np
import pytest
from t5x import partitioning, utils

from stepdistill_jax.models import schedules, trainer, weights as weights_lib
from tests.support import exactness, student_fixtures as fixtures


def make_trainer(model, batch, **arguments):
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  initializer = utils.TrainStateInitializer(
      model.optimizer_def, model.get_initial_variables,
      {k: v.shape for k, v in batch.items()}, partitioner,
      {k: v.dtype for k, v in batch.items()})
  return trainer.StepDistillTrainer(
      model=model, train_state=initializer.from_scratch(jax.random.PRNGKey(0)),
      partitioner=partitioner, eval_names=["task"], summary_dir=None,
      train_state_axes=initializer.train_state_axes,
      rng=jax.random.PRNGKey(1),
      **{"learning_rate_fn": lambda step: 1e-3, **arguments})


def values(summary):
  return {name: value.value for name, value in summary.items()}


@pytest.mark.parametrize("num_microbatches", [None, 4])
def test_steps_and_evals_report_global_means(num_microbatches):
  alpha = schedules.linear(0.2, 0.4, num_steps=2)
  model = fixtures.tiny_student(weights_lib.label_and_rationale(alpha=alpha))
  examples = fixtures.random_pairs(7, 16)
  batch = fixtures.paired_batch(examples)
  with make_trainer(
      model, batch, num_microbatches=num_microbatches) as student_trainer:
    for step, weight in ((0, 0.2), (1, 0.3)):
      expected = exactness.plain_loss(
          model.module, student_trainer.train_state.params, examples,
          {"label": weight, "rationale": 1 - weight})
      evaluated = values(student_trainer.eval({"task": iter([batch])})["task"])
      got = values(student_trainer.train(
          iter([batch]), 1, start_step=step).result())
      for metrics in (got, evaluated):
        # Float32 sums in another order.
        np.testing.assert_allclose(metrics["loss"], expected.loss, rtol=1e-6)
        for name, value in expected.task_losses.items():
          np.testing.assert_allclose(
              metrics[f"loss/{name}"], value, rtol=1e-6)
        np.testing.assert_allclose(
            metrics["loss_weight/label"], weight, rtol=1e-6)
      assert got["timing/seqs"] == 2 * len(examples)
      assert got["timing/pairs_per_second"] > 0
