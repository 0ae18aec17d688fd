"""Values of arithmetic answers: numbers, + - * / and parentheses.

Answers come from language models, so nothing is ever executed: Python's parser
reads the text, and of what it finds numbers, signs and operators alone are
computed, in exact rational arithmetic, with limits on length, depth and
magnitude.
"""

import ast
from collections.abc import Callable
from fractions import Fraction
import math
import operator
import re
from typing import Any

MAX_LENGTH = 1000  # Characters; the longest SVAMP equation has 40.
MAX_DEPTH = 50  # Nested parentheses and signs.
MAX_MAGNITUDE = 10**15  # Of any value on the way.
# Answers rounded by their writer count as equal: 33.33 and 100 / 3 do not,
# 33.333333 does. Relative to values over 1.
TOLERANCE = Fraction(1, 10**6)

_CHARACTERS = re.compile(r"[\d.\s+*/()-]*")
_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")
_SIGNS = re.compile(rf"(?:[-+]\s*){{{MAX_DEPTH + 1}}}")
# Thousands separators: `1,200` is a number, `14, 21` and `1,20` are tuples.
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


class NotArithmetic(ValueError):
  """A text without a value.

  Attributes:
    reason: `empty`, `too_long`, `too_deep`, `unknown` (letters: a variable
      or words), `tuple`, `unbalanced`, `division_by_zero`, `magnitude` or
      `syntax`.
  """

  def __init__(self, reason: str):
    super().__init__(reason)
    self.reason = reason


def evaluate(text: str) -> Fraction:
  """Returns the exact value of an arithmetic expression.

  >>> evaluate("( 84.0 / 2.0 )")
  Fraction(42, 1)
  >>> evaluate("(2 * x)")
  Traceback (most recent call last):
  ...
  stepdistill_jax.answers.arithmetic.NotArithmetic: unknown

  Raises:
    NotArithmetic: with a named reason.
  """
  if len(text) > MAX_LENGTH:
    raise NotArithmetic("too_long")
  if not text.isascii():
    # Other scripts' digits pass `\d`; signs such as × are not ours to guess.
    raise NotArithmetic("unknown")
  text = _THOUSANDS.sub(lambda m: m.group().replace(",", ""), text).strip()
  if not text:
    raise NotArithmetic("empty")
  if re.search(r"[^\W\d]", text):
    raise NotArithmetic("unknown")
  if "," in text:
    raise NotArithmetic("tuple")
  _require_nesting(text)
  if not _CHARACTERS.fullmatch(text):
    raise NotArithmetic("syntax")
  # Python reads no `007`, and one line.
  text = _ZEROS.sub("", " ".join(text.split()))
  try:
    value: Fraction = value_of(
        ast.parse(text, mode="eval").body,
        lambda node: Fraction(text[node.col_offset:node.end_col_offset]),
        MAX_MAGNITUDE)
  except ZeroDivisionError:
    raise NotArithmetic("division_by_zero") from None
  except SyntaxError:
    raise NotArithmetic("syntax") from None
  return value


def value_or_none(text: str) -> Fraction | None:
  """The value of `text`, or None where it has none."""
  try:
    return evaluate(text)
  except NotArithmetic:
    return None


def problem_of(text: str) -> str:
  """`equation_` and the named reason why `text` has no value, or empty.

  >>> problem_of("(2 * x)"), problem_of("(2 * 3)")
  ('equation_unknown', '')
  """
  try:
    evaluate(text)
  except NotArithmetic as error:
    return f"equation_{error.reason}"
  return ""


def same_value(a: str, b: str) -> bool:
  """True if both texts have a value and the values are equal.

  >>> same_value("(84 / 2)", "( 84.0 / 2.0 )")
  True
  """
  first, second = value_or_none(a), value_or_none(b)
  if first is None or second is None:
    return False
  return values_equal(first, second)


def values_equal(a: Fraction, b: Fraction) -> bool:
  """True if two values agree up to rounding in their sixth digit."""
  return abs(a - b) <= TOLERANCE * max(Fraction(1), abs(a), abs(b))


_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.UAdd: operator.pos, ast.USub: operator.neg}


def value_of(node: Any, number: Callable[[ast.Constant], Any],
             most: float = math.inf) -> Any:
  """The value of an expression that Python's parser has read.

  Args:
    node: of numbers, signs, `+ - * /` and parentheses.
    number: gives the value of a number.
    most: magnitude that no value on the way may exceed.

  Raises:
    NotArithmetic: something else is in it, or a value is too large.
    ZeroDivisionError: it divides by 0.
  """
  steps = []  # A sum of many terms is nested to the left.
  while isinstance(node, ast.BinOp):
    steps.append(node)
    node = node.left
  if isinstance(node, ast.Constant) and type(node.value) in (int, float):
    value = number(node)
  elif isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
    value = _OPERATORS[type(node.op)](value_of(node.operand, number, most))
  else:
    raise NotArithmetic("syntax")
  for step in [None, *reversed(steps)]:
    if step is not None:
      if type(step.op) not in _OPERATORS:
        raise NotArithmetic("syntax")
      value = _OPERATORS[type(step.op)](
          value, value_of(step.right, number, most))
    if abs(value) > most:
      raise NotArithmetic("magnitude")
  return value


def _require_nesting(text: str) -> None:
  depth = deepest = 0
  for character in text:
    depth += (character == "(") - (character == ")")
    deepest = max(depth, deepest)
    if depth < 0:
      break
  if depth:
    raise NotArithmetic("unbalanced")
  if deepest > MAX_DEPTH or _SIGNS.search(text):
    raise NotArithmetic("too_deep")
