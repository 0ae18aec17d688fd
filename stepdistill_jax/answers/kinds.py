"""What an answer's own text says, by the kind of label that is asked for.

A reader takes the text that follows a marker (or a JSON value, or a whole
prediction) and returns the label in the form that labels have, or the named
reason why there is none. What is not wholly read is not a label: never half a
word, never a part of a number, never one of two answers.
"""

from collections.abc import Callable, Sequence
import difflib
import re
import unicodedata

from stepdistill_jax.answers import arithmetic, cleaning, numerals, parsing
from stepdistill_jax.records import datasets
from stepdistill_jax.records.datasets import Dataset, Row

# (answer's text, row, dataset) -> (label, "") or ("", named reason).
LabelReader = Callable[[str, Row, Dataset], tuple[str, str]]

# How like a choice's text an answer must be for its letter to be believed:
# `skyscraper` for `skyscaper` is, `ice` for `water cooler` is not.
_LIKENESS = 0.75
_WORD = re.compile(r"[^\W_]")
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])[\"'”)*]*\s+(?=\S)|(?<=[。！？])")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|St|Mr|Mrs|Ms|Dr|Prof|Jr|Sr|vs|Inc|Ltd|Co|Mt|Ft|"
    r"approx|etc|e\.g|i\.e|(?:[A-Za-z]\.)+[A-Za-z])\.\Z|^\W*[A-Za-z]\.\Z")
