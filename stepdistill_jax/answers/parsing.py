"""From a teacher's completion to a rationale and a label.

A completion goes on after its answer into a made-up next example, so it is
cut first. Two sets of rules:

* `reference`: exactly what the papers' code does, defects included, so that
  the papers' numbers come out (`reference_rules.py`);
* `strict`, the default: a label is one that the data set can have, or it is
  no label and the status says why (`strict_rules.py`).

A parser is a function (output, row) -> Parsed. It never raises, whatever the
text.
"""

from __future__ import annotations

import dataclasses
from typing import Callable

from stepdistill_jax.util import errors
from stepdistill_jax.answers import arithmetic
from stepdistill_jax.records import datasets

RULES = ("strict", "reference")

# Named reasons why a record is not `ok`. Of the completion as a whole:
NO_COMPLETION = "no_completion"  # The row has none.
TEACHER_ERROR = "teacher_error"  # The teacher answered with an error.
NOT_TEXT = "not_text"  # null, a number or a nested value.
EMPTY_OUTPUT = "empty_output"
# Of its form:
TRUNCATED = "truncated"  # Cut at the length limit, before an answer.
NO_MARKER = "no_marker"  # No "The answer is" or the like.
MARKER_TWICE = "marker_twice"  # Reference rules only.
NO_LABEL = "no_label"  # A marker with nothing usable after it.
EMPTY_RATIONALE = "empty_rationale"
# Of its label:
LABEL_NOT_ALLOWED = "label_not_allowed"  # Not one of the data set's labels.
LABEL_NOT_A_CHOICE = "label_not_a_choice"  # Not one of the row's choices.
LABEL_DIFFERS_IN_CASE = "label_differs_in_case"  # Reference rules only.
SEVERAL_ANSWERS = "several_answers"  # "either (a) aquarium or (e) pond"
COPIED_LABEL = "label_copied_from_gold"
# From files in which some labels are copies, with nothing to check by.
UNVERIFIED_LABEL = "label_unverified"
# and `equation_unknown`, `equation_tuple`, …: see arithmetic.NotArithmetic.


@dataclasses.dataclass(slots=True)
class Parsed:
  """A rationale, a label, and `ok` or the reason why one is missing.

  Attributes:
    rationale: the text; empty where there is none.
    label: likewise.
    status: `ok`, or why one of them is missing.
    own_label: True if the label is the row's own human one, taken for the
      teacher's as well: no comparison of the two says anything.
  """

  rationale: str
  label: str
  status: str
  own_label: bool = False


Parser = Callable[[str, datasets.Row], Parsed]


def label_status(dataset: datasets.Dataset, label: str, row: datasets.Row
                 ) -> str:
  """`ok` if the data set can have this label, else the named reason."""
  if not label.strip():
    return NO_LABEL
  if dataset.label_kind in (datasets.EQUATION, datasets.NUMBER):
    return arithmetic.problem_of(label) or "ok"
  elif dataset.label_kind == datasets.CLASS:
    if label not in dataset.labels:
      return LABEL_NOT_ALLOWED
  elif dataset.label_kind == datasets.CHOICE and row.choices:
    if label not in row.choices:
      folded = label.casefold()
      return (LABEL_DIFFERS_IN_CASE
              if any(c.casefold() == folded for c in row.choices)
              else LABEL_NOT_A_CHOICE)
  return "ok"


def get_parser(
    dataset: datasets.Dataset, rules: str, free_text: bool = False) -> Parser:
  """Returns the parser of a data set's completions.

  Args:
    dataset: the data set.
    rules: one of `RULES`.
    free_text: True for generations without a fixed form, which have one rule.

  Raises:
    errors.UserError: unknown rules.
  """
  from stepdistill_jax.answers import free_text_rules
  from stepdistill_jax.answers import reference_rules
  from stepdistill_jax.answers import strict_rules

  if free_text and rules in RULES:
    return free_text_rules.get_parser(dataset)
  if rules == "strict":
    return strict_rules.get_parser(dataset)
  if rules == "reference":
    return reference_rules.get_parser(dataset)
  raise errors.UserError(errors.unknown_name_message("rules", rules, RULES))
