"""Reading JSON files that may be damaged or hostile, as a stream.

Plain or gzipped, in UTF-8 or with the byte-order mark of UTF-16 or UTF-32:

* JSON Lines;
* one JSON array;
* JSON objects one after another, each over several lines;
* one JSON object whose values are the rows: `{"0": {...}, "1": {...}}`.

All are read in chunks, so memory does not grow with the file. What is wrong
with a single value is an `Entry` with a named problem, so that later values
keep their positions; what is wrong with the file as a whole is a `UserError`.
"""

import codecs
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import gzip
import io
import json
import os
import pathlib
import re
from typing import Any, BinaryIO
import zlib

from stepdistill_jax.util import errors

# One value may take this much; the longest published completion has 2 kB.
MAX_ENTRY_BYTES = 4 * 2**20
_CHUNK_BYTES = 2**20
# The longer ones first: UTF-32's begins as UTF-16's does.
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

# The named problems of an entry.
NOT_JSON = "not_json"  # Not JSON, or NaN or Infinity, which JSON has not.
TOO_LONG = "too_long"  # More than MAX_ENTRY_BYTES.
TOO_NESTED = "too_nested"
INVALID_UTF8 = "invalid_utf8"
# What to do about it.
TO_UTF8 = ("save the file as UTF-8, as does `iconv -f WINDOWS-1252 -t UTF-8` "
           "(or from the encoding that it has)")


@dataclasses.dataclass(slots=True)
class Entry:
  """One value of a file.

  Attributes:
    value: the JSON value; None if there is a problem (or for `null`).
    problem: empty, or one of this module's named problems.
    path: the file.
    number: the line of JSON Lines, the element of an array; from 1.
    unit: "line" or "element".
    column: name of the column that a problem is in; empty if not known.
  """

  value: Any
  problem: str
  path: pathlib.Path
  number: int
  unit: str
  column: str = ""

  @property
  def where(self) -> str:
    return f"{self.path} {self.unit} {self.number}" + (
        f", column {self.column!r}" if self.column else "")


def find_file(folder: str | os.PathLike, name: str) -> pathlib.Path:
  """Returns the file `name` or `name.gz` of a folder.

  Raises:
    errors.UserError: neither or both are there, or it lies elsewhere (a link
      or a name that leads out of the folder).
  """
  folder = pathlib.Path(folder)
  found = [p for p in (folder / name, folder / f"{name}.gz") if p.is_file()]
  if not found:
    raise errors.UserError(
        f"{folder / name} (or {name}.gz) was not found"
        + ("" if folder.is_dir() else f": there is no folder {folder}"))
  if len(found) > 1:
    raise errors.UserError(
        f"both {found[0]} and {found[1].name} exist; remove one of them")
  return check_inside(folder, found[0])


