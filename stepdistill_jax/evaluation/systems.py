"""What can be scored without a model: prediction files and cached teachers.

A system gives one `Answer` for each example it is asked, in order. Systems that
run a model are in `checkpoints.py` and `hugging_face.py`.
"""

import array
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import math
import pathlib
from typing import Protocol

from stepdistill_jax.evaluation import (
  cost as cost_lib,
  examples,
  store as store_lib,
)
from stepdistill_jax.records import records
from stepdistill_jax.util import disk_lists, errors, locations


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a system said to one example.

  Attributes:
    id: the example's.
    text: the raw prediction, never edited; None where there is none.
    score: the system's confidence that the answer is right, in [0, 1].
    rationale: the raw text of the explain task, where it was asked.
    tokens: decoded tokens of `text`, its EOS included.
    rationale_tokens: likewise of `rationale`.
    input_tokens: of the question as the model read it.
    rationale_log_prob: natural log of the likelihood that the student gives
      the teacher's rationale.
    rationale_target_tokens: tokens of the teacher's rationale, EOS included.
  """

  id: str
  text: str | None
  score: float | None = None
  rationale: str | None = None
  tokens: int | None = None
  rationale_tokens: int | None = None
  input_tokens: int | None = None
  rationale_log_prob: float | None = None
  rationale_target_tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class Answers:
  """A system's answers to one example set.

  Attributes:
    answers: one for each example, in their order.
    warnings: lines for the report, e.g. how many ids were unknown.
    cost: what it took, where that is known (see `cost.py`).
    free_text: the answers stand inside longer texts.
    answer_after_rationale: the label follows a rationale in the text.
    mode: `generate` or `score`.
    method: of a trained student: `name`, `key` (the same for runs that differ
      in their seed alone) and `seed`.
    settings: how a model was asked: its `ModelConfig`, prefixes, devices.
    cut: how many `inputs`, `answers` and `rationales` were cut; None where
      that is not known.
  """

  answers: Sequence[Answer]
  warnings: tuple[str, ...] = ()
  cost: dict = dataclasses.field(default_factory=dict)
  free_text: bool = False
  answer_after_rationale: bool = False
  mode: str = "generate"
  method: dict | None = None
  settings: dict | None = None
  cut: dict | None = None


class System(Protocol):
  """Something that answers questions.

  Attributes:
    name: for tables; unique in a call.
    kind: `checkpoint`, `hf`, `predictions` or `teacher`.
    source: where it came from, for `results.json`.
  """

  name: str
  kind: str
  source: str

  def answer(self, example_set: examples.ExampleSet,
             store: store_lib.AnswerStore) -> list[Answers]:
    """Answers every example of the set, once for each mode asked for.

    Args:
      example_set: the questions.
      store: takes up answers as they come, and gives those it has.
    """


def teachers_answers(
    teacher: str, example_set: examples.ExampleSet,
    said: Callable[[examples.Example], Sequence[str] | None],
    source: str) -> Answers:
  """A teacher's answers, and what they cost.

  Args:
    teacher: its name.
    example_set: the questions.
    said: gives the rationale and the label of an example; None where there
      are none.
    source: what such an example has none of, for a warning.
  """
  answers, words = disk_lists.DiskList(of=Answer), []
  for example in example_set.examples:
    rationale, label = said(example) or (None, None)
    answers.append(Answer(example.id, label, rationale=rationale or None))
    if label is not None:
      words.append(len(f"{example.inputs} {rationale} {label}".split()))
  missing = len(answers) - len(words)
  warnings = (f"{missing} of {len(answers)} examples have no {source}; they "
              "count as wrong",)
  return Answers(answers, warnings * bool(missing),
                 cost_lib.of_teacher(teacher, words))


class TeacherRecords:
  """The cached teacher of the distillation records: its own line.

  A completion that did not parse is an unparsable answer, so it stays in the
  denominator.
  """

  kind = "teacher"
  def __init__(self, teacher: str, records_dir: pathlib.Path | None = None,
               name: str | None = None, rules: str = "strict"):
    self.teacher = teacher
    self._rules = rules
    self.name = name or f"teacher {teacher}"
    self.source = f"records of {teacher}"
    self._records_dir = pathlib.Path(records_dir or locations.records_dir())

  def skips(self, example_set: examples.ExampleSet) -> str | None:
    """Why there is no line of this teacher for a benchmark, or None."""
    if example_set.teacher != self.teacher and self.teacher not in (
        records.teachers_of(self._records_dir, example_set.benchmark)):
      return (f"benchmark {example_set.benchmark} has no records of teacher "
              f"{self.teacher}")
    if records.has_own_labels(
        self._records_dir, example_set.benchmark, self.teacher):
      return (f"the labels of teacher {self.teacher} are the rows' own in "
              f"{example_set.benchmark}: its accuracy was not measured")
    if any(row.teacher_label for row in self._own(example_set).examples):
      return None
    return (f"teacher {self.teacher} has no labels of "
            f"{example_set.benchmark}, split {example_set.split}: its "
            "accuracy was not measured")

  def _own(self, example_set: examples.ExampleSet) -> examples.ExampleSet:
    """The benchmark's rows as this teacher's records have them."""
    if example_set.teacher == self.teacher:
      return example_set
    return examples.load(
        example_set.benchmark, example_set.split, teacher=self.teacher,
        records_dir=self._records_dir)

  def answer(self, example_set: examples.ExampleSet,
             store: store_lib.AnswerStore | None = None) -> list[Answers]:
    own = self._own(example_set)

    def said(asked: examples.Example) -> tuple[str, str] | None:
      row: examples.Example | None = asked
      if own is not example_set:
        number = own.numbers.get(asked.id)
        row = None if number is None else own.examples[number]
      return row and (row.rationale, row.teacher_label)

    found = teachers_answers(self.teacher, example_set, said,
                             f"record of teacher {self.teacher}")
    return [dataclasses.replace(found, warnings=(
        *found.warnings, *self._rules_warning(example_set.benchmark)))]

  def _rules_warning(self, benchmark: str) -> list[str]:
    """Says by which rules the records' labels were parsed, if by others."""
    if self._rules != "reference":
      return []
    parsed_by = records.import_info(
        self._records_dir, benchmark, self.teacher).get("rules", "other")
    if parsed_by == "reference":
      return []
    return [f"the records' labels were parsed by {parsed_by} rules; for the "
            "papers' own line import them with `stepdistill teacher import "
            "--rules=reference`"]


