"""Parsing free-text generations, such as the raw Llama-3 outputs.

They have no fixed form: `Hence the answer is (b) house.`, `Answer: 42`, or no
answer at all. The answer is looked for after the last `answer is`, else after
the last `answer:`, in lower case:

* choices: the first letter `(a)`, `a)` or `a.`, else the only choice text
  found there;
* classes: the only label word or letter found there, or, without a marker,
  in the whole text;
* equations and numbers: the last number there;
* other labels: the rest of the line.

This one rule serves as `strict` and as `reference`: the papers' rules find no
SVAMP label in such texts.
"""

from collections.abc import Callable, Mapping
import functools
import re

from stepdistill_jax.answers import arithmetic, parsing
from stepdistill_jax.records import datasets

_RATIONALE_START = re.compile(r"\s*(?:rationale|reasoning)s?:\s*",
                              re.IGNORECASE)
# What leads to the answer and is not part of the reasoning.
_LEAD_WORDS = frozenset("the final correct and so hence therefore thus".split())
_MARKERS = tuple(re.compile(marker, re.IGNORECASE)
                 for marker in ("answer is", "answer:"))
# `(b)`, or `b)`, `b.` or `b` at the end; `a house` is not a letter.
_CHOICE_LETTER = re.compile(r"\(([a-z])\)|(?:^|\s)([a-z])(?:[).]|$)")
_CLASS_LETTER = re.compile(r"\(([a-c])\)")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?", re.ASCII)


def serves(dataset: datasets.Dataset) -> bool:
  """Whether these rules are for labels of the data set's kind."""
  return dataset.label_kind in _LABELS


def get_parser(dataset: datasets.Dataset) -> parsing.Parser:
  """Returns the parser of a data set's free-text generations."""
  return functools.partial(_parse, _LABELS[dataset.label_kind], dataset)


def _parse(find_label: Callable[..., tuple[str, str]],
           dataset: datasets.Dataset, output: str, row: datasets.Row
           ) -> parsing.Parsed:
  if not output.strip():
    return parsing.Parsed("", "", parsing.EMPTY_OUTPUT)
  start, end = _last_marker(output)
  if start < 0 and dataset.label_kind != datasets.CLASS:
    return parsing.Parsed(_rationale(output), "", parsing.NO_MARKER)
  answer = output[end:]
  label, problem = find_label(answer.lower(), answer, row, dataset)
  # A class named without a marker has no place where the reasoning ends.
  rationale = _rationale(output[:start] if start >= 0 else output)
  if label and not rationale:
    problem = parsing.EMPTY_RATIONALE
  return parsing.Parsed(rationale, label, problem or "ok")


def _last_marker(text: str) -> tuple[int, int]:
  """Start and end of the last marker; (-1, 0) without one."""
  for marker in _MARKERS:
    *_, last = [None, *marker.finditer(text)]
    if last:
      return last.span()
  return -1, 0


def _rationale(text: str) -> str:
  """The reasoning, without its heading and without `hence the`."""
  heading = _RATIONALE_START.match(text)
  text = text[heading.end() if heading else 0:].strip()
  while True:
    before, _, word = text.rpartition(" ")
    if word.lower().strip(",;") not in _LEAD_WORDS:
      return text.rstrip(",")
    text = before.rstrip()


def _choice(lowered: str, answer: str, row: datasets.Row,
            dataset: datasets.Dataset) -> tuple[str, str]:
  match = _CHOICE_LETTER.search(lowered)
  if match:
    position = ord(match[1] or match[2]) - ord("a")
    if position < len(row.choices):
      return row.choices[position], ""
  return _only([c for c in row.choices if c.lower() in lowered])


def _class_label(lowered: str, answer: str, row: datasets.Row,
                 dataset: datasets.Dataset) -> tuple[str, str]:
  named = {label for label in dataset.labels if label in lowered}
  named |= {dataset.labels[ord(letter) - ord("a")]
            for letter in _CLASS_LETTER.findall(lowered)
            if ord(letter) - ord("a") < len(dataset.labels)}
  return _only(list(named))


def _only(named: list[str]) -> tuple[str, str]:
  if len(named) == 1:
    return named[0], ""
  return "", parsing.SEVERAL_ANSWERS if named else parsing.NO_LABEL


def _number(lowered: str, answer: str, row: datasets.Row,
            dataset: datasets.Dataset) -> tuple[str, str]:
  numbers = _NUMBER.findall(lowered)
  if not numbers:
    return "", parsing.NO_LABEL
  number = numbers[-1].replace(",", "")
  problem = arithmetic.problem_of(number)
  return ("", problem) if problem else (number, "")


def _rest_of_line(lowered: str, answer: str, row: datasets.Row,
                  dataset: datasets.Dataset) -> tuple[str, str]:
  label = answer.strip().split("\n")[0].strip().removesuffix(".")
  return label, "" if label else parsing.NO_LABEL


def names_a_label(output: str, row: datasets.Row, dataset: datasets.Dataset
                  ) -> bool:
  """True if a generation names any label that its row could have.

  Where a cleaned file has a label and the raw generation names none, the
  label is not the teacher's.
  """
  lowered = output.lower()
  if dataset.label_kind == datasets.CHOICE:
    return bool(re.search(r"\([a-e]\)", lowered)) or any(
        choice.lower() in lowered for choice in row.choices)
  if dataset.label_kind == datasets.CLASS:
    return bool(_CLASS_LETTER.search(lowered)) or any(
        label in lowered for label in dataset.labels)
  return bool(_NUMBER.search(lowered))


_LABELS: Mapping[str, Callable[..., tuple[str, str]]] = {
    datasets.CHOICE: _choice, datasets.CLASS: _class_label,
    datasets.EQUATION: _number, datasets.NUMBER: _number,
    datasets.TEXT: _rest_of_line}
