"""Checks of values that come from flags and gin files."""

from __future__ import annotations

from typing import Any, Sequence

from stepdistill_jax import errors


def whole_number(name: str, value: Any, least: int = 1) -> int:
  """Returns `value` if it is a whole number of at least `least`.

  Raises:
    errors.UserError: it is not.
  """
  # Gin's True is an int, and its 2.5 would be cut off somewhere.
  if not isinstance(value, int) or isinstance(value, bool):
    raise errors.UserError(f"{name} must be a whole number, got {value!r}")
  if value < least:
    raise errors.UserError(f"{name} must be at least {least}, got {value}")
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
