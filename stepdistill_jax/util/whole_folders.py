"""Folders that are whole whenever they are there."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
import socket

import psutil

_KINDS = ("incomplete", "replaced")


@contextlib.contextmanager
def written(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Makes a folder to write to, which gets its name when the block ends well.

  An older folder of the name is replaced: between the two renames readers see
  none, never half of one. If the block raises, the older one stays. What
  processes of this machine left that were killed is removed.

  Args:
    folder: the name.

  Yields:
    The folder to write to.

  Raises:
    OSError: it cannot be made, or cannot have its name.
  """
  folder.parent.mkdir(parents=True, exist_ok=True)
  host = socket.gethostname()
  for kind in _KINDS:
    for leftover in folder.parent.glob(f".{kind}-{folder.name}-*"):
      before, _, process = leftover.name.rpartition("-")
      is_ours = before == f".{kind}-{folder.name}" or before.endswith(host)
      if is_ours and process.isdigit() and (
          int(process) == os.getpid() or not psutil.pid_exists(int(process))):
        shutil.rmtree(leftover, ignore_errors=True)
  temporary, older = (
      folder.with_name(f".{kind}-{folder.name}-{host}-{os.getpid()}")
      for kind in _KINDS)
  temporary.mkdir()
  try:
    yield temporary
    if folder.exists():
      os.rename(folder, older)
    os.rename(temporary, folder)
    shutil.rmtree(older, ignore_errors=True)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
