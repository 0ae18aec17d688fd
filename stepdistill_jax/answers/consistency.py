"""What a rationale says of its own label and of its own inputs.

These are checks by words and numbers, cheap enough for every record. They
find candidates for a person to read; they do not understand the texts.
"""

from fractions import Fraction
import re

from stepdistill_jax.answers import answer_matching, arithmetic
from stepdistill_jax.records import datasets, records

# What a computation in a rationale came to: the number after a last `=`.
_RESULT = re.compile(r"=\s*\$?\s*(-?\d[\d,]*(?:\.\d+)?)")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def _named(text: str, names: tuple[str, ...]) -> set[str]:
  """Those of the names that occur in the text as whole words."""
  found = set()
  for name in names:
    folded = name.casefold()
    if folded in text and re.search(rf"(?<!\w){re.escape(folded)}(?!\w)", text):
      found.add(folded)
  # `new york` also contains `york`: only the longest of nested names counts.
  return {name for name in found
          if not any(name != other and name in other for other in found)}


def contradicts_label(
    dataset: datasets.Dataset, record: records.Record) -> bool | None:
  """Whether the rationale names or computes another answer than its label.

  | labels | the rationale |
  |---|---|
  | classes | names exactly one of them, and it is another one |
  | choices | names exactly one of its row's choices, and it is another one |
  | equations, numbers | computes `= N` last, and the label has another value |

  Returns:
    None where it cannot be known: labels that are texts, or one is missing.
  """
  label, rationale = record.teacher_label, record.rationale
  if not label or not rationale or dataset.label_kind in datasets.FREE_TEXTS:
    return None
  if dataset.label_kind in (datasets.EQUATION, datasets.NUMBER):
    results = _RESULT.findall(rationale)
    value = arithmetic.value_or_none(label)
    if not results or value is None:
      return False
    last = arithmetic.value_or_none(results[-1].rstrip(","))
    return last is not None and not arithmetic.values_equal(last, value)
  names = (dataset.labels if dataset.label_kind == datasets.CLASS
           else answer_matching.choices_in(record.inputs))
  if dataset.label_kind == datasets.CHOICES or (
      dataset.label_kind == datasets.CHOICE and dataset.labels):
    return None  # Labels are several, or letters.
  named = _named(rationale.casefold(), names)
  return len(named) == 1 and label.casefold() not in named


def states_answer(dataset: datasets.Dataset, record: records.Record) -> bool:
  """True if the rationale contains its label, or the label's value."""
  label, rationale = record.teacher_label, record.rationale
  if not label or not rationale:
    return False
  if dataset.label_kind in (datasets.EQUATION, datasets.NUMBER):
    value = arithmetic.value_or_none(label)
    if value is None:
      return False
    return any(
        arithmetic.values_equal(Fraction(number.replace(",", "")), abs(value))
        for number in _NUMBER.findall(rationale)
        if len(number) < 20 and number.replace(",", "").isascii())
  return bool(_named(rationale.casefold(), (label,)))
