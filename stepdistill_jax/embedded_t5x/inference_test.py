"""Inference over a data set: every example once, in its order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from stepdistill_jax.embedded_t5x import (
  inference,
  partitioning,
  train_state as train_state_lib,
)
from tests.support import real_data as testing

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


def test_padding_of_whole_batches_is_cut():
  """What a step sees, and one compilation for each length."""
  tokens = np.zeros((6, 2, 32), np.int32)
  for row, length in enumerate([6, 2, 16, 26, 4, 18]):
    tokens[row, row % 2, :length] = 7
  ds = tf.data.Dataset.from_tensor_slices({
      "encoder_input_tokens": tokens,
      "encoder_positions": np.ones((6, 2, 32), np.int32),
      "decoder_input_tokens": np.zeros((6, 2, 32), np.int32)}).enumerate()

  def lengths(params, batch):
    del params
    rows = batch["encoder_input_tokens"]
    sizes = [batch[name].shape[-1] for name in sorted(batch)]
    return jnp.stack(
        [jnp.full(rows.shape[0], size) for size in sizes]
        + [jnp.sum(rows, (1, 2))], axis=1)

  fn = infer_fn(lengths, batch_size=2)
  with testing.counted_compilations() as programs:
    found = [row for _, row in fn(ds, STATE)]
  assert [row[:3] for row in found] == [
      [32, length, length] for length in (16, 16, 16, 32, 16, 32)]
  assert [row[3] for row in found] == [7 * n for n in (6, 2, 16, 26, 4, 18)]
  assert len(programs) == 2
  rows = lambda params, batch: jnp.full(
      batch["encoder_input_tokens"].shape[0],
      batch["encoder_input_tokens"].shape[0])
  assert [n for _, n in infer_fn(rows, batch_size=4)(ds, STATE)] == [
      4, 4, 4, 2, 4, 2]  # The two longest are a batch of their own.
  whole = infer_fn(lengths, batch_size=2, trim_inputs=False)(ds, STATE)
  assert all(row[:3] == [32, 32, 32] for _, row in whole)


def test_results_of_the_inputs_length_are_of_whole_inputs():
  tokens = np.zeros((3, 128), np.int32)
  tokens[:, :2] = [[5, 6]]
  ds = tf.data.Dataset.from_tensor_slices(
      {"encoder_input_tokens": tokens}).enumerate()
  step = lambda params, batch: batch["encoder_input_tokens"] * params["w"]
  fn = infer_fn(step)
  for _ in range(2):
    np.testing.assert_array_equal([x for _, x in fn(ds, STATE)], 10 * tokens)
