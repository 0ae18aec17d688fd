"""Argparse as the commands use it: mistakes told in a line, with near names."""

from __future__ import annotations

import argparse

from stepdistill_jax import errors


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
