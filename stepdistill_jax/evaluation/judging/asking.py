"""Asking a model to judge, through the collector of completions.

A question of a judge is a row of the data set `judge`; so a judgement is never
paid for twice, a killed call goes on, and budgets and limits are as of
`stepdistill teacher collect`.
"""

import argparse
from collections.abc import Collection, Iterable, Iterator, Mapping
import dataclasses
import json
import math
import pathlib
from typing import Any

from stepdistill_jax.answers import answer_forms, arithmetic, cleaning, rules
from stepdistill_jax.evaluation.judging import (
  pairs as pairs_lib,
  verdicts as verdicts_lib,
)
from stepdistill_jax.records import datasets
from stepdistill_jax.teacher import completions, prompts
from stepdistill_jax.teacher.ask import job, spec as spec_lib, supervisor
from stepdistill_jax.teacher.importing import counts as import_counts
from stepdistill_jax.util import durable_files, errors

DATASET = "judge"
NOT_ANSWERED = "judge_gave_no_answer"
_GRADE_KEYS = ("score", "grade", "rating")  # Besides those of answers.
CUT = "judgement_cut"  # Its completion ended by length.
OUT_OF_RANGE = "grade_out_of_range"  # Of the prompt's schema.


@dataclasses.dataclass(frozen=True)
class Score:
  """A judge's grade of one answer.

  Attributes:
    item: the pair's id.
    system: whose answer it is.
    grader: the judge's name.
    value: the grade; None where it could not be read.
    reason: what the judge gave as its reason.
  """

  item: str
  system: str
  grader: str
  value: float | None
  reason: str = ""


@dataclasses.dataclass(frozen=True)
class Judged:
  """What a judge said.

  Attributes:
    verdicts: of a pairwise prompt, one for each pair and order.
    scores: of a prompt that grades single answers.
    reasons: what is none, under named reasons.
    outcome: of the collection.
    prompt: the prompt's id and hash.
    exit_code: of the call, by the collection's end.
  """

  verdicts: list[verdicts_lib.Verdict]
  scores: list[Score]
  reasons: import_counts.Reasons
  outcome: job.Outcome
  prompt: tuple[str, str]
  exit_code: int


def prepare(args: argparse.Namespace, pairs: pairs_lib.Pairs,
            folder: pathlib.Path
            ) -> tuple[spec_lib.Spec, prompts.Prompt, list[dict[str, str]]]:
  """Writes the judge's questions: the collection, its prompt, the questions.

  Args:
    args: of `stepdistill judge`.
    pairs: to judge.
    folder: of the call; the judge's completions are kept there.

  Raises:
    errors.UserError: a mistake in the arguments.
  """
  from stepdistill_jax.teacher.ask import command as ask_command

  prompt = prompts.find(args.prompt, DATASET)
  single = "answer" in prompt.fields
  questions = list(_questions(pairs, single))
  if "reference" in prompt.fields and not all(
      question["reference"] for question in questions):
    raise errors.UserError(
        f"prompt {prompt.id!r} shows a right answer, which some pairs lack; "
        "add a column `reference`, or choose another --prompt")
  rows = folder / "questions.jsonl"
  durable_files.replace(rows, "".join(
      json.dumps(question, ensure_ascii=False) + "\n"
      for question in questions))
  spec = ask_command.spec_of(argparse.Namespace(**{
      **vars(args), "dataset": DATASET, "rows": str(rows), "split": "test",
      "columns": "", "limit": None, "history": "regenerated",
      "output": str(folder / "judge"), "teacher": args.judge}))
  if spec.samples > 1:
    raise errors.UserError("--samples: a judge is asked once for each order")
  return spec, prompt, questions


