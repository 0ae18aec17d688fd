"""The sets of rules that completions are read by, by name."""

import functools

from stepdistill_jax.answers import (
  answer_forms,
  free_text_rules,
  parsing,
  reading,
  reference_rules,
)
from stepdistill_jax.records import datasets
from stepdistill_jax.util import errors

RULES = ("strict", "reference")
# Who wrote the completions, which decides how much is looked for in them.
ANY = "any"
PUBLISHED = "published"  # The papers' batches: one marker, then made-up text.
FREE_TEXT = "free_text"  # The raw Llama-3 generations; one rule for both sets.


def check_rules(rules: str) -> str:
  """Returns `rules` if it is a known set of rules, else raises UserError."""
  errors.require_known("set of rules", rules, RULES)
  return rules


def get_parser(
    dataset: datasets.Dataset, rules: str = "strict", writer: str = ANY, *,
    form: str = answer_forms.CHAIN_OF_THOUGHT,
    options: reading.Options = reading.DEFAULT) -> parsing.Parser:
  """Returns the parser of a data set's completions.

  Args:
    dataset: the data set.
    rules: one of `RULES`.
    writer: `ANY`, `PUBLISHED` or `FREE_TEXT`.
    form: one of `answer_forms.FORMS`; all but the first have strict rules
      alone.
    options: of strict rules.

  Raises:
    errors.UserError: unknown rules.
  """
  check_rules(rules)
  if dataset.label_kind == datasets.CHOICE and dataset.labels:
    writer = ANY  # The published data sets' labels are no letters.
  if writer == FREE_TEXT and free_text_rules.serves(dataset):
    return free_text_rules.get_parser(dataset)
  if form == answer_forms.CHAIN_OF_THOUGHT:
    if rules == "reference" and reference_rules.serves(dataset):
      return reference_rules.get_parser(dataset)
    if writer == PUBLISHED:
      return functools.partial(reading.read, dataset, form="published")
  return answer_forms.get_parser(dataset, form, options)
