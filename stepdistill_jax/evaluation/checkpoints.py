"""Students from T5X checkpoints, of either engine.

The model is rebuilt from the run's own `config.gin`; the questions are encoded
with its vocabulary, under the prefix that it was trained with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import gc
import os
import pathlib
from typing import Any

from stepdistill_jax.answers import benchmarks as benchmarks_lib
from stepdistill_jax.evaluation import (
  examples as examples_lib,
  model_config as model_config_lib,
  questions as questions_lib,
  store as store_lib,
  systems as systems_lib,
)
from stepdistill_jax.interop import run_folder as run_folder_lib
from stepdistill_jax.records import datasets, records
from stepdistill_jax.runs import run_record
from stepdistill_jax.util import errors, locations

# More distinct labels than this are not a closed set of answers.
_MOST_CLOSED_LABELS = 64
# What LONG_RATIONALE did with them.
_CUTS = {"cut_tail": "they were cut at the end",
         "cut_head": "they were cut at the beginning",
         "drop": "their records were left out"}


class Checkpoint:
  """A checkpoint as a system; its parameters are loaded at the first question.

  Args:
    path: a run's folder, or one `checkpoint_STEP` of it.
    config: how the model is asked.
    name: for tables; by default the run folder's name and the step.
    records_dir: of distillation records (vocabulary, training ids).
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
      config: model_config_lib.ModelConfig, *,
      name: str | None = None, records_dir: pathlib.Path | None = None,
      progress=None, strict: bool = False,
  ):
    self.run = run_folder_lib.find(path, strict=strict)
    self.name = name or f"{self.run.path.name} step {self.run.step}"
    self.source = str(self.run.checkpoint)
    self._config = config
    self._records_dir = pathlib.Path(records_dir or locations.records_dir())
    self._progress = progress
    from stepdistill_jax.interop import rebuilding

    self._model, self._task_name = rebuilding.rebuild_model(
        self.run.config_path, self._records_dir)
    self._task = run_folder_lib.parse_task_name(self._task_name)
    self._student = None
    self._shapes = None

  @property
  def trained_on(self) -> tuple[str, str | None]:
    """Data set and teacher of the run."""
    return self._task.dataset, self._task.teacher

  def answer(
      self, example_set: examples_lib.ExampleSet,
      store: store_lib.AnswerStore | None = None,
  ) -> list[systems_lib.Answers]:
    """Asks the student; see `systems.System`."""
    more = (*self.run.passed_over, *self._overlap_warnings(example_set),
            *self._cut_warnings())
    return [
        dataclasses.replace(
            answers, warnings=(*answers.warnings, *more),
            method=self._method(),
            cost={**answers.cost, "step": self.run.step})
        for answers in self.ask(self.questions(example_set), store)]

  def questions(
      self, example_set: examples_lib.ExampleSet,
      rationales: str | None = None) -> questions_lib.Questions:
    """An example set as this student reads it; see `systems.Model`."""
    return questions_lib.Questions(
        example_set, self._model.input_vocabulary, prefix=self._prefix(),
        explain_prefix=self._explain_prefix(
            rationales or self._config.rationales),
        labels=self._closed_labels(example_set),
        label_length=self._label_length(example_set))

  def ask(
      self, asked: questions_lib.Questions,
      store: store_lib.AnswerStore | None = None,
  ) -> list[systems_lib.Answers]:
    """Asks the student; see `systems.Model`."""
    return [
        dataclasses.replace(
            answers, answer_after_rationale=self._task.answer_after_rationale)
        for answers in questions_lib.ask(
            self, asked, self._config, store or store_lib.AnswerStore(),
            self.identity(), self._progress)]

  @property
  def explains(self) -> bool:
    """Whether the run was trained on rationales."""
    return (self._task.explain_prefix is not None
            or self._task.answer_after_rationale)

  @property
  def student(self):
    """The model with its parameters on the devices."""
    if self._student is None:
      from stepdistill_jax.evaluation import model_loading

      self._student = model_loading.load_student(
          self._model, self.run, self._config)
    return self._student

  def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
    """Parameter name to shape."""
    if self._shapes is None:
      from stepdistill_jax.interop import rebuilding

      self._shapes = rebuilding.parameter_shapes(self._model)
    return self._shapes

  def close(self) -> None:
    """Frees the parameters."""
    self._student = None
    gc.collect()

  def _prefix(self) -> str:
    if self._config.prefix != model_config_lib.AUTO:
      return self._config.prefix
    return self._task.prefix

  def _explain_prefix(self, rationales: str) -> str | None:
    if rationales == "no":
      return None
    if rationales == "yes":
      return self._task.explain_prefix or "explain: "
    return self._task.explain_prefix

  def _label_length(self, example_set: examples_lib.ExampleSet) -> int:
    length = self._config.label_length or example_set.spec.decode_length
    if self._task.answer_after_rationale:
      length += self._config.rationale_length
    return length

  def identity(self) -> dict[str, Any]:
    """What tells this student from others, for stored answers."""
    return {"checkpoint": self.run.fingerprint(), "kind": self.kind}

  def _method(self) -> dict[str, Any]:
    return {"name": self._task_name, "key": self.run.method_key(),
            "seed": self.run.seed(), "run": self.run.real_path(),
            "step": self.run.step,
            "identities": run_folder_lib.identities_of(self.run.path)}

  def _closed_labels(self, example_set) -> tuple[str, ...]:
    """Labels of the train split, where they are a small closed set."""
    if "score" not in self._config.modes or (
        example_set.spec.kind != benchmarks_lib.TEXT):
      return ()
    rows = self._train_rows(example_set.benchmark, example_set)
    labels = sorted({row.label for row in rows if row.label})
    return tuple(labels) if len(labels) <= _MOST_CLOSED_LABELS else ()

  def _train_rows(self, dataset, example_set) -> list[examples_lib.Example]:
    teacher = example_set.teacher
    if dataset in datasets.members(self._task.dataset):
      teacher = self._task.teacher or teacher
    try:
      if teacher not in records.teachers_of(self._records_dir, dataset):
        # Of `label_gold`, which is the same under any teacher.
        teacher = examples_lib.choose_teacher(
            dataset, self._records_dir, split="train")
      return examples_lib.read_rows(
          self._records_dir, dataset, teacher, "train")
    except errors.UserError:
      return []  # Records without a train split, or of another machine.

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
      found = examples_lib.overlap(
          example_set.examples, self._train_rows(dataset, example_set))
      if found:
        lines.append(
            f"{found} of {len(example_set.examples)} questions are also in "
            f"the train split of {dataset}, which the run was trained on")
    return lines
