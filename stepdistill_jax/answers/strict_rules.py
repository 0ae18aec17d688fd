"""The default parsing rules: a label is usable, or there is none.

What they mend in the published completions, and what they refuse:

* the continuation is cut at the next example's first line, in any case
  (`Q:`, `Premise:`, `premise:`);
* of several markers, the first one that a usable label follows;
* SVAMP: an equation with or without parentheses around it; unknowns, tuples
  and unbalanced parentheses are no labels;
* CQA: the choice's own spelling, found by text, else by letter where the
  text is nearly that choice's; two different letters are no label;
* NLI: the label word alone, so `entailment\\n\\nPre` is `entailment`.
"""

from __future__ import annotations

from collections.abc import Callable
import difflib
import functools
import re

from stepdistill_jax.answers import arithmetic, parsing
from stepdistill_jax.records import datasets
from stepdistill_jax.records.datasets import Dataset, Row

# A next example starts a line, or, in the cleaned Llama files, a sentence.
_NEXT_QUESTION = re.compile(r"(?:^|\s)Q:")
_NEXT_PREMISE = re.compile(r"(?:^|\s)premise:", re.IGNORECASE)
_MARKER = re.compile(r"(?:\b(?:so|hence|therefore|thus),?\s+)?"
                     r"\bthe (?:final )?answer is\b:?", re.IGNORECASE)
_ESNLI_MARKER = re.compile(r"(?:^|\n)\s*answer:", re.IGNORECASE)
_NLI_WORD = re.compile(
    rf"\s*[\"'(]*({'|'.join(datasets.NLI_LABELS)})\b", re.IGNORECASE)
_LETTER = re.compile(r"\(([a-z])\)", re.IGNORECASE)
# How like a choice's text an answer must be for its letter to be believed:
# `skyscraper` for `skyscaper` is, `ice` for `water cooler` is not.
_LIKENESS = 0.75
LabelReader = Callable[[str, Row, Dataset], tuple[str, str]]


def get_parser(dataset: Dataset) -> parsing.Parser:
  """Returns the strict parser of a data set's completions."""
  cut, marker = _FORMS.get(dataset.name, (None, _MARKER))
  return functools.partial(
      _parse, cut, marker, label_reader(dataset), dataset)


def label_reader(dataset: Dataset) -> LabelReader:
  """Returns (answer's text, row, dataset) -> (label, "") or ("", reason)."""
  return {
      datasets.EQUATION: _equation,
      datasets.NUMBER: _number,
      datasets.CHOICE: _choice,
      datasets.CLASS: _class_label,
      datasets.TEXT: _text_label,
  }[dataset.label_kind]


def _parse(cut: re.Pattern[str] | None, marker: re.Pattern[str],
           read_label: LabelReader, dataset: Dataset, output: str, row: Row
           ) -> parsing.Parsed:
  text = output
  if cut and (next_example := cut.search(text)):
    text = text[:next_example.start()]
  if not text.strip():
    return parsing.Parsed("", "", parsing.EMPTY_OUTPUT)
  first_failure = None
  for match in marker.finditer(text):
    # `…, so the answer is` leaves a comma behind.
    rationale = text[:match.start()].strip().rstrip(",").rstrip()
    label, problem = read_label(text[match.end():], row, dataset)
    if label:
      status = "ok" if rationale else parsing.EMPTY_RATIONALE
      return parsing.Parsed(rationale, label, status)
    first_failure = first_failure or parsing.Parsed(rationale, "", problem)
  # Without a marker nobody knows where the reasoning ends, nor whether it is
  # one: such texts are loops and cut generations.
  return first_failure or parsing.Parsed("", "", parsing.NO_MARKER)


def _equation(answer: str, row: Row, dataset: Dataset) -> tuple[str, str]:
  """Returns (equation, "") or ("", named reason)."""
  line = answer.strip().split("\n")[0]
  text = line.strip().rstrip(".").strip()
  if text.startswith("("):
    # Up to the last parenthesis: `(3 + 4) apples.` is `(3 + 4)`.
    end = text.rfind(")")
    text = text[:end + 1] if end >= 0 else text
  if not text:
    return "", parsing.NO_LABEL
  problem = arithmetic.problem_of(text)
  return ("", problem) if problem else (text, "")


_NUMBER = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d+)?", re.ASCII)


def _number(answer: str, row: Row, dataset: Dataset) -> tuple[str, str]:
  """Reads an equation, else the first number of the answer's line."""
  equation, problem = _equation(answer, row, dataset)
  if equation:
    return equation, ""
  match = _NUMBER.search(answer.strip().split("\n")[0])
  if match is None:
    return "", problem
  number = match.group().replace(",", "").replace("$", "")
  problem = arithmetic.problem_of(number)
  return ("", problem) if problem else (number, "")


def _choice(answer: str, row: Row, dataset: Dataset) -> tuple[str, str]:
  letters = {letter.lower() for letter in _LETTER.findall(answer)}
  if len(letters) > 1:
    return "", parsing.SEVERAL_ANSWERS
  start = _LETTER.search(answer)
  text = answer[start.end() if start else 0:].strip().split("\n")[0]
  text = text.strip().removesuffix(".").casefold()
  for choice in row.choices:
    if text == choice.casefold().removesuffix("."):
      return choice, ""
  if not letters:
    return "", parsing.LABEL_NOT_A_CHOICE if text else parsing.NO_LABEL
  position = ord(letters.pop()) - ord("a")
  if position < len(row.choices):
    choice = row.choices[position]
    likeness = difflib.SequenceMatcher(None, text, choice.casefold()).ratio()
    if not text or likeness >= _LIKENESS:
      return choice, ""
  return "", parsing.LABEL_NOT_A_CHOICE


def _class_label(answer: str, row: Row, dataset: Dataset) -> tuple[str, str]:
  match = _NLI_WORD.match(answer)
  if match:
    return match.group(1).lower(), ""
  return "", parsing.LABEL_NOT_ALLOWED if answer.strip() else parsing.NO_LABEL


def _text_label(answer: str, row: Row, dataset: Dataset) -> tuple[str, str]:
  label = answer.strip().split("\n")[0].strip()
  label = label.removesuffix(".").strip()
  return label, "" if label else parsing.NO_LABEL


# data set -> (start of the made-up next example, marker of the answer).
_FORMS = {
    "svamp": (_NEXT_QUESTION, _MARKER),
    "asdiv": (_NEXT_QUESTION, _MARKER),
    "gsm8k": (_NEXT_QUESTION, _MARKER),
    "cqa": (_NEXT_QUESTION, _MARKER),
    "anli1": (_NEXT_PREMISE, _MARKER),
    "anli2": (_NEXT_PREMISE, _MARKER),
    "anli3": (_NEXT_PREMISE, _MARKER),
    "esnli": (_NEXT_PREMISE, _ESNLI_MARKER),
}
