"""Users' mistakes, told in one line, with exit code 2 and no traceback."""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import sys
import threading
import traceback
from typing import Callable, Iterable, Iterator, NoReturn, Optional

USER_ERROR_EXIT_CODE = 2
# EX_TEMPFAIL: the same command goes on where this one stopped. What starts
# runs (launch/, schedulers) starts again on it.
PREEMPTED_EXIT_CODE = 75
# Begins the lines that gin adds to an error, the innermost call first; of no
# use to a user.
GIN_CALL = "\n  In call to configurable"


class UserError(Exception):
  """A mistake that the user can mend.

  The message says what was got, what was expected, where, and what to do, in
  one line.
  """


class InvalidValue(UserError, ValueError):
  """A setting's value that cannot work, where T5X raises ValueError."""


class Unreadable(UserError):
  """Files that cannot be read, which says nothing of what is in them."""


class Preempted(Exception):
  """A run has saved and ends because it was told to; it can go on later."""


def near_names(name: str, options: Iterable[str], limit: int = 5) -> list[str]:
  """Returns the options that look most like `name`, best first."""
  options = sorted(set(options))
  near = difflib.get_close_matches(name, options, n=limit, cutoff=0.4)
  return near or options[:limit]


def unknown_name_message(
    kind: str, name: str, options: Iterable[str], advice: str = "") -> str:
  """One line for a failed lookup, with near names.

  >>> unknown_name_message("dataset", "svmap", ["svamp", "cqa"])
  "unknown dataset 'svmap'; did you mean: svamp?"
  """
  options = list(options)
  near = near_names(name, options)
  hint = f"did you mean: {', '.join(near)}?" if near else "none are known"
  return f"unknown {kind} {name!r}; {hint}" + (f" {advice}" if advice else "")


def chain(error: Optional[BaseException]) -> Iterator[BaseException]:
  """An error and what it came from, the latest first."""
  seen = set()
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    yield error
    error = error.__cause__ or error.__context__


def _one_line(text: str) -> str:
  return " ".join(line.strip() for line in text.splitlines())


def _end_now(code: int) -> NoReturn:
  """Ends the process without waiting for its threads.

  One may compile for minutes, and a data pipeline may never end.
  """
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  os._exit(code)


def _end_by_thread(args: threading.ExceptHookArgs) -> None:
  """A `threading.excepthook` that ends the process, as if it were killed."""
  if args.exc_type is SystemExit:
    return
  name = args.thread.name if args.thread else "?"
  print(f"error in the thread {name}:", file=sys.stderr)
  traceback.print_exception(args.exc_type, args.exc_value, args.exc_traceback)
  _end_now(1)


def ending_process(command_main: Callable[..., int]) -> Callable[..., int]:
  """Wraps a main function of `command` that leaves threads behind.

  Called without arguments, as console scripts do, it is the whole process:
  an error then ends it at once, whatever threads are at work, and so does an
  error that a thread does not catch.
  """

  @functools.wraps(command_main)
  def wrapper(*args, **kwargs) -> int:
    if args or kwargs:
      return command_main(*args, **kwargs)
    threading.excepthook = _end_by_thread
    try:
      code = command_main()
    except Exception:  # pylint: disable=broad-exception-caught
      traceback.print_exc()
      code = 1
    if code in (1, USER_ERROR_EXIT_CODE):
      _end_now(code)
    return code

  return wrapper


def command(main: Callable[..., int | None]) -> Callable[..., int]:
  """Wraps a command's main function: UserError becomes a line and code 2.

  So does what an object store's library raises. `$STEPDISTILL_TRACEBACK=1`
  shows the traceback all the same.
  """

  @functools.wraps(main)
  def wrapper(*args, **kwargs) -> int:
    try:
      return main(*args, **kwargs) or 0
    except UserError as error:
      if os.environ.get("STEPDISTILL_TRACEBACK"):
        raise
      print(f"error: {_one_line(str(error).split(GIN_CALL)[0])}",
            file=sys.stderr)
      return USER_ERROR_EXIT_CODE
    except Preempted as stopped:
      print(stopped, file=sys.stderr)
      return PREEMPTED_EXIT_CODE
    except KeyboardInterrupt as interrupted:
      print(str(interrupted) or "interrupted", file=sys.stderr)
      return 130  # 128 + SIGINT, as shells report it.
    except BrokenPipeError:
      # The reader (`| head`) left: silence the flush at exit too.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      return 141  # 128 + SIGPIPE.
    except Exception as error:  # Storage libraries raise what they like.
      from stepdistill_jax.util import remote_storage  # pylint: disable=g-import-not-at-top
      line = remote_storage.explain(error)
      if line is None or os.environ.get("STEPDISTILL_TRACEBACK"):
        raise
      print(f"error: {line}", file=sys.stderr)
      return USER_ERROR_EXIT_CODE

  return wrapper
