"""Writing T5X's orbax checkpoints, asynchronously, and keeping the latest."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Callable, Mapping, Optional, Sequence

from etils import epath
import gin
import jax
import numpy as np
import orbax.checkpoint as ocp

from stepdistill_jax.embedded_t5x import checkpoint_paths
from stepdistill_jax.embedded_t5x import checkpoint_reading

DATASET_ITEM = "dataset"


class DatasetCheckpointHandler(ocp.CheckpointHandler):
  """Saves the position of a data iterator with its own `save`."""

  def __init__(self, checkpoint_filename: str):
    self._filename = checkpoint_filename

  def _file(self, directory: epath.Path) -> epath.Path:
    if jax.process_count() > 1:
      directory /= f"process_{jax.process_index()}-of-{jax.process_count()}"
    return directory / self._filename

  def save(self, directory: epath.Path, args: "DatasetArgs"):
    if args.item is not None:
      file = self._file(directory)
      file.parent.mkdir(parents=True, exist_ok=True)
      args.item.save(os.fspath(file))

  def restore(self, directory: epath.Path, args: "DatasetArgs"):
    args.item.restore(os.fspath(self._file(directory)))
    return args.item


@ocp.args.register_with_handler(
    DatasetCheckpointHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class DatasetArgs(ocp.args.CheckpointArgs):
  """The iterator to save or restore; None saves nothing."""

  item: Optional[Any] = None


@gin.configurable
class OrbaxCheckpointManagerInterface:
  """Saves and restores the checkpoints of one folder."""

  def __init__(
      self,
      directory: str,
      train_state,
      partitioner,
      dataset_iterator=None,
      save_dtype=None,
      restore_dtype=None,
      keep: Optional[int] = None,
      period: Optional[int] = 1,
      checkpoint_steps: Optional[Sequence[int]] = None,
      keep_dataset_checkpoints: Optional[int] = None,
      force_keep_period: Optional[int] = None):
    """Initializes.

    Args:
      directory: MODEL_DIR, made if absent when the first checkpoint is saved.
      train_state: the state's shapes.
      partitioner: gives shardings, and this host's share of the data.
      dataset_iterator: if given, its position is saved and restored too.
      save_dtype: of saved parameters; None keeps theirs.
      restore_dtype: of restored parameters; None keeps the saved one.
      keep: number of latest checkpoints kept; None keeps all.
      period: in steps; `save` heeds it only with force=False.
      checkpoint_steps: for T5X's interface; the train loop reads them.
      keep_dataset_checkpoints: for T5X's interface.
      force_keep_period: checkpoints at multiples of it are always kept.
    """
    del checkpoint_steps, keep_dataset_checkpoints
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
    self._directory = epath.Path(directory)
    self._options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        save_interval_steps=period or 1,
        keep_period=force_keep_period,
        cleanup_tmp_directories=True,
        step_prefix=checkpoint_paths.get_checkpoint_prefix(),
        enable_async_checkpointing=True)
    self._lazy_manager: Optional[ocp.CheckpointManager] = None

  @property
  def _manager(self) -> ocp.CheckpointManager:
    # Made when first needed: restoring alone must not touch the folder.
    if self._lazy_manager is None:
      handlers = {
          checkpoint_reading.STATE_ITEM: ocp.PyTreeCheckpointHandler(),
          DATASET_ITEM: self._dataset_handler}
      self._lazy_manager = ocp.CheckpointManager(
          self._directory, options=self._options, item_handlers=handlers)
    return self._lazy_manager

  @property
  def directory(self) -> epath.Path:
    return self._directory

  def all_steps(self) -> Sequence[int]:
    return self._manager.all_steps()

  def latest_step(self) -> Optional[int]:
    return self._manager.latest_step()

  def should_save(self, step: int) -> bool:
    return self._manager.should_save(step)

  def wait_until_finished(self) -> None:
    if self._lazy_manager is not None:
      self._lazy_manager.wait_until_finished()

  def close(self) -> None:
    if self._lazy_manager is not None:
      self._lazy_manager.close()

  def save(
      self, train_state,
      state_transformation_fns: Sequence[Callable[..., Any]] = (),
      force: bool = True) -> bool:
    """Starts to write a checkpoint.

    The arrays are copied before this returns; writing goes on behind.

    Args:
      train_state: what to save.
      state_transformation_fns: `fn(state dict, names) -> (dict, names)`.
      force: save whatever `period` says.

    Returns:
      Whether a checkpoint is written.
    """
    step = int(jax.device_get(train_state.step))
    if not force and not self._manager.should_save(step):
      return False
    state_dict = train_state.state_dict()
    for transform in state_transformation_fns:
      state_dict, _ = transform(state_dict, state_dict)

    def save_args(path, unused_value) -> ocp.SaveArgs:
      in_target = path[0].key == "target"
      return ocp.SaveArgs(dtype=self._save_dtype if in_target else None)

    args = {checkpoint_reading.STATE_ITEM: ocp.args.PyTreeSave(
        state_dict,
        save_args=jax.tree_util.tree_map_with_path(save_args, state_dict))}
    if self._dataset_iterator is not None:
      args[DATASET_ITEM] = DatasetArgs(
          self._dataset_iterator if self._writes_dataset else None)
    return self._manager.save(
        step, args=ocp.args.Composite(**args), force=force)

  def restore(
      self,
      step: Optional[int] = None,
      path: Optional[str] = None,
      fallback_state: Optional[Mapping[str, Any]] = None,
      state_transformation_fns: Sequence[Callable[..., Any]] = (),
      lazy_parameters: bool = False):
    """Restores a train state, and the data's position if it was given.

    Args:
      step: of a checkpoint in `directory`; or
      path: of any checkpoint.
      fallback_state: see `checkpoint_reading.restore`.
      state_transformation_fns: the same.
      lazy_parameters: for T5X's interface.
    """
    del lazy_parameters
    if (step is None) == (path is None):
      raise ValueError("Give one of `step` and `path`")
    if path is None:
      path = checkpoint_paths.get_checkpoint_dir(self._directory, step)
    state = checkpoint_reading.restore(
        path, self._train_state, self._partitioner,
        dtype=self._restore_dtype, fallback_state=fallback_state,
        state_transformation_fns=state_transformation_fns)
    if self._dataset_iterator is not None:
      self._dataset_handler.restore(
          epath.Path(path) / DATASET_ITEM, DatasetArgs(self._dataset_iterator))
    return state
