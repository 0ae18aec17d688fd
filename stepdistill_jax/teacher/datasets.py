"""The data sets that this project knows: their rows, labels and splits.

A data set of a user's own needs no entry here: it has text labels, and its
rows have the columns `inputs` and `label`.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Callable, Mapping

from stepdistill_jax.teacher import arithmetic
from stepdistill_jax.teacher import records

NLI_LABELS = ("entailment", "neutral", "contradiction")

# Kinds of labels: how two of them are compared.
EQUATION = "equation"  # By value: `(84 / 2)` is `( 84.0 / 2.0 )`.
NUMBER = "number"  # By value.
CHOICE = "choice"  # One of the row's own choices, by text.
CLASS = "class"  # One of the data set's labels, by text.
TEXT = "text"  # By text.


class BadRow(ValueError):
  """A row that cannot become a record; the message is a named reason."""


@dataclasses.dataclass(slots=True)
class Row:
  """A row of a data set.

  Attributes:
    inputs: what the student reads.
    label: the human label, or empty.
    choices: the texts to choose from, where the row has such.
    rationale: a human's explanation, where the row has one.
    position: the position of the row in the source's split, from 0.
  """

  inputs: str
  label: str
  choices: tuple[str, ...] = ()
  rationale: str = ""
  position: int = -1


@dataclasses.dataclass(frozen=True)
class Dataset:
  """What distinguishes one data set from another.

  Attributes:
    name: such as `svamp`.
    label_kind: one of this module's kinds.
    read_row: builds a Row from the fields of a row file's object.
    row_files: split -> names of row files to look for, the first found wins.
    held_out: share of the train split that becomes validation where the
      source has no validation split of its own.
    labels: all labels, of kind CLASS.
  """

  name: str
  label_kind: str
  read_row: Callable[[Mapping[str, Any]], Row]
  row_files: Mapping[str, tuple[str, ...]] = dataclasses.field(
      default_factory=dict)
  held_out: float = 0.0
  labels: tuple[str, ...] = ()

  def is_correct(self, answer: str, label: str) -> bool:
    """True if `answer` counts as the human `label`."""
    if self.label_kind in (EQUATION, NUMBER):
      return arithmetic.same_value(answer, label)
    return bool(answer) and answer == label


def get(name: str) -> Dataset:
  """Returns a known data set, or one of text labels by a user's own name."""
  if name in DATASETS:
    return DATASETS[name]
  return Dataset(records.check_name("data set", name), TEXT, _read_plain)


def cqa_inputs(question: str, choices: tuple[str, ...]) -> str:
  """The question with its choices as lettered lines.

  >>> print(cqa_inputs("Where?", ("here", "there")))
  Where?
  Answer Choices:
  (a) here
  (b) there
  """
  lines = [f"({letter}) {choice}" for letter, choice in zip(
      "abcdefghijklmnopqrstuvwxyz", choices)]
  return "\n".join([question, "Answer Choices:", *lines])


def nli_inputs(premise: str, hypothesis: str) -> str:
  """Premise and hypothesis with the stand-in of the EOS id between."""
  for text in (premise, hypothesis):
    if records.EOS_TEXT in text:
      raise BadRow("reserved_text")
  return premise + records.EOS_TEXT + hypothesis


def split_nli_inputs(inputs: str) -> tuple[str, str]:
  """The inverse of `nli_inputs`."""
  premise, _, hypothesis = inputs.partition(records.EOS_TEXT)
  return premise, hypothesis


def _text(fields: Mapping[str, Any], name: str, default: str | None = None
          ) -> str:
  value = fields.get(name, default)
  if value is None and default is not None:
    return default
  if not isinstance(value, str):
    raise BadRow("field_missing" if name not in fields else "field_not_text")
  try:
    value.encode("utf-8")
  except UnicodeEncodeError:
    raise BadRow("invalid_utf8") from None
  return value


