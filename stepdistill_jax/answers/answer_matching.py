"""Finding an answer in a student's text, and the papers' own comparisons.

Model output is data: nothing here evaluates it as a program.
"""

import ast
from collections.abc import Sequence
import math
import re
import warnings

from stepdistill_jax.answers import arithmetic, kinds, numerals

# Keeps hostile text (megabytes of digits) from costing time.
_MAX_ANSWER_CHARS = 20_000

_CHOICE_LINE = re.compile(r"\(([a-z])\)\s*(.*?)\s*(?=\([a-z]\)|\Z)", re.DOTALL)
_LETTER = re.compile(r"^\(?([a-z])\)\s*|^\(?([a-z])\)?$")
_MARKERS = ("answer is", "answer:")


def read_choices(inputs: str) -> tuple[str, ...]:
  """Returns the choices of a CQA input, in the order of their letters.

  >>> read_choices("Where?\\nAnswer Choices:\\n(a) at home\\n(b) away")
  ('at home', 'away')
  """
  _, marker, tail = inputs.partition("Answer Choices:")
  if not marker:
    return ()
  found = _CHOICE_LINE.findall(tail)
  letters = [letter for letter, _ in found]
  if letters != [chr(ord("a") + i) for i in range(len(letters))]:
    return ()
  return tuple(text for _, text in found)


def choices_in(inputs: str) -> tuple[str, ...]:
  """The choices of a question, of CQA or any other; () where it has none."""
  return read_choices(inputs) or kinds.lettered_choices(inputs)


def read_letter(text: str, choices: Sequence[str]) -> int | None:
  """Returns the index of the letter that `text` opens with, or None.

  >>> read_letter("(b) away", ("at home", "away"))
  1
  """
  match = _LETTER.match(kinds.fold(text[:_MAX_ANSWER_CHARS]))
  if not match:
    return None
  index = ord(match.group(1) or match.group(2)) - ord("a")
  return index if index < len(choices) else None


def reference_value(text: str) -> float | None:
  """The value that the papers' code gives an equation, without running it.

  That code calls Python's `eval`. Here its parser reads the text and numbers,
  signs, `+ - * /` and parentheses are computed as Python does; all else
  (names, tuples, `and`) has no value.
  """
  if len(text) > arithmetic.MAX_LENGTH:
    return None
  try:
    # `eval` skips leading blanks, and a parser warns of odd literals (`1and`).
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      tree = ast.parse(text.lstrip(" \t"), mode="eval")
    value: float = arithmetic.value_of(tree.body, lambda node: node.value)
    return value if math.isfinite(value) else None
  except (SyntaxError, ValueError, ArithmeticError, RecursionError,
          MemoryError):
    return None


def last_number(text: str) -> float | None:
  """The last number of a text that is read whole, or None.

  >>> last_number("8 - 3 = 5, so 1,205 apples.")
  1205.0
  """
  found = numerals.find(numerals.normalize(text[-_MAX_ANSWER_CHARS:]))
  if not found or found[-1].value is None:
    return None
  return float(found[-1].value)


def answer_part(text: str) -> str:
  """What follows the last `answer is`, else the last `answer:`, else all.

  >>> answer_part("Eagles fly. So the answer is (c) minnesota.")
  ' (c) minnesota.'
  """
  lowered = text.lower()
  if len(lowered) != len(text):  # Some capitals fold to two characters.
    text = lowered
  for marker in _MARKERS:
    position = lowered.rfind(marker)
    if position >= 0:
      return text[position + len(marker):]
  return text


def after_rationale(text: str) -> str | None:
  """The label of a single-task answer `rationale The answer is label`.

  None where the model wrote no separator.
  """
  part = answer_part(text)
  return None if part == text else part.strip()


def find_label(text: str, labels: Sequence[str]) -> str | None:
  """Returns the only one of `labels` named in the answer part, or None."""
  part = kinds.fold(answer_part(text[-_MAX_ANSWER_CHARS:]))
  found = kinds.named(part, labels)
  names = {label for _, _, label in found}
  if len(names) == 1:
    return names.pop()
  # A target `rationale label` ends with the label, whatever came before.
  ending = [label for _, end, label in found if end == len(part)]
  return max(ending, key=len) if ending else None
