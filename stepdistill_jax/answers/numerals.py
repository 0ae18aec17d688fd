"""Numbers in texts, each read whole or not at all.

A number that could be read in two ways (`3-5`, `12:30`, `1.2.3`, `5k`, `3,5`
where nothing says that a comma is a decimal point) has no value but a reason.
"""

import dataclasses
import decimal
from fractions import Fraction
import re
import unicodedata

UNCLEAR = "number_unclear"  # Written in a way that has several readings.
# Keeps hostile texts (megabytes of digits) from costing time.
_MAX_DIGITS = 30
_MAX_EXPONENT = 15
# More digits than a number within these limits can have.
_EXACTLY = decimal.Context(prec=200, traps=[decimal.Inexact])

_SIGNS = {ord(c): "-" for c in "−‐‑–﹣－"}
_SPACES = {ord(c): " " for c in "\u00a0\u2007\u2009\u200a\u202f\u2002\u2003"}
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_TRANSLATION = {**_FULL_WIDTH, **_SIGNS, **_SPACES, ord("⁄"): "/",
                ord("’"): "'"}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SCALES = {"hundred": 2, "thousand": 3, "lakh": 5, "million": 6, "crore": 7,
           "billion": 9, "trillion": 12}
_SCALE = rf"(?:{'|'.join(_SCALES)})s?"
_NUMBER = re.compile(
    r"(?P<sign>[-+]\s?)?(?P<money>(?:US|A|C)?[$€£¥₹]\s?)?(?P<sign2>-)?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?"  # 1,234.5
    r"|\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?"  # 1,23,456
    r"|\d{1,3}(?:[ ']\d{3})+(?:[.,]\d+)?"  # 1 234.5
    r"|\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}"  # 1.234,5
    r"|\d+(?:\.\d*)?|\.\d+)"
    r"(?P<comma>,\d+)?"
    r"(?:(?:[ ]|[ ]?and[ ])(?P<part>\d+\s?/\s?\d+)|\s?/\s?(?P<over>\d+)\b)?"
    r"(?P<power>[eE][-+]?\d+|\s?[×xX*·]\s?10\s?(?:\^|\*\*)\s?[{(]?-?\d+[})]?)?"
    rf"(?P<scale>(?:\s+(?i:{_SCALE})\b)+)?"
    r"(?P<percent>\s?%)?", re.ASCII)
# What stands right behind a number and makes it something else.
_UNCLEAR_AFTER = re.compile(
    r"[:/]\s?\d|-\s?\d|\.\d|,\d|\s?\^|\s?\*\*|[xyznXYZN](?![A-Za-z])|"
    r"[A-Za-z]+\d|\d|\s?-\s?\d+\s?(?:to|%)|\s?±|_\d|\s?[√π∛]|"
    r"\s?[十百千万萬億亿]|\s?(?:[kKMB]|mil|mio|mrd|ml?n|bn|tn|"
    r"(?:mill|bill|quadr|quint)[io]\w+)\b")
_UNCLEAR_BEFORE = re.compile(
    r"(?:[\^:/±]|\+/-|\d[.,]?|\d[-+]|[√∛π]\s?[{(]?|\}\s?\{)\Z", re.ASCII)
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])\d+,\d{1,2}(?![\d,])", re.ASCII)
_DECIMAL_POINT = re.compile(r"\d\.\d", re.ASCII)
# One group alone is a thousand where commas are decimal points.
_POINT_GROUPS = re.compile(
    r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3})+(?![\d.])", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class Number:
  """A number in a text.

  Attributes:
    value: exact; None where the text could mean several.
    text: the value in the form that labels have, such as `1200`, `0.5`, `3/4`.
    start: where it begins, sign and currency included.
    end: where it ends, percent sign included.
  """

  value: Fraction | None
  text: str
  start: int
  end: int


def normalize(text: str) -> str:
  """Signs, blanks, digits and fractions of Unicode as ASCII.

  >>> normalize("−1½ or 5")
  '-1 1/2 or 5'
  """
  if text.isascii():
    return text
  result = []
  for character in text.translate(_TRANSLATION):
    if character.isdecimal():  # Of any script.
      character = str(unicodedata.decimal(character))
    elif unicodedata.category(character) == "No":
      decomposed = unicodedata.normalize("NFKC", character)
      if "⁄" in decomposed:  # `1½` is one and a half.
        result.append(" " + decomposed.replace("⁄", "/"))
        continue
      if character in "⁰¹²³⁴⁵⁶⁷⁸⁹":
        result.append("^" + character.translate(_SUPERSCRIPTS))
        continue
    result.append(character)
  return "".join(result).strip()


