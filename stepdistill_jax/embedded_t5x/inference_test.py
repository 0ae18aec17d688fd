"""Inference over a data set: every example once, in its order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from stepdistill_jax import testing
from stepdistill_jax.embedded_t5x import inference
from stepdistill_jax.embedded_t5x import partitioning
from stepdistill_jax.embedded_t5x import train_state as train_state_lib

PARTITIONER = partitioning.PjitPartitioner(num_partitions=1)
STATE = train_state_lib.InferenceState(
    step=jnp.array(0), params={"w": jnp.array(10)})
AXES = train_state_lib.InferenceState(step=None, params={"w": None})


def dataset(size):
  return tf.data.Dataset.from_tensor_slices(
      {"x": np.arange(size, dtype=np.int32)}).enumerate()


def infer_fn(step, batch_size=4, **options):
  return inference.get_infer_fn(
      step, batch_size, AXES, PARTITIONER, **options)


@pytest.mark.parametrize("size", [0, 1, 4, 10])
def test_every_example_once_in_order(size):
  times = lambda params, batch: batch["x"] * params["w"]
  assert infer_fn(times)(dataset(size), STATE) == [
      (i, 10 * i) for i in range(size)]


def test_one_compilation_serves_all_batches():
  fn = infer_fn(lambda params, batch: batch["x"] + params["w"])
  with testing.counted_compilations() as programs:
    fn(dataset(10), STATE)
    fn(dataset(7), STATE)
  assert len(programs) == 1


def test_auxiliary_values():
  step = lambda params, batch: (batch["x"][:, None], {"double": 2 * batch["x"]})
  pairs, aux = infer_fn(step)(dataset(3), STATE)
  assert pairs == [(0, [0]), (1, [1]), (2, [2])]
  assert aux == {"double": [0, 2, 4]}
  _, aux = infer_fn(step, keep_aux_as_numpy=True)(dataset(3), STATE)
  assert isinstance(aux["double"][0], np.integer)


def test_each_batch_has_its_own_key():
  def draw(params, batch, rng):
    del params
    return jax.random.uniform(rng, batch["x"].shape)
  fn = infer_fn(draw)
  values = dict(fn(dataset(8), STATE, rng=jax.random.PRNGKey(0)))
  assert len(set(values.values())) == 8
  assert values == dict(fn(dataset(8), STATE, rng=jax.random.PRNGKey(0)))
