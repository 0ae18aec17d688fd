"""T5X's name for checkpoints: a face over the modules that do the work.

The room `runs` has what does it: `checkpoint_paths` finds checkpoints,
`checkpoint_writing` and `checkpoint_reading` write and read them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import os
from typing import Any

from etils import epath
from flax import traverse_util
import gin
import jax
import numpy as np

from stepdistill_jax.embedded_t5x import checkpoint_importer
from stepdistill_jax.runs import (
  checkpoint_paths,
  checkpoint_reading,
  checkpoint_writing,
  lazy_arrays,
  restore_choice,
  retention,
)
from stepdistill_jax.runs.checkpoint_paths import *  # noqa: F403
from stepdistill_jax.runs.checkpoint_writing import *  # noqa: F403
from stepdistill_jax.runs.lazy_arrays import *  # noqa: F403
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
  folder = epath.Path(find_checkpoint(path, step))
  arrays = checkpoint_reading.open_arrays(folder, {}, state_transformation_fns)
  flat = {
      name: checkpoint_reading.as_lazy(
          array, restore_dtype if name.startswith("target/") else None)
      for name, array in arrays.items()}
  if not lazy_parameters:
    with checkpoint_reading.reason_given(folder):
      flat = checkpoint_reading.read_all(flat)
  return traverse_util.unflatten_dict(flat, sep="/")


@gin.configurable(module="t5x.checkpoints")
class OrbaxCheckpointManagerInterface(checkpoint_writing.CheckpointWriter):
  """Saves and restores the checkpoints of one folder."""

  def __init__(
      self, directory: str, train_state, partitioner, dataset_iterator=None,
      save_dtype=None, restore_dtype=None, keep: int | None = None,
      period: int | None = 1, checkpoint_steps: Sequence[int] | None = None,
      keep_dataset_checkpoints: int | None = None,
      force_keep_period: int | None = None,
      metric_name_to_monitor: str | None = None, metric_mode: str = "max",
      keep_checkpoints_without_metrics: bool = True):
    """Initializes.

    Args:
      directory: MODEL_DIR, made if absent when the first checkpoint is saved.
      train_state: the state's shapes.
      partitioner: gives shardings, and this host's share of the data.
      dataset_iterator: if given, its position is saved and restored too.
      save_dtype: of saved parameters; None keeps theirs.
      restore_dtype: of restored parameters; None keeps the saved one.
      keep: number of checkpoints kept, the latest, or the best besides the
        latest if a metric is monitored; None keeps all.
      period: in steps; `save` heeds it only with force=False.
      checkpoint_steps: for T5X's interface; the train loop reads them.
      force_keep_period: checkpoints at multiples of it are always kept.
      metric_name_to_monitor: `COLLECTION/NAME` in the run's TensorBoard files,
        such as `inference_eval/my_task/accuracy`; None keeps the latest.
      metric_mode: `max` if more is better, else `min`.
      keep_checkpoints_without_metrics: whether checkpoints of steps at which
        the metric is not known stay.
    """
    del checkpoint_steps, keep_dataset_checkpoints
    layout = partitioner.get_data_layout()
    super().__init__(
        directory, f"{layout.shard_id:03}-of-{layout.num_shards:03}", keep=keep,
        keep_period=force_keep_period, metric_name=metric_name_to_monitor,
        metric_mode=metric_mode,
        keep_without_metric=keep_checkpoints_without_metrics)
    self._train_state = train_state
    self._partitioner = partitioner
    self._dataset_iterator = dataset_iterator
    self._writes_dataset = layout.is_first_host_in_replica_set
    self._save_dtype = np.dtype(save_dtype) if save_dtype else None
    self._restore_dtype = restore_dtype
    self._period = period or 1

  def should_save(self, step: int) -> bool:
    return step % self._period == 0 and step not in self.all_steps()

  def save(
      self, train_state,
      state_transformation_fns: Sequence[Callable[..., Any]] = (),
      force: bool = True, run_state: Mapping[str, Any] | None = None) -> bool:
    """Starts to write a checkpoint.

    The arrays are copied before this returns; writing goes on behind.

    Args:
      state_transformation_fns: `fn(state dict, names) -> (dict, names)`.
      force: save whatever `period` says.
      run_state: what else a run needs to go on exactly, for JSON.

    Returns:
      Whether a checkpoint is written; not if there is one of this step.

    Raises:
      errors.UserError: this or the last checkpoint cannot be written.
    """
    step = int(jax.device_get(lazy_arrays.fetch(train_state.step)))
    self.wait_until_finished()  # Raises the last one's error, if it had one.
    if step in self.all_steps() or (
        not force and not self.should_save(step)):
      return False
    state_dict = train_state.state_dict()
    for transform in state_transformation_fns:
      state_dict, _ = transform(state_dict, state_dict)
    state_dict = jax.tree.map(lazy_arrays.fetch, state_dict)

    dataset = None
    if self._dataset_iterator is not None:
      dataset = checkpoint_writing.DatasetArgs(
          self._dataset_iterator if self._writes_dataset else None)
    self.write(step, state_dict, dtype=self._save_dtype, dataset=dataset,
               run_state=run_state)
    return True

  def restore(
      self, step: int | None = None, path: str | None = None,
      fallback_state: Mapping[str, Any] | None = None,
      state_transformation_fns: Sequence[Callable[..., Any]] = (),
      lazy_parameters: bool = False):
    """Restores a train state, and the data's position if it was given.

    Args:
      step: of the folder's checkpoints; None with no `path` is the latest.
      path: of a checkpoint.
      lazy_parameters: give `LazyArray`s of all but the step.

    Raises:
      ValueError: `step` and `path` are both given, or there is no checkpoint.
    """
    if step is not None and path is not None:
      raise errors.InvalidValue("give `step` or `path`, not both")
    if path is None:
      step = self.latest_step() if step is None else step
      if step is None:
        raise errors.InvalidValue(f"no checkpoint in {self.directory}")
      path = checkpoint_paths.get_checkpoint_dir(self.directory, step)
    checkpoint_paths.require(path)
    restore_choice.require_good(
        os.fspath(path), if_not_just_checked=True)
    state = checkpoint_reading.restore(
        path, self._train_state, self._partitioner,
        dtype=self._restore_dtype, fallback_state=fallback_state,
        state_transformation_fns=state_transformation_fns,
        lazy_parameters=lazy_parameters)
    if self._dataset_iterator is not None:
      self._dataset_handler.restore(
          epath.Path(path) / checkpoint_writing.DATASET_ITEM,
          checkpoint_writing.DatasetArgs(self._dataset_iterator))
    return state

  def restore_from_tf_checkpoint(
      self, path_or_dir: str, strict: bool = True, translator=None):
    """Restores a train state from a TensorFlow checkpoint of Mesh T5.

    Args:
      strict: every variable of the checkpoint must be one of the state's.
      translator: a `checkpoint_importer.CheckpointTranslator`; None is T5's.
    """
    state_dict = checkpoint_importer.restore_from_t5_checkpoint(
        self._train_state.state_dict(), path_or_dir, strict=strict,
        translator=translator)
    if self._restore_dtype is not None:
      state_dict["target"] = jax.tree.map(
          lambda x: x.astype(self._restore_dtype), state_dict["target"])
    state = self._train_state.restore_state(state_dict)
    return self._partitioner.move_params_to_devices(
        state, self._partitioner.get_mesh_axes(self._train_state))


class Checkpointer(OrbaxCheckpointManagerInterface):
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
CheckpointManagerConstructor = Callable[..., OrbaxCheckpointManagerInterface]


class SaveBestCheckpointer(Checkpointer):
  """Keeps the `keep` best checkpoints by a metric, and the latest.

  The further arguments are those of `Checkpointer`, and of
  `OrbaxCheckpointManagerInterface`.
  """

  def __init__(
      self, *args, metric_name_to_monitor: str = "train/accuracy", **options):
    super().__init__(
        *args, metric_name_to_monitor=metric_name_to_monitor, **options)
