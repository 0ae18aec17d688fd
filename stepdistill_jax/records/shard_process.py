"""A second process that writes or reads the shards of one large split.

It is a fresh interpreter with pipes, not a fork (TensorFlow and JAX have
threads) and not `multiprocessing` (which would run the user's main module
again). Its first line of input says what to do; values travel as JSON, a
batch of records a line:

    writing   in: batches …, null                 out: the split's entry
    reading   in: nothing more                    out: batches …, null

An input that ends without `null` is that of a parent that was killed: the
shards stay as unfinished as their folder is named. A last line with `error`
tells what went wrong, and the parent raises it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any, BinaryIO

from stepdistill_jax.records import shards, tfrecord_files

_MODULE = "stepdistill_jax.records.shard_process"
# Of a batch; few enough that neither process waits long for the other.
_BATCH_CHARACTERS = 2**17
_Process = Any  # A Popen, whose type does not say that it has its pipes.


def writer(folder: str, stem: str, number: int, names: Sequence[str]
           ) -> Writer | None:
  """A `shards.ShardFiles` in a second process; None if there can be none."""
  process = _start({"do": "write", "arguments": [folder, stem, number, names]})
  return Writer(process) if process else None


def read(paths: Iterable[str | pathlib.Path], names: Sequence[str]
         ) -> Iterator[Sequence[str]]:
  """Yields the values of the shards' examples, read by a second process.

  Args:
    paths: the shards, in order.
    names: of the features whose values are wanted; empty where one is absent.

  Raises:
    tfrecord_files.CorruptFileError: a shard is damaged or cannot be read.
  """
  names_of_files = list(map(str, paths))
  process = _start({"do": "read", "arguments": [names_of_files, names]})
  if process is None:
    yield from _values(names_of_files, names)
    return
  try:
    for line in process.stdout:
      batch = json.loads(line)
      if batch is None:
        return
      if isinstance(batch, dict):
        raise tfrecord_files.CorruptFileError(batch["error"])
      yield from batch
    raise tfrecord_files.CorruptFileError(
        f"the process that reads {names_of_files[0]} … ended early "
        f"(exit code {process.wait()})")
  finally:
    _end(process)


class Writer:
  """The parent's side of writing; the same methods as `ShardFiles`."""

  def __init__(self, process: _Process):
    self._process = process
    self._batch = _Batch()

  def write(self, values: Sequence[str]) -> None:
    if self._batch.add(values):
      self._send(self._batch.take())

  def finish(self) -> dict[str, Any]:
    self._send(self._batch.take())
    self._send(None)
    return self._answer()

  def abandon(self) -> None:
    _end(self._process)

  def _send(self, value: Any) -> None:
    try:
      _write_line(self._process.stdin, value)
    except BrokenPipeError:
      self._answer()
      raise  # It ended and told no error.

  def _answer(self) -> dict[str, Any]:
    line = self._process.stdout.readline()
    _end(self._process)
    answer = json.loads(line) if line.endswith(b"\n") else {
        "errno": None, "error": "the process that writes them ended early "
        f"(exit code {self._process.returncode})"}
    if "error" in answer:
      raise OSError(answer["errno"], answer["error"])
    return answer


class _Batch:
  """Collects records until there are enough for a line."""

  def __init__(self) -> None:
    self._records: list[Sequence[str]] = []
    self._characters = 0

  def add(self, values: Sequence[str]) -> bool:
    """Appends a record; True if the batch is full."""
    self._records.append(values)
    self._characters += sum(map(len, values))
    return self._characters >= _BATCH_CHARACTERS

  def take(self) -> list[Sequence[str]]:
    taken, self._records, self._characters = self._records, [], 0
    return taken


def _cores() -> int:
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _start(task: Any) -> _Process:
  """Starts the process with its task; None without a second core."""
  if _cores() < 2 or not sys.executable:
    return None
  # The same code as this process's, wherever it was imported from.
  root = str(pathlib.Path(__file__).parents[2])
  path = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(
      os.pathsep))]
  try:
    process: _Process = subprocess.Popen(
        [sys.executable, "-P", "-m", _MODULE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)})
  except OSError:  # No more processes: this one does it all.
    return None
  with contextlib.suppress(BrokenPipeError):  # Whoever reads will tell.
    _write_line(process.stdin, task)
  return process


def _end(process: _Process) -> None:
  """Ends the process, if it has not ended, and forgets its pipes."""
  process.kill()
  process.wait()
  for pipe in (process.stdin, process.stdout):
    with contextlib.suppress(BrokenPipeError):
      pipe.close()


def _write_line(file: BinaryIO, value: Any) -> None:
  file.write(json.dumps(value).encode("ascii") + b"\n")
  file.flush()


# ---- The second process -----------------------------------------------------


def _values(paths: Sequence[str], names: Sequence[str]
            ) -> Iterator[list[str]]:
  for example in shards.read(paths):
    yield [example.get(name, "") for name in names]


def _write(task: Sequence[Any], lines: BinaryIO, out: BinaryIO) -> None:
  files = None
  try:
    files = shards.ShardFiles(*task)
    for line in lines:
      batch = json.loads(line) if line.endswith(b"\n") else []
      if batch is None:
        _write_line(out, files.finish())
        return
      for values in batch:
        files.write(values)
  except OSError as error:
    if files is not None:
      files.abandon()
    _write_line(out, {"errno": error.errno, "error": error.strerror})


def _read(task: Sequence[Any], out: BinaryIO) -> None:
  batch = _Batch()
  try:
    for values in _values(*task):
      if batch.add(values):
        _write_line(out, batch.take())
  except tfrecord_files.CorruptFileError as error:
    _write_line(out, batch.take())
    _write_line(out, {"error": str(error)})
    return
  _write_line(out, batch.take())
  _write_line(out, None)


def main() -> None:
  # Ctrl-C reaches both processes; the parent ends this one by its pipe.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  line = sys.stdin.buffer.readline()
  if not line.endswith(b"\n"):
    return
  task = json.loads(line)
  with contextlib.suppress(BrokenPipeError):  # The parent is gone.
    if task["do"] == "write":
      _write(task["arguments"], sys.stdin.buffer, sys.stdout.buffer)
    else:
      _read(task["arguments"], sys.stdout.buffer)


if __name__ == "__main__":
  main()
