"""The train step: microbatches equal the whole batch, metrics add up."""

import clu.metrics
import flax.core
from flax.linen import partitioning as flax_partitioning
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepdistill_jax.embedded_t5x import (
  metrics as metrics_lib,
  optimizers,
  partitioning,
  train_state as train_state_lib,
  trainer,
)
from stepdistill_jax.util import errors

BATCH = {"x": np.arange(24, dtype=np.float32).reshape(8, 3) / 10,
         "y": np.arange(8, dtype=np.float32)}


class LinearModel:
  """Least squares, with noise from the dropout key if asked for."""

  def __init__(self, noise=0.0):
    self.noise = noise

  def loss_fn(self, params, batch, dropout_rng):
    y = batch["x"] @ params["w"]
    if self.noise:
      y += self.noise * jax.random.normal(dropout_rng, y.shape)
    loss = jnp.sum(jnp.square(y - batch["y"]))
    return loss, {"loss": metrics_lib.AveragePerStep.from_model_output(loss),
                  "examples": metrics_lib.Sum.from_model_output(
                      jnp.ones_like(y)),
                  "last": clu.metrics.LastValue.from_model_output(y[-1:])}

  def eval_fn(self, params, batch):
    return self.loss_fn(params, batch, None)


def make_state():
  variables = flax.core.freeze({
      "params": {"w": jnp.array([0.1, -0.2, 0.3])},
      "params_axes": {"w_axes": flax_partitioning.AxisMetadata(("embed",))}})
  return train_state_lib.FlaxOptimTrainState.create(
      optimizers.sgd(learning_rate=0.01), variables)


def make_trainer(tmp_path=None, cls=trainer.Trainer, **arguments):
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  state = make_state()
  arguments = {"model": LinearModel(), "num_microbatches": None, **arguments}
  return cls(
      train_state=state, partitioner=partitioner, eval_names=["task"],
      summary_dir=tmp_path and str(tmp_path),
      train_state_axes=partitioner.get_mesh_axes(state),
      rng=jax.random.PRNGKey(0), learning_rate_fn=lambda step: 0.1 / (1 + step),
      **arguments)


@pytest.mark.parametrize("num_microbatches", [2, 4, 8])
def test_microbatches_equal_the_whole_batch(num_microbatches):
  state, rng = make_state(), jax.random.PRNGKey(0)
  whole = jax.jit(lambda: trainer.accumulate_grads_microbatched(
      LinearModel(), state, BATCH, rng, None))()
  parts = jax.jit(lambda: trainer.accumulate_grads_microbatched(
      LinearModel(), state, BATCH, rng, num_microbatches))()
  # Sums of 8 float32 numbers in another order.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
               whole[0], parts[0])
  for name in ("loss", "examples"):
    np.testing.assert_allclose(
        whole[1][name].total, parts[1][name].total, rtol=1e-6)
  np.testing.assert_allclose(  # The last microbatch's.
      whole[1]["last"].compute(), parts[1]["last"].compute(), rtol=1e-6)


def test_microbatches_share_a_dropout_key_as_in_t5x():
  state, rng = make_state(), jax.random.PRNGKey(0)
  model = LinearModel(noise=1.0)
  grads = jax.jit(lambda: trainer.accumulate_grads_microbatched(
      model, state, BATCH, rng, 2)[0])()
  loss = lambda params, half: model.loss_fn(
      params, half, jax.random.split(rng)[1])[0]
  halves = [{k: v[i:i + 4] for k, v in BATCH.items()} for i in (0, 4)]
  expected = sum(jax.grad(loss)(state.params, half)["w"] for half in halves)
  np.testing.assert_allclose(grads["w"], expected, rtol=1e-6)


def test_uneven_microbatches_are_refused():
  with pytest.raises(errors.UserError, match="8 is not divisible by"):
    make_trainer(num_microbatches=3).check_batch_size(8)
  with pytest.raises(errors.UserError, match="num_microbatches=3"):
    trainer.accumulate_grads_microbatched(
        LinearModel(), make_state(), BATCH, jax.random.PRNGKey(0), 3)


