"""One run at a time in a run folder: `run.lock`, with host and process.

The lock is the kernel's (`flock`): it ends with its process, whatever ends
that, so that a left-over file does not lock. Where the folder is on a file
system that has no such locks, or in an object store, the file counts by its
beats: it is stale when its holder has not rewritten it for a while.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from typing import Any

from etils import epath

from stepdistill_jax.util import errors, progress, remote_storage

FILE_NAME = "run.lock"
_BEAT_SECONDS = 15.0
_STALE_BEATS = 3


def _content(beat: int) -> str:
  return json.dumps({
      "host": socket.gethostname(), "pid": os.getpid(),
      "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "beat": beat}) + "\n"


def _read(path: epath.Path) -> Mapping[str, Any] | None:
  try:
    holder = json.loads(path.read_text())
    return holder if isinstance(holder, dict) else {}
  except FileNotFoundError:
    return None
  except (OSError, ValueError):
    return {}


def _describe(holder: Mapping[str, Any]) -> str:
  return (f"process {holder.get('pid', '?')} on {holder.get('host', '?')}, "
          f"since {holder.get('since', '?')}")


def _refuse(model_dir: str, holder: Mapping[str, Any]) -> None:
  raise errors.UserError(
      f"another run works in {model_dir}: {_describe(holder)}; wait for it, "
      "end it, or take another MODEL_DIR")


def _may_be_alive(holder: Mapping[str, Any], locked: bool) -> bool:
  """Whether only its beats can tell if a holder is alive.

  Args:
    holder: what its file says.
    locked: whether this process has the kernel's lock on that file: then no
      process of this host has it.
  """
  if holder.get("host") != socket.gethostname():
    return holder.get("host") is not None
  pid = holder.get("pid")
  if locked or not isinstance(pid, int) or pid == os.getpid():
    return False
  return os.path.exists(f"/proc/{pid}")


def _beats(path: epath.Path, holder: Mapping[str, Any],
           sleep: Callable[[float], None]) -> bool:
  """Whether a holder still rewrites its file; looks for a while."""
  progress.say(
      f"{path} is of {_describe(holder)}: looking whether that run is alive")
  for _ in range(_STALE_BEATS):
    sleep(_BEAT_SECONDS)
    now = _read(path)
    if now is None:
      return False
    if now != holder:
      return True
  return False


def is_beating(model_dir: str) -> bool:
  """Whether a run works in a folder, on whichever machine.

  A run empties its lock at its end, and rewrites it meanwhile.
  """
  path = epath.Path(model_dir) / FILE_NAME
  try:
    return bool(_read(path)) and (
        time.time() - path.stat().mtime < _STALE_BEATS * _BEAT_SECONDS)
  except OSError:
    return False


@contextlib.contextmanager
def held(
    model_dir: str, sleep: Callable[[float], None] = time.sleep
) -> Iterator[None]:
  """Holds a run folder's lock; makes the folder.

  Args:
    model_dir: the run folder.
    sleep: in seconds; for tests.

  Raises:
    errors.UserError: another run holds it, or the folder cannot be made or
      written into.
  """
  with errors.reported(OSError, lambda error: (
      f"cannot make MODEL_DIR={model_dir}: "
      f"{error.strerror or errors.first_line(error)}; take another one")):
    epath.Path(model_dir).mkdir(parents=True, exist_ok=True)
  path = epath.Path(model_dir) / FILE_NAME
  before, descriptor, locked = _read(path), None, False
  done = threading.Event()

  def beat(number: int) -> None:
    if descriptor is None:
      path.write_text(_content(number))
    else:
      text = _content(number).encode()
      os.pwrite(descriptor, text, 0)
      os.ftruncate(descriptor, len(text))

  def keep_beating() -> None:
    number = 0
    while not done.wait(_BEAT_SECONDS):
      number += 1
      try:
        beat(number)
      except Exception as error:  # The next one may reach the store again.
        if not remote_storage.is_of_files(error):
          raise

  with contextlib.ExitStack() as stack:
    with errors.reported(OSError, lambda error: (
        f"cannot write into MODEL_DIR={model_dir}: {error.strerror or error}; "
        "make it writable, or take another one")):
      if "://" not in model_dir:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        stack.callback(os.close, descriptor)
        try:
          fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
          locked = True
        except BlockingIOError:
          _refuse(model_dir, _read(path) or {})
        except OSError:
          pass  # A file system without locks: the beats count.
      if before and _may_be_alive(before, locked) and _beats(
          path, before, sleep):
        _refuse(model_dir, _read(path) or before)
      if before:
        progress.say(f"took over the stale lock of {_describe(before)}")
      beat(0)
    beating = threading.Thread(target=keep_beating, daemon=True)
    beating.start()
    try:
      yield
    finally:
      done.set()
      beating.join()
      with contextlib.suppress(OSError):
        # Emptied, not removed: who waits for the lock has the file open.
        if descriptor is not None:
          os.ftruncate(descriptor, 0)
        elif path.exists():
          path.write_text("")
