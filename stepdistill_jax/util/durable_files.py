"""Files that are whole whenever they are there, and on the disk at once."""

from collections.abc import Iterable
import contextlib
import os
from typing import IO


def write(path: str | os.PathLike[str],
          data: bytes | str | Iterable[bytes | str]) -> None:
  """Writes a file and waits until its bytes are on the disk."""
  with open(path, "wb") as stream:
    _write_to(stream, data)
    stream.flush()
    os.fsync(stream.fileno())


def _write_to(
    stream: IO[bytes], data: bytes | str | Iterable[bytes | str]) -> None:
  for part in [data] if isinstance(data, (bytes, str)) else data:
    # A lone surrogate in a model's text must not stop a report.
    stream.write(part.encode("utf-8", "backslashreplace")
                 if isinstance(part, str) else part)


def sync_folder(folder: str | os.PathLike[str]) -> None:
  """Waits until the names in a folder are on the disk."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def replace(path: str | os.PathLike[str],
            data: bytes | str | Iterable[bytes | str]) -> None:
  """Puts a file in its place in one step, on the disk when this returns.

  Readers see all of it or what was there before. In an object store a file
  appears at its end.

  Args:
    path: of the file.
    data: its contents, or parts of them; what a str has that is not UTF-8 is
      escaped.

  Raises:
    OSError: it cannot be written; the file stays as it was.
  """
  if "://" in os.fspath(path):
    from etils import epath  # Late: `--help` is quick.
    with epath.Path(path).open("wb") as stream:
      _write_to(stream, data)
    return
  folder, name = os.path.split(os.fspath(path))
  temporary = os.path.join(folder, f".{name}.{os.getpid()}")
  try:
    write(temporary, data)
    os.replace(temporary, path)
  except BaseException:
    with contextlib.suppress(OSError):
      os.remove(temporary)
    raise
  sync_folder(folder or ".")
