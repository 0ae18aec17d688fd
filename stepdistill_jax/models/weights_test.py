"""Tests of task weights and their schedules."""

import jax
import numpy as np
import pytest

from stepdistill_jax.models import schedules, weights


def test_alpha_and_lambda_are_the_same_loss_up_to_a_factor():
  alpha = weights.label_and_rationale(alpha=0.25).at(0)
  by_lambda = weights.label_and_rationale("lambda", lambda_=3.0).at(0)
  np.testing.assert_allclose(alpha, by_lambda * 0.25)


def test_scheduled_alpha_sums_to_one_at_every_step():
  schedule = schedules.cosine(0.2, 0.9, num_steps=50, start_step=10)
  task_weights = weights.label_and_rationale(alpha=schedule)
  assert not task_weights.is_constant
  at = jax.jit(task_weights.at)
  for step, label in ((0, 0.2), (10, 0.2), (35, 0.55), (60, 0.9), (99, 0.9)):
    got = at(step)
    np.testing.assert_allclose(got, [label, 1 - label], rtol=1e-6)


def test_any_number_of_tasks_keeps_its_order():
  task_weights = weights.TaskWeights({
      "label": 1.0, "rationale": schedules.linear(0, 1, num_steps=2),
      "question": 0.1})
  assert task_weights.names == ("label", "rationale", "question")
  np.testing.assert_allclose(task_weights.at(1), [1.0, 0.5, 0.1], rtol=1e-6)


@pytest.mark.parametrize("make,message", [
    (lambda: weights.label_and_rationale("beta"), "must be one of 'alpha'"),
    (lambda: weights.label_and_rationale(alpha=1.5), "between 0 and 1"),
    (lambda: weights.TaskWeights({}), "at least one task"),
    (lambda: weights.TaskWeights({"label": -1.0}), "must not be negative"),
    (lambda: schedules.step([1.0], [5]), "one value more"),
    (lambda: schedules.step([1.0, 2.0, 3.0], [5, 4]), "must increase"),
    (lambda: schedules.linear(0, 1, num_steps=0), "at least 1"),
])
def test_what_makes_no_sense_is_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
