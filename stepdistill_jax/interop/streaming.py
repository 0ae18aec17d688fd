"""Long conversions: in blocks of rows, resumable, with progress.

A conversion is a list of tensors. Each is copied a block at a time, so that
memory does not grow with the model, and entered in a journal when it is done,
so that the next attempt goes on after it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import errno
import json
import os
import pathlib
import shutil
import time
from typing import Any

import numpy as np
import rich.console

from stepdistill_jax.util import errors, progress

# Large enough for a disk's full speed, small beside any model. Some ten are in
# memory at once: those in flight, each as it was read, chunked and compressed.
BLOCK_BYTES = 16 * 2**20
JOURNAL_FILE = "conversion_journal.jsonl"
_SYNC_BYTES = 4 * 2**30  # Between waits for the disk.
_SYNCED = {"synced": True}
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_OF_TENSORSTORE = ("RESOURCE_EXHAUSTED", "No space left", "PERMISSION_DENIED")


def require_finite(block: np.ndarray, name: str, start: int) -> None:
  """Raises errors.UserError for a block that has NaN or infinite values.

  Args:
    block: rows of a tensor.
    name: of the tensor.
    start: number of the first row.
  """
  finite = np.isfinite(block)
  if not finite.all():
    raise errors.UserError(
        f"{name} has {finite.size - np.count_nonzero(finite):,} values that "
        f"are not finite in rows {start:,} to {start + len(block):,}; the "
        "checkpoint is broken (float16 is too small for many, such as T5): "
        "take another one")


def rows_per_block(rows: int, row_bytes: int,
                   block_bytes: int | None = None) -> int:
  """How many rows to move at once, so that blocks are of nearly one size.

  Args:
    rows: of the array.
    row_bytes: of one.
    block_bytes: at most, unless one row is more; None is BLOCK_BYTES.

  >>> rows_per_block(rows=1000, row_bytes=8, block_bytes=4000)
  500
  """
  blocks = max(1, -(-rows * row_bytes // (block_bytes or BLOCK_BYTES)))
  return max(1, -(-rows // blocks))


def row_ranges(rows: int, step: int) -> Iterator[tuple[int, int]]:
  """Yields (start, stop) of consecutive blocks."""
  for start in range(0, rows, step):
    yield start, min(start + step, rows)


class InFlight:
  """Keeps a few asynchronous writes going, no more."""

  def __init__(self, limit: int = 2):
    self._limit = limit
    self._futures = collections.deque()

  def add(self, future) -> None:
    self._futures.append(future)
    while len(self._futures) > self._limit:
      self._futures.popleft().result()

  def wait(self) -> None:
    while self._futures:
      self._futures.popleft().result()


@dataclasses.dataclass(frozen=True)
class Task:
  """One tensor's conversion.

  Attributes:
    name: unique within the conversion.
    nbytes: that are read.
    run: does it, calling its argument with each number of bytes done.
  """

  name: str
  nbytes: int
  run: Callable[[Callable[[int], None]], None]


def _boot_id() -> str:
  """Differs after the machine was started again."""
  try:
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
  except OSError:
    return ""


class Journal:
  """Which tasks of a conversion are done; survives the process.

  Waiting for the disk after every array would take longer than writing it. So
  the disk is waited for every few GB, and what was written after that counts
  as done only as long as the machine has not been started again.
  """

  def __init__(self, file: pathlib.Path, identity: Mapping[str, Any],
               boot_id: Callable[[], str] = _boot_id):
    """Opens or begins a journal.

    Args:
      file: in the folder that is being written.
      identity: what the result depends on; JSON.
      boot_id: tells starts of the machine apart.

    Raises:
      errors.UserError: the journal there is of another conversion.
    """
    self._file = file
    header = {"identity": json.loads(json.dumps(identity)), "boot": boot_id()}
    before, lines = self._read()
    self.done: set[str] = set()
    if before:
      _check_identity(before["identity"], header["identity"], file.parent)
      if before["boot"] != header["boot"]:
        synced = [i for i, line in enumerate(lines) if line == _SYNCED]
        lines = lines[:synced[-1] + 1] if synced else []
      self.done = {line["done"] for line in lines if line != _SYNCED}
    file.write_text("".join(
        json.dumps(line) + "\n" for line in [header, *lines]),
                    encoding="utf-8")

  def _read(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header, empty if there is none, and the lines after it."""
    if not self._file.exists():
      return {}, []
    text = self._file.read_text(encoding="utf-8")
    # A line without its end was cut off by a kill.
    lines = [json.loads(line)
             for line in text[:text.rfind("\n") + 1].splitlines()]
    return (lines[0], lines[1:]) if lines else ({}, [])

  def _append(self, line: Mapping[str, Any]) -> None:
    with self._file.open("a", encoding="utf-8") as stream:
      stream.write(json.dumps(line) + "\n")

  def mark(self, name: str) -> None:
    """Enters a task as done."""
    self._append({"done": name})

  def sync(self) -> None:
    """Waits until all that was written is on the disk."""
    os.sync()
    self._append(_SYNCED)


