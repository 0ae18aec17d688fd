"""Rows of CSV and TSV files, as a stream, and the columns that are asked for.

The columns' names stand in a file's first line; every value is a text. A
column that has no name, or the name of another one, is there for nobody.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
import contextlib
import csv
import io
import itertools
import math
import pathlib
from typing import Any, TextIO

from stepdistill_jax.teacher import text_files
from stepdistill_jax.util import errors

# Characters of a line that are held at once; no entry may have half as many.
_MOST = 2 * text_files.MAX_ENTRY_BYTES
DELIMITERS = {".csv": ",", ".tsv": "\t"}
# The named problem of a line that has other columns than the first.
COLUMNS_DIFFER = "columns_differ"

_LABELS = ("label", "teacher_label", "split")
_TEXTS = ("inputs", "output", "rationale", *_LABELS)

_Line = tuple[int, str]  # Its number, from 1, and its text without the end.
_Values = tuple[int, list[str], str]  # Line, values, problem.


def suffix_of(path: pathlib.Path) -> str:
  """The suffix that tells the form, without `.gz`."""
  return pathlib.PurePath(path.name.removesuffix(".gz")).suffix.lower()


def parse_columns(text: str) -> dict[str, str]:
  """Reads `--columns`: `inputs=question,label=answer`.

  Raises:
    errors.UserError: it has another form.
  """
  columns = {}
  for pair in filter(None, text.split(",")):
    name, equals, column = pair.partition("=")
    if not equals or not name.strip() or not column.strip():
      raise errors.UserError(
          f"--columns has {pair!r}, expected NAME=COLUMN, as in "
          "inputs=question,label=answer")
    if name.strip() in columns:
      raise errors.UserError(f"--columns names {name.strip()!r} twice")
    columns[name.strip()] = column.strip()
  return columns


def rename(entry: text_files.Entry, columns: Mapping[str, str]
           ) -> dict[str, Any]:
  """Returns the fields, the mapped ones under their names of here as well.

  Numbers and truth values become texts.

  Raises:
    errors.UserError: a column is not there; says which are.
  """
  renamed = dict(entry.value)
  for name, column in columns.items():
    require_column(entry, name, column)
    renamed[name] = as_text(entry.value[column], name)
  return renamed


def require_column(entry: text_files.Entry, name: str, column: str) -> None:
  """Raises errors.UserError if a row lacks the column of --columns."""
  if column in entry.value:
    return
  raise errors.UserError(
      f"--columns={name}={column}: {entry.where}: "
      f"{missing_column(entry, column)}")


def missing_column(entry: text_files.Entry, column: str) -> str:
  """Says why a row lacks a column."""
  if (count := repeated_columns(entry.path)[column]) > 1:
    return f"{count} columns have that name; rename one of them"
  return "there is no such column; " + errors.unknown_name_message(
      "column", column, entry.value)


def repeated_columns(path: pathlib.Path) -> collections.Counter[str]:
  """The names that several columns of a CSV or TSV file have: how many."""
  if suffix_of(path) not in DELIMITERS:
    return collections.Counter()
  counts = collections.Counter(_header(path)[0])
  return collections.Counter({n: c for n, c in counts.items() if c > 1})


def require_text(entry: text_files.Entry, name: str, column: str) -> None:
  """Raises errors.UserError if a row has no text where one is needed."""
  value = as_text(entry.value[column], name)
  if name in _TEXTS and not isinstance(value, (str, float, type(None))):
    raise errors.UserError(
        f"--columns={name}={column}: {entry.where} has a value of type "
        f"{type(value).__name__} there, expected a text; write one into a "
        "column of its own")


def as_text(value: Any, name: str) -> Any:
  """What a column's value is as a text; as it is where that is not clear.

  Numbers and truth values are written as JSON has them. A list of them or of
  texts has a line each; but a label is one, so a list of several stays.

  Args:
    value: from a file.
    name: what the column is, such as `label`.
  """
  if isinstance(value, bool):
    return "true" if value else "false"
  if isinstance(value, (int, float)) and math.isfinite(value):
    return str(value)
  if isinstance(value, list) and name in _TEXTS and (
      len(value) == 1 or name not in _LABELS):
    texts = [as_text(item, "label") for item in value]
    if texts and all(isinstance(text, str) for text in texts):
      return "\n".join(texts)
  return value


def read_entries(path: pathlib.Path) -> Iterator[text_files.Entry]:
  """Yields the rows of a file; `Entry.value` has a value for each column.

  Args:
    path: a file that ends in .csv or .tsv; it may be gzipped.

  Raises:
    errors.UserError: the file as a whole cannot be read.
  """
  names, delimiter = _header(path)
  repeated = collections.Counter(names)
  kept = [i for i, name in enumerate(names)
          if name.strip() and repeated[name] == 1]
  rows = (_tsv_rows(path, len(names)) if delimiter == "\t"
          else _csv_rows(path, delimiter))
  for number, values, problem in itertools.islice(rows, 1, None):
    if not values and not problem:
      continue  # An empty line.
    if not problem and len(values) != len(names):
      problem = COLUMNS_DIFFER
    column = ""
    if not all(map(text_files.is_encodable, values)):
      problem = text_files.INVALID_UTF8
      column = next((name for name, value in zip(names, values)
                     if not text_files.is_encodable(value)), "")
    value = None if problem else {names[i]: values[i] for i in kept}
    yield text_files.Entry(value, problem, path, number, "line", column)


def _header(path: pathlib.Path) -> tuple[list[str], str]:
  """The names in the first line, and what separates them."""
  with _open_text(path) as file:
    line = file.readline(text_files.MAX_ENTRY_BYTES)
  if not text_files.is_encodable(line):
    raise errors.UserError(f"{path} line 1 is not UTF-8; {text_files.TO_UTF8}")
  delimiter = DELIMITERS[suffix_of(path)]
  if delimiter not in line:  # Spreadsheets have others, where `,` is decimal.
    delimiter = next((d for d in ";\t," if d in line), delimiter)
  rows = (csv.reader([line], delimiter="\t") if delimiter == "\t" else
          (values for _, values, _ in _csv_rows(path, delimiter)))
  names = next(rows, [])
  if not any(name.strip() for name in names):
    raise errors.UserError(
        f"{path}: its first line must have the columns' names; it has {names}")
  return names, delimiter


@contextlib.contextmanager
def _open_text(path: pathlib.Path, newline: str = "") -> Iterator[TextIO]:
  with text_files.undamaged(path) as raw:
    # Bytes that are not UTF-8 come through as lone surrogates, so that one
    # bad row does not end the file.
    yield io.TextIOWrapper(
        raw, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _bounded(file: TextIO) -> Iterator[str]:
  """The lines of a file; of one longer than `_MOST` its beginning."""
  while line := file.readline(_MOST):
    rest = line
    while len(rest) == _MOST and not rest.endswith("\n"):
      rest = file.readline(_MOST)
    yield line


def _csv_rows(path: pathlib.Path, delimiter: str) -> Iterator[_Values]:
  csv.field_size_limit(text_files.MAX_ENTRY_BYTES)
  with _open_text(path) as file:
    lines: list[str] = []  # Of one row.

    def whole() -> Iterator[str]:
      for number, line in enumerate(_bounded(file), start=1):
        if len(line) == _MOST:
          raise errors.UserError(
              f"{path} line {number} is not CSV: it is longer than {_MOST:,} "
              "characters; save the file as .jsonl")
        lines.append(line)
        yield line

    reader = csv.reader(whole(), delimiter=delimiter, strict=True)
    columns = 0
    with errors.reported(csv.Error, lambda error: (
        f"{path} line {reader.line_num} is not CSV: {error}; double the "
        "quotation marks inside a field, or save the file as .jsonl")):
      for values in reader:
        columns = columns or len(values)
        if len(lines) > 1 and columns > 1 and all(
            line.count(delimiter) == columns - 1 for line in lines) and (
                not _quotes_delimiters(path, delimiter, columns)):
          raise errors.UserError(
              f"{path} lines {reader.line_num - len(lines) + 1} to "
              f"{reader.line_num}: one quotation mark opens a field and one "
              "closes it in another line, and each line is a whole row by "
              "itself; double the marks (\"\"), or save the file as .jsonl")
        lines.clear()
        yield reader.line_num, values, ""


def _quotes_delimiters(
    path: pathlib.Path, delimiter: str, columns: int) -> bool:
  """Whether a file's writer quoted fields, as some line shows by itself."""
  with _open_text(path) as file:
    return any(
        '"' in line and line.count(delimiter) != columns - 1
        and len(_unquoted(line, delimiter)) == columns
        or number == 0 and line.startswith('"')
        for number, line in enumerate(_bounded(file)))


