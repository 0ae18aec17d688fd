"""Joining rows with completions.

The published caches have no ids: completion i belongs to row i, so they are
joined by position and then checked (`OverlapCheck`). All other caches carry
their inputs and are joined by content.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import pathlib
import re
from typing import Any

from stepdistill_jax.answers import parsing
from stepdistill_jax.records import datasets
from stepdistill_jax.teacher import text_files
from stepdistill_jax.teacher.importing import row_files
from stepdistill_jax.util import errors, locations, temporary_database

_BATCH = re.compile(r"(?P<split>\w+)_CoT_(?P<number>\d+)\.json(?:\.gz)?")
# Splits as the published files call them.
_PUBLISHED_NAMES = {
    "train": ("train",), "validation": ("valid", "validation", "dev"),
    "test": ("test",)}


@dataclasses.dataclass(slots=True)
class Joined:
  """A row with its completion.

  Attributes:
    row: None for a completion that has no row.
    output: the completion; None if there is none, or if there is a problem.
    problem: empty, or the named reason why there is no usable completion.
    where: file and line of the completion, else of the row.
    dropped: the named reason why this is not a record; else empty.
    batch: name of the completion's file.
    truncated: True if the teacher stopped at its length limit.
    label_doubt: `parsing.COPIED_LABEL` or `parsing.UNVERIFIED_LABEL` where
      the label may not be the teacher's; else empty.
    parsed: rationale and label that come apart and need no parsing.
    weight: what the record weighs in the loss; None for 1.
  """

  row: datasets.Row | None
  output: str | None
  problem: str
  where: str
  dropped: str = ""
  batch: str = ""
  truncated: bool = False
  label_doubt: str = ""
  parsed: parsing.Parsed | None = None
  weight: float | None = None


def dropped(where: str, reason: str) -> Joined:
  """An item that becomes no record, for a named reason."""
  return Joined(None, None, "", where, dropped=reason)


def find_batches(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
  """The batch files of a split in numeric order; [] if there is none.

  Raises:
    errors.UserError: a number is missing or there twice.
  """
  if not folder.is_dir():
    raise errors.UserError(locations.not_a_folder(folder))
  by_number: dict[int, pathlib.Path] = {}
  for path in sorted(folder.iterdir()):
    match = _BATCH.fullmatch(path.name)
    if not match or match["split"] not in _PUBLISHED_NAMES[split]:
      continue
    number = int(match["number"])
    if number in by_number:
      raise errors.UserError(
          f"{by_number[number]} and {path.name} are the same batch; remove "
          "one of them")
    by_number[number] = text_files.check_inside(folder, path)
  missing = [n for n in range(len(by_number)) if n not in by_number]
  if missing:
    raise errors.UserError(
        f"{folder} lacks batch {missing[0]} of {split} (it has "
        f"{sorted(by_number)}); completions belong to rows by position, so "
        "without it none can be joined")
  return [by_number[n] for n in sorted(by_number)]


def read_batches(paths: list[pathlib.Path]) -> Iterator[text_files.Entry]:
  """Yields the completions of the batches, in order.

  Raises:
    errors.UserError: a batch that is not the last is shorter than the first.
  """
  first_length = None
  for number, path in enumerate(paths):
    length = 0
    for entry in text_files.read_entries(path):
      length += 1
      yield entry
    first_length = first_length or length
    is_last = number == len(paths) - 1
    if length > first_length or (length < first_length and not is_last):
      raise errors.UserError(
          f"{path} has {length} completions, {paths[0].name} has "
          f"{first_length}; all batches but the last have the same number, so "
          "this one is cut, or the batches are in a wrong order")


def completion_text(value: Any, problem: str) -> tuple[str | None, str]:
  """Returns (text, "") or (None, named reason)."""
  if problem:
    return None, problem
  if not isinstance(value, str):
    return None, parsing.NOT_TEXT
  if not text_files.is_encodable(value):
    return None, text_files.INVALID_UTF8
  return value, ""


def join_by_position(
    rows: Iterable[row_files.RowEntry], outputs: Iterable[text_files.Entry],
    *, sparse: bool, names: tuple[str, str]) -> Iterator[Joined]:
  """Joins completion i with the row at position i.

  Args:
    rows: in order of their positions.
    outputs: all completions of the split, in order.
    sparse: True if rows may be missing; else the numbers must agree.
    names: the row file's and the batches' names, for messages.

  Raises:
    errors.UserError: the numbers differ.
  """
  outputs = enumerate(outputs)
  taken = counted = 0
  for counted, entry in enumerate(rows, 1):
    if entry.row is None and entry.position < 0:
      yield dropped(entry.where, entry.problem)
      continue
    for position, output in outputs:
      taken += 1
      text, problem = completion_text(output.value, output.problem)
      joined = Joined(entry.row, text, problem, output.where,
                      batch=output.path.name)
      if position == entry.position:
        if entry.row is None:
          joined.where, joined.dropped = entry.where, entry.problem
        yield joined
        break
      joined.row, joined.dropped = None, "no_row"
      yield joined
    else:
      _refuse_counts(names, counted + sum(1 for _ in rows), taken)
  for _, output in outputs:
    taken += 1
    if not sparse:
      continue
    text, problem = completion_text(output.value, output.problem)
    yield Joined(None, text, problem, output.where, dropped="no_row",
                 batch=output.path.name)
  if taken > counted and not sparse:
    _refuse_counts(names, counted, taken)


def _refuse_counts(names: tuple[str, str], rows: int, outputs: int) -> None:
  raise errors.UserError(
      f"{names[0]} has {rows} rows, {names[1]} have {outputs} completions; "
      "completions belong to rows by position, so the numbers must agree: "
      "fetch the incomplete one again")


class ContentIndex:
  """Completions by their inputs: the hash of one to the first seen for it.

  For joins by content; kept on disk.
  """

  def __init__(self):
    self._database = temporary_database.create(
        "CREATE TABLE completions (hash TEXT PRIMARY KEY, output TEXT, "
        "place TEXT, used INTEGER) WITHOUT ROWID")

  def add(self, hashed_input: str, output: str, where: str) -> bool:
    """Adds a completion; False if its input has one already."""
    cursor = self._database.execute(
        "INSERT OR IGNORE INTO completions VALUES (?, ?, ?, 0)",
        (hashed_input, output, where))
    return cursor.rowcount == 1

  def find(self, hashed_input: str) -> tuple[str, str] | None:
    """(completion, where it was) of an input, or None; marks it as used."""
    row = self._database.execute(
        "UPDATE completions SET used = 1 WHERE hash = ? "
        "RETURNING output, place", (hashed_input,)).fetchone()
    return row

  def unused(self) -> Iterator[tuple[str, str]]:
    """(completion, where it was) of those that `find` never gave."""
    yield from self._database.execute(
        "SELECT output, place FROM completions WHERE NOT used ORDER BY place")

  def close(self) -> None:
    self._database.close()


class OverlapCheck:
  """Checks that completions talk about their rows.

  The share of a completion's words found in its own row, against the share
  found in the row before it. In the published caches it is about 0.5 against
  0.05. Batches in a wrong order, or a file of another split, show as shares
  that are alike.
  """

  # Fewer words than this say nothing.
  _MIN_WORDS = 50
  # Every completion of a small batch, a sample of a large one.
  _FULLY_CHECKED, _EVERY = 1000, 8
  _WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]{4,}")

  def __init__(self):
    self._previous: set[str] | None = None
    self._seen: dict[str, int] = {}
    # batch -> [words, in own row, in the row before]
    self.counts: dict[str, list[int]] = {}

  def add(self, joined: Joined, rationale: str) -> None:
    """Counts one completion's words; cheap enough for every completion."""
    seen = self._seen[joined.batch] = self._seen.get(joined.batch, 0) + 1
    if seen > self._FULLY_CHECKED and seen % self._EVERY > 1:
      return
    own = set(self._WORD.findall(joined.row.inputs.lower()))
    if self._previous is not None and (
        seen <= self._FULLY_CHECKED or seen % self._EVERY == 1):
      words = set(self._WORD.findall(rationale.lower()))
      counts = self.counts.setdefault(joined.batch, [0, 0, 0])
      counts[0] += len(words)
      counts[1] += len(words & own)
      counts[2] += len(words & self._previous)
    self._previous = own

  def shares(self) -> tuple[float, float] | None:
    """(share in the own row, share in the row before); None without words."""
    words, own, before = (
        sum(counts[i] for counts in self.counts.values()) for i in range(3))
    return (own / words, before / words) if words else None

  def require_alignment(self) -> None:
    """Raises errors.UserError naming the first batch that is misaligned."""
    for batch, (words, own, before) in self.counts.items():
      # Neighbours on one topic (e-SNLI has three rows a premise) share words,
      # so it is not asked that the own row has many more.
      if words >= self._MIN_WORDS and own <= 1.02 * before:
        raise errors.UserError(
            f"the completions of {batch} do not talk about their rows: "
            f"{own / words:.1%} of their words are in the row at the same "
            f"position, {before / words:.1%} in the row before it; the "
            "batches are in a wrong order or belong to other rows")
