"""What gin files say about saving and restoring checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import functools
import os
import re
from typing import Any

from etils import epath
import jax

from stepdistill_jax.config import setting_checks
from stepdistill_jax.embedded_t5x import checkpoints, state_utils
from stepdistill_jax.runs import checkpoint_paths, restore_choice
from stepdistill_jax.util import errors, locations


def _check_assignment_map(rules: Any) -> None:
  for rule in rules:
    if isinstance(rule, str) or len(rule) != 2:
      raise errors.InvalidValue(
          "`RestoreCheckpointConfig.assignment_map` must be a list of "
          f"(pattern, replacement) pairs; got {rule!r}")
    try:
      re.compile(rule[0])
    except re.error as error:
      raise errors.InvalidValue(
          "`RestoreCheckpointConfig.assignment_map`: the pattern "
          f"{rule[0]!r} is no regular expression: {error}") from error


@dataclasses.dataclass
class SaveCheckpointConfig:
  """When and how checkpoints are written.

  Attributes:
    dtype: of the saved parameters, `float32` or `bfloat16`; the optimizer's
      state keeps its own.
    period_minutes: save when so much time has passed since the last save, at
      the next step at which metrics are written. T5X has no such option.
    keep: number of latest checkpoints to keep; None keeps all. Multiples, and
      the best by a metric: see `checkpoints.SaveBestCheckpointer`.
    checkpointer_cls: `checkpoints.SaveBestCheckpointer` keeps the best.
    state_transformation_fns: applied to the state dict before writing.
  """

  dtype: str | None = "float32"
  period: int | None = None
  checkpoint_steps: Sequence[int] | None = None
  keep: int | None = None
  keep_dataset_checkpoints: int | None = None
  save_dataset: bool = False
  checkpointer_cls: Callable[..., Any] = checkpoints.Checkpointer
  state_transformation_fns: Sequence[Callable[..., Any]] = dataclasses.field(
      default_factory=list)
  checkpoint_manager_cls: Callable[..., Any] = (
      checkpoints.OrbaxCheckpointManagerInterface)
  period_minutes: float | None = None

  def __post_init__(self):
    setting_checks.require_choice(
        "SaveCheckpointConfig.dtype", self.dtype, (None, "float32", "bfloat16"))


@dataclasses.dataclass
class RestoreCheckpointConfig:
  """Which checkpoint to restore, and how.

  Attributes:
    path: of the checkpoint (mode `specific`), or of the folder that holds
      checkpoints; may be a list: of folders, the first that has any counts.
    mode: `specific`, `latest` or `all` of the folder's checkpoints.
    assignment_map: (pattern, replacement) pairs that rename entries; see
      `state_utils.apply_assignment_map`.
    strict: for TensorFlow checkpoints: every parameter must be there.
    fallback_to_scratch: initialize what the checkpoint lacks.
    dtype: of the restored parameters; None keeps the saved one.
    state_transformation_fns: applied after reading, after `assignment_map`.
  """

  path: str | Sequence[str]
  mode: str = "latest"
  assignment_map: Sequence[tuple[str, str | None]] | None = None
  strict: bool = True
  fallback_to_scratch: bool = False
  dtype: str | None = None
  restore_dataset: bool = False
  checkpointer_cls: Callable[..., Any] = checkpoints.Checkpointer
  state_transformation_fns: Sequence[Callable[..., Any]] = ()
  checkpoint_manager_cls: Callable[..., Any] = (
      checkpoints.OrbaxCheckpointManagerInterface)

  def __post_init__(self):
    setting_checks.require_choice(
        "RestoreCheckpointConfig.mode", self.mode,
        ("specific", "latest", "all"))
    setting_checks.require_choice(
        "RestoreCheckpointConfig.dtype", self.dtype,
        (None, "float32", "bfloat16", "float16"))
    if self.assignment_map is not None:
      _check_assignment_map(self.assignment_map)
      rename = functools.partial(
          state_utils.apply_assignment_map, assignment_map=self.assignment_map)
      self.state_transformation_fns = (rename, *self.state_transformation_fns)

  @property
  def paths(self) -> Sequence[str]:
    paths = self.path or ()
    if isinstance(paths, (str, os.PathLike)):
      paths = [paths]
    return [locations.absolute(path) for path in paths]


@dataclasses.dataclass
class CheckpointConfig:
  """Both; either may be None."""

  save: SaveCheckpointConfig | None = None
  restore: RestoreCheckpointConfig | None = None


def _folder_of(path: str) -> str:
  """The checkpoint's folder, where an older one's index is named, as T5X may.
  """
  folder, name = os.path.split(path)
  return folder if name == "checkpoint" and epath.Path(path).is_file() else path


def get_first_valid_restore_config_and_paths(
    restore_cfgs: Sequence[RestoreCheckpointConfig]
) -> tuple[RestoreCheckpointConfig | None, Sequence[str]]:
  """Finds the first config with something to restore.

  Args:
    restore_cfgs: in order of preference. A config of mode `specific` always
      counts, one of mode `latest` or `all` if its folders have checkpoints.

  Returns:
    The config and the paths of its checkpoints, ascending by step; (None, [])
    if there is none.

  Checkpoints that are not what was written are left out, and reported.

  Raises:
    errors.UserError: a path does not exist, or no checkpoint is good.
  """
  for cfg in restore_cfgs:
    if cfg.mode == "specific":
      paths = [_folder_of(path) for path in cfg.paths]
      for path in paths:
        if not epath.Path(path + ".index").exists():  # TensorFlow's.
          checkpoint_paths.require(path)
          restore_choice.require_good(path)
      if paths:
        return cfg, paths
      continue
    for folder in cfg.paths:  # The first that has any, as in T5X.
      if not locations.is_dir(folder):
        raise errors.InvalidValue(
            f"no folder of checkpoints at {folder} (mode {cfg.mode!r})")
      found = [checkpoint_paths.get_checkpoint_dir(folder, step)
               for step in checkpoint_paths.all_steps(folder)]
      if found and cfg.mode == "latest":
        return cfg, [restore_choice.newest_good(found)]
      if found:
        return cfg, restore_choice.all_good(found)
  return None, []


def find_one(restore_cfg: RestoreCheckpointConfig,
             needed_by: str) -> tuple[RestoreCheckpointConfig, str]:
  """The config and its only checkpoint's path; UserError if not just one."""
  cfg, paths = get_first_valid_restore_config_and_paths([restore_cfg])
  if len(paths) != 1:
    raise errors.InvalidValue(
        f"{needed_by} needs one checkpoint; {restore_cfg.path} "
        f"(mode {restore_cfg.mode!r}) has {len(paths)}")
  return cfg, paths[0]


def initial_checkpoint(
    model_dir: str, save_cfg: SaveCheckpointConfig | None,
    restore_cfg: RestoreCheckpointConfig | None
) -> tuple[RestoreCheckpointConfig | None, str | None]:
  """What training begins from.

  Returns:
    (how to restore, path), or (None, None) to begin from scratch.
  """
  candidates = []
  if os.path.isdir(model_dir) or "://" in model_dir:
    candidates.append(RestoreCheckpointConfig(
        path=model_dir, mode="latest",  # In the saved dtype: no more rounding.
        restore_dataset=bool(save_cfg and save_cfg.save_dataset)))
  if restore_cfg is not None and restore_cfg.path:
    if restore_cfg.mode == "all":
      raise errors.UserError(
          "RestoreCheckpointConfig.mode='all' cannot begin a training; "
          "use 'specific' or 'latest'")
    candidates.append(restore_cfg)
  cfg, paths = get_first_valid_restore_config_and_paths(
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
