"""Users' mistakes, reported in one line, with exit code 2."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import difflib
from typing import Any

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
  """A run has saved and ends because it was asked to; it can go on later."""


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


def require_known(kind: str, name: str, options: Iterable[str],
                  advice: str = "", *, where: str = "") -> None:
  """Raises InvalidValue, with near names, unless a name is an option.

  Args:
    kind: what the name is of, as in `unknown_name_message`.
    name: what was given.
    options: names that there are.
    advice: see there.
    where: the file or option that has the name; begins the message.
  """
  options = list(options)
  if name not in options:
    raise InvalidValue((where and f"{where}: ")
                       + unknown_name_message(kind, name, options, advice))


def missing_split_message(
    split: str, known: Iterable[str], splits: Iterable[str],
    where: str) -> str:
  """One line for a split that is not there: another one is not a near name.

  Args:
    split: what was asked for.
    known: the splits of all data sets.
    splits: those that are there.
    where: what lacks it.

  >>> missing_split_message("test", ["train", "test"], ["train"], "records")
  "no split 'test' in records (there: train)"
  """
  splits = list(splits)
  if split not in known:
    return unknown_name_message("split", split, splits, f"({where})")
  return f"no split {split!r} in {where} (there: {', '.join(splits) or 'none'})"


@contextlib.contextmanager
def reported(kinds: type[BaseException] | tuple[type[BaseException], ...],
             message: Callable[[Any], str] | str) -> Iterator[None]:
  """Raises UserError in place of an error inside; UserErrors stay as they are.

  Args:
    kinds: of errors.
    message: the line, or what makes it of the error.
  """
  try:
    yield
  except UserError:
    raise
  except kinds as error:
    raise UserError(
        message if isinstance(message, str) else message(error)) from error


def chain(error: BaseException | None) -> Iterator[BaseException]:
  """An error and what it came from, the latest first."""
  seen = set()
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    yield error
    error = error.__cause__ or error.__context__


def first_line(error: BaseException, most: int = 300) -> str:
  """An error's first line, cut to a readable length; else its kind."""
  text = str(error).strip().splitlines()
  return (text[0] if text else type(error).__name__)[:most]


def one_line(text: str) -> str:
  return " ".join(line.strip() for line in text.splitlines())


@contextlib.contextmanager
def answers_are_kept() -> Iterator[None]:
  """Makes one line of a full disk or a lost file, where answers go on later.

  Raises:
    UserError: in place of an OSError, other than of a reader that left.
  """
  try:
    yield
  except BrokenPipeError:
    raise  # The reader of the output left; not a mistake.
  except OSError as error:
    # A full disk, a folder without permission, a file that went away.
    where = f"{error.filename}: " if error.filename else ""
    raise UserError(
        f"{where}{error.strerror or error}; answers so far are kept: give "
        "the same command again when that is mended") from error