def _inputs(fields: Mapping[str, Any], name: str) -> str:
  value = _text(fields, name)
  if not value.strip():
    raise BadRow("empty_inputs")
  return value


def _read_plain(fields: Mapping[str, Any]) -> Row:
  return Row(inputs=_inputs(fields, "inputs"),
             label=_text(fields, "label", ""),
             rationale=_text(fields, "rationale", ""))


def _read_svamp(fields: Mapping[str, Any]) -> Row:
  return Row(inputs=_inputs(fields, "input"), label=_text(fields, "label"))


def _read_cqa(fields: Mapping[str, Any]) -> Row:
  choices = fields.get("choices")
  if (not isinstance(choices, list) or not choices or len(choices) > 26
      or not all(isinstance(choice, str) for choice in choices)):
    raise BadRow("choices_not_texts")
  return Row(
      inputs=cqa_inputs(_inputs(fields, "question"), tuple(choices)),
      label=_text(fields, "answer", ""), choices=tuple(choices),
      rationale=_text(fields, "abstractive_explanation", ""))


def _read_nli(fields: Mapping[str, Any]) -> Row:
  label = fields.get("label")
  if label is None or label == -1:  # -1: SNLI's raters did not agree.
    label = ""
  elif isinstance(label, str):
    if label not in NLI_LABELS:
      raise BadRow("label_not_allowed")
  elif isinstance(label, int) and 0 <= label < 3:
    label = NLI_LABELS[label]
  else:
    raise BadRow("label_not_allowed")
  rationale = fields.get("explanation_1", fields.get("reason", ""))
  return Row(
      inputs=nli_inputs(_inputs(fields, "premise"),
                        _inputs(fields, "hypothesis")),
      label=label, rationale=rationale if isinstance(rationale, str) else "")


def _read_asdiv(fields: Mapping[str, Any]) -> Row:
  # `9 (apples)`: the first word, as in the reference code.
  answer = _text(fields, "Answer").split(" ")[0]
  return Row(
      inputs=f"{_inputs(fields, 'Body')}\n{_inputs(fields, 'Question')}",
      label=answer)


def _read_gsm8k(fields: Mapping[str, Any]) -> Row:
  solution, marker, answer = _text(fields, "answer").rpartition("#### ")
  if not marker:
    raise BadRow("field_without_answer")
  # `<<48/2=24>>` are notes to a calculator, not part of the explanation.
  return Row(inputs=_inputs(fields, "question"),
             label=answer.strip().replace(",", ""),
             rationale=re.sub(r"<<[^<>]*>>", "", solution).strip())


DATASETS: Mapping[str, Dataset] = {
    dataset.name: dataset for dataset in (
        Dataset("svamp", EQUATION, _read_svamp,
                {"train": ("svamp_train.json",),
                 "validation": ("svamp_valid.json",),
                 "test": ("svamp_test.json",)},
                held_out=0.1),
        Dataset("cqa", CHOICE, _read_cqa,
                {"train": ("cqa_train.json",),
                 "validation": ("cqa_valid.json",),
                 "test": ("cqa_test.json",)},
                held_out=0.1),
        Dataset("anli1", CLASS, _read_nli,
                {"train": ("anli1_train.json",
                           "anli1_train_recovered.jsonl"),
                 "validation": ("anli1_valid.json",),
                 "test": ("anli1_test.json",)},
                labels=NLI_LABELS),
        Dataset("esnli", CLASS, _read_nli,
                {"train": ("esnli_train.json",),
                 "validation": ("esnli_valid.json",),
                 "test": ("esnli_test.json",)},
                labels=NLI_LABELS),
        Dataset("asdiv", NUMBER, _read_asdiv, {"train": ("ASDiv.xml",)}),
        Dataset("gsm8k", NUMBER, _read_gsm8k,
                {"train": ("train.jsonl",), "test": ("test.jsonl",)},
                held_out=0.1),
    )
}