def _check_identity(before, now, folder: pathlib.Path) -> None:
  differing = [k for k in sorted({*before, *now})
               if before.get(k) != now.get(k)]
  if differing:
    raise errors.UserError(
        f"{folder} holds the unfinished result of another conversion (it "
        f"differs in: {', '.join(differing)}); remove that folder, or give "
        "another --output")


class Progress:
  """Bytes of a conversion: a bar in a terminal, lines elsewhere."""

  def __init__(self, title: str, total_bytes: int, *, quiet: bool = False,
               stream=None, now: Callable[[], float] = time.monotonic):
    self._title, self._total = title, total_bytes
    self._done = self._skipped = 0
    self._bars = progress.Bars(
        "MB", quiet=quiet, clock=now,
        console=rich.console.Console(file=stream) if stream else None)
    self._bars.__enter__()

  def skip(self, count: int) -> None:
    """Counts bytes that were done before."""
    self._skipped += count
    self._done += count

  def advance(self, count: int) -> None:
    """Counts bytes that were done now."""
    self._done += count
    self._bars.update(self._done // 10**6, self._total // 10**6, self._title,
                      first=self._skipped // 10**6)

  def close(self) -> None:
    self._bars.__exit__()


def check_free_space(folder: pathlib.Path, needed: int) -> None:
  """Raises UserError where a disk has clearly too little space.

  Args:
    folder: that will be written; it need not exist yet.
    needed: bytes.
  """
  while not folder.exists():
    folder = folder.parent
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise errors.UserError(
        f"{folder} has {free / 1e9:.1f} GB free; the conversion needs about "
        f"{needed / 1e9:.1f} GB")


def make_folder(folder: pathlib.Path) -> None:
  """Makes a folder to write to; raises UserError if that cannot be."""
  with errors.reported(OSError, lambda error: f"cannot make {folder}: {error}"):
    folder.mkdir(parents=True, exist_ok=True)


def run(tasks: Sequence[Task], journal: Journal, title: str, *,
        quiet: bool = False) -> None:
  """Runs the tasks that are not yet done, in order.

  When this returns, all is on the disk.

  Args:
    tasks: all of the conversion.
    journal: of what was done before.
    title: of the progress.
    quiet: shows none.

  Raises:
    errors.UserError: the disk is full, or cannot be written.
  """
  unsynced = 0
  shown = Progress(title, sum(task.nbytes for task in tasks), quiet=quiet)
  try:
    for task in tasks:
      if task.name in journal.done:
        shown.skip(task.nbytes)
        continue
      task.run(shown.advance)
      journal.mark(task.name)
      unsynced += task.nbytes
      if unsynced > _SYNC_BYTES:
        journal.sync()
        unsynced = 0
    journal.sync()
  except (OSError, ValueError) as error:
    # TensorStore raises ValueErrors for the same, with details in brackets.
    if getattr(error, "errno", None) not in _DISK_ERRORS and not any(
        word in str(error) for word in _OF_TENSORSTORE):
      raise
    raise errors.UserError(
        f"cannot write: {str(error).split(' [')[0]}; mend that and run the "
        "same command again, it goes on where it stopped") from error
  finally:
    shown.close()
