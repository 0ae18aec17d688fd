"""The benchmarks: what an answer is in each, and when it is right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
from typing import Any

from stepdistill_jax.answers import answer_matching as answers, free_text_rules
from stepdistill_jax.records import datasets, declared
from stepdistill_jax.util import errors

# How an answer is read; `Benchmark.kind`.
LABEL = "label"  # One of a few fixed words.
CHOICE = "choice"  # The text of one of the choices listed in the input.
EQUATION = "equation"  # An arithmetic expression, compared by its value.
NUMBER = "number"  # A final number.
TEXT = "text"  # Free text, compared whole.
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
    labels: the fixed answers of a `label` benchmark.
    score_rule: one line for reports.
    decode_length: most tokens that a label may take, with its EOS.
  """

  name: str
  title: str
  kind: str
  score_rule: str
  labels: tuple[str, ...] = ()
  decode_length: int = 64  # The papers' code generates at most 64.

  def choices(self, inputs: str) -> tuple[str, ...]:
    """The closed set of answers to `inputs`; empty where there is none."""
    if self.kind == CHOICE:
      return answers.read_choices(inputs)
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
        reads teachers' free generations (`teacher.free_text_rules`), instead
        of reading the text as the answer.

    Returns:
      The judgement; an unreadable prediction is never correct.
    """
    if free_text:
      prediction = self._find_answer(prediction, inputs)
    return _JUDGES[self.kind](self, prediction, label, inputs, rules)

  def _find_answer(self, text: str, inputs: str) -> str:
    row = datasets.Row(inputs, label="", choices=self.choices(inputs))
    parser = free_text_rules.get_parser(datasets.get(self.name))
    return parser(text, row).label


def _judge_label(benchmark: Benchmark, prediction: str, label: str,
                 inputs: str, rules: str) -> Judgement:
  labels = benchmark.labels
  if rules == "reference":
    parsed = prediction if prediction in labels else None
  else:
    parsed = answers.read_label(prediction, labels)
  return Judgement(parsed, parsed is not None and parsed == label)


def _judge_choice(benchmark: Benchmark, prediction: str, label: str,
                  inputs: str, rules: str) -> Judgement:
  choices = benchmark.choices(inputs)
  if not choices:  # Without choices, only the texts can be compared.
    return _judge_text(benchmark, prediction, label, inputs, rules)
  if rules == "reference":
    parsed = prediction if prediction in choices else None
  else:
    parsed = answers.read_choice(prediction, choices)
  letter = answers.read_letter(prediction, choices)
  by_letter = parsed if letter is None else choices[letter]
  return Judgement(
      parsed, parsed is not None and parsed == label, {
          "exact_text": prediction == label,
          "case_insensitive":
              answers.tidy(prediction) == answers.tidy(label),
          "letter": by_letter is not None and by_letter == label,
      })


def _judge_equation(benchmark: Benchmark, prediction: str, label: str,
                    inputs: str, rules: str) -> Judgement:
  value = answers.read_equation(prediction, rules)
  gold = answers.read_equation(label, rules)
  correct = (value is not None and gold is not None
             and answers.same_value(value, gold, rules))
  return Judgement(None if value is None else number_text(value), correct)


def _judge_number(benchmark: Benchmark, prediction: str, label: str,
                  inputs: str, rules: str) -> Judgement:
  value, gold = answers.read_number(prediction), answers.read_number(label)
  correct = (value is not None and gold is not None
             and answers.same_value(value, gold, rules))
  return Judgement(None if value is None else number_text(value), correct)


def _judge_text(benchmark: Benchmark, prediction: str, label: str,
                inputs: str, rules: str) -> Judgement:
  if rules == "reference":
    return Judgement(prediction or None, prediction == label)
  parsed = answers.tidy(prediction)
  return Judgement(parsed or None, parsed == answers.tidy(label) != "")


def number_text(value: float) -> str:
  """A value as text, whole numbers without a point."""
  return repr(int(value)) if value == int(value) else repr(value)


_JUDGES = {
    LABEL: _judge_label,
    CHOICE: _judge_choice,
    EQUATION: _judge_equation,
    NUMBER: _judge_number,
    TEXT: _judge_text,
}

def _declared(name: str, table: dict[str, Any]) -> Benchmark:
  """A benchmark as its TOML file declares it."""
  dataset = datasets.get(name)
  kind = table.pop("kind", dataset.label_kind)
  labels = tuple(table.pop("labels", dataset.labels))
  return Benchmark(
      name, declared.value(name, "title", name),
      LABEL if kind == datasets.CLASS else kind,
      table.pop("score_rule", "exact text"), labels, **table)


BENCHMARKS = {name: _declared(name, table)
              for name, table in declared.section("benchmark").items()}


def get(name: str, own: Iterable[str] = ()) -> Benchmark:
  """Returns a benchmark by name.

  Args:
    name: of the table above, or of a user's own data set.
    own: names of the data sets with records here; one that is not in the table
      is compared as text.

  Raises:
    errors.UserError: no such benchmark; the message lists near names.
  """
  if name in BENCHMARKS:
    return BENCHMARKS[name]
  if name in own:
    return Benchmark(name, name, TEXT, "exact text")
  raise errors.UserError(errors.unknown_name_message(
      "benchmark", name, {*BENCHMARKS, *own}))


def parse_names(text: str, own: Iterable[str] = ()) -> list[Benchmark]:
  """Reads `--benchmarks`: names with commas between, or `all`.

  Raises:
    errors.UserError: no name, or one that is no benchmark.
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
