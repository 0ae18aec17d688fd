"""One call of the eval binary: every system on every benchmark."""

from collections.abc import Callable, Collection, Iterator, Sequence
import dataclasses
import datetime
import itertools
import pathlib
import sys
from typing import Any

from stepdistill_jax.answers import (
  benchmarks as benchmarks_lib,
  rules as rules_lib,
)
from stepdistill_jax.config import setting_checks
from stepdistill_jax.evaluation import (
  examples,
  scored,
  store as store_lib,
  systems as systems_lib,
)
from stepdistill_jax.evaluation.report import averages, outputs
from stepdistill_jax.interop import run_folder
from stepdistill_jax.records import datasets, records
from stepdistill_jax.util import errors, locations


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
  """What a call scores, and how. Gin name: `EvalConfig`.

  Attributes:
    benchmarks: names with commas between, or `all`.
    split: `train`, `validation` or `test`.
    limit: score only the first so many examples of each benchmark.
    rules: `strict`, or `reference` for the papers' rule.
    records_teacher: whose records give the questions; by default those that
      the checkpoint was trained on, else the first with the split, as in
      training: palm540b, then by name.
    teacher_line: put the cached teacher's own line beside models.
    seed: of the bootstrap.
    embeddings: folder of a model of sentence embeddings, by which free texts
      are compared, too; None for none.
  """

  benchmarks: str = "all"
  split: str = "test"
  limit: int | None = None
  rules: str = "strict"
  records_teacher: str | None = None
  teacher_line: bool = True
  seed: int = 0
  embeddings: str | None = None

  def __post_init__(self):
    setting_checks.text("--benchmarks", self.benchmarks)
    setting_checks.one_of("set of rules", self.rules, rules_lib.RULES)
    setting_checks.one_of("split", self.split, examples.SPLITS)
    if self.limit is not None:
      setting_checks.whole_number("--limit", self.limit)
    setting_checks.whole_number("EvalConfig.seed", self.seed, least=0)


def load_example_sets(
    config: EvalConfig, records_dir: pathlib.Path,
    preferred_teacher: Callable[[str], str | None] = lambda dataset: None,
) -> tuple[list[examples.ExampleSet], list[str]]:
  """Reads the benchmarks of a call.

  Args:
    config: of the call.
    records_dir: where records lie.
    preferred_teacher: data set to the teacher whose records to prefer.

  Returns:
    The example sets, and warnings (`all`: what cannot be scored, and why).
  """
  sets, warnings = [], []
  named = [name.strip() for name in config.benchmarks.split(",")]
  here = examples.available_datasets(records_dir)
  for benchmark in benchmarks_lib.parse_names(config.benchmarks, here):
    if benchmark.name not in here and benchmark.name not in named:
      warnings.append(
          f"benchmark {benchmark.name} was left out: no records of it under "
          f"{records_dir}")
      continue
    teacher = config.records_teacher or preferred_teacher(benchmark.name)
    if config.records_teacher is None and teacher not in (
        records.teachers_of(records_dir, benchmark.name)):
      teacher = None
    try:
      sets.append(examples.load(
          benchmark.name, config.split, teacher=teacher,
          records_dir=records_dir, limit=config.limit))
      if config.records_teacher is None:
        warnings += filter(None, [records.other_rows(
            records_dir, benchmark.name, sets[-1].teacher, config.split)])
    except errors.UserError as error:
      if benchmark.name in named:
        raise
      warnings.append(f"benchmark {benchmark.name} was left out: {error}")
  if not here:
    raise errors.UserError(
        f"no benchmark has local data under {records_dir}; import some with "
        "`stepdistill teacher import`, or name their folder with "
        "--records_dir")
  if not sets:
    raise errors.UserError("nothing can be scored: " + "; ".join(
        line for line in warnings if "no records of it" not in line))
  return sets, warnings


