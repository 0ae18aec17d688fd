"""Students from T5X checkpoints, of either engine.

The model is rebuilt from the run's own `config.gin`; the questions are encoded
with its vocabulary, under the prefix that it was trained with.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import functools
import os
import pathlib
from typing import Any, TypeVar

from stepdistill_jax.answers import benchmarks
from stepdistill_jax.evaluation import (
  examples,
  model_config,
  questions,
  store as store_lib,
  systems,
)
from stepdistill_jax.evaluation.report import run_facts
from stepdistill_jax.interop import run_folder
from stepdistill_jax.records import datasets, records
from stepdistill_jax.runs import run_record
from stepdistill_jax.util import disk_lists, errors

# More distinct labels than this are not a closed set of answers.
_MOST_CLOSED_LABELS = 64
_T = TypeVar("_T")
# What LONG_RATIONALE did with them.
_CUTS = {"cut_tail": "they were cut at the end",
         "cut_head": "they were cut at the beginning",
         "drop": "their records were left out"}


class Checkpoint(questions.Model):
  """A checkpoint as a system; its parameters are loaded at the first question.

  Args:
    path: a run's folder, or one `checkpoint_STEP` of it.
    config: how the model is asked.
    name: for tables; by default the run folder's name and the step.
    records_dir: of distillation records (vocabulary, training ids); by
      default where the run had them, if they still are there.
    progress: called with (done, total, what) as answers come.
    strict: refuse a run whose newest checkpoint is not what was written,
      instead of taking the one before it.

  Raises:
    errors.UserError: no checkpoint there, or a configuration from which no
      model can be rebuilt.
  """

  kind = "checkpoint"

  def __init__(
      self, path: str | os.PathLike[str],
      config: model_config.ModelConfig, *,
      name: str | None = None, records_dir: pathlib.Path | None = None,
      progress=None, strict: bool = False,
  ):
    from stepdistill_jax.interop import rebuilding, run_context

    self.run = run_folder.find(path, strict=strict)
    super().__init__(name or f"{self.run.path.name} step {self.run.step}",
                     str(self.run.checkpoint), config, progress)
    self._records_dir = pathlib.Path(
        records_dir or run_context.find(self.run.checkpoint).records_dir())
    self._model, self._task_name = rebuilding.rebuild_model(
        self.run.config_path, self._records_dir)
    self.vocabulary = self._model.input_vocabulary
    self._shapes: dict[str, tuple[int, ...]] | None = None
    self._task = run_folder.parse_task_name(self._task_name)
    self.prefix = self._task.prefix
    self.explain_prefix = self._task.explain_prefix
    self.answer_after_rationale = self._task.answer_after_rationale
    if self._task.reads_rationale:
      self.name += " (reads the teacher's rationale)"

  @property
  def trained_on(self) -> tuple[str, str | None]:
    """Data set and teacher of the run."""
    return self._task.dataset, self._task.teacher

  def answer(
      self, example_set: examples.ExampleSet,
      store: store_lib.AnswerStore | None = None,
  ) -> list[systems.Answers]:
    """Asks the student; see `systems.System`."""
    more = (*self.run.passed_over, *self._overlap_warnings(example_set),
            *self._cut_warnings())
    if self._task.reads_rationale:
      example_set = dataclasses.replace(
          example_set, examples=disk_lists.DiskList(
              map(records.with_rationale, example_set.examples),
              of=examples.Example))
    return [
        dataclasses.replace(
            answers, warnings=(*answers.warnings, *more),
            method=self._method(),
            cost={**answers.cost, "step": self.run.step})
        for answers in super().answer(example_set, store)]

  def _load(self) -> Any:
    from stepdistill_jax.evaluation import model_loading

    return model_loading.load_student(self._model, self.run, self._config)

  def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
    """Parameter name to shape."""
    if self._shapes is None:
      from stepdistill_jax.interop import rebuilding

      self._shapes = rebuilding.parameter_shapes(self._model)
    return self._shapes

  def identity(self) -> dict[str, Any]:
    """What distinguishes this student from others, for stored answers."""
    return {"checkpoint": self.run.fingerprint(), "kind": self.kind}

  def _method(self) -> dict[str, Any]:
    try:
      trained = run_facts.method_of(self.run.config_path)
    except errors.UserError:  # Its task is named by code of the user's own.
      trained = self._task_name
    name = self._task_name + (
        f" ({trained})" if trained.startswith("synthetic") else "")
    return {"name": name, "key": self.run.method_key(),
            "trained": trained if self.run.step else "untrained",
            "teacher": self._task.teacher if self.run.step else None,
            "seed": self.run.seed(), "run": self.run.real_path(),
            "step": self.run.step,
            "identities": run_folder.identities_of(self.run.path)}

  def closed_labels(self, example_set) -> tuple[str, ...]:
    """Labels of the train split, where they are a small closed set."""
    if "score" not in self._config.modes or (
        example_set.spec.kind != benchmarks.TEXT):
      return ()
    labels = self._of_rows(
        example_set.benchmark, example_set,
        lambda rows: sorted({row.label for row in rows if row.label}))
    return tuple(labels) if len(labels) <= _MOST_CLOSED_LABELS else ()

  def _of_rows(
      self, dataset, example_set,
      value: Callable[[Iterable[examples.Example]], _T],
      split: str = "train") -> _T:
    """A value of a split's rows; of no rows where they cannot be read."""
    teacher = example_set.teacher
    if dataset in datasets.members(self._task.dataset):
      teacher = self._task.teacher or teacher
    try:
      if teacher not in records.teachers_of(self._records_dir, dataset):
        # Of `label_gold`, which is the same under any teacher.
        teacher = examples.choose_teacher(
            dataset, self._records_dir, split=split)
      return value(records.read_records(
          self._records_dir, dataset, teacher, split))
    except errors.UserError:
      return value(())  # Without this split, or of another machine.

  def _cut_warnings(self) -> Iterator[str]:
    """Says what of the run's training examples was cut; here nothing is."""
    record = run_record.read(self.run.config_path.parent) or {}
    for counts in filter(None, record.get("data", {}).get("cut") or ()):
      for kind, of in counts.items():
        if isinstance(of, dict) and of["cut"]:
          yield (f"of the run's {counts['examples']:,} training examples "
                 f"{of['cut']:,} had {kind} longer than {of['length']} tokens, "
                 f"by {of['median']:g} in the median and {of['most']} at most: "
                 + _CUTS.get(of.get("done"), "they were cut") + (
                     "; here inputs are whole" if kind == "inputs" else ""))

  def _overlap_warnings(self, example_set) -> Sequence[str]:
    """Says how many of the questions the run was trained on."""
    lines = []
    # Of all that the run saw: SVAMP's questions are made from ASDiv's.
    for dataset in datasets.members(self._task.dataset):
      for split, use in (("train", "which the run was trained on"),
                         ("validation", "by which the run was watched")):
        if (dataset, split) == (example_set.benchmark, example_set.split):
          continue
        found = self._of_rows(dataset, example_set, functools.partial(
            examples.overlap, example_set.examples), split)
        if found:
          lines.append(
              f"{found} of {len(example_set.examples)} questions are also in "
              f"the {split} split of {dataset}, {use}")
    return lines
