"""The benchmarks: what an answer is in each, and when it is right."""

from collections.abc import Iterable, Mapping
import dataclasses
import functools
from typing import Any

from stepdistill_jax.answers import (
  answer_forms,
  answer_matching as answers,
  arithmetic,
  free_text_rules,
  kinds,
  labels as labels_lib,
  rules as rules_lib,
)
from stepdistill_jax.records import datasets, declared
from stepdistill_jax.util import errors

# How an answer is read; `Benchmark.kind`, by the kinds of `datasets`.
CLASS, CHOICE = datasets.CLASS, datasets.CHOICE
EQUATION, NUMBER = datasets.EQUATION, datasets.NUMBER
TEXT = datasets.TEXT
ALL = "all"  # Of `--benchmarks`: every one with data here.


@dataclasses.dataclass(frozen=True)
class Judgement:
  """What one prediction came to.

  Attributes:
    parsed: the answer as it was read, as text; None where it could not be.
    correct: whether it is the gold answer.
    variants: the same under other readings, by name (CQA: `exact_text`,
      `case_insensitive`, `letter`).
  """

  parsed: str | None
  correct: bool
  variants: Mapping[str, bool] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """One data set as a test.

  Attributes:
    name: the data set's name in task names and records.
    title: for tables.
    kind: how an answer is read, see above.
    labels: the fixed answers of a `class` benchmark.
    score_rule: one line for reports.
    decode_length: most tokens that a label may take, with its EOS.
    markers: a user's own texts behind which answers stand.
  """

  name: str
  title: str
  kind: str
  score_rule: str
  labels: tuple[str, ...] = ()
  decode_length: int = 64  # The papers' code generates at most 64.
  markers: tuple[str, ...] = ()

  def choices(self, inputs: str) -> tuple[str, ...]:
    """The closed set of answers to `inputs`; empty where there is none."""
    if self.kind in (CHOICE, datasets.CHOICES):
      return answers.choices_in(inputs)
    return self.labels

  def judge(self, prediction: str, label: str, *, inputs: str = "",
            rules: str = "strict", free_text: bool = False) -> Judgement:
    """Scores one prediction.

    Args:
      prediction: the model's text, as decoded.
      label: the gold answer.
      inputs: the question; CQA's choices are read from it.
      rules: `strict` or `reference`, see `answers`.
      free_text: look for the answer inside a longer text, by the rule that
        reads teachers' free generations (`free_text_rules`), instead
        of reading the text as the answer.

    Returns:
      The judgement; an unreadable prediction is never correct.
    """
    if rules == "reference":
      if free_text:
        prediction = self._find_answer(prediction, inputs)
      return _judge_by_reference(self, prediction, label, inputs)
    parsed = (self._find_answer(prediction, inputs) if free_text
              else self._read(prediction, inputs)) or None
    variants = {}
    if self.kind == CHOICE and not self.labels and (
        choices := self.choices(inputs)):
      variants = _choice_variants(prediction, label, choices, parsed)
    if self.kind in (EQUATION, NUMBER):
      gold = arithmetic.value_or_none(self._read(label, inputs))
      value = None if parsed is None else arithmetic.value_or_none(parsed)
      return Judgement(
          None if value is None else number_text(float(value)),
          value is not None and gold is not None
          and arithmetic.values_equal(value, gold))
    if parsed is not None and self.kind == datasets.CHOICES:
      return Judgement(
          parsed, labels_lib.is_correct(self.dataset, parsed, label))
    if parsed is not None and self.kind not in (CLASS, CHOICE):
      parsed = kinds.fold(parsed)
    return Judgement(parsed, parsed is not None and (
        kinds.fold(parsed) == kinds.fold(label) != ""), variants)

  @functools.cached_property
  def dataset(self) -> datasets.Dataset:
    """How its answers are read."""
    return dataclasses.replace(
        datasets.get(self.name), label_kind=self.kind, labels=self.labels,
        markers=self.markers)

  def _read(self, text: str, inputs: str, form: str = answer_forms.ANSWER,
            ) -> str:
    """The answer in a text; empty where there is none."""
    row = datasets.Row(inputs, label="", choices=self.choices(inputs))
    parser = rules_lib.get_parser(self.dataset, form=form)
    return parser(text[-_MAX_ANSWER_CHARS:], row).label

  def _find_answer(self, text: str, inputs: str) -> str:
    """The answer in raw Llama-3 text; elsewhere JSON and marks come first."""
    row = datasets.Row(inputs, label="", choices=self.choices(inputs))
    found = rules_lib.get_parser(self.dataset)(text[-_MAX_ANSWER_CHARS:], row)
    if found.rule in ("json", "answer tag", "boxed", "####") or (
        "\\boxed" in text) or not free_text_rules.serves(self.dataset):
      return found.label
    return free_text_rules.get_parser(self.dataset)(text, row).label


