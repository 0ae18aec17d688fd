"""Metrics: merged in parts equals computed at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepdistill_jax.embedded_t5x import metrics


def test_sum_of_parts_is_the_sum():
  x = jnp.arange(6.0)
  merged = metrics.Sum.from_model_output(x[:2]).merge(
      metrics.Sum.from_model_output(x[2:]))
  assert merged.compute() == metrics.Sum.from_model_output(x).compute() == 15
  assert metrics.Sum.from_model_output(3.0).compute() == 3


def test_average_counts_steps_not_microbatches():
  parts = [metrics.AveragePerStep.from_model_output(jnp.ones(4))
           for _ in range(6)]
  merged = parts[0]
  for part in parts[1:]:
    merged = merged.merge(part)
  # 6 microbatches of 3 steps.
  (final,) = metrics.set_step_metrics_num_steps([merged], 3)
  assert final.compute() == 24 / 3


def test_rates_divide_by_the_duration_once():
  merged = metrics.TimeRate.from_model_output(3.0).merge(
      metrics.TimeRate.from_model_output(5.0))
  with pytest.raises(ValueError, match="replace_duration"):
    merged.compute()
  tree = metrics.set_time_metrics_duration(
      {"rate": merged, "time": metrics.Time(),
       "steps": metrics.StepsPerTime.from_model_output()}, 4.0)
  tree = metrics.set_step_metrics_num_steps(tree, 10)
  assert tree["rate"].compute() == 2
  assert tree["time"].compute() == 4
  assert tree["steps"].compute() == 2.5
  with pytest.raises(ValueError, match="before their duration"):
    tree["rate"].merge(tree["rate"])


def test_metrics_pass_through_jit():
  @jax.jit
  def step(x):
    return {"average": metrics.AveragePerStep.from_model_output(x),
            "rate": metrics.TimeRate.from_model_output(x.sum()),
            "steps": metrics.StepsPerTime.from_model_output()}

  out = metrics.set_step_metrics_num_steps(
      metrics.set_time_metrics_duration(step(jnp.ones(3)), 2.0), 1)
  np.testing.assert_allclose(
      [m.compute() for m in out.values()], [3, 1.5, 0.5])
