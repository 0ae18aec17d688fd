"""Labels: which ones a data set can have, and when two are the same."""

from __future__ import annotations

from stepdistill_jax.answers import arithmetic, parsing
from stepdistill_jax.records import datasets


def is_correct(dataset: datasets.Dataset, answer: str, label: str) -> bool:
  """True if `answer` counts as the human `label`."""
  if dataset.label_kind in (datasets.EQUATION, datasets.NUMBER):
    return arithmetic.same_value(answer, label)
  return bool(answer) and answer == label


def label_status(dataset: datasets.Dataset, label: str, row: datasets.Row
                 ) -> str:
  """`ok` if the data set can have this label, else the named reason."""
  if not label.strip():
    return parsing.NO_LABEL
  if dataset.label_kind in (datasets.EQUATION, datasets.NUMBER):
    return arithmetic.problem_of(label) or "ok"
  elif dataset.label_kind == datasets.CLASS:
    if label not in dataset.labels:
      return parsing.LABEL_NOT_ALLOWED
  elif dataset.label_kind == datasets.CHOICE and row.choices:
    if label not in row.choices:
      folded = label.casefold()
      return (parsing.LABEL_DIFFERS_IN_CASE
              if any(c.casefold() == folded for c in row.choices)
              else parsing.LABEL_NOT_A_CHOICE)
  return "ok"
