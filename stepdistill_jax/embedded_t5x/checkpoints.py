"""T5X's name for checkpoints: a face over the modules that do the work.

`checkpoint_paths` finds them, `checkpoint_files` reads and writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from etils import epath
from flax import traverse_util
import jax
import numpy as np

from stepdistill_jax.embedded_t5x.checkpoint_files import (
  reading as checkpoint_reading,
)
from stepdistill_jax.embedded_t5x.checkpoint_files.manager import *  # noqa: F403
from stepdistill_jax.embedded_t5x.lazy_arrays import (
  LazyArray as LazyArray,
  LazyAwaitableArray as LazyAwaitableArray,
  LazyThreadPoolArray as LazyThreadPoolArray,
)
from stepdistill_jax.runs import array_reader, checkpoint_paths, retention
from stepdistill_jax.runs.checkpoint_paths import *  # noqa: F403
from stepdistill_jax.util import errors

PyTree = Any
PyTreeDef = jax.tree_util.PyTreeDef
Dataset = Any
VERSION = 3  # Of the older layout.
# (state dict, parameter infos) -> both.
SaveStateTransformationFn = Callable[..., tuple[PyTree, PyTree]]
# (checkpoint's state dict, the model's[, is_resuming=]) -> state dict.
RestoreStateTransformationFn = Callable[..., PyTree]
populate_metrics_for_steps = retention.read_metric


def get_local_data(x):
  """This host's first part of an array; other values as they are."""
  return x.addressable_data(0) if isinstance(x, jax.Array) else x


def find_checkpoint(path: str, step: int | None = None) -> str:
  """A checkpoint's folder: `path` itself, or its `step`, or its latest.

  Raises:
    ValueError: there is none.
  """
  if step is None:
    step = latest_step(path)  # noqa: F405
  if step is not None:
    path = get_checkpoint_dir(path, step)  # noqa: F405
  checkpoint_paths.require(path)
  return path


def load_t5x_checkpoint(
    path: str, step: int | None = None,
    state_transformation_fns: Sequence[Any] = (), remap: bool = True,
    restore_dtype=None, lazy_parameters: bool = False):
  """Loads all arrays of a checkpoint, without a model.

  Args:
    state_transformation_fns: `fn(dict, dict) -> dict`, on names.
    restore_dtype: of the parameters; None keeps the saved one.
    lazy_parameters: give `LazyArray`s, to be read one by one.

  Returns:
    The nested state dict of numpy arrays: `target`, `state`.
  """
  del remap
  path = find_checkpoint(path, step)
  with checkpoint_reading.reason_given(epath.Path(path)):
    arrays = array_reader.open_checkpoint(path).arrays
  flat = {
      name: checkpoint_reading.as_lazy(
          array, restore_dtype if name.startswith("target/") else None)
      for name, array in checkpoint_reading.transformed(
          arrays, {}, state_transformation_fns).items()}
  if not lazy_parameters:
    with checkpoint_reading.reason_given(epath.Path(path)):
      flat = checkpoint_reading.read_all(flat)
  return traverse_util.unflatten_dict(flat, sep="/")


class Checkpointer(OrbaxCheckpointManagerInterface):  # noqa: F405
  """T5X's older interface to the same checkpoints; it waits for each.

  Attributes:
    manager_options: what it adds to the manager's arguments, where a
      `SaveCheckpointConfig` names it as its `checkpointer_cls`.
  """

  def __init__(
      self, train_state, partitioner, checkpoints_dir: str,
      dataset_iterator=None, *, keep: int | None = None,
      save_dtype=np.float32, restore_dtype=None,
      keep_dataset_checkpoints: int | None = None, **manager_options):
    self.manager_options = manager_options
    self.checkpoints_dir = checkpoints_dir
    self.keep, self.restore_dtype = keep, restore_dtype
    self.keep_dataset_checkpoints = keep_dataset_checkpoints
    super().__init__(
        checkpoints_dir, train_state, partitioner, dataset_iterator,
        save_dtype=save_dtype, restore_dtype=restore_dtype, keep=keep,
        keep_dataset_checkpoints=keep_dataset_checkpoints, **manager_options)

  def all_dataset_checkpoint_steps(self) -> Sequence[int]:
    """Steps whose checkpoints hold a position in the data."""
    return all_dataset_checkpoint_steps(self.checkpoints_dir)  # noqa: F405

  def save(self, train_state, state_transformation_fns=(), *,
           concurrent_gb: int = 128) -> None:
    """Writes a checkpoint and waits until it is there."""
    del concurrent_gb  # Orbax limits its memory by itself.
    super().save(train_state, state_transformation_fns)
    self.wait_until_finished()

  def restore(self, step=None, path=None, state_transformation_fns=(),
              fallback_state=None, lazy_parameters=False):
    """Restores a train state: of a step, of a path, or the latest.

    Raises:
      ValueError: `step` and `path` are both given, there is no checkpoint, or
        lazy arrays are to be on devices.
    """
    if lazy_parameters and self._partitioner.params_on_devices:
      raise errors.InvalidValue(
          "lazy parameters are not on devices: give the partitioner "
          "params_on_devices=False")
    return super().restore(
        step, path, fallback_state, state_transformation_fns, lazy_parameters)

  def convert_from_tf_checkpoint(
      self, path_or_dir: str, *, state_transformation_fns=(),
      concurrent_gb: int = 16, translator=None) -> None:
    """Writes what `restore_from_tf_checkpoint` reads."""
    self.save(self.restore_from_tf_checkpoint(
        path_or_dir, translator=translator), state_transformation_fns,
        concurrent_gb=concurrent_gb)


CheckpointerConstructor = Callable[..., Checkpointer]
CheckpointManagerConstructor = Callable[
    ..., OrbaxCheckpointManagerInterface]  # noqa: F405


class SaveBestCheckpointer(Checkpointer):
  """Keeps the `keep` best checkpoints by a metric, and the latest.

  The further arguments are those of `Checkpointer`, and of
  `OrbaxCheckpointManagerInterface`.
  """

  def __init__(
      self, *args, metric_name_to_monitor: str = "train/accuracy", **options):
    super().__init__(
        *args, metric_name_to_monitor=metric_name_to_monitor, **options)