def evaluate(
    systems: Sequence[systems_lib.System],
    example_sets: Sequence[examples.ExampleSet], config: EvalConfig, *,
    store: store_lib.AnswerStore | None = None,
    records_dir: pathlib.Path | None = None,
    warnings: Sequence[str] = (),
) -> tuple[dict[str, Any], Collection[dict[str, Any]]]:
  """Scores every system on every benchmark.

  Returns:
    The contents of `results.json`, and the rows of `examples.jsonl`.
  """
  systems_lib.unique_names(systems)
  store = store or store_lib.AnswerStore()
  warnings = list(warnings)
  results: list[scored.Scored] = []
  for system in systems:
    getattr(system, "prepare", lambda _: None)(example_sets)
    for example_set in example_sets:
      reason = getattr(system, "skips", lambda _: None)(example_set)
      if reason:
        warnings.append(f"{system.name}: {reason}")
        continue
      results += _score(system, example_set, store, config)
    # One model at a time is on the devices.
    getattr(system, "close", lambda: None)()
  if not results:
    raise errors.UserError("nothing was scored: " + "; ".join(warnings))
  for example_set in _sets_for_teacher_lines(systems, example_sets, config):
    teacher = systems_lib.TeacherRecords(
        example_set.teacher, records_dir, rules=config.rules)
    if reason := teacher.skips(example_set):
      warnings.append(f"{teacher.name}: {reason}")
    else:
      results += _score(teacher, example_set, store, config)
  summaries = [result.summary for result in results]
  document = {
      "schema_version": outputs.SCHEMA_VERSION,
      "created": datetime.datetime.now(datetime.UTC).isoformat(
          timespec="seconds"),
      "code_version": outputs.code_version(),
      "command": sys.argv,
      "config": {
          **dataclasses.asdict(config),
          "records_dir": str(records_dir or locations.records_dir())},
      "data": {
          s.benchmark: {
              "split": s.split, "n": len(s.examples), "teacher": s.teacher,
              "without_label": s.without_label,
              "fingerprint": s.fingerprint()} for s in example_sets},
      "systems": summaries,
      "comparisons": scored.compare_all(results, seed=config.seed),
      "seeds": averages.summarize(results),
      "warnings": warnings + run_folder.copy_lines(
          averages.first_copies(results)),
  }
  return document, _Rows(results)


class _Rows(Collection[dict[str, Any]]):
  """The rows of several results, where they lie."""

  def __init__(self, results: Sequence[scored.Scored]):
    self._parts = [result.rows for result in results]

  def __len__(self) -> int:
    return sum(map(len, self._parts))

  def __iter__(self) -> Iterator[dict[str, Any]]:
    return itertools.chain.from_iterable(self._parts)

  def __contains__(self, row: object) -> bool:
    return any(row in part for part in self._parts)


def _score(system, example_set, store, config) -> list[scored.Scored]:
  return [
      scored.score(system, example_set, given, rules=config.rules,
                    seed=config.seed, embeddings=config.embeddings)
      for given in system.answer(example_set, store)]


def _sets_for_teacher_lines(systems, example_sets, config):
  """The sets whose cached teacher gets its own line beside models."""
  if not config.teacher_line or not any(
      s.kind in ("checkpoint", "hf") for s in systems):
    return []
  given = {s.teacher for s in systems if s.kind == "teacher"}
  return [s for s in example_sets if s.teacher not in given
          and any(row.teacher_label for row in s.examples)]


def preferred_teacher(
    systems: Sequence[systems_lib.System],
) -> Callable[[str], str | None]:
  """Data set to the teacher whose records fit the systems of a call best."""

  def choose(dataset: str) -> str | None:
    for system in systems:
      if system.kind == "teacher":
        return system.teacher
      trained_on = getattr(system, "trained_on", None)
      if trained_on and trained_on[1] and (
          dataset in datasets.members(trained_on[0])):
        return trained_on[1]
    return None

  return choose