class PredictionsFile:
  """Predictions of any system: JSON Lines of `id` and `text`.

  Optional fields: `score` (confidence in [0, 1]) and `rationale`.

  Args:
    path: the file.
    name: for tables; the file's name without ending by default.
    free_text: look for the answer inside the text.

  Raises:
    errors.UserError: a line is another kind of value, or an id has two answers.
  """

  kind = "predictions"

  def __init__(self, path: str | pathlib.Path, name: str | None = None,
               free_text: bool = False):
    self._path = pathlib.Path(path)
    self.name = name or self._path.stem
    self._sets_of_call: Sequence[examples.ExampleSet] = ()
    self.source = str(path)
    self._free_text = free_text
    self._answers, self._numbers, self._repeated = _read_predictions(self._path)

  def prepare(self, example_sets: Sequence[examples.ExampleSet]) -> None:
    """Learns the ids of all benchmarks of a call: one file may answer some."""
    self._sets_of_call = example_sets

  def skips(self, example_set: examples.ExampleSet) -> str | None:
    """Says so where the file answers other benchmarks of the call alone."""
    if any(name in self._numbers for name in example_set.numbers) or not any(
        _is_of(name, self._sets_of_call) for name in self._numbers):
      return None
    return (f"{self._path} has no prediction for any of the "
            f"{len(example_set.examples)} examples of benchmark "
            f"{example_set.benchmark}, split {example_set.split}: it has no "
            "line there")

  def answer(self, example_set: examples.ExampleSet,
             store: store_lib.AnswerStore | None = None) -> list[Answers]:
    asked = example_set.numbers
    missing = [name for name in asked if name not in self._numbers]
    if len(missing) == len(asked):
      raise errors.UserError(
          f"{self._path}: none of its {len(self._answers)} ids is one of the "
          f"{len(asked)} of {example_set.benchmark}, split "
          f"{example_set.split} (such as {missing[0]!r}); write the ids that "
          "`stepdistill-eval --export_inputs=FILE` gives")
    warnings = []
    if missing:
      warnings.append(
          f"{len(missing)} of {len(asked)} examples have no prediction (such "
          f"as {missing[0]!r}); they count as wrong")
    extra = [name for name in self._numbers
             if not _is_of(name, [example_set, *self._sets_of_call])]
    if extra:
      warnings.append(
          f"{len(extra)} predictions have ids outside what was asked (such as "
          f"{extra[0]!r}); they are left out")
    if self._repeated:
      warnings.append(
          f"{self._repeated} predictions stand in the file more than once "
          "with the same values; each counts once")
    answers = disk_lists.DiskList((
        self._answers[self._numbers[name]] if name in self._numbers
        else Answer(name, None) for name in asked), of=Answer)
    return [Answers(answers, tuple(warnings), free_text=self._free_text)]