def check_inside(folder: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
  """Returns `path` if it lies in `folder`, links followed.

  Raises:
    errors.UserError: it lies elsewhere.
  """
  if not path.resolve().is_relative_to(folder.resolve()):
    raise errors.UserError(
        f"{path} leads out of {folder}; put the file itself into the folder")
  return path


def open_bytes(path: pathlib.Path) -> BinaryIO:
  """Opens a plain or gzipped file, by its contents and not by its name.

  What has a byte-order mark of another encoding is read as UTF-8.
  """
  with errors.reported(
      OSError, lambda error: f"cannot read {path}: {error.strerror}"):
    file = path.open("rb")
  start = file.read(2)
  file.seek(0)
  if not start:
    file.close()
    raise errors.UserError(f"{path} is empty; fetch it again")
  file = gzip.open(file) if start == b"\x1f\x8b" else file
  try:
    mark = file.peek(4)[:4]
  except (EOFError, OSError, zlib.error):
    return file  # Damaged: whoever reads it will find that.
  encoding = next((name for mark_of, name in _OTHER_MARKS.items()
                   if mark.startswith(mark_of)), None)
  if encoding is None:
    return file
  # Spreadsheets write such files; they are never large.
  with file, errors.reported(UnicodeError, lambda error: (
      f"{path} begins as {encoding} and is not ({error}); save it as UTF-8")):
    return io.BufferedReader(io.BytesIO(
        file.read().decode(encoding).encode("utf-8")))


@contextlib.contextmanager
def undamaged(path: pathlib.Path) -> Iterator[BinaryIO]:
  """Opens a file as `open_bytes` does; a cut one is a user's error."""
  with open_bytes(path) as file, errors.reported(
      (EOFError, OSError, zlib.error), lambda error: (
          f"{path} is a damaged or cut gzip file ({error}); fetch it again")):
    yield file


def read_object(path: pathlib.Path) -> dict[str, Any]:
  """Returns the JSON object that a small file holds.

  Raises:
    errors.UserError: the file cannot be read, or holds something else.
  """
  with errors.reported(
      OSError, lambda error: f"cannot read {path}: {error.strerror}"):
    value, problem = parse_json(path.read_bytes())
  if problem or not isinstance(value, dict):
    raise errors.UserError(
        f"{path} is damaged ({problem or 'not a JSON object'}); write it again")
  return value


def read_entries(path: pathlib.Path) -> Iterator[Entry]:
  """Yields the values of a file in one of the forms of this module.

  Raises:
    errors.UserError: the file is empty or unreadable, its compression is
      damaged, or it does not end as it has begun.
  """
  with undamaged(path) as file:
    start = file.peek(64).removeprefix(codecs.BOM_UTF8).lstrip()
    if start.startswith(b"["):
      yield from _values(file, path, "array", "]")
    elif start.startswith(b"{") and (form := _object_form(path)):
      yield from form(file, path)
    else:
      yield from _lines(file, path)


def read_lines(path: pathlib.Path) -> Iterator[Entry]:
  """Yields the lines of a text file as texts, but for white ones.

  Raises:
    errors.UserError: the file is empty or unreadable, or its compression is
      damaged.
  """
  with undamaged(path) as file:
    yield from _lines(file, path, parse_text)


def parse_text(line: bytes) -> tuple[str | None, str]:
  """Returns (text without its end of line, "") or (None, named problem)."""
  try:
    return line.decode("utf-8").rstrip("\r\n"), ""
  except UnicodeDecodeError:
    return None, INVALID_UTF8


def parse_json(text: str | bytes) -> tuple[Any, str]:
  """Returns (value, "") or (None, named problem)."""
  try:
    value = _DECODER.decode(
        text if isinstance(text, str) else text.decode("utf-8"))
  except UnicodeDecodeError:
    return None, INVALID_UTF8
  except RecursionError:
    return None, TOO_NESTED
  except ValueError:  # Also an integer of too many digits.
    return None, NOT_JSON
  return (None, NOT_JSON) if isinstance(value, NotAValue) else (value, "")


def is_encodable(text: str) -> bool:
  """False if the text has lone surrogates, which UTF-8 cannot hold."""
  return text.isascii() or not _SURROGATE.search(text)


_SURROGATE = re.compile("[\ud800-\udfff]")


class NotAValue:
  """Stands for NaN and Infinity, which Python reads and JSON has not.

  It is of no type that a field may have, so each reader's own check of types
  finds it; as null it would pass for a missing label.
  """


_DECODER = json.JSONDecoder(parse_constant=lambda name: NotAValue())


def _lines(
    file: BinaryIO, path: pathlib.Path,
    parse: Callable[[bytes], tuple[Any, str]] = parse_json,
) -> Iterator[Entry]:
  number = 0
  while line := file.readline(MAX_ENTRY_BYTES + 1):
    number += 1
    if len(line) > MAX_ENTRY_BYTES:
      while line and not line.endswith(b"\n"):
        line = file.readline(_CHUNK_BYTES)
      yield Entry(None, TOO_LONG, path, number, "line")
      continue
    if line.isspace():
      continue
    value, problem = parse(line.removeprefix(codecs.BOM_UTF8))
    yield Entry(value, problem, path, number, "line")


Reader = Callable[[BinaryIO, pathlib.Path], Iterator[Entry]]
_NAME = re.compile(r'"(?:[^"\\]|\\.)*+"\s*:\s*(?=\S)', re.DOTALL)
_NAMED_ROW = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*+"\s*:\s*\{', re.DOTALL)
_SPACE_AND_COMMA = re.compile(r"[ \t\r\n]*(,?)[ \t\r\n]*")


class _ArrayText:
  """A window on the text of an array file, moved along as it is read."""

  def __init__(self, file: BinaryIO):
    self._file = file
    # Bytes that are not UTF-8 come through as lone surrogates, so that one
    # bad element does not end the file.
    self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    self.text = ""
    self.at = 0
    self.ended = False

  def more(self) -> bool:
    """Appends a chunk and forgets what was read; False at the end."""
    if self.ended:
      return False
    chunk = self._file.read(_CHUNK_BYTES)
    self.ended = not chunk
    self.text = self.text[self.at:] + self._decoder.decode(
        chunk, final=self.ended)
    self.at = 0
    return not self.ended


def _objects(file: BinaryIO, path: pathlib.Path) -> Iterator[Entry]:
  """Objects one after another."""
  window = _window(file)
  number = 0
  while _skip_separator(window) or window.at < len(window.text):
    number += 1
    yield _element(window, path, number)


def _object_form(path: pathlib.Path) -> Reader | None:
  """How a file that begins with an object is to be read; None: by lines.

  Raises:
    errors.UserError: it is a table in another form.
  """
  with open_bytes(path) as file:
    window = _window(file)
    value = None
    while value is None:
      try:
        value, end = _DECODER.raw_decode(window.text, window.at)
      except (ValueError, RecursionError):
        if len(window.text) > MAX_ENTRY_BYTES or not window.more():
          break
    first_line = window.text.partition("\n")[0]
    if value is None:
      if len(window.text) > MAX_ENTRY_BYTES and _NAMED_ROW.match(window.text):
        return _rows_by_name
      return _objects if first_line.strip() == "{" else None
    begun = window.text[window.at:end]
    window.at = end
    _skip_separator(window)
    if window.at < len(window.text):
      # More follows. Lines are read one by one, as a bad one ends nothing.
      return _objects if "\n" in begun else None
  rows = list(value.values())
  if not rows or not all(isinstance(row, dict) for row in rows):
    return _objects if "\n" in begun else None
  if all(set(row) == set(rows[0]) for row in rows) and all(
      name.isdecimal() for name in rows[0]):
    raise errors.UserError(
        f"{path} has one object for each of the columns "
        f"{', '.join(value)}; write one for each row (in pandas: "
        "to_json(orient='records', lines=True))")
  return _rows_by_name


def _window(file: BinaryIO) -> _ArrayText:
  """A window at the first character that is not white."""
  window = _ArrayText(file)
  while not window.text.strip() and window.more():
    pass
  window.at = len(window.text) - len(window.text.lstrip("\ufeff \t\r\n"))
  return window


def _values(file: BinaryIO, path: pathlib.Path, kind: str, closing: str
            ) -> Iterator[Entry]:
  """Yields the values up to the `closing` bracket."""
  window = _window(file)
  window.at += 1
  number = 0
  while True:
    comma = _skip_separator(window)
    if window.at >= len(window.text):
      raise errors.UserError(
          f"{path} ends inside its {kind}, after element {number}; fetch it "
          "again")
    if window.text[window.at] == closing and (not comma or number == 0):
      break
    if number > 0 and not comma:
      raise errors.UserError(
          f"{path} has no comma after element {number} of its {kind}; it is "
          "not a JSON file")
    number += 1
    if closing == "}":
      _skip_name(window, path, number)
    yield _element(window, path, number)
  if number == 0:
    raise errors.UserError(f"{path} is an empty {kind}; fetch it again")


# The values of one object.
_rows_by_name = functools.partial(_values, kind="object", closing="}")


def _skip_name(window: _ArrayText, path: pathlib.Path, number: int) -> None:
  """Moves past the name and the colon before an object's value."""
  while not (match := _NAME.match(window.text, window.at)):
    if len(window.text) - window.at > MAX_ENTRY_BYTES or not window.more():
      raise errors.UserError(
          f"{path} element {number} has no name before it; it is not a JSON "
          "file")
  window.at = match.end()


def _skip_separator(window: _ArrayText) -> bool:
  """Moves to the next element or `]`; True if there was a comma."""
  comma = False
  while True:
    match = _SPACE_AND_COMMA.match(window.text, window.at)
    comma = comma or bool(match.group(1))
    window.at = match.end()
    if window.at < len(window.text) or not window.more():
      return comma


def _element(window: _ArrayText, path: pathlib.Path, number: int) -> Entry:
  """Reads the element that starts at the window's position."""
  while True:
    try:
      value, end = _DECODER.raw_decode(window.text, window.at)
      # A number at the window's end may go on in the next chunk.
      complete = end < len(window.text) or window.ended
    except RecursionError:
      raise errors.UserError(
          f"{path} element {number} is nested too deeply; the file is not one "
          "of completions") from None
    except ValueError:
      value, end, complete = None, window.at, False
    if complete:
      break
    if len(window.text) - window.at > MAX_ENTRY_BYTES:
      return _skip_long_element(window, path, number)
    if not window.more() and end == window.at:
      raise errors.UserError(
          f"{path} element {number} is cut or not JSON; fetch the file again")
  window.at = end
  problem = NOT_JSON if isinstance(value, NotAValue) else INVALID_UTF8 if (
      isinstance(value, str) and not is_encodable(value)) else ""
  return Entry(None if problem else value, problem, path, number, "element")


def _skip_long_element(
    window: _ArrayText, path: pathlib.Path, number: int) -> Entry:
  """Passes over a text of more than MAX_ENTRY_BYTES, in bounded memory."""
  if window.text[window.at] != '"':
    raise errors.UserError(
        f"{path} element {number} is longer than {MAX_ENTRY_BYTES} bytes or "
        "not JSON; fetch the file again")
  window.at += 1
  while True:
    end = _STRING_END.match(window.text, window.at).end()
    if end < len(window.text) and window.text[end] == '"':
      window.at = end + 1
      return Entry(None, TOO_LONG, path, number, "element")
    window.at = end
    if not window.more():
      raise errors.UserError(
          f"{path} ends inside element {number}; fetch it again")


_STRING_END = re.compile(r'(?:[^"\\]|\\.)*+', re.DOTALL)
