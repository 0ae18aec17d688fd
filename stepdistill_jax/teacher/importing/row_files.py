"""Finding and reading the row files of the published layout."""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import json
import os
import pathlib
import zlib

from stepdistill_jax.answers import kinds
from stepdistill_jax.records import datasets
from stepdistill_jax.teacher import text_files
from stepdistill_jax.teacher.importing import containers, table_files
from stepdistill_jax.util import errors, locations, temporary_database

# Row files of which only some rows were found; they carry their position.
_BY_LINES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
_SPARSE_MARK = "_recovered"


@dataclasses.dataclass(slots=True)
class RowEntry:
  """A row, or the named reason why there is none, at its position.

  Attributes:
    row: None if there is a problem.
    problem: empty, or a named reason.
    position: of the row in its split, from 0.
    where: file and line, for messages.
  """

  row: datasets.Row | None
  problem: str
  position: int
  where: str


def find_row_file(
    dataset: datasets.Dataset, folder: str | os.PathLike, split: str
) -> pathlib.Path | None:
  """The split's row file in `folder`, or None if there is none.

  Raises:
    errors.UserError: there is no such folder.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise errors.UserError(locations.not_a_folder(folder))
  for name in dataset.row_files.get(split, ()):
    if (folder / name).is_file() or (folder / f"{name}.gz").is_file():
      return text_files.find_file(folder, name)
  return None


def is_sparse(path: pathlib.Path) -> bool:
  """True if the file has some of its split's rows, each with its `index`."""
  return _SPARSE_MARK in path.name


def count_rows(path: pathlib.Path) -> int:
  """Number of entries of a row file, those with problems included."""
  return sum(1 for _ in containers.read_objects(path))


def guess_rows(path: pathlib.Path) -> int:
  """The number of a file's lines where lines are rows, else 0; never raises.

  For a progress display: far faster than `count_rows`.
  """
  if table_files.suffix_of(path) not in _BY_LINES or not path.is_file():
    return 0
  lines, first = 0, b""
  try:
    with text_files.open_bytes(path) as file:
      while chunk := file.read(2**20):
        first = first or chunk.lstrip()[:1]
        lines += chunk.count(b"\n")
  except (OSError, EOFError, zlib.error, errors.UserError):
    return 0  # Whoever reads the rows will say what is wrong.
  return 0 if first == b"[" else lines


def read_objects(
    dataset: datasets.Dataset, paths: Iterable[pathlib.Path], split: str
) -> Iterator[text_files.Entry]:
  """Yields the objects of a split's files, with labels that stand beside.

  Where the data set names a file of labels (`datasets.Dataset.gold`) and the
  folder has it, an object gets the one of its position as `gold`.
  """
  for path in paths:
    gold = _gold(dataset, path.parent, split)
    for position, entry in enumerate(containers.read_objects(path)):
      if position in gold and isinstance(entry.value, dict):
        entry = dataclasses.replace(
            entry, value={"gold": gold[position], **entry.value})
      yield entry


def _gold(dataset: datasets.Dataset, folder: pathlib.Path, split: str
          ) -> Mapping[int, str]:
  """Position -> label, of the lines that are of this data set and split."""
  wanted = {**dataset.gold, "split": split}
  name = wanted.pop("file", "")
  if not name or not ((folder / name).is_file()
                      or (folder / f"{name}.gz").is_file()):
    return {}
  found: dict[int, str] = {}
  for entry in containers.read_objects(text_files.find_file(folder, name)):
    line = entry.value
    if (isinstance(line, dict) and isinstance(line.get("row"), int)
        and all(line.get(key) == value for key, value in wanted.items())):
      label = line.get("gold")
      found[line["row"]] = label if isinstance(label, str) else json.dumps(
          label)
  return found


def read_rows(
    dataset: datasets.Dataset, path: pathlib.Path) -> Iterator[RowEntry]:
  """Yields the rows of a file in order.

  Raises:
    errors.UserError: the file as a whole cannot be read.
  """
  sparse, last = is_sparse(path), -1
  for position, entry in enumerate(containers.read_objects(path)):
    if sparse and not entry.problem and isinstance(entry.value, dict):
      index = entry.value.get("index")
      if isinstance(index, int) and last < index < 2**40:
        position = last = index
      else:  # Without its position the row has no completion.
        position, entry.problem = -1, "row_without_position"
    row, problem = read_row(dataset, entry, position)
    yield RowEntry(row, problem, position, entry.where)


def read_row(dataset: datasets.Dataset, entry: text_files.Entry, position: int
             ) -> tuple[datasets.Row | None, str]:
  """Returns (row, "") or (None, named problem)."""
  if entry.problem or not isinstance(entry.value, dict):
    return None, entry.problem or "row_not_object"
  try:
    row = dataset.read_row(entry.value)
  except datasets.BadRow as error:
    return None, str(error)
  row.position = position
  if dataset.label_kind == datasets.CHOICE and not row.choices:
    row.choices = kinds.lettered_choices(row.inputs)
  return row, ""


# SQLite's integers are signed, our hashes are not.
_TWO_63, _TWO_64 = 2**63, 2**64


class SeenInputs:
  """Counts inputs by their hash in each split: repeated ones, and in several.
  """

  def __init__(self):
    self._database = temporary_database.create(
        "CREATE TABLE seen (hash INTEGER, split TEXT, n INTEGER, "
        "PRIMARY KEY (hash, split)) WITHOUT ROWID")

  def add(self, hashed_input: str, split: str) -> int:
    """Counts an input; returns its occurrence in its split, from 1.

    Args:
      hashed_input: 16 hex digits, `records.input_hash(inputs)`.
      split: name of the split.
    """
    number = int(hashed_input, 16)
    if number >= _TWO_63:
      number -= _TWO_64
    row = self._database.execute(
        "INSERT INTO seen VALUES (?, ?, 1) ON CONFLICT (hash, split) "
        "DO UPDATE SET n = n + 1 RETURNING n", (number, split)).fetchone()
    return row[0]

  def repeated(self) -> dict[str, int]:
    """Split -> number of rows whose inputs occurred before in the split."""
    return dict(self._database.execute(
        "SELECT split, SUM(n - 1) FROM seen GROUP BY split ORDER BY split"))

  def leaked(self) -> dict[str, int]:
    """`"train & test"` -> number of inputs that are in both splits."""
    return {f"{a} & {b}": n for a, b, n in self._database.execute(
        "SELECT x.split, y.split, COUNT(*) FROM seen x JOIN seen y "
        "ON x.hash = y.hash AND x.split < y.split "
        "GROUP BY x.split, y.split ORDER BY x.split, y.split")}

  def close(self) -> None:
    self._database.close()
