"""Argparse as the commands use it: mistakes told in a line, with near names."""

from __future__ import annotations

import argparse
import os

from stepdistill_jax import errors
from stepdistill_jax import locations


def add_records_dir(parser, *old_names: str, advice: str = "") -> None:
  """Adds `--records_dir`, which all commands call the records' folder by.

  Args:
    parser: a parser, or a group of one.
    *old_names: flags that older scripts call it by; not in the help.
    advice: more for the help.
  """
  parser.add_argument(
      "--records_dir", metavar="DIR", type=os.path.expanduser,
      help=f"folder of all distillation records{advice} (default: "
      f"$STEPDISTILL_RECORDS, else {locations.data_home() / 'records'})")
  for name in old_names:
    parser.add_argument(
        name, dest="records_dir", type=os.path.expanduser,
        default=argparse.SUPPRESS, help=argparse.SUPPRESS)


class Parser(argparse.ArgumentParser):
  """An ArgumentParser that ends with exit code 2 and one line."""

  def error(self, message):
    self.exit(errors.USER_ERROR_EXIT_CODE,
              f"error: {message}; see {self.prog} --help\n")

  def _check_value(self, action, value):
    # Argparse lists all choices, near ones only from Python 3.14 on.
    if action.choices is not None and value not in action.choices:
      options = [str(choice) for choice in action.choices]
      message = errors.unknown_name_message(
          "choice", str(value), options,
          f"(all: {', '.join(options)})" if len(options) <= 12 else "")
      raise argparse.ArgumentError(action, message)