def uses_decimal_commas(*texts: str) -> bool:
  """Whether numbers elsewhere in the texts have a comma for a point."""
  return (any(_DECIMAL_COMMA.search(text) for text in texts)
          and not any(_DECIMAL_POINT.search(_POINT_GROUPS.sub("", text))
                      for text in texts))


def find(text: str, decimal_comma: bool = False) -> list[Number]:
  """The numbers of a normalized text, in order.

  >>> [n.text for n in find("1,200 of -.5 or 3/4, $1.5 million or 1 1/2")]
  ['1200', '-0.5', '3/4', '1500000', '1.5']

  Args:
    text: see `normalize`.
    decimal_comma: whether `3,5` is 3.5; else it has several readings.
  """
  found = []
  for match in _NUMBER.finditer(text):
    start, end = match.span()
    before = text[start - 1:start]
    if before.isalpha() or before == "_":
      if match["sign"] and before.isalpha() and match["sign"][-1] != " ":
        continue  # `A-5` is a name.
      if not match["sign"]:
        continue
    sign = match["sign"]
    if sign and (text[:start].rstrip()[-1:].isdigit()
                 or text[:start].rstrip()[-1:] in (")", "%")):
      start, sign = start + len(sign), None  # Two terms of a sum.
    unclear = bool(_UNCLEAR_AFTER.match(text, end)) or bool(
        _UNCLEAR_BEFORE.search(text[max(0, start - 3):start]))
    value = None if unclear else _value(match, sign, decimal_comma)
    found.append(Number(value, "" if value is None else _text(match, value),
                        start, end))
  return found


def _value(match: re.Match[str], sign: str | None, decimal_comma: bool
           ) -> Fraction | None:
  digits = match["digits"]
  if len(digits) > _MAX_DIGITS:
    return None
  if match["comma"]:
    if not decimal_comma or "." in digits or "," in digits:
      if not re.fullmatch(r"\d{1,3}(?:\.\d{3})+", digits):
        return None
    digits = digits.replace(".", "") + "." + match["comma"][1:]
  elif re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d+", digits):
    digits = digits.replace(".", "").replace(",", ".")
  elif "," in digits and re.search(r"[ ']", digits):  # `1 234,56`
    if re.search(r",\d{3}\Z", digits):
      return None
    digits = digits.replace(",", ".")
  elif digits.count(".") > 1 or (
      decimal_comma and _POINT_GROUPS.fullmatch(digits)):
    digits = digits.replace(".", "")
  value = Fraction(re.sub(r"[ ',]", "", digits).rstrip(".") or "0")
  try:
    if match["part"]:
      part = Fraction(re.sub(r"\s", "", match["part"]))
      if part >= 1 or value.denominator != 1:
        return None
      value += part
    elif match["over"]:
      value /= int(match["over"][:_MAX_DIGITS])
  except ZeroDivisionError:
    return None
  exponent = 0
  if match["power"]:
    exponent = int(re.split(r"[^-+\d]+", match["power"].rstrip("})"))[-1][:4])
  if match["scale"]:
    exponent += sum(
        _SCALES[word.removesuffix("s")]
        for word in match["scale"].lower().split())
  if abs(exponent) > _MAX_EXPONENT:
    return None
  value *= Fraction(10) ** exponent
  negative = (sign or "").strip() == "-"
  if match["sign2"]:
    negative = not negative
  return -value if negative else value


def _text(match: re.Match[str], value: Fraction) -> str:
  """As it was written where that is plain, else as a decimal or fraction."""
  plain: str = re.sub(r",(?=\d{3})", "", match["digits"])
  if re.fullmatch(r"\d+(\.\d+)?", plain) and abs(value) == Fraction(plain):
    return ("-" if value < 0 else "") + plain
  if match["over"] and not match["power"] and not match["scale"]:
    return (f"{'-' if value < 0 else ''}{match['digits'].rstrip('.')}/"
            f"{match['over']}")
  return number_text(value)


def number_text(value: Fraction) -> str:
  """A value as a decimal where it ends, else as a fraction.

  >>> number_text(Fraction(3, 2)), number_text(Fraction(-1, 3))
  ('1.5', '-1/3')
  """
  try:
    return format(_EXACTLY.divide(decimal.Decimal(value.numerator),
                                  decimal.Decimal(value.denominator)), "f")
  except decimal.Inexact:
    return f"{value.numerator}/{value.denominator}"
