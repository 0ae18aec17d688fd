"""Checkpoints that stay, and what kind a checkpoint is; names of T5X's."""

from __future__ import annotations

import enum
import os

from etils import epath

from stepdistill_jax.runs import retention
from stepdistill_jax.runs.retention import is_pinned as is_pinned_checkpoint


class CheckpointTypes(enum.Enum):
  """Layouts: orbax's, T5X's older one, TensorFlow's."""

  ORBAX = "ORBAX"
  T5X = "T5X"
  T5X_TF = "T5X_TF"


def pinned_checkpoint_filepath(ckpt_dir: str) -> str:
  """The file whose presence keeps a checkpoint."""
  return os.path.join(ckpt_dir, retention.PINNED_FILE)


def pin_checkpoint(ckpt_dir: str, txt: str = "1") -> None:
  """Keeps a checkpoint, however old it becomes."""
  epath.Path(pinned_checkpoint_filepath(ckpt_dir)).write_text(txt)


def unpin_checkpoint(ckpt_dir: str) -> None:
  """Lets a checkpoint be deleted again."""
  epath.Path(pinned_checkpoint_filepath(ckpt_dir)).unlink(missing_ok=True)


def remove_checkpoint_dir(ckpt_dir: str) -> None:
  """Deletes a checkpoint, unless it is pinned."""
  if not is_pinned_checkpoint(ckpt_dir):
    retention.delete(ckpt_dir)


def remove_dataset_checkpoint(ckpt_dir: str, train_ds_prefix: str) -> None:
  """Deletes a checkpoint's positions in the data, unless it is pinned."""
  if not is_pinned_checkpoint(ckpt_dir):
    for file in epath.Path(ckpt_dir).glob(f"{train_ds_prefix}*"):
      file.unlink()


def detect_checkpoint_type(
    checkpoint_path: str | os.PathLike[str],
    expected: CheckpointTypes | None = None) -> CheckpointTypes:
  """What kind of checkpoint the file `checkpoint` belongs to.

  Args:
    checkpoint_path: `MODEL_DIR/checkpoint_STEP/checkpoint`.
    expected: for T5X's interface.
  """
  del expected
  path = epath.Path(checkpoint_path)
  if (path.parent / "_METADATA").exists():
    return CheckpointTypes.ORBAX
  with path.open("rb") as file:
    is_tensorflow = file.read(21) == b"model_checkpoint_path"
  return CheckpointTypes.T5X_TF if is_tensorflow else CheckpointTypes.T5X
