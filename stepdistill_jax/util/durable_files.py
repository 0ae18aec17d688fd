"""Writing so that it is on the disk when the call returns."""

from __future__ import annotations

import os
import pathlib


def write(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes a file and waits until its bytes are on the disk."""
  with open(path, "wb") as stream:
    stream.write(data)
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: str | os.PathLike[str]) -> None:
  """Waits until the names in a folder are on the disk."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def replace(path: pathlib.Path, data: bytes) -> None:
  """Puts a file in its place in one step, on the disk when this returns."""
  temporary = path.with_name(f".{path.name}.new")
  write(temporary, data)
  os.replace(temporary, path)
  sync_folder(path.parent)
