"""Names of checkpoints, `MODEL_DIR/checkpoint_STEP`, and their layouts."""

from collections.abc import Sequence
import os
import re

from etils import epath
import gin

from stepdistill_jax.util import errors, locations, remote_storage

TRAIN_DS_PREFIX = "train_ds"
# T5X's layouts of a checkpoint, and what is said where there is neither.
CURRENT, OLDER = "current", "older"
STATE_ITEM = "state"
NEITHER_LAYOUT = ("neither `state/_METADATA` (current T5X) nor a `checkpoint` "
                  "file (older T5X)")


@gin.configurable
def get_checkpoint_prefix(prefix: str = "checkpoint") -> str:
  return prefix


def step_of(name: str) -> int | None:
  """The step in a checkpoint's name; None if it is not such a name."""
  match = re.fullmatch(
      rf"{re.escape(get_checkpoint_prefix())}_([0-9]+)", name)
  return int(match[1]) if match else None


def all_steps(checkpoints_dir: str) -> Sequence[int]:
  """Steps with a finished checkpoint, ascending."""
  path = epath.Path(checkpoints_dir)
  steps = [step_of(p.name) for p in (
      path.iterdir() if locations.is_dir(path) else ())]
  return sorted(step for step in steps if step is not None)


def all_dataset_checkpoint_steps(checkpoints_dir: str) -> Sequence[int]:
  """Steps whose checkpoints hold a position in the data, ascending."""
  return [step for step in all_steps(checkpoints_dir)
          if any(epath.Path(get_checkpoint_dir(checkpoints_dir, step)).glob(
              f"**/{TRAIN_DS_PREFIX}-*"))]


def layout_of(path: str | os.PathLike[str]) -> str | None:
  """Which of T5X's layouts a checkpoint has: CURRENT, OLDER or None."""
  folder = epath.Path(path)
  if (folder / STATE_ITEM).is_dir() or (folder / "_METADATA").exists():
    return CURRENT
  if folder.is_file() or (folder / "checkpoint").exists():
    return OLDER
  return None


def require(path: str | os.PathLike[str]) -> None:
  """Raises InvalidValue where no checkpoint is, saying what is there."""
  if layout_of(path):
    return
  folder = epath.Path(path)
  steps, beside = all_steps(folder), all_steps(folder.parent)
  if steps:
    found = (f"it holds the checkpoints of steps {steps[-5:]}; name one "
             f"({get_checkpoint_dir(path, steps[-1])}) or use mode 'latest'")
  elif (folder / "config.json").exists():
    found = ("it is a Hugging Face folder: see `stepdistill checkpoint "
             "import-hf`")
  elif folder.exists():
    found = f"it holds no checkpoint_STEP folders, {NEITHER_LAYOUT}"
  elif beside:
    found = f"{folder.parent} has steps {beside[-5:]}"
  else:
    found = ("there is no such folder; a name on the Hugging Face hub is "
             "imported first: `stepdistill checkpoint import-hf NAME`")
  raise errors.InvalidValue(f"no checkpoint at {path}: {found}")


def latest_step(checkpoints_dir: str) -> int | None:
  return max(all_steps(checkpoints_dir), default=None)


def get_checkpoint_dir(checkpoints_dir: str, step: int,
                       step_format_fixed_length: int | None = None) -> str:
  number = str(step).zfill(step_format_fixed_length or 0)
  return os.path.join(checkpoints_dir, f"{get_checkpoint_prefix()}_{number}")


def get_step_from_checkpoint_dir(checkpoint_dir: str) -> tuple[str, int]:
  """Splits `DIR/checkpoint_STEP` into (DIR, STEP)."""
  parent, name = os.path.split(checkpoint_dir.rstrip("/"))
  if (step := step_of(name)) is None:
    raise ValueError(
        f"'{checkpoint_dir}' is not named {get_checkpoint_prefix()}_STEP")
  return parent, step


def unreadable(what: str, error: Exception) -> errors.UserError:
  """The error to raise where a library cannot read a checkpoint.

  It gives the library's own reason. Damage is not the only one, and is not
  called so: `checkpoint_manifest` proves it.

  Args:
    what: the checkpoint, or an array of it.
    error: of the library; its first cause is what the line says.
  """
  if isinstance(error, errors.UserError):
    return error
  if remote_storage.is_unreachable(error):
    return errors.Unreadable(f"{what}: {remote_storage.explain(error)}")
  while error.__cause__ is not None:
    error = error.__cause__
  why = re.split(r" \[|\n", str(error))[0][:300] or type(error).__name__
  return errors.Unreadable(f"{what} cannot be read: {why}")
