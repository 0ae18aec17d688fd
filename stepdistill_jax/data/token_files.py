"""Tokenized examples on disk, each found by its number.

    FOLDER/
      about.json  format, features and their dtypes, bytes of the files
      rows        examples, one after the other: the size of each feature
                  (uint32 [features]), then the values of each
      starts      int64 [examples + 1]: where each begins in `rows`, in bytes
      sizes       uint32 [examples, features]
      ids         int64 [examples]: a hash of each example's id

Files are read, not mapped: mapped pages count as a process's own memory. All
numbers are little endian.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import os
import pathlib
from typing import Any, BinaryIO

import numpy as np

FORMAT = 1
_ABOUT = "about.json"
_FILES = ("rows", "starts", "sizes", "ids")
_AT_ONCE = 2**18  # Examples whose sizes are read together.


class DamagedError(ValueError):
  """A folder that is not what `Writer` left."""


class Writer:
  """Writes examples to an empty folder; a context manager. Raises OSError."""

  def __init__(self, folder: pathlib.Path, dtypes: Mapping[str, str]):
    """Initializes.

    Args:
      folder: to write to.
      dtypes: name of a feature -> NumPy's name of its dtype on disk.
    """
    self._folder, self._dtypes = folder, dict(dtypes)
    self._files: dict[str, BinaryIO] = {}
    self._bytes = 0
    self.count = 0

  def __enter__(self) -> Writer:
    self._files = {name: open(self._folder / name, "wb") for name in _FILES}
    self._files["starts"].write(bytes(8))
    return self

  def __exit__(self, *unused_exception: object) -> None:
    for file in self._files.values():
      file.close()

  def add(self, columns: Mapping[str, tuple[np.ndarray, np.ndarray]],
          ids: np.ndarray) -> None:
    """Adds examples.

    Args:
      columns: name -> (the values of all examples, the number of each's).
      ids: int64 `[examples]`.
    """
    sizes = np.stack(
        [columns[name][1] for name in self._dtypes], axis=1).astype("<u4")
    values = [np.ascontiguousarray(columns[name][0].astype(dtype))
              for name, dtype in self._dtypes.items()]
    parts = [sizes, *values]
    widths = np.stack(  # [examples, 1 + features], in bytes.
        [np.full(len(sizes), 4 * len(values)), *(
            sizes[:, i].astype(np.int64) * value.itemsize
            for i, value in enumerate(values))], axis=1)
    ends = np.cumsum(widths).reshape(widths.shape)
    rows = np.empty(int(widths.sum()), np.uint8)
    for i, part in enumerate(parts):
      width = widths[:, i]
      before = ends[:, i] - np.cumsum(width)  # Bytes of other parts.
      rows[np.repeat(before, width) + np.arange(width.sum())] = (
          part.reshape(-1).view(np.uint8))
    for name, array in (("rows", rows), ("sizes", sizes),
                        ("starts", self._bytes + ends[:, -1].astype("<i8")),
                        ("ids", ids.astype("<i8"))):
      self._files[name].write(array.tobytes())
    self._bytes += rows.size
    self.count += len(sizes)

  def finish(self, about: Mapping[str, Any]) -> None:
    """Writes down that all is written, with what is to be said of it."""
    for file in self._files.values():
      file.flush()
      os.fsync(file.fileno())
    (self._folder / _ABOUT).write_text(json.dumps({
        **about, "format": FORMAT, "examples": self.count,
        "dtypes": self._dtypes, "bytes": {
            name: file.tell() for name, file in self._files.items()}},
        indent=1) + "\n", "utf-8")


def read_about(folder: pathlib.Path) -> dict[str, Any]:
  """What a folder says of itself.

  Raises:
    DamagedError: it is of another format, or a file has not its length.
    PermissionError: it is another user's, who keeps it.
  """
  with _damage(f"{_ABOUT} is not what was written",
               f"{_ABOUT} or a file is missing"):
    about = json.loads((folder / _ABOUT).read_text("utf-8"))
    if about["format"] != FORMAT:
      raise DamagedError(f"it is of format {about['format']}, not {FORMAT}")
    for name in _FILES:
      size, found = about["bytes"][name], (folder / name).stat().st_size
      if found != size:
        raise DamagedError(f"{name} has {found:,} bytes of {size:,}")
    return dict(about)


@contextlib.contextmanager
def _damage(of_contents: str, of_files: str) -> Iterator[None]:
  """Makes a DamagedError of what wrong or missing files raise inside."""
  try:
    yield
  except (DamagedError, PermissionError):
    raise
  except OSError as error:
    raise DamagedError(of_files) from error
  except (ValueError, LookupError, TypeError, AttributeError) as error:
    raise DamagedError(of_contents) from error


class TokenFiles:
  """Reads what `Writer` wrote, also after its folder was removed.

  Attributes:
    folder: where they were opened.
    about: what the folder says of itself.
    names: of the features.
    count: number of examples.
    longest: the largest size of each feature.
  """

  def __init__(self, folder: pathlib.Path):
    """Opens a folder; raises what `read_about` does."""
    self.about = read_about(folder)
    self.folder = folder
    with _damage("its files do not agree", "its files do not agree"):
      self.names = tuple(self.about["dtypes"])
      self.count: int = self.about["examples"]
      self._dtypes = [np.dtype(d) for d in self.about["dtypes"].values()]
      self._files = {name: open(folder / name, "rb", buffering=0)
                     for name in _FILES}
      self.longest = dict(zip(self.names, self._look()))

  def _look(self) -> list[int]:
    """The features' largest sizes, if examples begin where sizes say so."""
    widths = np.array([dtype.itemsize for dtype in self._dtypes], np.int64)
    longest, first, end = np.zeros(len(self.names), np.int64), 0, 0
    for sizes in self.sizes():
      ends = end + np.cumsum(4 * len(widths) + sizes @ widths)
      starts = np.frombuffer(os.pread(
          self._files["starts"].fileno(), 8 * len(ends) + 8, 8 * first), "<i8")
      if starts[0] != end or (starts[1:] != ends).any():
        raise DamagedError(f"its files do not agree from example {first:,} on")
      longest = np.maximum(longest, sizes.max(axis=0))
      first, end = first + len(ends), int(ends[-1])
    if (end, 8 * first) != (
        self.about["bytes"]["rows"], self.about["bytes"]["ids"]):
      raise DamagedError("its files do not agree")
    return longest.tolist()

  def read(self, rows: Sequence[int]) -> list[list[np.ndarray]]:
    """Examples by their numbers: the values of each feature of each.

    Raises:
      DamagedError: what is there is not an example.
    """
    starts, values = (self._files[n].fileno() for n in ("starts", "rows"))
    header, found = 4 * len(self.names), []
    for row in rows:
      start, end = np.frombuffer(os.pread(starts, 16, 8 * row), "<i8").tolist()
      data = os.pread(values, end - start, start)
      example, at = [], header
      for size, dtype in zip(np.frombuffer(
          data[:header], "<u4").tolist(), self._dtypes):
        width = size * dtype.itemsize
        example.append(np.frombuffer(data[at:at + width], dtype))
        at += width
      if at != end - start or len(example) != len(self.names):
        raise DamagedError(f"{self.folder}: example {row:,} is damaged; "
                           "remove the folder, it is made anew")
      found.append(example)
    return found

  def sizes(self) -> Iterator[np.ndarray]:
    """The features' sizes, many examples at once, uint32 [any, features]."""
    for part in self._parts("sizes", "<u4", len(self.names)):
      yield part.reshape(-1, len(self.names))

  def ids(self) -> Iterator[np.ndarray]:
    """Hashes of the examples' ids, as many at once as of `sizes`, int64."""
    return self._parts("ids", "<i8", 1)

  def _parts(self, name: str, dtype: str, width: int) -> Iterator[np.ndarray]:
    for first in range(0, self.count, _AT_ONCE):
      count = min(_AT_ONCE, self.count - first) * width
      size = np.dtype(dtype).itemsize
      yield np.frombuffer(os.pread(
          self._files[name].fileno(), count * size, first * width * size),
          dtype)
