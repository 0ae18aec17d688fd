"""Texts to ask a student, from files of several forms, as a stream.

A file of JSON, CSV, TSV or Parquet has a row for each text; any other is a text
file with one in each line. Nothing is left out but lines without a letter:
what cannot be asked has a named problem in its place.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import json
import pathlib
import shutil
import sys
import tempfile
from typing import Any, BinaryIO

from stepdistill_jax.teacher import text_files
from stepdistill_jax.teacher.importing import containers, table_files
from stepdistill_jax.util import errors

STDIN = "-"
# Of standard input; a file's suffix says it.
FORMATS = {"text": ".txt", "jsonl": ".jsonl", "csv": ".csv", "tsv": ".tsv"}
# The columns that hold the text, if --column names none.
COLUMNS = ("input", "inputs", "text", "question")
NO_SUCH_COLUMN = "no_such_column"


@dataclasses.dataclass(frozen=True)
class Text:
  """A text of a file.

  Attributes:
    id: the row's own `id`, else the number of its line, from 1.
    value: the text; None where there is none, or nothing that JSON has.
    problem: empty, or why there is none.
  """

  id: str
  value: Any
  problem: str


@contextlib.contextmanager
def local_file(path: str, form: str | None = None,
               stdin: BinaryIO | None = None) -> Iterator[pathlib.Path]:
  """Gives a path, or a temporary copy of standard input for `-`.

  Args:
    path: a file, or `-`.
    form: of standard input, one of `FORMATS`; by default text.
    stdin: standard input.

  Raises:
    errors.UserError: there is no such file, or nothing in it; or it is given
      a form.
  """
  if path != STDIN:
    if form is not None:
      raise errors.UserError(
          f"--format={form} is of standard input; {path} is read as its name "
          f"ends (.jsonl, .json, .csv, .tsv, .parquet, else a line each): "
          f"rename it, or pass - and < {path}")
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
      what = "is a folder, not a file" if file.is_dir() else "is not there"
      raise errors.UserError(f"{path} {what}")
    if not file.stat().st_size:
      raise errors.UserError(f"{path} is empty: there is nothing to answer")
    yield file
    return
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / f"standard_input{FORMATS[form or 'text']}"
    with file.open("wb") as copy:
      shutil.copyfileobj(stdin or sys.stdin.buffer, copy)
    if not file.stat().st_size:
      raise errors.UserError(
          "standard input is empty: there is nothing to answer")
    try:
      yield file
    except errors.UserError as error:  # Nobody knows the copy.
      raise errors.UserError(
          str(error).replace(str(file), "standard input")) from error


def read(path: pathlib.Path, column: str | None = None) -> Iterator[Text]:
  """Yields the texts of a file.

  Args:
    path: the file, perhaps gzipped.
    column: the field or column with the text; by default the first of
      `COLUMNS` that is there, or the only one.

  Raises:
    errors.UserError: the file cannot be read, or its first row has no such
      column.
  """
  if table_files.suffix_of(path) not in containers.SUFFIXES:
    if column is not None:
      raise errors.UserError(
          f"{path} is read as text, a line each, and has no column {column!r};"
          " files with columns end in .jsonl, .json, .csv, .tsv or .parquet "
          "(of standard input, --format says it)")
    for entry in text_files.read_lines(path):
      yield Text(str(entry.number), entry.value, entry.problem)
    return
  known = False
  for entry in containers.read_objects(path):
    if entry.problem or not isinstance(entry.value, dict):
      # A line may be the text itself.
      yield Text(str(entry.number), _as_json(entry.value), entry.problem)
      continue
    if not known:
      column, known = _column_of(entry, column), True
    own = entry.value.get("id")
    name = str(own) if isinstance(own, (str, int)) else str(entry.number)
    if column in entry.value:
      yield Text(name, _as_json(
          table_files.as_text(entry.value[column], "inputs")), "")
    else:
      yield Text(name, None, NO_SUCH_COLUMN)


def _as_json(value: Any) -> Any:
  """A value as a row of answers has it; None for NaN, bytes, times and such."""
  if isinstance(value, str):
    return value
  try:
    return json.loads(json.dumps(value, allow_nan=False))
  except (TypeError, ValueError, RecursionError):
    return None


def _column_of(entry: text_files.Entry, column: str | None) -> str:
  """The column with the text, by the first row."""
  if column is not None:
    if column not in entry.value:
      raise errors.UserError(
          f"{entry.where}: {table_files.missing_column(entry, column)}")
    return column
  columns = [name for name in entry.value if name != "id"]
  for name in COLUMNS:
    if name in columns:
      return name
    if table_files.repeated_columns(entry.path)[name]:
      raise errors.UserError(
          f"{entry.where}: column {name!r}: "
          f"{table_files.missing_column(entry, name)}")
  if len(columns) == 1:
    return str(columns[0])
  raise errors.UserError(
      f"{entry.where} has the columns {', '.join(map(repr, entry.value))}, and "
      f"none of {', '.join(COLUMNS)}; say with --column=NAME which holds the "
      "text")
