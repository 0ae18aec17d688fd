"""Rows of a user's own data: CSV, JSON Lines or a JSON array, as a stream.

A CSV file has its columns' names in its first line; every value is a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import csv
import io
import pathlib
from typing import Any
import zlib

from stepdistill_jax.teacher import text_files
from stepdistill_jax.util import errors

_CSV_ENDINGS = {".csv": ",", ".tsv": "\t"}
# The named problem of a line that has other columns than the first.
COLUMNS_DIFFER = "columns_differ"


def read_entries(path: pathlib.Path) -> Iterator[text_files.Entry]:
  """Yields the rows of a file; `Entry.value` has a value for each column.

  Args:
    path: a file that ends in .csv, .tsv, or another with JSON in it; each may
      be gzipped.

  Raises:
    errors.UserError: the file as a whole cannot be read.
  """
  ending = pathlib.Path(path.name.removesuffix(".gz")).suffix.lower()
  if ending in _CSV_ENDINGS:
    return _csv_entries(path, _CSV_ENDINGS[ending])
  return text_files.read_entries(path)


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


def rename(fields: Mapping[str, Any], columns: Mapping[str, str],
           where: str) -> dict[str, Any]:
  """Returns the fields, the mapped ones under their names of here as well.

  Numbers and truth values become texts, as the file wrote them.

  Raises:
    errors.UserError: a column is not there; says which are.
  """
  renamed = dict(fields)
  for name, column in columns.items():
    if column not in fields:
      raise errors.UserError(
          f"{where}: " + errors.unknown_name_message(
              "column", column, fields, f"(of --columns={name}={column})"))
    value = fields[column]
    if isinstance(value, bool):
      value = "true" if value else "false"
    renamed[name] = str(value) if isinstance(value, (int, float)) else value
  return renamed


def _csv_entries(
    path: pathlib.Path, delimiter: str) -> Iterator[text_files.Entry]:
  csv.field_size_limit(text_files.MAX_ENTRY_BYTES)
  with text_files.open_bytes(path) as raw:
    # Bytes that are not UTF-8 come through as lone surrogates, so that one
    # bad row does not end the file.
    file = io.TextIOWrapper(
        raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
      names = next(reader, [])
      if len(set(names)) < len(names) or not all(n.strip() for n in names):
        raise errors.UserError(
            f"{path}: its first line must name each column once; it has "
            f"{names}")
      for values in reader:
        if not values:
          continue  # An empty line.
        yield _csv_entry(names, values, path, reader.line_num)
    except csv.Error as error:
      raise errors.UserError(
          f"{path} line {reader.line_num} is not CSV: {error}") from error
    except (EOFError, OSError, zlib.error) as error:
      raise errors.UserError(
          f"{path} is a damaged or cut gzip file ({error}); fetch it again"
      ) from error


def _csv_entry(names: list[str], values: list[str], path: pathlib.Path,
               number: int) -> text_files.Entry:
  problem = ""
  if len(values) != len(names):
    problem = COLUMNS_DIFFER
  elif not all(map(text_files.is_encodable, values)):
    problem = text_files.INVALID_UTF8
  value = None if problem else dict(zip(names, values))
  return text_files.Entry(value, problem, path, number, "line")
