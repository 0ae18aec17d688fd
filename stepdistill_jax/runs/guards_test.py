import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepdistill_jax.distributed import device_mesh
from stepdistill_jax.runs import guards, watchdog
from stepdistill_jax.util import errors


@flax.struct.dataclass
class State:
  """What the guard knows of a train state."""

  step: jax.Array
  params: jax.Array

  def replace_step(self, step):
    return self.replace(step=step)


OLD = State(jnp.array(3), jnp.array([1.0, 2.0]))
NEW = State(jnp.array(4), jnp.array([5.0, jnp.nan]))


def guarded(policy, gradient, loss=1.0):
  return jax.jit(lambda g, value: guards.guard_step(
      guards.Guards(nonfinite=policy), OLD, NEW, {"w": g}, {"loss": value}))(
          jnp.array([0.0, gradient]), jnp.array(loss))


@pytest.mark.parametrize("gradient,loss", [
    (jnp.nan, 1.0), (jnp.inf, 1.0), (0.0, jnp.nan), (0.0, -jnp.inf)])
def test_a_step_that_is_not_finite_is_skipped(gradient, loss):
  state, metrics = guarded("skip", gradient, loss)
  np.testing.assert_array_equal(state.params, OLD.params)
  assert state.step == 4  # The data goes on.
  assert metrics[guards.METRIC].compute() == 1
  state, metrics = guarded("stop", gradient, loss)
  np.testing.assert_array_equal(state.params, NEW.params)
  assert metrics[guards.METRIC].compute() == 1
  assert guards.METRIC not in guarded("ignore", gradient, loss)[1]


def test_a_finite_step_is_untouched():
  for policy in ("skip", "stop"):
    state, metrics = guarded(policy, 1e38, 1e38)
    np.testing.assert_array_equal(state.params, NEW.params)
    assert metrics[guards.METRIC].compute() == 0


def test_a_model_without_weights_has_nothing_to_check():
  state, metrics = guards.guard_step(
      guards.Guards(), OLD, NEW, {}, {"tokens": jnp.array(3)})
  assert state is NEW and set(metrics) == {"tokens"}


def test_monitor_stops_on_what_is_not_finite():
  monitor = guards.Monitor(guards.Guards())
  monitor.check(10, {"loss": 1.0, guards.METRIC: 0})
  with pytest.raises(errors.UserError, match="in 2 of the steps up to 20"):
    monitor.check(20, {"loss": float("nan"), guards.METRIC: 2})


def test_monitor_gives_up_on_a_run_that_does_not_recover():
  policy = guards.Guards("skip", max_skipped_steps=5)
  monitor = guards.Monitor(policy)
  for step in range(3):
    monitor.check(step, {guards.METRIC: 4})
    monitor.check(step, {guards.METRIC: 0})
  monitor.check(8, {guards.METRIC: 3})
  monitor = guards.Monitor(policy, **monitor.state)  # A resumed run's.
  with pytest.raises(errors.UserError, match="6 steps up to 9 were skipped"):
    monitor.check(9, {guards.METRIC: 3})


def test_spikes(capsys):
  rng = np.random.default_rng(0)
  losses = 2.0 + 0.05 * rng.standard_normal(30)
  monitor = guards.Monitor(guards.Guards(spike="stop"))
  for step, loss in enumerate(losses):  # Noise is no spike.
    monitor.check(step, {"loss": loss})
  with pytest.raises(errors.UserError, match="the loss up to step 31 is 4"):
    monitor.check(31, {"loss": 4.0})
  warning = guards.Monitor(guards.Guards(), monitor.losses)
  warning.check(32, {"loss": 4.0})
  warning.check(33, {"loss": 1.0})  # Falling is good.
  assert capsys.readouterr().err.count("spike") == 1
  assert len(warning.losses) == 20 and 4.0 not in warning.losses


def test_unknown_policy():
  with pytest.raises(errors.UserError, match="one of .*'skip'.*; got 'jump'"):
    guards.Guards(nonfinite="jump")


def test_watchdog_names_the_phase_once_per_doubling():
  now, said = [0.0], []
  dog = watchdog.Watchdog(
      step_seconds=10.0, batch_seconds=5.0, now=lambda: now[0],
      say=said.append)

  def look_at(time):
    now[0] = time
    dog.look()

  dog.enter(dog.BATCH, 7)
  look_at(4.0)
  assert not said
  for time in (6.0, 7.0, 11.0, 12.5):
    look_at(time)
  assert len(said) == 2  # At 6 and 12.5 seconds.
  assert said[0] == (
      "warning: waiting for a batch of data (after step 7) takes 6 s so far, "
      "longer than the 5 s that the watchdog allows")
  dog.enter(dog.STEP, 7)
  look_at(20.0)
  dog.enter(None)
  look_at(100.0)
  assert len(said) == 2


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_restored_value_that_is_not_finite_is_named(dtype, value):
  params = {"encoder": {"a": jnp.ones((2, 3), dtype),
                        "b": jnp.ones((4,), dtype)}}
  guards.require_finite("old/checkpoint_3", params)
  params["encoder"]["b"] = params["encoder"]["b"].at[jnp.array([1, 3])].set(
      value)
  with pytest.raises(errors.UserError, match=(
      "old/checkpoint_3: encoder/b has 2 of 4 values that are not finite")):
    guards.require_finite("old/checkpoint_3", params)


@pytest.mark.parametrize("on_one_accelerator", [False, True])
def test_squares_are_summed_wherever_and_in_whatever_groups(
    monkeypatch, on_one_accelerator):
  monkeypatch.setattr(
      device_mesh, "on_one_accelerator", lambda: on_one_accelerator)
  arrays = [jnp.arange(6.0) + i for i in range(100)]
  tree = {"alike": arrays, "others": [jnp.float32(2), jnp.ones((2, 3))]}
  want = sum(float(np.sum(np.square(x))) for x in jax.tree.leaves(tree))
  # Whole numbers below 2**24: float32 has them all.
  assert guards.sum_of_squares(tree) == want
  program = str(jax.make_jaxpr(lambda x: guards.sum_of_squares(x))(tree))
  # 100 of a shape are sums of 48, 48 and 4.
  assert program.count("reduce_sum") == (5 if on_one_accelerator else 102)
  assert guards.sum_of_squares({}) == 0


@pytest.mark.parametrize("place", [0, 47, 48, 99])
def test_one_bad_number_of_many_arrays_is_found(monkeypatch, place):
  monkeypatch.setattr(device_mesh, "on_one_accelerator", lambda: True)
  grads = [jnp.ones(3) for _ in range(100)]
  for value, count in ((jnp.nan, 1), (1e38, 0)):
    grads[place] = grads[place].at[1].set(value)
    _, metrics = guards.guard_step(guards.Guards(), OLD, NEW, grads, {})
    assert metrics[guards.METRIC].compute() == count
