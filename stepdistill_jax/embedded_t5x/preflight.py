"""Checks before anything is compiled: data, vocabularies, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import seqio

from stepdistill_jax.config import setting_checks
from stepdistill_jax.data import fingerprints
from stepdistill_jax.embedded_t5x import checkpoint_config, datasets
from stepdistill_jax.runs import (
  checkpoint_paths,
  restore_choice,
  run_lock,
  run_record,
)
from stepdistill_jax.util import errors, progress


def check_data(cfg: datasets.DatasetConfig, partitioner,
               advice: str = "") -> None:
  """Raises UserError unless a config's data can be read in even batches.

  Args:
    cfg: what is read.
    partitioner: over which devices.
    advice: ends the error where there is no such split.
  """
  setting_checks.whole_number("BATCH_SIZE", cfg.batch_size)
  for name, length in (cfg.task_feature_lengths or {}).items():
    if length is not None:
      setting_checks.whole_number(f"TASK_FEATURE_LENGTHS[{name!r}]", length)
  partitioner.get_data_layout(cfg.batch_size)
  provider = datasets.find_task(cfg)
  tasks = seqio.get_subtasks(provider)
  for task in tasks:
    for name, feature in task.output_features.items():
      _check_vocabulary(
          f"task {task.name}: the vocabulary of {name!r}", feature.vocabulary)
  with errors.reported(Exception, lambda error: (  # Sources raise any.
      f"task {provider.name}: its data cannot be read "
      f"({errors.first_line(error)}); set --records_dir to the folder that "
      "holds it")):
    splits = {split for task in tasks for split in (task.splits or ())}
    files = {task.name: task.source.list_shards(cfg.split) for task in tasks
             if cfg.split in (task.splits or ())}
  if not files:
    raise errors.UserError(
        f"task {provider.name} has no split {cfg.split!r}; it has "
        f"{sorted(splits) or 'none'}{advice}")
  for name, shards in files.items():
    if not shards:
      raise errors.UserError(
          f"task {name}: there are no files for split {cfg.split!r}")
  if cfg.use_cached:
    for task in tasks:
      if task.supports_caching and not task.cache_dir:
        raise errors.UserError(
            f"task {task.name} is not cached: pass "
            "--gin.USE_CACHED_TASKS=False, or its folder with "
            "--seqio_additional_cache_dirs")


def _check_vocabulary(name: str, vocabulary: seqio.Vocabulary) -> None:
  path = getattr(vocabulary, "sentencepiece_model_file", "") or vocabulary
  with errors.reported(Exception, lambda error: (
      f"{name} cannot be loaded from {path} ({errors.first_line(error)})")):
    _ = vocabulary.vocab_size  # Loads it.


def make_folder(model_dir: str) -> None:
  """Makes the run folder; raises UserError if that cannot be."""
  with errors.reported(OSError, lambda error: (
      f"cannot make MODEL_DIR={model_dir}: "
      f"{error.strerror or errors.first_line(error)}; take another one")):
    epath.Path(model_dir).mkdir(parents=True, exist_ok=True)


def check_folder_is_there(model_dir: str) -> None:
  """Raises UserError if the run folder was deleted, or is another now."""
  if "://" not in model_dir and not any(
      os.path.exists(os.path.join(model_dir, name))
      for name in (run_lock.FILE_NAME, run_record.FILE_NAME)):
    raise errors.UserError(
        f"MODEL_DIR={model_dir} was deleted or moved while the run worked in "
        "it; nothing is saved. Put it back and give the same command again")


def find_checkpoint(
    model_dir: str, save_cfg: checkpoint_config.SaveCheckpointConfig | None,
    restore_cfg: checkpoint_config.RestoreCheckpointConfig | None
) -> tuple[checkpoint_config.RestoreCheckpointConfig | None, str | None]:
  """What training begins from.

  Returns:
    (how to restore, path), or (None, None) to begin from scratch.
  """
  candidates = []
  if os.path.isdir(model_dir) or "://" in model_dir:
    candidates.append(checkpoint_config.RestoreCheckpointConfig(
        path=model_dir, mode="latest",  # In the saved dtype: no more rounding.
        restore_dataset=bool(save_cfg and save_cfg.save_dataset)))
  if restore_cfg is not None and restore_cfg.path:
    if restore_cfg.mode == "all":
      raise errors.UserError(
          "RestoreCheckpointConfig.mode='all' cannot begin a training; "
          "use 'specific' or 'latest'")
    candidates.append(restore_cfg)
  cfg, paths = checkpoint_config.get_first_valid_restore_config_and_paths(
      candidates)
  if len(paths) > 1:
    raise errors.UserError(
        f"training begins from one checkpoint, not from {list(paths)}")
  if not paths:
    return cfg, None
  folder = os.path.dirname(paths[0].rstrip("/"))
  if folder == model_dir.rstrip("/") and jax.process_index() == 0:
    # Newer ones are bad, and their steps will be saved again.
    _, step = checkpoint_paths.get_step_from_checkpoint_dir(paths[0])
    for newer in checkpoint_paths.all_steps(folder):
      if newer > step:
        restore_choice.set_aside(
            checkpoint_paths.get_checkpoint_dir(folder, newer))
  return cfg, paths[0]


def tell_whose_steps(path: str, train_state) -> None:
  """Reports which steps a run counts that begins from another's checkpoint.

  Args:
    path: of the checkpoint.
    train_state: as it was restored from that.
  """
  step = int(jax.device_get(train_state.step))
  saved = checkpoint_paths.step_of(os.path.basename(path.rstrip("/")))
  if step == 0 and saved:
    progress.say(
        f"begins from {path}: the {saved} steps of that do not count, neither "
        "in TRAIN_STEPS nor in schedules and periods")
  counts = [int(jax.device_get(x)) for key, x in (  # Optax's, of schedules.
      jax.tree_util.tree_leaves_with_path(train_state.param_states))
            if getattr(key[-1], "name", None) == "count"]
  if step and counts and max(counts) == 0:
    progress.say(
        f"warning: begins from {path} at step {step}, but the optimizer counts "
        "its steps, and follows its own schedule, from 0: learning_rate in "
        "the logs and schedules of weights are those of other steps; bind "
        "utils.RestoreCheckpointConfig.assignment_map = "
        "((r'state/.*', None),) to begin from 0 in all of them")


def require_finite(path: str, params: Any) -> None:
  """Raises errors.UserError if a restored parameter has a value like NaN.

  Args:
    path: of the checkpoint, for the error.
    params: as they were restored.
  """
  count = jax.jit(lambda x: jnp.sum(~jnp.isfinite(x)))
  for key, value in jax.tree_util.tree_leaves_with_path(params):
    if bad := int(jax.device_get(count(value))):
      name = "/".join(str(getattr(part, "key", part)) for part in key)
      raise errors.UserError(
          f"{path}: {name} has {bad:,} of {value.size:,} values that are not "
          "finite; the checkpoint is broken: begin from another one")


def describe_data(cfg: datasets.DatasetConfig) -> Mapping[str, Any]:
  """Name, split and fingerprints of a data set, for the run's record."""
  provider = datasets.find_task(cfg)
  tasks = [task for task in sorted(
      seqio.get_subtasks(provider), key=lambda t: t.name)
           if cfg.split in (task.splits or ())]
  files = [fingerprints.files_of(task, cfg.split) for task in tasks]
  folders = {str(f.parent.absolute()) for of_task in files for f in of_task}
  return {"task": provider.name, "split": cfg.split,
          "task_feature_lengths": dict(cfg.task_feature_lengths or {}),
          "batch_size": cfg.batch_size, "pack": cfg.pack,
          "shuffle": cfg.shuffle, "folders": sorted(folders),
          "files_sha256": fingerprints.digest_of(files),
          "vocabularies_sha256": fingerprints.vocabularies_of(*tasks)}
