"""Lists whose memory does not grow with their values: many lie on the disk."""

from __future__ import annotations

import array
import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import operator
import os
import tempfile
from typing import IO, Any, Generic, TypeVar, overload

import msgpack

T = TypeVar("T")

MOST_IN_MEMORY = 20_000  # Values of a list; with one more, all go to the disk.
_BLOCK = 2**18  # Bytes that are read or written at a time.
# Lone surrogates stay as they are: JSON's escapes would join two of them.
_TEXTS = {"unicode_errors": "surrogatepass"}


class DiskList(Sequence[T], Generic[T]):
  """A list that grows at its end, in a temporary file if it is long.

  The file has no name and ends with the list, or with the process. It is of
  MessagePack, so values consist of str, int of 64 bits, float, bool, None,
  lists, and dicts with str keys; there a tuple becomes a list.

  Args:
    values: the first ones.
    of: the dataclass of the values, whose fields are as above; None for values
      that are themselves so.

  Raises:
    OSError: the disk is full; as every other method.
  """

  def __init__(self, values: Iterable[T] = (), of: type[T] | None = None):
    self._few: list[T] = []
    self._file: IO[bytes] | None = None
    self._ends = array.array("q", [0])  # In the file, of each value.
    self._packer = msgpack.Packer(**_TEXTS)
    self._pack: Callable[[Any], Any] = lambda value: value
    self._unpack: Callable[[Any], Any] = self._pack
    if of is not None:
      # All of ours have several fields: of one this would not be a tuple.
      self._pack = operator.attrgetter(
          *(field.name for field in dataclasses.fields(of)))  # type: ignore
      self._unpack = lambda values: of(*values)
    for value in values:
      self.append(value)

  def append(self, value: T) -> None:
    """Puts a value at the end."""
    if self._file is not None:
      self._write(value)
      return
    self._few.append(value)
    if len(self._few) > MOST_IN_MEMORY:
      self._file = tempfile.TemporaryFile("wb", buffering=_BLOCK)
      for early in self._few:
        self._write(early)
      self._few = []

  def _write(self, value: T) -> None:
    data = self._packer.pack(self._pack(value))
    self._to_disk(lambda file: file.write(data))
    self._ends.append(self._ends[-1] + len(data))

  def _to_disk(self, write: Callable[[IO[bytes]], Any]) -> int:
    """Writes; returns the file's descriptor. Names the folder in an error."""
    assert self._file is not None
    try:
      write(self._file)
    except OSError as error:
      raise OSError(
          error.errno, error.strerror, tempfile.gettempdir()) from error
    return self._file.fileno()

  def _read(self, start: int, stop: int) -> bytes:
    """The values from `start` to `stop`, which are in the file."""
    begin, end = self._ends[start], self._ends[stop]
    return os.pread(
        self._to_disk(lambda file: file.flush()), end - begin, begin)

  def __len__(self) -> int:
    return len(self._few) if self._file is None else len(self._ends) - 1

  def __iter__(self) -> Iterator[T]:
    at = 0
    while at < len(self):
      if self._file is None:
        yield self._few[at]
        at += 1
        continue
      stop = max(at + 1, bisect.bisect_right(
          self._ends, self._ends[at] + _BLOCK) - 1)
      unpacker = msgpack.Unpacker(**_TEXTS, max_buffer_size=0)
      unpacker.feed(self._read(at, stop))
      yield from map(self._unpack, unpacker)
      at = stop

  @overload
  def __getitem__(self, index: int) -> T: ...
  @overload
  def __getitem__(self, index: slice) -> list[T]: ...

  def __getitem__(self, index: int | slice) -> T | list[T]:
    if self._file is None:
      return self._few[index]
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    index = range(len(self))[index]  # Raises IndexError, as lists do.
    found: T = self._unpack(msgpack.unpackb(
        self._read(index, index + 1), **_TEXTS))
    return found
