"""Answers on disk while scoring goes on, so that a rerun asks only the rest.

One append-only JSON Lines file for each system, benchmark, split and way of
asking. Its name holds a hash of all that decides an answer (checkpoint,
decoding, rules of input), so that answers of another model are never taken up.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from typing import Any

from stepdistill_jax.evaluation import examples as examples_lib
from stepdistill_jax.util import durable_files


def text_key(text: str) -> str:
  """A short hash of a text."""
  return hashlib.sha256(
      text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def identity_key(identity: Mapping[str, Any]) -> str:
  """A short hash of a mapping of plain values."""
  return text_key(json.dumps(identity, sort_keys=True, default=str))


@dataclasses.dataclass
class AnswerLog:
  """The stored answers of one system to one example set.

  Attributes:
    path: the file; None keeps answers in memory alone.
    found: rows by example id, as far as they were already there.
  """

  path: pathlib.Path | None
  found: dict[str, dict[str, Any]]

  def get(self, example: examples_lib.Example) -> dict[str, Any] | None:
    """The stored row of an example, if its question is still the same."""
    row = self.found.get(example.id)
    if row is None or row["input_key"] != text_key(example.inputs):
      return None
    return row

  def append(self, rows: Iterable[Mapping[str, Any]],
             examples: Iterable[examples_lib.Example]) -> None:
    """Stores a batch of rows; they are on disk when this returns."""
    lines = []
    for row, example in zip(rows, examples, strict=True):
      row = {**row, "id": example.id, "input_key": text_key(example.inputs)}
      self.found[example.id] = row
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
      return AnswerLog(None, {})
    self._folder.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^A-Za-z0-9]+", "_", name)[:60]
    path = self._folder / f"{slug}-{identity_key(identity)}.jsonl"
    return AnswerLog(path, _read_log(path))

  def clear(self) -> None:
    """Removes all stored answers."""
    if self._folder is not None and self._folder.is_dir():
      for path in self._folder.glob("*.jsonl"):
        path.unlink()


def _read_log(path: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Reads whole lines; a line torn by a kill is cut off the file."""
  if not path.is_file():
    return {}
  data = path.read_bytes()
  whole = data[:data.rfind(b"\n") + 1]
  found = {}
  kept = []
  for line in whole.splitlines(keepends=True):
    try:
      row = json.loads(line)
    except (ValueError, RecursionError):
      continue
    if _is_ours(row):
      found[row["id"]] = row
      kept.append(line)
  if b"".join(kept) != data:
    durable_files.replace(path, b"".join(kept))
  return found


def _is_ours(row: Any) -> bool:
  """True for an answer or a likelihood, as `questions` stores them."""
  if not isinstance(row, dict) or not all(
      isinstance(row.get(name), str) for name in ("id", "input_key")):
    return False
  if "log_prob" in row:
    return _are_numbers(row, "log_prob", "target_tokens")
  return isinstance(row.get("text"), str) and _are_numbers(
      row, "score", "tokens", "input_tokens")


def _are_numbers(row: Mapping[str, Any], *names: str) -> bool:
  return all(isinstance(row.get(name), (int, float)) for name in names)