# ---- Tab-separated: a quotation mark may be no more than that ---------------


def _tsv_rows(path: pathlib.Path, columns: int) -> Iterator[_Values]:
  """Yields the rows of a TSV file, which may be written in two ways.

  Most have no quoting: a field may begin with a quotation mark that never
  closes. Others are quoted as CSV is, and their fields may hold tabs and ends
  of lines. A quoted field goes on in the next line only where that line is
  not a whole row by itself, so that no two rows become one.
  """
  quoted = _is_quoted(path, columns)
  with _open_text(path, newline="\n") as file:
    lines = _Lines(file)
    for number, line in lines:
      if len(line) > text_files.MAX_ENTRY_BYTES:
        yield number, [], text_files.TOO_LONG
        continue
      values = line.split("\t") if line else []
      if quoted and '"' in line:
        if line.count('"') % 2:
          values = _over_lines(line, lines, columns) or values
        elif len(values) != columns:
          values = _unquoted(line) or values
        else:
          values = [_unquoted(v)[0] if _is_closed(v) else v for v in values]
      yield number, values, ""


def _over_lines(line: str, lines: _Lines, columns: int) -> list[str]:
  """The values of a row that goes on in the next lines; [] if none does."""
  is_row = line.count("\t") + 1 == columns
  taken: list[_Line] = []
  text = line
  for number, more in lines:
    taken.append((number, more))
    text += "\n" + more
    if is_row and more.count("\t") + 1 == columns or (
        len(text) > text_files.MAX_ENTRY_BYTES):
      break
    if more.count('"') % 2:
      if len(values := _unquoted(text)) == columns:
        return values
      break
  lines.put_back(taken)
  return []


