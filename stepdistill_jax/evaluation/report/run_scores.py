"""Accuracies of runs, and of teachers beside them, from what lies in folders.

Two kinds of folders hold accuracies: those of `stepdistill-eval`
(`results.json` and `examples.jsonl`, per checkpoint, with every answer), and a
run's own `inference_eval`, written while it trained (validation, no counts).
The first is preferred; the second is marked as what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from stepdistill_jax.evaluation.report import run_facts
from stepdistill_jax.interop import run_folder
from stepdistill_jax.util import errors, locations

_RESULTS = "results.json"
_ACCURACY_KEYS = ("accuracy", "label_accuracy", "equation_accuracy",
                  "sequence_accuracy")


@dataclasses.dataclass(frozen=True)
class RunScore:
  """The accuracy of one run on one split.

  Attributes:
    facts: of the run.
    split: `test`, or `validation` from the run's own evaluation.
    step: of the checkpoint.
    accuracy: a share in [0, 1].
    n: examples; None where it is not known.
    ci95: Wilson's interval over examples; None where n is not known.
    source: the file that says so.
    correct: example id to whether it was answered right; None where the
      answers are not there.
  """

  facts: run_facts.RunFacts
  split: str
  step: int
  accuracy: float
  n: int | None
  ci95: tuple[float, float] | None
  source: str
  correct: Mapping[str, bool] | None = dataclasses.field(
      default=None, repr=False, hash=False)


@dataclasses.dataclass(frozen=True)
class TeacherScore:
  """A teacher's accuracy: the line to reach."""

  dataset: str
  teacher: str
  split: str
  accuracy: float
  n: int


def collect(
    paths: Sequence[str | pathlib.Path],
) -> tuple[list[RunScore], list[TeacherScore], list[str]]:
  """Finds all runs and results below some folders.

  Args:
    paths: run folders, output folders of `stepdistill-eval`, or folders that
      hold any of them.

  Returns:
    Scores of runs, one a checkpoint and split; teachers' scores; and what
    was skipped, with the reason, a line each.

  Raises:
    errors.UserError: a path that does not exist, or no score at all.
  """
  results, runs, skipped = [], {}, []
  for path in map(pathlib.Path, paths):
    if not path.is_dir():
      raise errors.UserError(
          f"{locations.not_a_folder(path)}; pass runs' folders (MODEL_DIR), "
          "outputs of stepdistill-eval, or a folder that holds them")
    results += _find(path, _RESULTS)
    for config in _find(path, run_folder.CONFIG_FILE):
      runs[config.parent.resolve()] = None
  scores, teachers = {}, {}
  for file in results:
    for score in _from_results(file, runs, skipped):
      _keep_larger(
          teachers if isinstance(score, TeacherScore) else scores, score)
  scored = {score.facts.path for score in scores.values()}
  for path in runs:
    if path not in scored:
      score = _from_training(path, skipped)
      if score:
        _keep_larger(scores, score)
  if not scores:
    raise errors.UserError(
        "no scored run in " + ", ".join(map(str, paths))
        + "".join(f"; {line}" for line in skipped[:3])
        + "; score one with `stepdistill-eval --checkpoint=MODEL_DIR "
        "--benchmarks=... --output=DIR` and pass DIR too")
  return list(scores.values()), list(teachers.values()), skipped


def _find(folder: pathlib.Path, name: str) -> Iterable[pathlib.Path]:
  """Files of a name, not those inside checkpoints."""
  return sorted(
      path for path in folder.rglob(name)
      if not any(part.startswith("checkpoint_")
                 for part in path.relative_to(folder).parts))


def _keep_larger(scores: dict, score: RunScore | TeacherScore) -> None:
  """Of two scores of one checkpoint or teacher, keeps that on more examples."""
  key = ((score.dataset, score.teacher, score.split)
         if isinstance(score, TeacherScore) else
         (score.facts.path, score.split, score.step))
  if key not in scores or (scores[key].n or 0) < (score.n or 0):
    scores[key] = score


def latest(scores: Sequence[RunScore]) -> list[RunScore]:
  """Of each run and split the score of its last checkpoint."""
  found: dict[tuple, RunScore] = {}
  for score in scores:
    key = score.facts.path, score.split
    if key not in found or found[key].step < score.step:
      found[key] = score
  return list(found.values())


def _from_results(file, runs, skipped):
  """Yields the scores of a `results.json`."""
  try:
    systems = json.loads(file.read_text(encoding="utf-8"))["systems"]
  except (ValueError, KeyError, TypeError):
    skipped.append(f"{file} is no result of stepdistill-eval")
    return
  answers = _read_answers(file.with_name("examples.jsonl"), skipped)
  for system in systems:
    if system.get("mode") != "generate" or system.get("accuracy") is None:
      continue
    if system["kind"] == "teacher":
      yield TeacherScore(
          system["benchmark"], system["name"].removeprefix("teacher "),
          system["split"],
          system["accuracy"], system["n"])
    elif system["kind"] == "checkpoint":
      score = _of_checkpoint(system, file, answers, skipped)
      if score:
        yield score


def _read_answers(file: pathlib.Path, skipped: list[str]) -> dict:
  """(system, benchmark, split) -> id -> whether the answer was right."""
  answers: dict[tuple, dict[str, bool]] = {}
  try:
    with file.open(encoding="utf-8") as lines:
      for line in lines:
        row = json.loads(line)
        if row["mode"] == "generate":
          answers.setdefault(
              (row["system"], row["benchmark"], row["split"]), {})[
                  row["id"]] = bool(row["correct"])
  except (OSError, ValueError, KeyError, TypeError) as error:
    skipped.append(f"{file} has no answers ({error}): no intervals over seeds "
                   "from there")
    return {}
  return answers


def _of_checkpoint(
    system: dict[str, Any], file: pathlib.Path, answers: Mapping[tuple, Any],
    skipped: list[str]) -> RunScore | None:
  checkpoint = pathlib.Path(system["source"])
  try:
    facts = run_facts.read(checkpoint.parent.resolve())
  except errors.UserError as error:
    skipped.append(f"{system['name']} in {file}: {error}")
    return None
  if facts.dataset != system["benchmark"]:
    skipped.append(
        f"{system['name']} in {file}: trained on {facts.dataset}, scored on "
        f"{system['benchmark']}")
    return None
  return RunScore(
      facts, system["split"], int(checkpoint.name.rpartition("_")[2]),
      system["accuracy"], system["n"], tuple(system["ci95"]), str(file),
      answers.get((system["name"], system["benchmark"], system["split"])))


def _from_training(
    path: pathlib.Path, skipped: list[str]) -> RunScore | None:
  """The last validation accuracy that a run itself wrote."""
  try:
    facts = run_facts.read(path)
  except errors.UserError as error:
    skipped.append(str(error))
    return None
  for file in sorted((path / "inference_eval").glob("*-metrics.jsonl")):
    lines = [json.loads(line) for line in
             file.read_text(encoding="utf-8").splitlines() if line.strip()]
    for entry in reversed(lines):
      key = next((k for k in _ACCURACY_KEYS if k in entry), None)
      if key is not None:
        # SeqIO's metrics are percentages.
        return RunScore(facts, "validation", int(entry["step"]),
                        float(entry[key]) / 100, None, None, str(file))
  skipped.append(
      f"{path} has no score: neither in a results.json nor in its "
      "inference_eval")
  return None
