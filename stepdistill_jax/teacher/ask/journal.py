"""Which requests are under way: what a killed collector may have paid for.

The file `.sent` has a line for every event: `+KEY` before a request is sent,
`-KEY` after its completion was appended to the cache, or after it failed. Keys
that have a `+` last are in doubt when the file is found again: their answers
may have been on the way when the process was killed. No plain API can tell;
a server that honours the `Idempotency-Key` header charges them once.
"""

from __future__ import annotations

import os
import pathlib

_NAME = ".sent"
_DIGITS = 32  # Hex digits of a key that are kept: 128 bits.
_LONGEST = 2**20  # Bytes after which the file is begun anew.


class Journal:
  """The file `.sent` of one cache.

  Attributes:
    in_doubt: keys, shortened, that were in doubt when it was opened.
  """

  def __init__(self, folder: pathlib.Path):
    self._path = folder / _NAME
    self.in_doubt = read(folder)
    self._under_way: set[str] = set()
    self._file = -1  # Opened at the first request.

  def sent(self, key: str) -> None:
    """To be called before the request leaves."""
    key = short(key)
    if self._file < 0:
      self._begin()
    self._under_way.add(key)
    self._write(f"+{key}\n")

  def answered(self, key: str) -> None:
    """To be called when the answer is appended, or the request has failed."""
    key = short(key)
    self._under_way.discard(key)
    self.in_doubt.discard(key)
    self._write(f"-{key}\n")

  def close(self) -> None:
    """Removes the file, unless something is still in doubt."""
    if self._file < 0:
      return
    os.close(self._file)
    if self._under_way or self.in_doubt:
      self._begin()
      os.close(self._file)
    else:
      self._path.unlink(missing_ok=True)
    self._file = -1

  def abandon(self) -> None:
    """Leaves the file as it is."""
    if self._file >= 0:
      os.close(self._file)
      self._file = -1

  def _write(self, line: str) -> None:
    if self._file < 0:
      return  # Nothing was sent.
    # Not synced: it is there for killed processes. After the machine's end
    # what was under way is unknown, as it is without this file.
    os.write(self._file, line.encode("ascii"))
    self._size += len(line)
    if self._size > _LONGEST:
      os.close(self._file)
      self._begin()

  def _begin(self) -> None:
    """Writes the file anew with what is in doubt or under way."""
    temporary = self._path.with_name(f"{_NAME}.new")
    content = "".join(
        f"+{key}\n" for key in sorted(self.in_doubt | self._under_way))
    temporary.write_text(content, "ascii")
    os.replace(temporary, self._path)
    self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
    self._size = len(content)


def short(key: str) -> str:
  """The part of a request's key that the journal keeps."""
  return key[:_DIGITS]


def read(folder: pathlib.Path) -> set[str]:
  """The keys, shortened, that a cache's journal leaves in doubt."""
  keys: set[str] = set()
  try:
    with (folder / _NAME).open("rb") as file:
      for raw in file:
        line = raw.decode("ascii", "replace")
        if line.startswith("+") and len(line) == _DIGITS + 2:
          keys.add(line[1:-1])
        elif line.startswith("-"):
          keys.discard(line[1:-1])
  except FileNotFoundError:
    pass
  return keys
