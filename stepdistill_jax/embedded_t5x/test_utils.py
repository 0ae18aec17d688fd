"""What tests of T5X's users put in the place of devices, data, partitioners."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import itertools
import math
from typing import Any
import unittest

import jax
from jax.sharding import Mesh, NamedSharding
import numpy as np

from stepdistill_jax.embedded_t5x import (
  adafactor,
  checkpoints,
  models,
  optimizers,
  partitioning,
  train_state as train_state_lib,
)
from stepdistill_jax.embedded_t5x.examples.t5 import network
from stepdistill_jax.runs import lazy_arrays

MeshSpec = Sequence[tuple[str, int]]
# One for all train states: trees of different optimizers differ.
_SGD = optimizers.sgd(0.1)


@dataclasses.dataclass(frozen=True)
class CpuDevice:
  id: int
  process_index: int
  device_kind: str = "cpu"
  platform: str = "cpu"


@dataclasses.dataclass(frozen=True)
class GpuDevice:
  id: int
  process_index: int
  device_kind: str = "gpu"
  platform: str = "Tesla V100-SXM2-16GB"


@dataclasses.dataclass(frozen=True)
class TpuDevice:
  id: int
  process_index: int
  coords: Sequence[int]
  core_on_chip: int
  device_kind: str = "TPU v3"
  platform: str = "tpu"


def coords_to_idx(coords: tuple[int, ...], bounds: tuple[int, ...]) -> int:
  """The number of a grid's point; the first coordinate runs fastest."""
  return int(np.ravel_multi_index(coords, bounds, order="F"))


