"""Entry points: what a command's failures print, and its exit codes."""

from collections.abc import Callable
import contextlib
import functools
import os
import sys
import threading
import traceback
from typing import NoReturn

from stepdistill_jax.util import errors, remote_storage


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
  def wrapper(*args: object, **kwargs: object) -> int:
    if args or kwargs:
      return command_main(*args, **kwargs)
    threading.excepthook = _end_by_thread
    try:
      code = command_main()
    except Exception:
      traceback.print_exc()
      code = 1
    if code in (1, errors.USER_ERROR_EXIT_CODE):
      _end_now(code)
    return code

  return wrapper


def command(main: Callable[..., int | None]) -> Callable[..., int]:
  """Wraps a command's main function: UserError becomes a line and code 2.

  So does what an object store's library raises. `$STEPDISTILL_TRACEBACK=1`
  shows the traceback all the same.
  """

  @functools.wraps(main)
  def wrapper(*args: object, **kwargs: object) -> int:
    try:
      return main(*args, **kwargs) or 0
    except errors.Preempted as stopped:
      print(stopped, file=sys.stderr)
      return errors.PREEMPTED_EXIT_CODE
    except KeyboardInterrupt as interrupted:
      print(str(interrupted) or "interrupted", file=sys.stderr)
      return 130  # 128 + SIGINT, as shells report it.
    except BrokenPipeError:
      # The reader (`| head`) left: silence the flush at exit too.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      return 141  # 128 + SIGPIPE.
    except Exception as error:  # Storage libraries raise what they like.
      line = (errors.one_line(str(error).split(errors.GIN_CALL)[0])
              if isinstance(error, errors.UserError)
              else remote_storage.explain(error))
      if line is None or os.environ.get("STEPDISTILL_TRACEBACK"):
        raise
      print(f"error: {line}", file=sys.stderr)
      return errors.USER_ERROR_EXIT_CODE

  return wrapper
