import gin
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from t5x import utils

from stepdistill_jax.distributed import device_mesh
from stepdistill_jax.models import optimization
from stepdistill_jax.runs import run_record
from stepdistill_jax.util import errors


def test_the_papers_rate_is_what_it_was():
  now = optimization.learning_rate("linear", 5e-5, 400)
  before = optax.linear_schedule(5e-5, 0.0, 400)
  steps = jnp.arange(401)
  np.testing.assert_array_equal(now(steps), before(steps))


def test_a_constant_rate_is_t5xs():
  now = optimization.learning_rate("constant", 1e-3, 400)
  before = utils.create_learning_rate_scheduler("constant", 1e-3)
  assert [np.float32(now(s)) for s in (0, 399)] == [before(s) for s in (0, 399)]


@pytest.mark.parametrize("schedule, at", [
    ("linear", {5: .5, 10: 1, 60: .5, 110: 0}),
    ("cosine", {5: .5, 10: 1, 60: .5, 110: 0}),
    ("constant", {5: .5, 10: 1, 110: 1}),
    ("rsqrt", {5: .5, 10: 1, 40: .5, 90: 1 / 3})])
def test_schedules_after_a_warm_up(schedule, at):
  rate = optimization.learning_rate(schedule, 1.0, 110, warmup_steps=10)
  for step, expected in at.items():
    assert float(rate(step)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", optimization.OPTIMIZERS)
def test_each_optimizer_takes_a_step(name):
  rate = optimization.learning_rate("constant", 0.1, 10)
  definition = optimization.optimizer(name, rate)
  params = {"w": jnp.ones((4, 4))}
  assert definition.init_state(params) is not None


@pytest.mark.parametrize("arguments, said", [
    (("cosin", 1.0, 10), "did you mean: cosine"),
    (("linear", 1.0, 10, 10), "WARMUP_STEPS = 10 must be")])
def test_mistakes(arguments, said):
  with pytest.raises(errors.UserError, match=said):
    optimization.learning_rate(*arguments)


def test_a_name_needs_the_file_that_has_them():
  gin.clear_config()  # Tests before it may have parsed that file.
  with pytest.raises(errors.UserError, match="gin/runs/paper.gin"):
    optimization.by_name("lion")


OLD = {
    "LEARNING_RATE": "5e-05",
    "optax.adamw.learning_rate": "@optax.linear_schedule()",
    "optax.linear_schedule.end_value": "0.0",
    "optax.linear_schedule.init_value": "%LEARNING_RATE",
    "optax.linear_schedule.transition_steps": "%TRAIN_STEPS",
    "trainer.Trainer.learning_rate_fn": "@optax.linear_schedule()"}
NEW = {
    "LEARNING_RATE": "5e-05", "LEARNING_RATE_SCHEDULE": "'linear'",
    "WARMUP_STEPS": "0",
    "optax.adamw.learning_rate": "@students.learning_rate()",
    "students.learning_rate.schedule": "%LEARNING_RATE_SCHEDULE",
    "students.optimizer.learning_rate": "@students.learning_rate()",
    "trainer.Trainer.learning_rate_fn": "@students.learning_rate()"}


def test_runs_of_before_go_on():
  assert run_record.differences(OLD, NEW) == []
  changed = {**NEW, "WARMUP_STEPS": "10"}
  assert run_record.differences(OLD, changed) == ["WARMUP_STEPS was 0, now 10"]
  assert run_record.differences(NEW, changed) == ["WARMUP_STEPS was 0, now 10"]
  other = {**OLD, "optax.linear_schedule.end_value": "1e-6"}
  assert run_record.differences(other, NEW)


@pytest.mark.parametrize("on_one_accelerator", [False, True])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_clipping_is_optax_s(monkeypatch, on_one_accelerator, scale):
  monkeypatch.setattr(
      device_mesh, "on_one_accelerator", lambda: on_one_accelerator)
  rng = np.random.default_rng(0)
  gradients = {str(i): jnp.asarray(
      scale * rng.normal(size=(2, 3 + i % 2)), jnp.float32) for i in range(9)}
  results = []
  for rule in (optimization.clip_by_global_norm, optax.clip_by_global_norm):
    clip = rule(max_norm=2.0)
    results.append(clip.update(gradients, clip.init(gradients))[0])
  for name, got in results[0].items():
    # The norm is summed in another order on accelerators.
    np.testing.assert_allclose(
        got, results[1][name], rtol=1e-6 if on_one_accelerator else 0)


def test_gin_bindings_of_optax_s_clipping_count():
  with gin.unlock_config():
    gin.external_configurable(
        optax.clip_by_global_norm, module="optax_of_test")
    gin.bind_parameter(
        "optax_of_test.clip_by_global_norm.max_norm", 0.5)
  try:
    clip = optimization.clip_by_global_norm()
    gradient = {"w": jnp.array([3.0, 4.0])}
    np.testing.assert_allclose(
        clip.update(gradient, ())[0]["w"], [0.3, 0.4], rtol=1e-6)
  finally:
    gin.clear_config()