def make_devices(
    nx: int, ny: int, nz: int, nc: int = 2,
    host_layout: tuple[int, ...] = (2, 2, 1, 2),
    kind: str = "TPU v3") -> list[TpuDevice]:
  """A grid of TPUs.

  Args:
    nx: extent; also `ny`, `nz`, and `nc` cores a chip.
    host_layout: the part of the grid that one host has.
  """
  bounds = (nx, ny, nz, nc)
  hosts = tuple(n // h for n, h in zip(bounds, host_layout))
  core_first = lambda x: (x[3], *x[:3])
  devices = []
  for place in itertools.product(*map(range, bounds)):
    host = tuple(x // h for x, h in zip(place, host_layout))
    devices.append(TpuDevice(
        id=coords_to_idx(core_first(place), core_first(bounds)),
        process_index=coords_to_idx(core_first(host), core_first(hosts)),
        coords=place[:3], core_on_chip=place[3], device_kind=kind))
  return devices


def make_train_state_base(
    *, step: int, params: Mapping[str, Any], param_states: Mapping[str, Any],
    flax_optimizer_def=None):
  """A train state of given values; the optimizer is SGD by default."""
  return train_state_lib.FlaxOptimTrainState(optimizers.Optimizer(
      flax_optimizer_def or _SGD,
      state=optimizers.OptimizerState(step=step, param_states=param_states),
      target=params))


def make_train_state_replicated(global_input_shape, step=42, dtype=np.float32):
  """A train state of two arrays, `bias` (twos) and `kernel` (0, 2, 4, ...)."""
  ones = np.ones(global_input_shape, dtype)
  count = np.arange(math.prod(global_input_shape), dtype=dtype).reshape(
      global_input_shape)
  return make_train_state_base(
      step=np.int32(step), params={"bias": ones * 2, "kernel": count * 2},
      param_states={"bias": ones.astype(np.float32),
                    "kernel": count.astype(np.float32)})


def create_sharded_array(arr, global_shape, global_mesh, mesh_axes):
  """An array on a mesh; scalars as they are."""
  if np.isscalar(arr):
    return arr
  return jax.make_array_from_callback(
      global_shape, NamedSharding(global_mesh, mesh_axes),
      lambda index: arr[index])


def make_train_state(
    global_mesh, global_input_shape, mesh_axes, step=42, dtype=np.float32):
  """`make_train_state_replicated` on a mesh."""
  return jax.tree.map(
      lambda x: create_sharded_array(
          x, global_input_shape, global_mesh, mesh_axes),
      make_train_state_replicated(global_input_shape, step, dtype))


def get_train_state_from_variables(variables, optimizer_def=None):
  """A train state of a model's variables; Adafactor by default."""
  optimizer_def = optimizer_def or adafactor.Adafactor(0.0)
  return train_state_lib.FlaxOptimTrainState(
      optimizer_def.create(variables["params"]))


def get_t5_test_model(**config_overrides) -> models.EncoderDecoderModel:
  """A tiny T5 1.1 with T5's vocabulary, which is read when it is needed."""
  import seqio
  config = network.T5Config(**{
      **dict(vocab_size=32128, dtype="bfloat16", emb_dim=8, num_heads=4,
             num_encoder_layers=2, num_decoder_layers=2, head_dim=3,
             mlp_dim=16, mlp_activations=("gelu", "linear"), dropout_rate=0.0,
             logits_via_embedding=False), **config_overrides})
  vocabulary = seqio.SentencePieceVocabulary(
      "gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model")
  return models.EncoderDecoderModel(
      module=network.Transformer(config), input_vocabulary=vocabulary,
      output_vocabulary=vocabulary, optimizer_def=adafactor.Adafactor(
          decay_rate=0.8, step_offset=0,
          logical_factor_rules=adafactor.standard_logical_factor_rules()))


def create_global_mesh(mesh_shape, axis_names) -> Mesh:
  """A mesh of the first devices; skips the test where there are too few."""
  size = math.prod(mesh_shape)
  devices = sorted(jax.devices(), key=lambda device: device.id)
  if len(devices) < size:
    raise unittest.SkipTest(f"needs {size} devices, there are {len(devices)}")
  return Mesh(np.array(devices[:size]).reshape(mesh_shape), axis_names)


@contextlib.contextmanager
def with_mesh(named_shape: MeshSpec) -> Iterator[None]:
  """Runs within a mesh of (axis, size) pairs; skips as the above."""
  names, shape = zip(*named_shape)
  with create_global_mesh(shape, names):
    yield


def get_fake_vocab():
  """Vocabularies of the inputs and targets of the fake data."""
  vocabulary = type("Vocabulary", (), {"vocab_size": 128, "eos_id": 1})()
  return vocabulary, vocabulary


def _fake_example(word: str, target: str, repeat: int) -> list[dict[str, Any]]:
  """Examples of letters as token ids."""
  ids = lambda text: [ord(c) % 64 + 2 for c in text][:8]
  return [{"inputs": ids(word), "inputs_pretokenized": f"complete: {word}",
           "targets": ids(target), "targets_pretokenized": target}] * repeat


def get_fake_tokenized_dataset(*_, split: str = "validation", **__):
  """Examples with the features of a text-to-text task, texts and ids.

  Three in `train`, again and again; in `validation`, also called `test`, two,
  four times each.
  """
  import tensorflow as tf
  if split == "train":
    examples = [*_fake_example("red", "roses", 1),
                *_fake_example("blue", "violet", 1),
                *_fake_example("green", "leaves", 1)]
  else:
    examples = [*_fake_example("yellow", "daffodils", 4),
                *_fake_example("white", "snowdrops", 4)]
  spec = {f"{name}{suffix}": tf.TensorSpec(shape, dtype)
          for name in ("inputs", "targets")
          for suffix, shape, dtype in (
              ("", [None], tf.int32), ("_pretokenized", [], tf.string))}
  ds = tf.data.Dataset.from_generator(
      lambda: iter(examples), output_signature=spec)
  return ds.repeat() if split == "train" else ds


def assert_equal(a, b) -> None:
  """Raises AssertionError unless two arrays are of a kind, and equal."""
  assert isinstance(a, type(b)), f"{type(a)} is not {type(b)}"
  np.testing.assert_array_equal(lazy_arrays.fetch(a), lazy_arrays.fetch(b))


def assert_same(tree_a, tree_b) -> None:
  """`assert_equal` of two trees' leaves."""
  jax.tree.map(assert_equal, *jax.device_get((tree_a, tree_b)))


class FakePartitioner(partitioning.PjitPartitioner):
  """Shards all arrays alike, and leaves parameters where they are."""

  def __init__(self, mesh, mesh_axes, params_on_devices=True):
    super().__init__(num_partitions=1, params_on_devices=params_on_devices)
    self._global_mesh, self._mesh_axes = mesh, mesh_axes

  @property
  def mesh(self):
    return self._global_mesh

  def get_data_layout(self, batch_size=None, host_index=None):
    return partitioning.DataLayout(
        batch_size=1, shard_id=1, num_shards=1,
        is_first_host_in_replica_set=True)

  def move_params_to_devices(self, train_state, train_state_axes):
    return train_state

  def get_mesh_axes(self, train_state):
    return jax.tree.map(
        lambda _: self._mesh_axes, train_state).replace_step(None)

  def compile(self, partitioned_fn, *args):
    """Returns None: nothing is compiled ahead."""


def save(checkpointer_or_manager, train_state, force=False):
  """Saves, and waits until the checkpoint is there."""
  saved = checkpointer_or_manager.save(train_state, force=force)
  checkpointer_or_manager.wait_until_finished()
  return saved


def create_checkpointer_or_manager(
    train_state_shapes, partitioner, directory, dataset_iterator=None,
    best=False, **options):
  """A manager; with `best` it keeps those of the best `train/accuracy`."""
  return checkpoints.OrbaxCheckpointManagerInterface(
      directory, train_state_shapes, partitioner, dataset_iterator,
      metric_name_to_monitor="train/accuracy" if best else None, **options)