def _choice_variants(prediction: str, label: str, choices: tuple[str, ...],
                     parsed: str | None) -> dict[str, bool]:
  letter = answers.read_letter(prediction, choices)
  by_letter = parsed if letter is None else choices[letter]
  return {
      "exact_text": prediction == label,
      "case_insensitive": kinds.fold(prediction) == kinds.fold(label),
      "letter": by_letter is not None and by_letter == label}


def _judge_by_reference(
    benchmark: Benchmark, prediction: str, label: str, inputs: str
) -> Judgement:
  """By the papers' rule: the text as it is."""
  kind = benchmark.kind
  if kind == NUMBER:
    return benchmark.judge(prediction, label, inputs=inputs)
  if kind == EQUATION:
    value = answers.reference_value(prediction)
    gold = answers.reference_value(label)
    return Judgement(None if value is None else number_text(value),
                     value is not None and value == gold)
  choices = () if kind not in (CLASS, CHOICE) else (
      benchmark.labels or benchmark.choices(inputs))  # Letters, or texts.
  if not choices:  # Without choices, only the texts can be compared.
    return Judgement(prediction or None, prediction == label)
  parsed = prediction if prediction in choices else None
  return Judgement(
      parsed, parsed is not None and parsed == label,
      _choice_variants(prediction, label, choices, parsed)
      if kind == CHOICE else {})


def number_text(value: float) -> str:
  """A value as text, whole numbers without a point."""
  return repr(int(value)) if value == int(value) else repr(value)


# Keeps hostile text (megabytes of digits) from costing time.
_MAX_ANSWER_CHARS = 50_000
_SCORE_RULES = {
    CLASS: "exact label", CHOICE: "text of the choice",
    datasets.CHOICES: "all of the choices and no other",
    EQUATION: "value of the equation", NUMBER: "final number",
    TEXT: "exact text", datasets.SUMMARY: "ROUGE-L",
    datasets.CONVERSATION: "chrF"}


def _declared(name: str, table: dict[str, Any]) -> Benchmark:
  """A benchmark as its TOML file declares it."""
  dataset = datasets.get(name)
  kind = table.pop("kind", dataset.label_kind)
  labels = tuple(table.pop("labels", dataset.labels))
  return Benchmark(
      name, declared.value(name, "title", name), kind,
      table.pop("score_rule", _SCORE_RULES[kind]), labels, **table)


BENCHMARKS = {name: _declared(name, table)
              for name, table in declared.section("benchmark").items()}


def get(name: str, own: Iterable[str] = (),
        dataset: datasets.Dataset | None = None) -> Benchmark:
  """Returns a benchmark by name.

  Args:
    name: of the table above, or of a user's own data set.
    own: names of the data sets with records here; one that is not in the table
      is compared as text.
    dataset: one of the user's own, by whose kind labels are read.

  Raises:
    errors.UserError: no such benchmark; the message lists near names.
  """
  dataset = dataset or datasets.own_dataset("any")
  if name in BENCHMARKS:
    return dataclasses.replace(BENCHMARKS[name], markers=dataset.markers) if (
        dataset.markers) else BENCHMARKS[name]
  errors.require_known("benchmark", name, {*BENCHMARKS, *own})
  return Benchmark(
      name, name, dataset.label_kind, _SCORE_RULES[dataset.label_kind],
      dataset.labels, markers=dataset.markers)


def parse_names(text: str, own: Iterable[str] = ()) -> list[Benchmark]:
  """Reads `--benchmarks`: names with commas between, or `all`.

  Raises:
    errors.UserError: no name, or one that is not a benchmark.
  """
  own = list(own)
  names = [name.strip() for name in text.split(",") if name.strip()]
  if not names:
    raise errors.UserError(
        "--benchmarks is empty; pass names with commas between, or `all`: "
        + ",".join(BENCHMARKS))
  if ALL in names:
    names = [*names, *BENCHMARKS, *own]
    names = [name for name in names if name != ALL]
  return [get(name, own) for name in dict.fromkeys(names)]
