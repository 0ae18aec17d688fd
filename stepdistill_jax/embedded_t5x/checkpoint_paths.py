"""Names of checkpoints: `MODEL_DIR/checkpoint_STEP`."""

from __future__ import annotations

import os
import re
from typing import Sequence

from etils import epath
import gin

TRAIN_DS_PREFIX = "train_ds"


@gin.configurable
def get_checkpoint_prefix(prefix: str = "checkpoint") -> str:
  return prefix


def _step_of(name: str) -> int | None:
  match = re.fullmatch(rf"{re.escape(get_checkpoint_prefix())}_(\d+)", name)
  return int(match[1]) if match else None


def all_steps(checkpoints_dir: str) -> Sequence[int]:
  """Steps with a finished checkpoint, ascending."""
  path = epath.Path(checkpoints_dir)
  steps = [_step_of(p.name) for p in (path.iterdir() if path.is_dir() else ())]
  return sorted(step for step in steps if step is not None)


def is_checkpoint(path: str) -> bool:
  """Whether a path looks like a checkpoint of any layout that is read."""
  folder = epath.Path(path)
  return (folder.is_file() or epath.Path(path + ".index").exists()
          or any((folder / name).exists()
                 for name in ("state", "_METADATA", "checkpoint")))


def latest_step(checkpoints_dir: str) -> int | None:
  return max(all_steps(checkpoints_dir), default=None)


def get_checkpoint_dir(checkpoints_dir: str, step: int,
                       step_format_fixed_length: int | None = None) -> str:
  number = str(step).zfill(step_format_fixed_length or 0)
  return os.path.join(checkpoints_dir, f"{get_checkpoint_prefix()}_{number}")


def get_step_from_checkpoint_dir(checkpoint_dir: str) -> tuple[str, int]:
  """Splits `DIR/checkpoint_STEP` into (DIR, STEP)."""
  parent, name = os.path.split(checkpoint_dir.rstrip("/"))
  if (step := _step_of(name)) is None:
    raise ValueError(
        f"'{checkpoint_dir}' is not named {get_checkpoint_prefix()}_STEP")
  return parent, step
