"""Training batches for trials: logged, or bad.

In a gin file that follows a recipe:

    from tests.support import trial_data
    train_script.train.get_dataset_fn = @trial_data.logged_dataset
    trial_data.logged_dataset.log = '/tmp/run.log'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import os
import pathlib

import gin
import numpy as np
import seqio
from t5x import utils
import tensorflow as tf
import xxhash

from stepdistill_jax.data import exact_order


def fingerprints(batch: Mapping[str, np.ndarray]) -> list[str]:
  """What tells a batch's examples apart: a hash of all features of each."""
  names = sorted(batch)
  return [
      xxhash.xxh3_64_hexdigest(b"".join(
          np.ascontiguousarray(batch[name][row]).tobytes() for name in names))
      for row in range(len(batch[names[0]]))]


@gin.configurable(module="tests.support.trial_data")
def logged_dataset(
    cfg: utils.DatasetConfig, shard_id: int, num_shards: int,
    feature_converter_cls: Callable[..., seqio.FeatureConverter],
    log: str = gin.REQUIRED) -> tf.data.Dataset:
  """`exact_order.get_dataset`, each batch logged as it is read.

  Args:
    cfg: as there.
    shard_id: as there.
    num_shards: as there.
    feature_converter_cls: as there.
    log: gets a line of JSON for each batch, `{"step", "examples"}`. A process
      that goes on adds to it.
  """
  dataset = exact_order.get_dataset(
      cfg, shard_id, num_shards, feature_converter_cls)
  names = sorted(dataset.element_spec)

  def write(step, *values) -> None:
    line = {"step": int(step), "examples": fingerprints(
        {name: value.numpy() for name, value in zip(names, values)})}
    with open(log, "ab", buffering=0) as stream:
      stream.write(json.dumps(line).encode() + b"\n")

  def logged(step, batch):
    written = tf.py_function(
        write, [step, *(batch[name] for name in names)], [])
    with tf.control_dependencies([written]):
      return {name: tf.identity(value) for name, value in batch.items()}

  def starting_at(step: int) -> tf.data.Dataset:
    return dataset.starting_at(step).enumerate(step).map(logged)

  first = starting_at(0)
  first.starting_at = starting_at
  first.same_on_any_hosts = True
  return first


def logged_examples(log: str | os.PathLike[str]) -> list[str]:
  """The examples of all logged steps, from step 0 on, in their order.

  Raises:
    AssertionError: a step is missing, or was read again with other examples.
  """
  steps: dict[int, Sequence[str]] = {}
  for line in pathlib.Path(log).read_text().splitlines():
    batch = json.loads(line)
    if steps.setdefault(batch["step"], batch["examples"]) != batch["examples"]:
      raise AssertionError(f"step {batch['step']} has other examples now")
  if sorted(steps) != list(range(len(steps))):
    raise AssertionError(f"not all steps are in {log}")
  return [example for step in sorted(steps) for example in steps[step]]


def all_examples(
    cfg: utils.DatasetConfig,
    feature_converter_cls: Callable[..., seqio.FeatureConverter]) -> list[str]:
  """The fingerprint of every example, by SeqIO's own reading of the data."""
  dataset = utils.get_dataset(
      dataclasses.replace(cfg, shuffle=False, batch_size=1), 0, 1,
      feature_converter_cls, num_epochs=1)
  return [one for batch in dataset.as_numpy_iterator()
          for one in fingerprints(batch)]


@gin.configurable(module="tests.support.trial_data")
def bad_dataset(
    cfg: utils.DatasetConfig, shard_id: int, num_shards: int,
    feature_converter_cls: Callable[..., seqio.FeatureConverter],
    factors: Mapping[int, float | str]) -> tf.data.Dataset:
  """`utils.get_dataset`, some batches of which are bad.

  Args:
    cfg: as there.
    shard_id: as there.
    num_shards: as there.
    feature_converter_cls: as there.
    factors: number of a batch -> factor of its loss weights, such as `'nan'`.
  """

  def factor_of(step) -> np.float32:
    return np.float32(factors.get(int(step), 1.0))

  def change(step, batch):
    factor = tf.ensure_shape(
        tf.py_function(factor_of, [step], tf.float32), [])
    weights = tf.cast(batch["decoder_loss_weights"], tf.float32)
    return {**batch, "decoder_loss_weights": factor * weights}

  dataset = utils.get_dataset(cfg, shard_id, num_shards, feature_converter_cls)
  return dataset.enumerate().map(change)
