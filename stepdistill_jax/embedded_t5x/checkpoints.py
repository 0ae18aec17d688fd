"""T5X's name for checkpoints: a face over the modules that do the work.

`checkpoint_paths` finds them, `checkpoint_reading` and `legacy_checkpoints`
read them, `checkpoint_manager` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import traverse_util
import jax
import numpy as np

from stepdistill_jax.embedded_t5x.checkpointing import (
  reading as checkpoint_reading,
)
from stepdistill_jax.embedded_t5x.checkpointing.manager import *  # noqa: F403
from stepdistill_jax.runs.checkpoint_paths import *  # noqa: F403


def load_t5x_checkpoint(
    path: str, step: int | None = None,
    state_transformation_fns: Sequence[Any] = (), remap: bool = True,
    restore_dtype=None, lazy_parameters: bool = False):
  """Loads all arrays of a checkpoint, without a model.

  Args:
    state_transformation_fns: `fn(dict, dict) -> dict`, on names.
    restore_dtype: of the parameters; None keeps the saved one.

  Returns:
    The nested state dict of numpy arrays: `target`, `state`.
  """
  del remap, lazy_parameters
  if step is not None:
    path = get_checkpoint_dir(path, step)  # noqa: F405
  source = checkpoint_reading.open_checkpoint(path)
  found = checkpoint_reading.transformed_entries(
      source.entries(), {}, state_transformation_fns)
  on_first_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  dtype = None if restore_dtype is None else np.dtype(restore_dtype)
  loaded = source.load({
      entry.name: checkpoint_reading.Request(
          on_first_device, dtype if name.startswith("target/") else None)
      for name, entry in found.items()})
  return traverse_util.unflatten_dict(
      {name: np.asarray(loaded[entry.name]) for name, entry in found.items()},
      sep="/")


class Checkpointer:
  """T5X's older interface to the same checkpoints; see the manager.

  Attributes:
    manager_options: what it adds to the manager's arguments, where a
      `SaveCheckpointConfig` names it as its `checkpointer_cls`.
  """

  def __init__(
      self, train_state, partitioner, checkpoints_dir: str,
      dataset_iterator=None, *, keep: int | None = None, save_dtype=None,
      restore_dtype=None, keep_dataset_checkpoints: int | None = None,
      **manager_options):
    self.manager_options = manager_options
    self._manager = OrbaxCheckpointManagerInterface(  # noqa: F405
        checkpoints_dir, train_state, partitioner, dataset_iterator,
        save_dtype=save_dtype, restore_dtype=restore_dtype, keep=keep,
        keep_dataset_checkpoints=keep_dataset_checkpoints, **manager_options)
    self.all_steps = self._manager.all_steps
    self.latest_step = self._manager.latest_step

  def save(self, train_state, state_transformation_fns=(), **unused_options):
    """Writes a checkpoint and waits until it is there."""
    self._manager.save(train_state, state_transformation_fns)
    self._manager.wait_until_finished()

  def restore(self, step=None, path=None, state_transformation_fns=(),
              fallback_state=None, lazy_parameters=False):
    return self._manager.restore(
        step, path, fallback_state, state_transformation_fns, lazy_parameters)


class SaveBestCheckpointer(Checkpointer):
  """Keeps the `keep` best checkpoints by a metric, and the latest.

  The arguments that `Checkpointer` does not have are those of
  `OrbaxCheckpointManagerInterface`.
  """

  def __init__(
      self, train_state, partitioner, checkpoints_dir: str,
      dataset_iterator=None, *, keep: int | None = None,
      save_dtype=np.float32, restore_dtype=None,
      metric_name_to_monitor: str = "train/accuracy",
      metric_mode: str = "max", keep_checkpoints_without_metrics: bool = True,
      force_keep_period: int | None = None,
      keep_dataset_checkpoints: int | None = None):
    super().__init__(
        train_state, partitioner, checkpoints_dir, dataset_iterator,
        keep=keep, save_dtype=save_dtype, restore_dtype=restore_dtype,
        keep_dataset_checkpoints=keep_dataset_checkpoints,
        metric_name_to_monitor=metric_name_to_monitor,
        metric_mode=metric_mode, force_keep_period=force_keep_period,
        keep_checkpoints_without_metrics=keep_checkpoints_without_metrics)