def ask(args: argparse.Namespace, pairs: pairs_lib.Pairs,
        folder: pathlib.Path, graders: Collection[str] = ()) -> Judged:
  """Asks the judge about each pair, in both orders.

  Args:
    args: of `stepdistill judge`.
    pairs: to judge.
    folder: of the call; see `prepare`.
    graders: names that are taken, by people.

  Raises:
    errors.UserError: a mistake in the arguments, or something the collector
      met.
  """
  from stepdistill_jax.teacher.ask import outcomes

  spec, prompt, questions = prepare(args, pairs, folder)
  single = "answer" in prompt.fields
  if spec.teacher_name in graders:
    raise errors.UserError(
        f"the judge and a grader of --verdicts are both called "
        f"{spec.teacher_name!r}; give it another name with --judge=NAME")
  outcome = supervisor.run(spec, show=not args.json)
  exit_code = outcomes.judge(outcome, args.min_success_ratio)
  reasons = import_counts.Reasons()
  answers = list(_answers(pathlib.Path(outcome.folder), questions, reasons))
  judged = Judged([], [], reasons, outcome, (prompt.id, prompt.sha256),
                  exit_code)
  for question, text in answers:
    where = f"{question['item']}, {question['shown']}"
    read = read_grade if single else verdicts_lib.read_text
    value, reason = (None, "") if text is None else read(text)
    if single:
      judged.scores.append(Score(
          question["item"], question["shown"], spec.teacher_name,
          value if _in_range(value, prompt) else None, reason))
    else:
      judged.verdicts.append(verdicts_lib.Verdict(
          question["item"], spec.teacher_name,
          verdicts_lib.shown_to_given(value, question["shown"]),
          question["shown"], reason))
    if text is None:
      reasons.add(NOT_ANSWERED, where)
    elif value is None:
      reasons.add(verdicts_lib.UNREADABLE, where, text)
    elif single and not _in_range(value, prompt):
      reasons.add(OUT_OF_RANGE, where, text)
  if all(text is None for _, text in answers):
    raise errors.UserError(
        "the judge gave no answer; see `stepdistill teacher audit "
        f"{outcome.folder}`")
  return judged


def read_grade(text: str) -> tuple[float | None, str]:
  """Reads a grade; None where the text has none."""
  dataset = dataclasses.replace(
      datasets.own_dataset(DATASET), label_kind=datasets.NUMBER)
  named = verdicts_lib.find_value(cleaning.clean(text).text, _GRADE_KEYS)
  parsed = rules.get_parser(dataset, form=answer_forms.JSON)(
      named[0] if named else text, datasets.Row("", ""))
  # `8/10` is a grade of 8, not eight tenths.
  label = parsed.label.partition("/")[0]
  value = arithmetic.value_or_none(label) if label else None
  if value is None or not math.isfinite(value):
    return None, text.strip()
  return float(value), named[1] if named else parsed.rationale


def _in_range(grade: float | None, prompt: prompts.Prompt) -> bool:
  """Whether a grade is one that the prompt's schema allows."""
  limits = ((prompt.schema or {}).get("properties") or {}).get("answer") or {}
  return grade is not None and (
      limits.get("minimum", -math.inf) <= grade
      <= limits.get("maximum", math.inf))


def _questions(pairs: pairs_lib.Pairs, single: bool
               ) -> Iterator[dict[str, str]]:
  """Each answer, or each pair in both orders."""
  for pair in pairs.pairs.values():
    both = pair.first, pair.second
    if single:
      for name, answer in zip(pairs.names, both, strict=True):
        yield _question(pair, name, answer=answer)
      continue
    for order, (a, b) in ((verdicts_lib.GIVEN, both),
                          (verdicts_lib.SWAPPED, both[::-1])):
      yield _question(pair, order, answer_a=a, answer_b=b)


def _question(pair: pairs_lib.Pair, shown: str, **answers: str
              ) -> dict[str, str]:
  # What a completion is known by: all that its prompt may show.
  texts = [pair.question, pair.reference, *answers.values()]
  return {"inputs": json.dumps(texts, ensure_ascii=False), "item": pair.item,
          "shown": shown, "question": pair.question,
          "reference": pair.reference, **answers}


def _answers(
    folder: pathlib.Path, questions: Iterable[Mapping[str, str]],
    reasons: import_counts.Reasons
) -> Iterator[tuple[Mapping[str, str], str | None]]:
  """Yields each question with the judge's text, None where it gave none.

  Questions of the same texts share a text; what the cache has of other pairs
  is left out.
  """
  texts: dict[str, str] = {}
  for entry in completions.read_completions(folder):
    line: Any = entry.value
    if entry.problem or line.get("output") is None:
      continue
    if completions.ending_of(line.get("finish_reason")) == completions.LENGTH:
      reasons.add(CUT, entry.where)
      continue
    texts[line["input"]["inputs"]] = line["output"]
  for question in questions:
    yield question, texts.get(question["inputs"])
