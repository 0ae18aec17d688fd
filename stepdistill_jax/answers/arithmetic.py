"""Values of arithmetic answers: numbers, + - * / and parentheses.

Answers come from language models, so nothing is ever executed: a parser of
four lines of grammar, with limits on length, depth and magnitude, in exact
rational arithmetic.

    sum     = product (("+" | "-") product)*
    product = sign (("*" | "/") sign)*
    sign    = ("+" | "-") sign | atom
    atom    = number | "(" sum ")"
"""

from __future__ import annotations

from fractions import Fraction
import re

MAX_LENGTH = 1000  # Characters; the longest SVAMP equation has 40.
MAX_DEPTH = 50  # Nested parentheses and signs.
MAX_MAGNITUDE = 10**15  # Of any value on the way.
# Answers rounded by their writer count as equal: 33.33 and 100 / 3 do not,
# 33.333333 does. Relative to values over 1.
TOLERANCE = Fraction(1, 10**6)

_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d*)?|\.\d+)|([-+*/()]))")
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
  if not _is_balanced(text):
    raise NotArithmetic("unbalanced")
  parser = _Parser(text)
  value = parser.sum(0)
  parser.expect_end()
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


def _is_balanced(text: str) -> bool:
  depth = 0
  for character in text:
    depth += (character == "(") - (character == ")")
    if depth < 0:
      return False
  return depth == 0


class _Parser:
  """Recursive descent over the tokens of one expression."""

  def __init__(self, text: str):
    self._text = text
    self._at = 0
    self._advance()

  def _advance(self) -> None:
    """Reads the next token: a number, an operator, or None at the end."""
    self._number = self._operator = None
    match = _TOKEN.match(self._text, self._at)
    if match:
      self._number, self._operator = match.groups()
      self._at = match.end()
    elif self._text[self._at:].strip():
      raise NotArithmetic("syntax")

  def expect_end(self) -> None:
    if self._number is not None or self._operator is not None:
      raise NotArithmetic("syntax")

  def sum(self, depth: int) -> Fraction:
    value = self._product(depth)
    while self._operator in ("+", "-"):
      operator = self._operator
      self._advance()
      term = self._product(depth)
      value = _limited(value + term if operator == "+" else value - term)
    return value

  def _product(self, depth: int) -> Fraction:
    value = self._sign(depth)
    while self._operator in ("*", "/"):
      operator = self._operator
      self._advance()
      factor = self._sign(depth)
      if operator == "/" and factor == 0:
        raise NotArithmetic("division_by_zero")
      value = _limited(value * factor if operator == "*" else value / factor)
    return value

  def _sign(self, depth: int) -> Fraction:
    if depth > MAX_DEPTH:
      raise NotArithmetic("too_deep")
    if self._operator in ("+", "-"):
      negative = self._operator == "-"
      self._advance()
      value = self._sign(depth + 1)
      return -value if negative else value
    return self._atom(depth)

  def _atom(self, depth: int) -> Fraction:
    if self._number is not None:
      value = _limited(Fraction(self._number))
      self._advance()
      return value
    if self._operator != "(":
      raise NotArithmetic("syntax")
    self._advance()
    value = self.sum(depth + 1)
    if self._operator != ")":
      raise NotArithmetic("syntax")
    self._advance()
    return value


def _limited(value: Fraction) -> Fraction:
  if abs(value) > MAX_MAGNITUDE:
    raise NotArithmetic("magnitude")
  return value
