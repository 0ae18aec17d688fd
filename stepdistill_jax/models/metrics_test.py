"""Metrics of tasks, as they are written."""

import jax.numpy as jnp

from stepdistill_jax.embedded_t5x import metrics_manager
from stepdistill_jax.models import metrics


def test_what_was_not_measured_is_not_written():
  """A task without a token in a period has no loss there, not the loss 0."""
  manager = metrics_manager.MetricsManager("train")
  values = manager.write_metrics_summary({
      "loss/label": metrics.Mean(total=jnp.zeros(()), count=jnp.ones(())),
      "loss/rationale": metrics.Mean(total=jnp.zeros(()), count=jnp.zeros(())),
  }, 1, 1).result()
  manager.close()
  assert {name: float(v.value) for name, v in values.items()} == {
      "loss/label": 0}