def _is_of(name: str, example_sets: Sequence[examples.ExampleSet]) -> bool:
  """Whether an id is one of these sets', asked or left out."""
  return any(name in s.numbers or name in s.left_out_ids for s in example_sets)


def _read_predictions(
    path: pathlib.Path,
) -> tuple[Sequence[Answer], Mapping[str, int], int]:
  """Returns answers, each one's number, and how many lines repeat others."""
  if not path.is_file():
    problem = "is a folder" if path.is_dir() else "was not found"
    raise errors.UserError(
        f"predictions file {path} {problem}; it is JSON Lines of "
        '{"id": …, "text": …}, or what `stepdistill predict` writes')
  found = disk_lists.DiskList(of=Answer)
  numbers: dict[str, int] = {}
  first_lines = array.array("q")
  repeated = 0
  with path.open(encoding="utf-8-sig") as lines, errors.reported(
      UnicodeDecodeError, lambda error: (
          f"{path}: not UTF-8 text ({error.reason} at byte {error.start})")):
    for number, line in enumerate(lines, start=1):
      answer = line.strip() and _read_prediction(line, f"{path}, line {number}")
      if not answer:
        continue
      at = numbers.setdefault(answer.id, len(found))
      if at == len(found):
        found.append(answer)
        first_lines.append(number)
      elif (earlier := found[at]) == answer:
        repeated += 1
      else:
        differ = next(name for name in ("text", "score", "rationale")
                      if getattr(answer, name) != getattr(earlier, name))
        raise errors.UserError(
            f"{path}: id {answer.id!r} has different {differ}s on lines "
            f"{first_lines[at]} and {number}; keep one")
  if not found:
    raise errors.UserError(f"{path}: no prediction in the file")
  return found, numbers, repeated


def _read_prediction(line: str, where: str) -> Answer | None:
  """The answer of a line; None for a text that `predict` could not ask."""
  with errors.reported((ValueError, RecursionError),
                       lambda error: f"{where}: not JSON ({error})"):
    row = json.loads(line)
  if not isinstance(row, dict):
    raise errors.UserError(
        f"{where}: expected an object with `id` and `text`, got "
        f"{type(row).__name__}")
  if "text" not in row and "answer" in row:  # As `stepdistill predict` writes.
    if row["answer"] is None:
      return None
    row["text"] = row["answer"]
  for field in ("id", "text"):
    if not isinstance(row.get(field), str):
      raise errors.UserError(
          f"{where}: `{field}` must be a string, got "
          f"{type(row.get(field)).__name__}; fields there: "
          f"{', '.join(map(str, list(row)[:8])) or 'none'}")
  score = row.get("score")
  if score is not None and not (
      isinstance(score, (int, float)) and not isinstance(score, bool)
      and math.isfinite(score) and 0 <= score <= 1):
    raise errors.UserError(
        f"{where}: `score` must be a number from 0 to 1, got {score!r}")
  rationale = row.get("rationale")
  if rationale is not None and not isinstance(rationale, str):
    raise errors.UserError(f"{where}: `rationale` must be a string")
  return Answer(row["id"], row["text"], score=score, rationale=rationale)


def unique_names(systems: Sequence[System]) -> None:
  """Numbers systems of one name: `run`, `run (2)`."""
  seen: dict[str, int] = {}
  for system in systems:
    seen[system.name] = seen.get(system.name, 0) + 1
    if seen[system.name] > 1:
      system.name = f"{system.name} ({seen[system.name]})"
