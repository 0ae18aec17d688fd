"""Checks of values that come from flags and gin files."""

from __future__ import annotations

from typing import Any, Sequence

from stepdistill_jax import errors


def is_whole_number(value: Any, least: int = 1) -> bool:
  """Of at least `least`: gin's True is an int, and its 2.5 would be cut off."""
  return (isinstance(value, int) and not isinstance(value, bool)
          and value >= least)


def whole_number(name: str, value: Any, least: int = 1) -> int:
  """Returns `value` if it is a whole number of at least `least`.

  Raises:
    errors.UserError: it is not.
  """
  if not is_whole_number(value, least):
    raise errors.UserError(
        f"{name} must be a whole number of at least {least}, got {value!r}")
  return value


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
  """Returns `value` if it is one of `choices`, else raises UserError."""
  if value not in choices:
    raise errors.UserError(
        errors.unknown_name_message(name, str(value), choices))
  return value


def text(name: str, value: Any) -> str:
  """Returns `value` if it is a text, else raises UserError."""
  if not isinstance(value, str):
    raise errors.UserError(f"{name} must be a text, got {value!r}")
  return value
