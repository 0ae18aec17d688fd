"""Argparse as the commands use it: mistakes in one line, with near names."""

import argparse
from collections.abc import Callable, Mapping
import contextlib
import importlib
import os
from typing import Any, NoReturn

from stepdistill_jax.util import errors, locations, remote_storage, version


def local_or_remote(text: str) -> str:
  """The type of arguments that may name a path in an object store.

  Of all others such a path is refused: it would become a local folder `gs:`.
  """
  return os.path.expanduser(text)


def existing(text: str) -> str:
  """The type of arguments that name a local file or folder to read."""
  path = os.path.expanduser(text)
  # What an object store would be is `Parser`'s to refuse.
  if not remote_storage.is_remote(text) and not os.path.exists(path):
    raise argparse.ArgumentTypeError(f"there is no file or folder {text}")
  return path


def to_write(text: str) -> str:
  """The type of arguments that name a local file to write."""
  path = os.path.expanduser(text)
  if os.path.isdir(path):
    raise argparse.ArgumentTypeError(f"{text} is a folder; name a file in it")
  folder = os.path.dirname(path) or "."
  if not os.path.isdir(folder):
    raise argparse.ArgumentTypeError(
        f"there is no folder {folder}; make it first")
  if not os.access(path if os.path.exists(path) else folder, os.W_OK):
    raise argparse.ArgumentTypeError(
        f"{text} cannot be written (permission denied); name another file")
  return path


def positive(text: str, least: int = 1) -> int:
  """The type of arguments that are whole numbers of at least 1."""
  with contextlib.suppress(ValueError):
    if (value := int(text)) >= least:
      return value
  raise argparse.ArgumentTypeError(
      f"expected a whole number of at least {least}, got {text}")


def not_negative(text: str) -> int:
  """The same of at least 0."""
  return positive(text, least=0)


def split_name(value: str) -> tuple[str | None, str]:
  """Splits `NAME=PATH`; a path that exists as it stands is not such a pair."""
  name, equals, path = value.partition("=")
  if equals and name and "/" not in name and not os.path.exists(value):
    return name, path
  return None, value


def add_records_dir(
    parser: argparse._ActionsContainer, *old_names: str, advice: str = "",
    type: Callable[[str], str] = os.path.expanduser
) -> None:
  """Adds `--records_dir`, which all commands call the records' folder by.

  Args:
    parser: a parser, or a group of one.
    *old_names: flags that older scripts call it by; not in the help.
    advice: more for the help.
    type: of its value; `local_or_remote` allows an object store.
  """
  parser.add_argument(
      "--records_dir", metavar="DIR", type=type,
      help=f"folder of all distillation records{advice} (default: "
      f"$STEPDISTILL_RECORDS, else {locations.data_home() / 'records'})")
  for name in old_names:
    parser.add_argument(
        name, dest="records_dir", type=type, default=argparse.SUPPRESS,
        help=argparse.SUPPRESS)


class Parser(argparse.ArgumentParser):
  """An ArgumentParser with --version that ends with exit code 2 and one line.

  Its subcommands' parsers are of the same class, so that each reports its own
  mistakes, unknown arguments included, and names its own --help.
  """

  def __init__(self, *args: Any, **options: Any):
    super().__init__(*args, **options)
    self.add_argument(
        "--version", action="version", help="print the version",
        version=f"%(prog)s {version.__version__}")

  def error(self, message: str) -> NoReturn:
    joint = " " if message.endswith("?") else "; "
    self.exit(errors.USER_ERROR_EXIT_CODE,
              f"error: {message}{joint}see {self.prog} --help\n")

  def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
    # Argparse hands a subcommand's unknown arguments up to the first parser.
    namespace, unknown = super().parse_known_args(args, namespace)
    for argument in unknown:
      if not argument.startswith("-"):
        self.error(f"{argument!r} is one argument too many")
      self.error(errors.unknown_name_message(
          "argument", argument.partition("=")[0],
          self._option_string_actions))
    return namespace, unknown

  def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
    if action.nargs != argparse.PARSER:  # Not all that a subcommand gets.
      for text in arg_strings:
        if action.type is local_or_remote:
          remote_storage.require_reachable(text)
        elif remote_storage.is_remote(text):
          raise argparse.ArgumentError(
              action, f"must be a local path, got {text}; copy it to this "
              "machine, or mount the bucket")
    return super()._get_values(action, arg_strings)

  def _check_value(self, action: argparse.Action, value: Any) -> None:
    # Argparse lists all choices, near ones only from Python 3.14 on.
    if action.choices is not None and value not in action.choices:
      options = [str(choice) for choice in action.choices]
      for found in (nested for parser in subcommands(action)
                    for inner in parser._actions
                    for nested in subcommands(inner)):
        if found.prog.split()[-1] == value:
          raise argparse.ArgumentError(
              action, f"unknown choice {value!r}; did you mean `{found.prog}`?")
      message = errors.unknown_name_message(
          "choice", str(value), options,
          f"(all: {', '.join(options)})" if len(options) <= 12 else "")
      raise argparse.ArgumentError(action, message)


class _LazyCommands(argparse._SubParsersAction):  # type: ignore[type-arg]
  """Subcommands whose modules are imported when they are used."""

  def add_module(self, name: str, module: str, summary: str, run: str) -> None:
    """Adds a subcommand; for the arguments see `add_commands`."""
    self.add_parser(
        name, help=summary,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    self._open = {**getattr(self, "_open", {}), name: (module, run)}

  def filled(self, name: str) -> argparse.ArgumentParser:
    """A subcommand's parser, with its arguments."""
    parser: argparse.ArgumentParser = self.choices[name]
    if name in self._open:
      module_name, run = self._open.pop(name)
      module = importlib.import_module(module_name)
      parser.description = module.__doc__
      module.add_arguments(parser)
      parser.set_defaults(**{run: module.run})
    return parser

  def __call__(self, parser: Any, namespace: Any, values: Any,
               option_string: str | None = None) -> None:
    self.filled(values[0])
    super().__call__(parser, namespace, values, option_string)


def subcommands(action: argparse.Action) -> list[argparse.ArgumentParser]:
  """The parsers of an action's commands, with their arguments."""
  if isinstance(action, _LazyCommands):
    return [action.filled(name) for name in action.choices]
  if isinstance(action, argparse._SubParsersAction):
    return list(action.choices.values())
  return []


def add_commands(
    parser: argparse.ArgumentParser, modules: Mapping[str, tuple[str, str]],
    dest: str, run: str) -> None:
  """Adds subcommands, one a module, which is imported when it is used.

  Args:
    parser: of the command above them.
    modules: name -> (module with `add_arguments(parser)` and `run`, summary).
    dest: the attribute of parsed arguments for the name.
    run: the attribute for the module's `run`.
  """
  commands = parser.add_subparsers(
      dest=dest, metavar="COMMAND", required=True, parser_class=type(parser),
      action=_LazyCommands)
  assert isinstance(commands, _LazyCommands)
  for name, (module, summary) in modules.items():
    commands.add_module(name, module, summary, run)
