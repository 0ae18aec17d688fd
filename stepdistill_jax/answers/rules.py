"""The sets of rules that completions are read by, by name."""

from __future__ import annotations

from stepdistill_jax.answers import (
  free_text_rules,
  parsing,
  reference_rules,
  strict_rules,
)
from stepdistill_jax.records import datasets
from stepdistill_jax.util import errors

RULES = ("strict", "reference")


def get_parser(
    dataset: datasets.Dataset, rules: str, free_text: bool = False
) -> parsing.Parser:
  """Returns the parser of a data set's completions.

  Args:
    dataset: the data set.
    rules: one of `RULES`.
    free_text: True for generations without a fixed form, which have one rule.

  Raises:
    errors.UserError: unknown rules.
  """
  if free_text and rules in RULES:
    return free_text_rules.get_parser(dataset)
  if rules == "strict":
    return strict_rules.get_parser(dataset)
  if rules == "reference":
    return reference_rules.get_parser(dataset)
  raise errors.UserError(errors.unknown_name_message("rules", rules, RULES))
