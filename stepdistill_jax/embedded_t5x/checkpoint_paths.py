"""Names of checkpoints: `MODEL_DIR/checkpoint_STEP`."""

from __future__ import annotations

import os
import re
from typing import Optional, Sequence, Tuple

from etils import epath
import gin

TRAIN_DS_PREFIX = "train_ds"


@gin.configurable
def get_checkpoint_prefix(prefix: str = "checkpoint") -> str:
  return prefix


def _numbered(folder: str) -> Sequence[Tuple[int, epath.Path]]:
  path = epath.Path(folder)
  pattern = re.compile(rf"{re.escape(get_checkpoint_prefix())}_(\d+)")
  matches = [(pattern.fullmatch(p.name), p)
             for p in (path.iterdir() if path.is_dir() else ())]
  return sorted((int(m.group(1)), p) for m, p in matches if m)


def all_steps(checkpoints_dir: str) -> Sequence[int]:
  """Steps with a finished checkpoint, ascending."""
  return [step for step, _ in _numbered(checkpoints_dir)]


def is_checkpoint(path: str) -> bool:
  """Whether a path looks like a checkpoint of any layout that is read."""
  folder = epath.Path(path)
  return (folder.is_file() or epath.Path(path + ".index").exists()
          or any((folder / name).exists()
                 for name in ("state", "_METADATA", "checkpoint")))


def all_dataset_checkpoint_steps(checkpoints_dir: str) -> Sequence[int]:
  """Steps whose checkpoint has the state of the training data too."""
  return [step for step, path in _numbered(checkpoints_dir)
          if list(path.glob(f"{TRAIN_DS_PREFIX}-*"))
          or list(path.glob(f"dataset/**/{TRAIN_DS_PREFIX}-*"))]


def latest_step(checkpoints_dir: str) -> Optional[int]:
  steps = all_steps(checkpoints_dir)
  return steps[-1] if steps else None


def get_checkpoint_dir(
    checkpoints_dir: str, step: int,
    step_format_fixed_length: Optional[int] = None) -> str:
  number = str(step).zfill(step_format_fixed_length or 0)
  return os.path.join(checkpoints_dir, f"{get_checkpoint_prefix()}_{number}")


def get_step_from_checkpoint_dir(checkpoint_dir: str) -> Tuple[str, int]:
  """Splits `DIR/checkpoint_STEP` into (DIR, STEP)."""
  parent, name = os.path.split(checkpoint_dir.rstrip("/"))
  match = re.fullmatch(rf"{re.escape(get_checkpoint_prefix())}_(\d+)", name)
  if not match:
    raise ValueError(
        f"'{checkpoint_dir}' is not named {get_checkpoint_prefix()}_STEP")
  return parent, int(match.group(1))