_LETTER_HEAD = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer|[Ll]etter)\s+)?[\[(]?([A-Za-z])"
    r"(?:[\])]|[.:](?=\s|$)|"
    r"(?=\s*$|\s*[,–—-]\s))\s*")
_LETTER_ANY = re.compile(r"\(([A-Za-z])\)")
_CAPITAL = re.compile(r"(?<![\w'])([A-Z])(?![\w'])")
_JOINED = re.compile(r"\s*(?:and|or|/|&|\+|und|oder)\s*", re.IGNORECASE)
# A label later in the same clause is denied, or doubted.
_NEGATION = re.compile(
    r"(?:\b(?:not|neither|nor|never|no|nobody|none|cannot|hardly|barely|"
    r"unlikely|without|half|far from|rather than|instead of|other than)\b|"
    r"n't\b)"
    r"(?!\s+(?:doubt|question|only|just)\b)"
    r"(?:(?!\b(?:but|so|hence|thus|therefore)\b)[^,;:.(])*\Z|"
    r"\b(?:anything|all) but (?:an? |the )?\Z", re.IGNORECASE)
# Labels that are also words before others: `no one`, `a tie`, `I think`.
_DETERMINERS = frozenset(("a", "an", "i", "no", "the"))
_ALONE = r"(?=\s*(?:[^\w\s]|\Z)|\s+(?:because|as|since|for|is|was)\b)"
_NOT_FIRST = re.compile(r"(?:not|neither|never)\b", re.IGNORECASE)
_YES_NO = {"true": "yes", "false": "no", "correct": "yes", "incorrect": "no"}
_UNIT = re.compile(r"\s*[A-Za-z°%][A-Za-z°%/² .'-]*\Z")
_VARIABLE = re.compile(r"\A[A-Za-z][A-Za-z_ ]{0,30}\s*=\s*(?=\S)")
_LEAD = re.compile(
    r"\A(?:about|approximately|approx\.|around|roughly|exactly|only|just|"
    r"a total of|equal to|≈|~|=|:|\s)+", re.IGNORECASE)
_RANGE = re.compile(
    r"\A\s*\d+(?:\.\d+)?[-–]\d+(?:\.\d+)?(?:/\d+)?(?:\s+[A-Za-z]|\s*\Z)")
_MINUS = re.compile(
    r"(?:(?:\A|(?<=\bis )|(?<=\bto )|(?<=\bof )|(?<=\bat ))minus|\bnegative)"
    r"\s+(?=[$€£]?\.?\d)", re.IGNORECASE)
# A sentence of numbers alone, each of them `#`: `12, 13` or `(3, 4 and 5)`.
_LIST = re.compile(
    r"#(?:(?: \w+)?\s*[,;&]\s*(?:(?:and|or)\b)?\s*#)+[^\w#]*"
    r"(?:\w+[^\w#]*)?")
_MONTH = (r"(?:Jan(?:uary)?|Feb(?:ruary)?|March|Apr(?:il)?|May|June?|July?|"
          r"Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|"
          r"Dec(?:ember)?)\b\.?")
_DATE = re.compile(
    r"(?<![\d.])\d{1,4}([-/])\d{1,2}\1\d{1,4}(?![\d.]\d)|"
    rf"\b{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+\d{{4}}\b|"
    r"\(\d{3}\)\s*\d{3}-\d{4}")  # Or a telephone number.
_PARTS = r"(?:hal(?:f|ves)|third|quarter|fourth|fifth|sixth|eighth|tenth)s?"
_NAMES = (r"(?:one|two|three|four|five|six|seven|eight|nine|ten|\w+teen|\w+ty|"
          r"hundred|thousand|million|billion)")
# What makes something else of a number beside it: `half of 12`, `not 5`,
# `more than 5`, `March 5`, `two and 1/2`.
_PART_BEFORE = re.compile(
    rf"(?:\b(?:not|never|{_PARTS}|twice|double|triple|dozen|root|log|"
    r"(?:(?<!no )(?<!not )(?:more|less|fewer|greater)\s+than)|over|under|above|"
    rf"below)(?:\s+(?:of|the|an?))*\s*|n't\s+|[<>]\s*|\b{_MONTH}\s*|"
    rf"\b{_NAMES}\s+and\s+)\Z")
# `5 squared`, `5 and a half`, `5+`, `5th of March`.
_PART_AFTER = re.compile(
    rf"\s*(?:squared|cubed|factorial|(?:st|nd|rd|th)?\s*(?:of\s+)?{_MONTH}|"
    rf"[\s-]*and[\s-]+(?:an?|{_NAMES})[\s-]+{_PARTS}|\+(?!\s*\d))")
# `12 dozen` are 12 where the question is how many dozen.
_COUNTED_IN = re.compile(rf"\s*(dozen|{_PARTS})", re.IGNORECASE)
# Between two numbers of one value, which is not computed: `3 out of 4`.
_OF = re.compile(
    r"\s*(?:(?:[-+*/×÷·:~<>…±]|\.+|of|in|over|times|plus|minus|mod(?:ulo)?|choose|"
    r"vs\.?|versus|(?:divided|multiplied|increased|decreased)\s+by|"
    r"(?:raised\s+)?to\s+the\s+power(?:\s+of)?|per\s*cent\s+of|"
    r"(?:\w+\s+)?\(?(?:out\s+of(?:\s+the)?|(?:in|for)\s+every|per|to\s+every))"
    r"\s*)+", re.IGNORECASE)
# Values of several variables: `x = 3 or x = -3`.
_VALUES = re.compile(
    r"\b[A-Za-z]\s*=[^=]*(?:[,;]|\b(?:or|and)\b)\s*[A-Za-z]\s*=")
# Said beside a number that is the answer: `18 (20 - 2 = 18)`.
_ASIDE = re.compile(
    r"\A([^()=]*\d[^()=+*/-]*?)\s*\((?!(?:out\s+)?of\b|per\b)[^()]*\)\W*\Z")
_ITEM = re.compile(r"\A\(?\d{1,2}\)\s+(?=.*\d)")  # Of a list: `2) So 7`.
# What goes on with the number before: `3 hours 20 minutes`, `5'3"`.
_COMPOUND = re.compile(
    r"\s*(?:hours?|hrs?|h|minutes?|mins?|days?|weeks?|months?|years?|feet|foot|"
    r"ft|pounds?|lbs?|dollars?|euros?|')\.?,?\s*\Z", re.IGNORECASE)
_COMPOUND_UNIT = re.compile(
    r"\s*(?:(?:hours?|hrs?|minutes?|mins?|seconds?|secs?|s|days?|weeks?|months?|"
    r"inch(?:es)?|in|ounces?|oz|cents?)\b|\"|\W*\Z)", re.IGNORECASE)


def read(text: str, row: Row, dataset: Dataset) -> tuple[str, str]:
  """Returns (label, "") or ("", named reason), by the data set's kind."""
  if not text.strip():
    return "", parsing.NO_LABEL
  return _READERS[dataset.label_kind](text, row, dataset)


def sentences(text: str) -> list[str]:
  """The sentences of one line; abbreviations end none.

  >>> sentences("St. Paul is it. Let me know!")
  ['St. Paul is it.', 'Let me know!']
  """
  parts, start = [], 0
  for match in _SENTENCE_END.finditer(text):
    part = text[start:match.start()]
    if part.strip() and not _ABBREVIATION.search(part):
      parts.append(text[start:match.end()].strip())
      start = match.end()
  return [*parts, text[start:].strip()] if text[start:].strip() else parts


def head(text: str) -> tuple[str, str]:
  """The first line's first sentence, and what comes after it."""
  text = cleaning.without_latex(text).strip()
  line, _, rest = text.partition("\n")
  while rest and not _WORD.search(line):  # `_____`
    line, _, rest = rest.strip().partition("\n")
  first, *others = sentences(line.strip()) or [""]
  return first, "\n".join([" ".join(others), rest]).strip()


def fold(text: str) -> str:
  """A text without what distinguishes no two labels: case, blanks, final stop.

  >>> fold("  A  Bald\\nEagle. ")
  'a bald eagle'
  """
  if not text.isascii():
    text = unicodedata.normalize("NFKC", text)
  return " ".join(text.split()).casefold().rstrip(".").rstrip()


def lettered_choices(inputs: str) -> tuple[str, ...]:
  """The choices of a question's last lettered lines, `(a) here` or `B. there`.

  >>> lettered_choices("Where?\\nA) here\\nB) there")
  ('here', 'there')
  """
  found: list[tuple[str, str]] = []
  for match in re.finditer(
      r"^\s*\(?([A-Za-z])[).:]\s+(.+?)\s*$", inputs, re.MULTILINE):
    letter = match[1].lower()
    if letter == "a":
      found = []
    if ord(letter) - ord("a") == len(found):
      found.append((letter, match[2]))
  return tuple(text for _, text in found) if len(found) > 1 else ()


# ---- Numbers and equations --------------------------------------------------


def expression(text: str) -> tuple[str, str]:
  """An arithmetic expression, without a unit, a variable or its result.

  >>> expression("x = 8 − 3 = 5 apples")
  ('8 - 3', '')
  """
  text = numerals.normalize(cleaning.plain(text))
  text = text.replace("×", "*").replace("·", "*").replace("÷", "/")
  text = re.sub(r"(?<=[\d)])\s*[xX]\s*(?=[\d(])", " * ", text)
  text = text.replace("$", "").translate(str.maketrans("[]{}", "()()"))
  text = _VARIABLE.sub("", text)
  number = ""
  for side in map(_without_unit, text.split("=")):
    if side and not arithmetic.problem_of(side):
      if re.search(r"[\d)]\s*[-+*/]", side):
        return side, ""
      number = number or side
  if number:
    return number, ""
  return "", arithmetic.problem_of(text) if text else parsing.NO_LABEL


def _without_unit(side: str) -> str:
  side = side.strip().rstrip(".").strip()
  inner, _, after = side.rpartition(")")
  if side.startswith("(") and not re.search(r"\d", after) and (
      not arithmetic.problem_of(inner + ")")):
    return inner + ")"  # `(3 + 4) apples`.
  unit = _UNIT.search(side)
  if unit and arithmetic.problem_of(side) and re.search(
      r"[\d)]\Z", side[:unit.start()]):
    return side[:unit.start()].strip()
  return side


def _equation(text: str, row: Row, dataset: Dataset) -> tuple[str, str]:
  return expression(head(text)[0])


def _number(text: str, row: Row, dataset: Dataset) -> tuple[str, str]:
  """The number that an answer is, or that its sentence comes to."""
  return number_in(head(text)[0], (row.inputs,), dataset.expressions)


def number_in(sentence: str, rest: Sequence[str] = (),
              expressions: bool = False) -> tuple[str, str]:
  """Reads a sentence's number; see `numerals`.

  The result of an equation, else the number that the sentence begins with,
  else its last one.

  Args:
    sentence: one sentence.
    rest: texts that may show whether decimal commas are in use.
    expressions: leave an expression as it is, instead of computing it.
  """
  text = numerals.normalize(cleaning.plain(sentence))
  text = _ITEM.sub("", text)
  text = _ASIDE.sub(r"\1", _LEAD.sub("", _MINUS.sub("-", text)))
  if _VALUES.search(text):
    return "", parsing.SEVERAL_ANSWERS
  *_, last = text.split("=")
  if last is not text and re.search(r"\d", last):
    text = _LEAD.sub("", last)
  found = numerals.find(text, numerals.uses_decimal_commas(*rest))
  if not found:
    # Words alone are not a number that could not be read.
    return "", (numerals.UNCLEAR if re.search(r"\d", text)
                else parsing.NO_LABEL)
  dates = [match.span() for match in _DATE.finditer(text)]
  if (len(found) > 1 or "(" in text) and not (dates or _RANGE.match(text)):
    computed, _ = expression(text)
    if computed:
      value = arithmetic.evaluate(computed)
      if value < 0 and re.fullmatch(r"[\d.]+\s*-\s*[\d.]+", computed):
        return "", numerals.UNCLEAR  # `5 - 6` is a range.
      return (computed if expressions else numerals.number_text(value)), ""
  chosen = found[0] if found[0].start == 0 else found[-1]
  if any(start <= chosen.start < end for start, end in dates):
    return "", numerals.UNCLEAR
  if len(found) > 1 and _is_several(text, found, chosen):
    return "", parsing.SEVERAL_ANSWERS
  if chosen.value is None or _is_part(text, found, chosen, rest):
    return "", numerals.UNCLEAR
  problem = arithmetic.problem_of(chosen.text)
  return ("", problem) if problem else (chosen.text, "")


def _is_part(text: str, found: Sequence[numerals.Number],
             chosen: numerals.Number, rest: Sequence[str]) -> bool:
  """Whether the words beside a number make another value of it."""
  at = found.index(chosen)
  before = text[found[at - 1].end if at else 0:chosen.start]
  after = text[chosen.end:found[at + 1].start if chosen is not found[-1]
               else len(text)]
  if _PART_BEFORE.search(before) or _PART_AFTER.match(after) or (
      at and _OF.fullmatch(before)) or (
          chosen is not found[-1] and _OF.fullmatch(after)):
    return True
  counted = _COUNTED_IN.match(after)
  return counted is not None and not any(
      re.search(rf"\bhow many (?:\w+ ){{0,2}}{counted[1][:5]}", text,
                re.IGNORECASE) for text in rest)


def _is_several(text: str, found: Sequence[numerals.Number],
                chosen: numerals.Number) -> bool:
  """Whether a sentence has a second number beside the chosen one."""
  first, second = found[:2] if chosen is found[0] else found[-2:]
  between = text[first.end:second.start]
  if re.search(r"(?:\b(?:or|to|and)\W*|\A\s*)\Z", between):  # `5 and 7`.
    return bool(between.strip()) or first.value != second.value
  if _COMPOUND.match(between) and _COMPOUND_UNIT.match(text, second.end):
    return True
  if chosen.value is None:
    return False
  marked, at = "", found[0].start
  for number in found:
    marked, at = marked + text[at:number.start] + "#", number.end
  return bool(_LIST.fullmatch(marked + text[at:]))


# ---- Closed sets ------------------------------------------------------------


def named(text: str, labels: Sequence[str]) -> list[tuple[int, int, str]]:
  """Where labels stand in a folded text as whole words: (start, end, label).

  Of nested names (`new york` contains `york`) only the longest counts.
  """
  found = []
  for label in dict.fromkeys(labels):
    name = fold(label)
    if not name or name not in text:
      continue
    left = right = ""
    if name[0].isascii() and name[0].isalnum():
      left = r"(?<![\w.,:/-])" if name[0].isdigit() else r"(?<!\w)(?<!\bnon-)"
    if name[-1].isascii() and name[-1].isalnum():
      right = (_ALONE if name in _DETERMINERS else
               r"(?!\w|[.,:/-]\d)" if name[-1].isdigit() else r"(?!\w)")
    found += [(*m.span(), label) for m in re.finditer(
        left + re.escape(name) + right, text)]
  return sorted(
      one for one in found
      if not any(other is not one and other[0] <= one[0] and one[1] <= other[1]
                 and other[1] - other[0] > one[1] - one[0]
                 for other in found))


def whole_label(text: str, labels: Sequence[str]) -> str:
  """The one of the labels that a text is, decoration and case apart, or ""."""
  folded = fold(cleaning.plain(text))
  exact = [label for label in labels if fold(label) == folded]
  if not exact and {fold(label) for label in labels} == {"yes", "no"}:
    exact = [label for label in labels if fold(label) == _YES_NO.get(folded)]
  return exact[0] if exact else ""


def _class_label(text: str, row: Row, dataset: Dataset) -> tuple[str, str]:
  if (bare := text.strip().removesuffix(".")) in dataset.labels:
    return bare, ""  # Nearly always.
  first, rest = head(text)
  missing = (parsing.LABEL_NOT_SEEN if dataset.labels_guessed
             else parsing.LABEL_NOT_ALLOWED)
  for candidate in (first, text):  # A label may be of several sentences.
    if label := whole_label(candidate, dataset.labels):
      return label, ""
  folded = fold(cleaning.plain(first))
  found = named(folded, dataset.labels)
  names = {label for _, _, label in found}
  if not names:
    return "", missing if folded else parsing.NO_LABEL
  start, end, label = found[0]
  if not start and re.match(
      r"\s*[,;:(—–-](?!\s*(?:or|and)\b)", folded[end:]) and (
          len(folded[end:].split()) > 2):
    return label, ""  # `Yes, they have no wings`
  if len(names) > 1:
    return "", parsing.SEVERAL_ANSWERS
  if _JOINED.match(folded[end:]) and folded[end:].strip() or re.search(
      r"(?:\band|\bor|[/&+])\s*\Z", folded[:start]) or _NEGATION.search(
          folded[:start]):
    return "", missing
  return label, ""


def lettered_choice(answer: str, choices: Sequence[str]) -> tuple[str, str]:
  """The choice that a text names whole, else by its letter in parentheses.

  Its letter is believed where the text beside it is nearly that choice's.
  """
  letters = {letter.lower() for letter in _LETTER_ANY.findall(answer)}
  if len(letters) > 1:
    return "", parsing.SEVERAL_ANSWERS
  start = _LETTER_ANY.search(answer)
  text = answer[start.end() if start else 0:].strip().partition("\n")[0]
  text = text.strip().removesuffix(".").casefold()
  for choice in choices:
    if text == choice.casefold().removesuffix("."):
      return choice, ""
  if not letters:
    return "", parsing.LABEL_NOT_A_CHOICE if text else parsing.NO_LABEL
  return _by_letter(letters.pop(), text, choices)


def _by_letter(letter: str, text: str, choices: Sequence[str]
               ) -> tuple[str, str]:
  position = ord(letter.lower()) - ord("a")
  if position < len(choices):
    choice = choices[position]
    likeness = difflib.SequenceMatcher(None, text, choice.casefold()).ratio()
    if not text or likeness >= _LIKENESS:
      return choice, ""
  return "", parsing.LABEL_NOT_A_CHOICE


def _choice(text: str, row: Row, dataset: Dataset) -> tuple[str, str]:
  label, problem = _choice_text(text, row)
  if label and dataset.labels and label in row.choices:
    # Labels of this data set are letters.
    letter = chr(ord("a") + row.choices.index(label))
    label = letter.upper() if dataset.labels[0].isupper() else letter
  return label, problem


def _choice_text(text: str, row: Row) -> tuple[str, str]:
  first = cleaning.plain(head(text)[0])
  if not first:
    return "", parsing.NO_LABEL
  choices = row.choices
  if choices and _NOT_FIRST.match(first) and not whole_label(first, choices):
    return "", parsing.LABEL_NOT_A_CHOICE
  if not choices:  # Nothing says what letters stand for.
    match = _LETTER_HEAD.fullmatch(first)
    return match[1].lower() if match else fold(first), ""
  if label := whole_label(first, choices):
    return label, ""
  label, problem = lettered_choice(first, choices)
  placed = named(fold(first), choices)
  names = {label for _, _, label in placed}
  if label and (match := _LETTER_ANY.search(first)):
    at = ord(match[1].lower()) - ord("a")
    if at >= len(choices) or fold(choices[at]) != fold(label) or (
        names and label not in names):
      return "", parsing.SEVERAL_ANSWERS  # `(b) river` where b is `lake`.
  if label or problem == parsing.SEVERAL_ANSWERS:
    return label, problem
  letters = {letter for letter in _CAPITAL.findall(first)
             if ord(letter) - ord("A") < len(choices)}
  if len(letters) > 1:
    return "", parsing.SEVERAL_ANSWERS
  if match := _LETTER_HEAD.match(first) or _LETTER_ANY.search(first):
    rest = fold(cleaning.plain(first[match.end():]))
    label, _ = _by_letter(match[1], rest, choices)
    named_one, _ = _by_letter(match[1], "", choices)
    if not label and (names == {named_one} or not names and (
        len(rest.split()) > 2)):
      label = named_one  # `B. A stove warms its room.`
    return label, "" if label else problem
  if len(names) > 1:
    return "", parsing.SEVERAL_ANSWERS
  if not names or _NEGATION.search(fold(first)[:placed[0][0]]):
    return "", problem
  return names.pop(), ""


def parts(label: str) -> list[str]:
  """The parts of a label of several choices, `A, C` or `here and there`."""
  return [part for part in re.split(
      r"\s*(?:[,;&\n]|\band\b)\s*", cleaning.plain(label)) if part.strip()]


def _choices(text: str, row: Row, dataset: Dataset) -> tuple[str, str]:
  """Several choices, in the order of their letters, with commas between."""
  first = cleaning.plain(head(text)[0])
  whole = [choice for choice in row.choices if fold(choice) == fold(first)]
  found = set(whole)
  for part in [] if whole else parts(first):
    label, problem = _choice(part, row, dataset)
    if not label:
      return "", problem
    found.add(label)
  ordered = dict.fromkeys(
      _choice(choice, row, dataset)[0] for choice in row.choices)
  return ", ".join(label for label in ordered if label in found) or ", ".join(
      sorted(found)), "" if found else parsing.NO_LABEL


# ---- Texts ------------------------------------------------------------------


def _text_label(text: str, row: Row, dataset: Dataset) -> tuple[str, str]:
  """The first line's first sentence, without a final stop."""
  label = cleaning.plain(head(text)[0])
  return label, "" if label else parsing.NO_LABEL


def _long_text(text: str, row: Row, dataset: Dataset) -> tuple[str, str]:
  return text.strip(), ""  # `read` has seen that there is one.


_READERS: dict[str, LabelReader] = {
    datasets.EQUATION: _equation,
    datasets.NUMBER: _number,
    datasets.CHOICE: _choice,
    datasets.CHOICES: _choices,
    datasets.CLASS: _class_label,
    datasets.TEXT: _text_label,
    datasets.SUMMARY: _long_text,
    datasets.CONVERSATION: _long_text,
}
