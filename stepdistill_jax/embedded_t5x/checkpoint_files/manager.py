"""Writing T5X's orbax checkpoints, asynchronously, checked and kept by policy.

Orbax writes a checkpoint under another name. When it is done, the manifest of
its files is written and synced, in orbax's thread, and the folder renamed. So
what has a checkpoint's name is whole, and can be compared with what was
written. Object stores have no renaming: there the manifest comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import logging
import os
from typing import Any

from etils import epath
import gin
import jax
import numpy as np
import orbax.checkpoint as ocp

from stepdistill_jax.embedded_t5x import lazy_arrays
from stepdistill_jax.embedded_t5x.checkpoint_files import (
  reading as checkpoint_reading,
)
from stepdistill_jax.runs import (
  checkpoint_manifest,
  checkpoint_paths,
  disk_errors,
  fault_points,
  restore_choice,
  retention,
)
from stepdistill_jax.util import durable_files, errors, progress, remote_storage

DATASET_ITEM = "dataset"
# What belongs to the run, not to the model: see `save`.
RUN_STATE_ITEM = "run_state"
_UNCHECKED = ".unchecked"
_TEMPORARY = ".orbax-checkpoint-tmp"


class DatasetCheckpointHandler(ocp.CheckpointHandler):
  """Saves the position of a data iterator with its own `save`."""

  def __init__(self, checkpoint_filename: str):
    self._filename = checkpoint_filename

  def _file(self, directory: epath.Path) -> epath.Path:
    if jax.process_count() > 1:
      directory /= f"process_{jax.process_index()}-of-{jax.process_count()}"
    return directory / self._filename

  def save(self, directory: epath.Path, args: DatasetArgs):
    if args.item is not None:
      file = self._file(directory)
      file.parent.mkdir(parents=True, exist_ok=True)
      args.item.save(os.fspath(file))

  def restore(self, directory: epath.Path, args: DatasetArgs):
    args.item.restore(os.fspath(self._file(directory)))
    return args.item


@ocp.args.register_with_handler(
    DatasetCheckpointHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class DatasetArgs(ocp.args.CheckpointArgs):
  """The iterator to save or restore; None saves nothing."""

  item: Any | None = None


@gin.configurable(module="t5x.checkpoints")
class OrbaxCheckpointManagerInterface:
  """Saves and restores the checkpoints of one folder.

  Attributes:
    before_commit: called in the background, on host 0, when a checkpoint's
      files are complete and before it gets its name.
  """

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
    retention.check(keep, metric_mode)
    self._train_state = train_state
    self._partitioner = partitioner
    self._dataset_iterator = dataset_iterator
    self._save_dtype = np.dtype(save_dtype) if save_dtype else None
    self._restore_dtype = restore_dtype
    layout = partitioner.get_data_layout()
    self._writes_dataset = layout.is_first_host_in_replica_set
    self._dataset_handler = DatasetCheckpointHandler(
        f"{checkpoint_paths.TRAIN_DS_PREFIX}-"
        f"{layout.shard_id:03}-of-{layout.num_shards:03}")
    self.directory = epath.Path(directory)
    self._period = period or 1
    self._metric_name = metric_name_to_monitor
    self._to_delete = functools.partial(
        retention.to_delete, keep=keep, keep_period=force_keep_period,
        mode=metric_mode, keep_without_metric=keep_checkpoints_without_metrics)
    self.before_commit: Callable[[], None] = lambda: None
    self._lazy_checkpointer: ocp.AsyncCheckpointer | None = None

  @property
  def _checkpointer(self) -> ocp.AsyncCheckpointer:
    # Made when first needed: restoring alone must not touch the folder.
    if self._lazy_checkpointer is None:
      # Its errors are raised, and told, where a checkpoint is waited for.
      logging.getLogger("absl").addFilter(_is_not_of_orbax)
      if jax.process_index() == 0:
        self._remove_unfinished()
      self._lazy_checkpointer = ocp.AsyncCheckpointer(
          ocp.CompositeCheckpointHandler(**{
              checkpoint_paths.STATE_ITEM: ocp.PyTreeCheckpointHandler(),
              RUN_STATE_ITEM: ocp.JsonCheckpointHandler(),
              DATASET_ITEM: self._dataset_handler}),
          temporary_path_class=_path_class(self.directory, self._finish))
    return self._lazy_checkpointer

  def _remove_unfinished(self) -> None:
    """Removes what an earlier process was writing or deleting as it ended."""
    prefix = checkpoint_paths.get_checkpoint_prefix() + "_"
    for path in (self.directory.iterdir() if self.directory.is_dir() else ()):
      if path.name.startswith(prefix) and path.is_dir() and (
          _TEMPORARY in path.name or path.name.endswith(
              (_UNCHECKED, retention.DELETED_SUFFIX))):
        try:
          retention.remove(path)
        except OSError as error:
          progress.say(f"warning: {path} is left over, and cannot be deleted: "
                       f"{error.strerror or error}")

  def all_steps(self) -> Sequence[int]:
    return checkpoint_paths.all_steps(self.directory)

  def latest_step(self) -> int | None:
    return checkpoint_paths.latest_step(self.directory)

  def should_save(self, step: int) -> bool:
    return step % self._period == 0 and step not in self.all_steps()

  def wait_until_finished(self) -> None:
    """Waits for what is being written; raises UserError if that failed."""
    if self._lazy_checkpointer is not None:
      with _told_to_user(self.directory):
        self._lazy_checkpointer.wait_until_finished()

  def check_for_errors(self) -> None:
    """Raises UserError if what is being written has failed; does not wait."""
    if self._lazy_checkpointer is not None:
      with _told_to_user(self.directory):
        self._lazy_checkpointer.check_for_errors()

  def close(self) -> None:
    try:
      self.wait_until_finished()
    finally:
      checkpointer, self._lazy_checkpointer = self._lazy_checkpointer, None
      if checkpointer is not None:
        checkpointer.close()

  def _finish(self, written: epath.Path) -> None:
    """Makes a checkpoint of what orbax wrote; runs on host 0, in its thread."""
    final = written.with_name(written.name.removesuffix(_UNCHECKED))
    fault_points.reach("checkpoint_written")
    self.before_commit()
    checkpoint_manifest.write(written)
    fault_points.reach("manifest_written")
    if written != final:
      written.rename(final)
      durable_files.sync_folder(final.parent)
    fault_points.reach("checkpoint_named")
    try:
      for step in self._steps_to_delete():
        folder = checkpoint_paths.get_checkpoint_dir(
            os.fspath(self.directory), step)
        if not retention.is_pinned(folder):
          retention.delete(folder)
    except Exception as error:
      if not remote_storage.is_of_files(error):
        raise
      progress.say("warning: an old checkpoint cannot be deleted: "
                   + " ".join(str(error).split()))

  def _steps_to_delete(self) -> Sequence[int]:
    steps, metric = self.all_steps(), None
    if self._metric_name is not None:
      metric = retention.read_metric(
          os.fspath(self.directory), self._metric_name, steps)
    return self._to_delete(steps, metric=metric)

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

    def save_args(path, unused_value) -> ocp.SaveArgs:
      in_target = path[0].key == "target"
      return ocp.SaveArgs(dtype=self._save_dtype if in_target else None)

    args = {checkpoint_paths.STATE_ITEM: ocp.args.PyTreeSave(
        state_dict,
        save_args=jax.tree_util.tree_map_with_path(save_args, state_dict))}
    if self._dataset_iterator is not None:
      args[DATASET_ITEM] = DatasetArgs(
          self._dataset_iterator if self._writes_dataset else None)
    if run_state:
      args[RUN_STATE_ITEM] = ocp.args.JsonSave(dict(run_state))
    final = epath.Path(checkpoint_paths.get_checkpoint_dir(
        os.fspath(self.directory), step))
    with _told_to_user(self.directory):
      self._checkpointer.save(
          final if "://" in os.fspath(final)
          else final.with_name(final.name + _UNCHECKED),
          args=ocp.args.Composite(**args), custom_metadata=restore_choice.MARK)
    fault_points.reach("save_started")
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
          epath.Path(path) / DATASET_ITEM, DatasetArgs(self._dataset_iterator))
    return state


  def restore_from_tf_checkpoint(
      self, path_or_dir: str, strict: bool = True, translator=None):
    """Restores a train state from a TensorFlow checkpoint of Mesh T5.

    Args:
      strict: every variable of the checkpoint must be one of the state's.
      translator: a `checkpoint_importer.CheckpointTranslator`; None is T5's.
    """
    from stepdistill_jax.embedded_t5x import checkpoint_importer
    state_dict = checkpoint_importer.restore_from_t5_checkpoint(
        self._train_state.state_dict(), path_or_dir, strict=strict,
        translator=translator)
    if self._restore_dtype is not None:
      state_dict["target"] = jax.tree.map(
          lambda x: x.astype(self._restore_dtype), state_dict["target"])
    state = self._train_state.restore_state(state_dict)
    return self._partitioner.move_params_to_devices(
        state, self._partitioner.get_mesh_axes(self._train_state))


def read_run_state(path: str) -> Mapping[str, Any]:
  """What a checkpoint's `save` was given as `run_state`; empty if nothing."""
  folder = epath.Path(path) / RUN_STATE_ITEM
  if not folder.is_dir():
    return {}
  with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
    return checkpointer.restore(folder)


def _path_class(
    folder: epath.Path, finish: Callable[[epath.Path], None]
) -> type[ocp.path.atomicity_types.TemporaryPath]:
  """Orbax's class for what it writes in a folder, with an end of ours."""
  defaults = ocp.path.atomicity_defaults

  class Path(defaults.get_default_temporary_path_class(folder)):
    async def finalize(self) -> None:
      await super().finalize()
      finish(self.get_final())  # Nothing else is in this thread.

  return Path


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
  return f"{os.sep}orbax{os.sep}" not in record.pathname


@contextlib.contextmanager
def _told_to_user(directory: epath.Path) -> Iterator[None]:
  """Makes a line of what the disk says when it takes no checkpoint."""
  try:
    yield
  except (OSError, ValueError, RuntimeError) as error:
    if isinstance(error, jax.errors.JaxRuntimeError):
      raise
    folder = os.fspath(directory)
    why = disk_errors.reason(error, folder) or (
        "the folder is gone" if not directory.is_dir()
        else " ".join(str(error).split())[:300])
    raise errors.UserError(
        f"cannot write a checkpoint into {folder}: {why}; "
        f"{disk_errors.advice(folder)}") from error