@pytest.mark.parametrize("compiled", [False, True])
def test_train_merges_metrics_over_steps(compiled):
  with make_trainer() as t:
    if compiled:
      t.compile_train(BATCH)
    first = t.train(iter([BATCH] * 3), 3).result()
    again = t.train(iter([BATCH]), 1, start_step=3).result()
  assert first["examples"].value == 24
  assert int(t.train_state.step) == 4
  # 0.1 / (1 + step), averaged over steps 0 to 2; then that of step 3 alone.
  np.testing.assert_allclose(
      first["learning_rate"].value, (0.1 + 0.05 + 0.1 / 3) / 3, rtol=1e-6)
  np.testing.assert_allclose(
      first["learning_rate/current"].value, 0.1 / 3, rtol=1e-6)
  np.testing.assert_allclose(again["learning_rate"].value, 0.025, rtol=1e-6)
  assert 0 <= first["timing/data_wait_fraction"].value <= 1


def test_steps_do_not_depend_on_where_a_loop_begins():
  model = LinearModel(noise=0.5)
  with make_trainer(model=model) as once, make_trainer(model=model) as twice:
    once.train(iter([BATCH] * 4), 4).result()
    twice.train(iter([BATCH] * 1), 1).result()
    twice.train(iter([BATCH] * 3), 3).result()
  np.testing.assert_array_equal(
      once.train_state.params["w"], twice.train_state.params["w"])


class OnWholeBatch(trainer.Trainer):
  """Computes a number of the global batch before it is cut."""

  @property
  def _partitioned_train_step(self):
    def step(train_state, batch):
      scale = jnp.broadcast_to(jnp.sum(batch["y"]), batch["y"].shape)
      batch = {**batch, "y": batch["y"] / scale}
      return trainer.train_with_lr(
          train_state, batch, learning_rate=0.1,
          dropout_rng=self._get_step_rng(train_state.step), model=self._model,
          num_microbatches=self._num_microbatches,
          data_partition_spec=self._partitioner.data_partition_spec)
    return self._partitioner.partition(
        step, (self._train_state_axes, self._partitioner.data_partition_spec),
        (self._train_state_axes, None))


def test_subclass_computes_on_the_global_batch():
  results = []
  for num_microbatches in (None, 4):
    with make_trainer(cls=OnWholeBatch, num_microbatches=num_microbatches
                      ) as t:
      t.train(iter([BATCH]), 1).result()
    results.append(t.train_state.params["w"])
  np.testing.assert_allclose(*results, rtol=1e-6)


def test_eval_and_event_files(tmp_path):
  batches = [BATCH, {k: v[::-1] for k, v in BATCH.items()}]
  with make_trainer(tmp_path) as t:
    t.compile_eval({"task": BATCH})
    values = t.eval({"task": iter(batches)})["task"]
  assert values["examples"].value == 16
  loss = float(LinearModel().eval_fn(make_state().params, BATCH)[0])
  np.testing.assert_allclose(values["loss"].value, loss, rtol=1e-6)
  assert list((tmp_path / "training_eval" / "task").glob("events*"))


def test_weight_metrics():
  state = make_state()
  grads = {"w": jnp.array([3.0, 0.0, 4.0])}
  new = state.apply_gradient(flax.core.freeze(grads), learning_rate=0.1)
  values = trainer.WeightMetricsComputer().compute_metrics(grads, state, new)
  np.testing.assert_allclose(
      values["weight_gradient_norm"].compute(), 5, rtol=1e-6)
  update = np.asarray(new.params["w"] - state.params["w"])
  np.testing.assert_allclose(
      values["weight_update_rms/w"].compute(),
      np.sqrt(np.mean(update ** 2)), rtol=1e-6)
  assert "weight_update_divided_by_weight_rms/w" in values
