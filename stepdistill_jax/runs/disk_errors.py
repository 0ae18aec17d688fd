"""A full disk or a lost folder, reported in a line, whoever notices first.

A run's files are written by many: orbax, TensorFlow's event writer in a
thread of clu's, SeqIO's loggers, this project. Each says it in its own kind
of error, often hidden in another.
"""

from collections.abc import Callable, Iterator
import contextlib
import errno
import functools
import logging
import os
import sys
from typing import Any

from etils import epath

from stepdistill_jax.util import errors

_ABOUT_THE_DISK = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk's quota is used up",
    errno.EFBIG: "a file would be larger than the system allows",
    errno.EROFS: "the file system is read only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the disk fails",
    errno.ESTALE: "the network file system is gone"}


def reason(error: BaseException, folder: str) -> str | None:
  """What the disk says, for people; None if an error is not about a disk.

  Args:
    error: of any library.
    folder: that was being written to.
  """
  local = "://" not in folder
  for one in errors.chain(error):
    number = getattr(one, "errno", None)
    text = _ABOUT_THE_DISK.get(number) if isinstance(one, OSError) else next(
        (words for code, words in _ABOUT_THE_DISK.items()
         if os.strerror(code) in str(one)), None)
    is_missing = isinstance(one, FileNotFoundError) or (
        type(one).__name__ == "NotFoundError"  # TensorFlow's.
        or os.strerror(errno.ENOENT) in str(one))
    if local and (text or is_missing) and not epath.Path(folder).is_dir():
      return "the folder is gone"
    if text:
      return text
  return None


def advice(folder: str) -> str:
  """What is left of a run, and what to do."""
  from stepdistill_jax.runs import checkpoint_paths
  step = checkpoint_paths.latest_step(folder)
  latest = ("it has no checkpoint" if step is None
            else f"the last good one is checkpoint_{step}")
  return (f"{latest}; make room or mend the folder, then give the same command "
          "again")


@contextlib.contextmanager
def reported(model_dir: str) -> Iterator[None]:
  """Makes a UserError of a disk's error inside; leaves others as they are.

  A UserError that was on its way when writers failed while they were closed
  is the one that counts. Clu's writers also log what they raise later on, and
  orbax's writes of other arrays raise where nobody catches it, some of them
  when this has returned; neither is shown.
  """
  logger, unraisable = logging.getLogger("absl"), sys.unraisablehook
  logger.addFilter(_is_not_of_clu)
  sys.unraisablehook = functools.partial(_show_unraisable, unraisable)
  try:
    yield
  except (errors.UserError, errors.Preempted):
    raise
  except Exception as error:
    unraisable = sys.unraisablehook  # It stays.
    for one in errors.chain(error):
      if isinstance(one, errors.UserError):
        raise errors.UserError(str(one)) from error
    if (why := reason(error, model_dir)) is None:
      raise
    raise errors.UserError(
        f"cannot write into {model_dir}: {why}; {advice(model_dir)}"
    ) from error
  finally:
    logger.removeFilter(_is_not_of_clu)
    sys.unraisablehook = unraisable


def _is_not_of_clu(record: logging.LogRecord) -> bool:
  return f"{os.sep}clu{os.sep}" not in record.pathname


def _show_unraisable(show: Callable[[Any], None], unraisable: Any) -> None:
  if "Event loop is closed" not in str(unraisable.exc_value):
    show(unraisable)
