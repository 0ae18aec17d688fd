"""One writer of a cache at a time."""

from collections.abc import Callable
import fcntl
import os
import pathlib
import time
from typing import TypeVar

from stepdistill_jax.util import errors

T = TypeVar("T")


class Locked(Exception):
  """Another process writes to this cache; the message says which."""


def wait_for_lock(
    make: Callable[[], T], *, longest_s: float,
    waiting: Callable[[str], None]) -> T:
  """Returns what `make` opens, waiting for a writer that is about to end.

  Args:
    make: opens something; raises Locked while another process has it.
    longest_s: how long to wait.
    waiting: called once, with who has it.

  Raises:
    errors.UserError: it is still locked after that.
  """
  until, reported = time.monotonic() + longest_s, False
  while True:
    try:
      return make()
    except Locked as error:
      if not reported:
        waiting(str(error))
        reported = True
      if time.monotonic() >= until:
        raise errors.UserError(
            f"{error}; it did not end within {longest_s:.0f} s: wait for it, "
            "or end it, and run the same command again") from error
      time.sleep(0.1)


def lock(path: pathlib.Path) -> int:
  """Locks the file until its descriptor is closed, or the process ends."""
  descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    holder = os.pread(descriptor, 100, 0).decode("ascii", "replace").strip()
    os.close(descriptor)
    raise Locked(
        f"{path.parent} is being written by process {holder or 'unknown'}"
    ) from None
  os.ftruncate(descriptor, 0)
  os.pwrite(descriptor, str(os.getpid()).encode(), 0)
  return descriptor
