"""Answers on disk while scoring goes on, so that a rerun asks only the rest.

One append-only JSON Lines file for each system, benchmark, split and way of
asking. Its name holds a hash of all that decides an answer (checkpoint,
decoding, rules of input), so that answers of another model are never taken up.
"""

from collections.abc import Iterable, Iterator, Mapping
import hashlib
import json
import os
import pathlib
import re
from typing import Any

from stepdistill_jax.evaluation import examples as examples_lib
from stepdistill_jax.util import disk_lists, durable_files


def text_key(text: str) -> str:
  """A short hash of a text."""
  return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def identity_key(identity: Mapping[str, Any]) -> str:
  """A short hash of a mapping of plain values."""
  return text_key(json.dumps(identity, sort_keys=True, default=str))


class AnswerLog:
  """The stored answers of one system to one example set.

  Args:
    path: the file, whose rows are read; None keeps no file.

  Attributes:
    path: likewise.
    found: example id to the number of its row.
  """

  def __init__(self, path: pathlib.Path | None):
    self.path = path
    self.found: dict[str, int] = {}
    self._rows: disk_lists.DiskList[dict[str, Any]] = disk_lists.DiskList()
    for row in _read_log(path) if path else ():
      self._take(row)

  def _take(self, row: dict[str, Any]) -> None:
    self.found[row["id"]] = len(self._rows)
    self._rows.append(row)

  def get(self, example: examples_lib.Example) -> dict[str, Any] | None:
    """The stored row of an example, if its question is still the same."""
    number = self.found.get(example.id)
    row = None if number is None else self._rows[number]
    if row is None or row["input_key"] != text_key(example.inputs):
      return None
    return row

  def append(self, rows: Iterable[Mapping[str, Any]],
             examples: Iterable[examples_lib.Example]) -> None:
    """Stores a batch of rows; they are on disk when this returns."""
    lines = []
    for row, example in zip(rows, examples, strict=True):
      row = {**row, "id": example.id, "input_key": text_key(example.inputs)}
      self._take(row)
      lines.append(json.dumps(row) + "\n")
    if self.path is None or not lines:
      return
    with self.path.open("a", encoding="utf-8") as file:
      file.write("".join(lines))
      file.flush()
      os.fsync(file.fileno())


class AnswerStore:
  """The answer logs of a call.

  Args:
    folder: where they are kept; None keeps them in memory.
  """

  def __init__(self, folder: pathlib.Path | None = None):
    self._folder = folder

  def open(self, name: str, identity: Mapping[str, Any]) -> AnswerLog:
    """Opens the log of a system, reading what an earlier call left.

    Args:
      name: readable part of the file's name.
      identity: all that decides the answers.
    """
    if self._folder is None:
      return AnswerLog(None)
    self._folder.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^A-Za-z0-9]+", "_", name)[:60]
    return AnswerLog(self._folder / f"{slug}-{identity_key(identity)}.jsonl")

  def clear(self) -> None:
    """Removes all stored answers."""
    if self._folder is not None and self._folder.is_dir():
      for path in self._folder.glob("*.jsonl"):
        path.unlink()


def _read_log(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  """Yields the rows; a line torn by a kill is cut off the file, at the end."""
  if not path.is_file():
    return
  damaged = False
  with path.open("rb") as file:
    for line in file:
      row = _read_row(line)
      damaged |= row is None
      if row is not None:
        yield row
  if damaged:
    with path.open("rb") as file:
      durable_files.replace(path, (
          line for line in file if _read_row(line) is not None))


def _read_row(line: bytes) -> dict[str, Any] | None:
  """The row of a whole line of ours; None of another."""
  try:
    row = json.loads(line) if line.endswith(b"\n") else None
  except (ValueError, RecursionError):
    return None
  return row if _is_ours(row) else None


def _is_ours(row: Any) -> bool:
  """True for an answer or a likelihood, as `questions` stores them."""
  if not isinstance(row, dict):
    return False
  texts, numbers = (
      ((), ("log_prob", "target_tokens")) if "log_prob" in row else
      (("text",), ("score", "tokens", "input_tokens")))
  return all(isinstance(row.get(name), kind) for kind, names in (
      (str, ("id", "input_key", *texts)), ((int, float), numbers))
             for name in names)
