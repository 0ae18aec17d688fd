"""Texts to ask a student, from files of several forms, as a stream.

A file of JSON, CSV, TSV or Parquet has a row for each text; any other is a text
file with one in each line. Nothing is left out but lines without a letter:
what cannot be asked has a named problem in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
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
    value: the text; None where there is none.
    problem: empty, or why there is none.
  """

  id: str
  value: Any
  problem: str


@contextlib.contextmanager
def local_file(path: str, form: str = "text",
               stdin: BinaryIO | None = None) -> Iterator[pathlib.Path]:
  """Gives a path, or a temporary copy of standard input for `-`.

  Raises:
    errors.UserError: there is no such file, or nothing in it.
  """
  if path != STDIN:
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
      what = "is a folder, not a file" if file.is_dir() else "is not there"
      raise errors.UserError(f"{path} {what}")
    if not file.stat().st_size:
      raise errors.UserError(f"{path} is empty: there is nothing to answer")
    yield file
    return
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / f"standard_input{FORMATS[form]}"
    with file.open("wb") as copy:
      shutil.copyfileobj(stdin or sys.stdin.buffer, copy)
    if not file.stat().st_size:
      raise errors.UserError(
          "standard input is empty: there is nothing to answer")
    yield file


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
    for entry in text_files.read_lines(path):
      yield Text(str(entry.number), entry.value, entry.problem)
    return
  known = False
  for entry in containers.read_objects(path):
    if entry.problem or not isinstance(entry.value, dict):
      # A line may be the text itself.
      yield Text(str(entry.number), entry.value, entry.problem)
      continue
    if not known:
      column, known = _column_of(entry, column), True
    own = entry.value.get("id")
    name = str(own) if isinstance(own, (str, int)) else str(entry.number)
    if column in entry.value:
      yield Text(name, table_files.as_text(entry.value[column], "inputs"), "")
    else:
      yield Text(name, None, NO_SUCH_COLUMN)


def _column_of(entry: text_files.Entry, column: str | None) -> str:
  """The column with the text, by the first row."""
  if column is not None:
    if column not in entry.value:
      raise errors.UserError(f"{entry.where}: " + errors.unknown_name_message(
          "column", column, entry.value))
    return column
  columns = [name for name in entry.value if name != "id"]
  for name in COLUMNS:
    if name in columns:
      return name
  if len(columns) == 1:
    return str(columns[0])
  raise errors.UserError(
      f"{entry.where} has the columns {', '.join(map(repr, entry.value))}, and "
      f"none of {', '.join(COLUMNS)}; say with --column=NAME which holds the "
      "text")
