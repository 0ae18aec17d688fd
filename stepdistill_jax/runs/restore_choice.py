"""Which checkpoint is read: the newest that its manifest confirms.

A bad one is reported with its path and file, and the one before it is taken;
`--strict` refuses instead. So training, scores and exports do alike. One that
cannot be read (permissions, a network) is not therefore bad: the error is
reported as what it is. Checkpoints of Google's T5X have no manifest and are
read with a line that says so. One of ours that lacks it has lost it: orbax's
metadata, in another file, say that it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import json
import os

from etils import epath

from stepdistill_jax.runs import (
  array_reader as t5x_reader,
  checkpoint_manifest,
  checkpoint_paths,
  run_record,
)
from stepdistill_jax.util import errors, locations, progress

_METADATA_FILE = "_CHECKPOINT_METADATA"
_COMMITTED_FILE = "commit_success.txt"
# What `custom_metadata` of a checkpoint with a manifest holds.
MARK = {"manifest": checkpoint_manifest.MANIFEST_FILE}
# Checkpoints just found good, or without a manifest: what is chosen and
# then restored is not read twice.
_just_checked: set[str] = set()


def _is_marked(checkpoint: epath.Path) -> bool:
  try:
    metadata = json.loads((checkpoint / _METADATA_FILE).read_bytes())
    return bool((metadata["custom_metadata"] or {}).get("manifest"))
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return False


def problems(
    checkpoint: str) -> Sequence[checkpoint_manifest.Problem] | None:
  """What is wrong with a checkpoint's files.

  None where a manifest is missing, and its arrays can be opened: Google's.

  Raises:
    errors.Unreadable: a file that is there cannot be read.
  """
  folder = epath.Path(checkpoint)
  try:
    if (folder / checkpoint_manifest.MANIFEST_FILE).exists():
      return checkpoint_manifest.verify(folder)
    if _is_marked(folder):
      return [checkpoint_manifest.Problem(
          checkpoint_manifest.MANIFEST_FILE, "missing", "is missing")]
    # Object stores do not rename: orbax says there when all is written.
    if "://" in checkpoint and not any(
        (folder / name).exists() for name in (_COMMITTED_FILE, "checkpoint")):
      return [checkpoint_manifest.Problem(
          _COMMITTED_FILE, "missing", "is missing: it was not written whole")]
    t5x_reader.open_checkpoint(checkpoint)
  except errors.Unreadable:
    raise
  except errors.UserError as error:
    return [checkpoint_manifest.Problem(
        t5x_reader.STATE_ITEM, "unreadable", str(error))]
  except (FileNotFoundError, NotADirectoryError) as error:
    return [checkpoint_manifest.Problem(
        os.path.relpath(error.filename or checkpoint, checkpoint),
        "missing", f"cannot be read: {error.strerror}")]
  except OSError as error:
    raise errors.Unreadable(
        f"the checkpoint {checkpoint} cannot be read: "
        f"{error.filename or checkpoint}: {error.strerror or error}"
    ) from error
  return None


def problems_by_name(
    checkpoint: str) -> Sequence[checkpoint_manifest.Problem] | None:
  """As `problems`, and whether its step is that of its name.

  A copied or renamed checkpoint would be taken for the newest, and its step
  would never be saved.
  """
  found = problems(checkpoint)
  named = checkpoint_paths.step_of(os.path.basename(checkpoint))
  if not found and named is not None:
    step = t5x_reader.open_checkpoint(
        checkpoint, wanted=(t5x_reader.STEP,)).step
    if step not in (None, named):
      return [checkpoint_manifest.Problem(
          t5x_reader.STATE_ITEM, "step", f"is of step {step}")]
  return found


def _on_first_host(decide) -> int:
  """A number that host 0 decides on and all hosts get."""
  # Whoever reads a checkpoint without devices does without jax.
  import jax
  from jax.experimental import multihost_utils
  import numpy as np
  if jax.process_count() == 1:
    return decide()
  error, choice = None, -1
  if jax.process_index() == 0:
    try:
      choice = decide()
    except errors.UserError as refused:
      error = refused
  choice = int(multihost_utils.broadcast_one_to_all(
      np.int32(-1 if error else choice)))
  if choice < 0:
    raise error or errors.UserError(
        "host 0 found no good checkpoint; its log says which files are bad")
  return choice


def require_good(checkpoint: str, *, if_not_just_checked: bool = False) -> None:
  """Raises UserError if a checkpoint's files are not what was written.

  Args:
    checkpoint: the folder.
    if_not_just_checked: skip the check, once, if the last call found it good.
  """

  def decide() -> int:
    if if_not_just_checked and checkpoint in _just_checked:
      _just_checked.remove(checkpoint)
      return 0
    _require(checkpoint)
    if if_not_just_checked:
      _just_checked.discard(checkpoint)
    return 0

  _on_first_host(decide)


def _require(checkpoint: str) -> None:
  found = problems(checkpoint)
  if found:
    raise errors.UserError(checkpoint_manifest.describe(checkpoint, found))
  _found_good(checkpoint, found)


def _found_good(checkpoint: str, found) -> None:
  if found is None:
    progress.say(
        f"{checkpoint} has no {checkpoint_manifest.MANIFEST_FILE} (Google's "
        "T5X writes none): it is read without a check of its files")
  _just_checked.add(checkpoint)


def newest_good(checkpoints: Sequence[str]) -> str:
  """The newest good one of a folder's checkpoints, reporting the bad ones.

  Args:
    checkpoints: paths, oldest first; at least one.

  Raises:
    errors.UserError: the newest is bad and `--strict` was given, or all are.
  """
  return checkpoints[_on_first_host(
      lambda: checkpoints.index(
          _newest_good(checkpoints, run_record.launch_option(
              "strict")).checkpoint))]


@dataclasses.dataclass(frozen=True)
class Choice:
  """The checkpoint that is read, and what is wrong with newer ones, in lines.
  """

  checkpoint: str
  passed_over: tuple[str, ...] = ()


def _newest_good(checkpoints: Sequence[str], strict: bool) -> Choice:
  passed_over = []
  for checkpoint in reversed(checkpoints):
    found = problems_by_name(checkpoint)
    if not found:
      _found_good(checkpoint, found)
      return Choice(checkpoint, tuple(passed_over))
    line = checkpoint_manifest.describe(checkpoint, found)
    if strict:
      raise errors.UserError(
          f"{line}; without --strict the one before it is used")
    passed_over.append(line)
    if checkpoint == checkpoints[0]:
      raise errors.UserError(
          f"{line}; no good checkpoint is left in "
          f"{os.path.dirname(checkpoint)}")
    progress.say(f"warning: {line}; trying the one before it")
  raise AssertionError("no checkpoint given")


def choose(path: str | os.PathLike[str], *, strict: bool = False) -> Choice:
  """The checkpoint that a path means; for readers without devices.

  Args:
    path: a checkpoint, which must be good, or a folder of some, for the newest
      good one.
    strict: refuse a folder whose newest is bad.

  Raises:
    errors.UserError: there is none, or none that is good.
  """
  folder = locations.absolute(path)
  steps = checkpoint_paths.all_steps(folder)
  if steps and not checkpoint_paths.layout_of(folder):
    return _newest_good([checkpoint_paths.get_checkpoint_dir(folder, step)
                         for step in steps], strict)
  checkpoint = t5x_reader.resolve(folder)
  _require(checkpoint)
  return Choice(checkpoint)


def all_good(checkpoints: Sequence[str]) -> list[str]:
  """Those without a problem; the others are reported, or refused."""
  good = []
  for checkpoint in checkpoints:
    try:
      require_good(checkpoint)
      good.append(checkpoint)
    except errors.UserError as error:
      if run_record.launch_option("strict"):
        raise
      progress.say(f"warning: {error}; left out")
  return good


def set_aside(checkpoint: str) -> str:
  """Renames a bad checkpoint, so that its step can be saved again."""
  number, target = 1, epath.Path(checkpoint + ".bad")
  while target.exists():
    number += 1
    target = epath.Path(f"{checkpoint}.bad{number}")
  epath.Path(checkpoint).rename(target)
  progress.say(f"{checkpoint} is now {target}: training saves that step again")
  return os.fspath(target)