def _is_quoted(path: pathlib.Path, columns: int) -> bool:
  """False if a field begins with a quotation mark and does not close it."""
  with _open_text(path, newline="\n") as file:
    unclosed = False
    for _, line in _Lines(file):
      is_row = line.count("\t") + 1 == columns
      if unclosed and is_row:
        return False
      unclosed = is_row and '"' in line and any(
          value.startswith('"') and not _is_closed(value)
          for value in line.split("\t"))
    return not unclosed


def _is_closed(value: str) -> bool:
  return (len(value) > 1 and value[0] == value[-1] == '"'
          and '"' not in value[1:-1].replace('""', ""))


def _unquoted(text: str, delimiter: str = "\t") -> list[str]:
  """The values of one quoted row; [] if it is not one."""
  try:
    rows = list(csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
  except csv.Error:
    return []
  return rows[0] if len(rows) == 1 else []


class _Lines:
  """The lines of a file, of which some may be put back."""

  def __init__(self, file: TextIO):
    self._lines = enumerate(_bounded(file), start=1)
    self._back: collections.deque[_Line] = collections.deque()

  def __iter__(self) -> _Lines:
    return self

  def __next__(self) -> _Line:
    if self._back:
      return self._back.popleft()
    number, line = next(self._lines)
    return number, line.rstrip("\r\n")

  def put_back(self, lines: list[_Line]) -> None:
    self._back.extendleft(reversed(lines))
