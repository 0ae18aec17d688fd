"""Reading an answer out of a model's text, and comparing it with the gold one.

Two sets of rules. `reference` is what the papers' released code does: the text
as it is (NLI, CQA), the values of two equations compared with `==` (SVAMP).
`strict`, the default, first takes off what does not belong to an answer
(blanks, capitals, a final stop, the letter of a choice), then compares.

Every reader gives `None` for what it cannot read; that counts as wrong, and is
counted apart as unparsable. Model output is data: nothing here evaluates it as
a program.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
import math
import operator
import re
from typing import Any
import warnings

from stepdistill_jax.answers import arithmetic
from stepdistill_jax.util import errors

RULES = ("strict", "reference")
NLI_LABELS = ("entailment", "neutral", "contradiction")

# Two ways to write one value (`10 / 4`, `2.5`) may differ in the last bit.
EQUATION_RELATIVE_TOLERANCE = 1e-6
# Keeps hostile text (megabytes of digits) from costing time.
_MAX_ANSWER_CHARS = 20_000

_CHOICE_LINE = re.compile(r"\(([a-z])\)\s*(.*?)\s*(?=\([a-z]\)|\Z)", re.DOTALL)
_LETTER = re.compile(r"^\(?([a-z])\)\s*|^\(?([a-z])\)?$")
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_MARKERS = ("answer is", "answer:")


def check_rules(rules: str) -> str:
  """Returns `rules` if it is a known set of rules, else raises UserError."""
  if rules not in RULES:
    raise errors.UserError(
        errors.unknown_name_message("set of rules", rules, RULES))
  return rules


def tidy(text: str) -> str:
  """Folds blanks and capitals and drops a final stop.

  >>> tidy("  A  Bald\\nEagle. ")
  'a bald eagle'
  """
  return " ".join(text[:_MAX_ANSWER_CHARS].split()).casefold().rstrip(".")


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


def read_label(text: str, labels: Sequence[str]) -> str | None:
  """Returns the one of `labels` that `text` is, or None."""
  folded = tidy(text)
  for label in labels:
    if tidy(label) == folded:
      return label
  return None


def read_letter(text: str, choices: Sequence[str]) -> int | None:
  """Returns the index of the letter that `text` opens with, or None.

  >>> read_letter("(b) away", ("at home", "away"))
  1
  """
  match = _LETTER.match(tidy(text))
  if not match:
    return None
  index = ord(match.group(1) or match.group(2)) - ord("a")
  return index if index < len(choices) else None


def read_choice(text: str, choices: Sequence[str]) -> str | None:
  """Returns the choice that `text` names by its text, else by its letter."""
  by_text = read_label(text, choices)
  if by_text is not None:
    return by_text
  index = read_letter(text, choices)
  if index is None:
    return None
  # `(b) river` where choice b is `lake` contradicts itself: not an answer.
  rest = _LETTER.sub("", tidy(text), count=1).strip()
  return choices[index] if rest in ("", tidy(choices[index])) else None


def equation_value(text: str) -> float | None:
  """Returns the value of an arithmetic expression, or None.

  >>> equation_value("( 8.0 - 3.0 )")
  5.0
  """
  value = arithmetic.value_or_none(text)
  return None if value is None else float(value)


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
    value = _python_value(tree.body)
    return value if math.isfinite(value) else None
  except (SyntaxError, ValueError, ArithmeticError, RecursionError,
          MemoryError):
    return None


_OPERATORS: dict[type, Callable[..., float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.UAdd: operator.pos, ast.USub: operator.neg}


def _python_value(node: Any) -> float:
  """Python's value of a node; ValueError for what is not arithmetic."""
  if isinstance(node, ast.Constant) and type(node.value) in (int, float):
    return node.value  # type: ignore[return-value]  # One of the two.
  function = _OPERATORS.get(type(getattr(node, "op", None)))
  if function is None:
    raise ValueError("not arithmetic")
  if isinstance(node, ast.UnaryOp):
    return function(_python_value(node.operand))
  return function(_python_value(node.left), _python_value(node.right))


def same_value(one: float, other: float, rules: str) -> bool:
  """True if two values are one answer."""
  if rules == "reference":
    return one == other
  return math.isclose(one, other, rel_tol=EQUATION_RELATIVE_TOLERANCE,
                      abs_tol=1e-9)


def read_equation(text: str, rules: str) -> float | None:
  """The value of an answer that is an equation, or a plain number.

  Strict rules also accept a right-hand side (`8 - 3 = 5`: the left side
  counts), a dollar sign and a final stop.
  """
  if rules == "reference":
    return reference_value(text)
  text = text[:_MAX_ANSWER_CHARS].replace("$", "").strip().rstrip(".")
  return equation_value(text.partition("=")[0])


def read_number(text: str) -> float | None:
  """Returns the number that `text` is, else the one it ends on, or None.

  What follows the last `####` (GSM8K's mark) or the last `answer is` counts,
  else the whole text; there, the last number.

  >>> read_number("8 - 3 = 5. The answer is 1,205 apples.")
  1205.0
  """
  text = text[-_MAX_ANSWER_CHARS:]
  _, marker, tail = text.rpartition("####")
  numbers = _NUMBER.findall(tail if marker else answer_part(text))
  if not numbers:
    return None
  value = float(numbers[-1].replace(",", ""))
  return value if math.isfinite(value) else None


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
  part = tidy(answer_part(text))
  found = [label for label in dict.fromkeys(labels)
           if re.search(rf"(?<!\w){re.escape(tidy(label))}(?!\w)", part)]
  # `new york` also contains `york`: only the longest of nested names counts.
  found = [label for label in found
           if not any(tidy(label) != tidy(o) and tidy(label) in tidy(o)
                      for o in found)]
  if len(found) == 1:
    return found[0]
  # A target `rationale label` ends with the label, whatever came before.
  ending = [label for label in found if part.endswith(tidy(label))]
  return max(ending, key=len) if ending else None
