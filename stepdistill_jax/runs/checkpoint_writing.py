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
import jax
import numpy as np
import orbax.checkpoint as ocp

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
# What belongs to the run, not to the model: see `write`.
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


class CheckpointWriter:
  """Writes the checkpoints of one folder, and deletes those that must go.

  Attributes:
    directory: MODEL_DIR.
    before_commit: called in the background, on host 0, when a checkpoint's
      files are complete and before it gets its name.
  """

  def __init__(
      self, directory: str, dataset_share: str, *, keep: int | None = None,
      keep_period: int | None = None, metric_name: str | None = None,
      metric_mode: str = "max", keep_without_metric: bool = True):
    """Initializes.

    Args:
      directory: made if absent when the first checkpoint is saved.
      dataset_share: names the file of this host's position in the data.
      keep: as in `retention.to_delete`, and so all that follow but
        `metric_name`.
      metric_name: as in `retention.read_metric`; None goes by age.
    """
    retention.check(keep, metric_mode)
    self.directory = epath.Path(directory)
    self._dataset_handler = DatasetCheckpointHandler(
        f"{checkpoint_paths.TRAIN_DS_PREFIX}-{dataset_share}")
    self._metric_name = metric_name
    self._to_delete = functools.partial(
        retention.to_delete, keep=keep, keep_period=keep_period,
        mode=metric_mode, keep_without_metric=keep_without_metric)
    self.before_commit: Callable[[], None] = lambda: None
    self._lazy_checkpointer: ocp.AsyncCheckpointer | None = None

  @property
  def _checkpointer(self) -> ocp.AsyncCheckpointer:
    # Made when first needed: restoring alone must not touch the folder.
    if self._lazy_checkpointer is None:
      # Its errors are raised, and reported, where a checkpoint is waited for.
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

  def wait_until_finished(self) -> None:
    """Waits for what is being written; raises UserError if that failed."""
    if self._lazy_checkpointer is not None:
      with _reported_to_user(self.directory):
        self._lazy_checkpointer.wait_until_finished()

  def check_for_errors(self) -> None:
    """Raises UserError if what is being written has failed; does not wait."""
    if self._lazy_checkpointer is not None:
      with _reported_to_user(self.directory):
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

  def write(
      self, step: int, state_dict: Mapping[str, Any], *,
      dtype: np.dtype | None = None, dataset: DatasetArgs | None = None,
      run_state: Mapping[str, Any] | None = None) -> None:
    """Starts to write a checkpoint.

    The arrays are copied before this returns; writing goes on behind.

    Args:
      state_dict: nested dict of arrays; the parameters are its `target`.
      dtype: of the saved parameters; None keeps theirs.
      dataset: the position in the data; None where none is saved.
      run_state: what else a run needs to go on exactly, for JSON.

    Raises:
      errors.UserError: it cannot be written.
    """

    def save_args(path, unused_value) -> ocp.SaveArgs:
      return ocp.SaveArgs(dtype=dtype if path[0].key == "target" else None)

    args = {checkpoint_paths.STATE_ITEM: ocp.args.PyTreeSave(
        state_dict,
        save_args=jax.tree_util.tree_map_with_path(save_args, state_dict))}
    if dataset is not None:
      args[DATASET_ITEM] = dataset
    if run_state:
      args[RUN_STATE_ITEM] = ocp.args.JsonSave(dict(run_state))
    final = epath.Path(checkpoint_paths.get_checkpoint_dir(
        os.fspath(self.directory), step))
    with _reported_to_user(self.directory):
      self._checkpointer.save(
          final if "://" in os.fspath(final)
          else final.with_name(final.name + _UNCHECKED),
          args=ocp.args.Composite(**args), custom_metadata=restore_choice.MARK)
    fault_points.reach("save_started")


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
def _reported_to_user(directory: epath.Path) -> Iterator[None]:
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
