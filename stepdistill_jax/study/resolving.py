"""From a study's cells to jobs: gin files, settings, steps, sizes, choices."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import itertools
import math
import pathlib
from typing import Any

import numpy as np

from stepdistill_jax.config import early_names, gin_config
from stepdistill_jax.records import datasets
from stepdistill_jax.study import definition, gin_names, jobs as jobs_lib
from stepdistill_jax.util import errors

RANDOM = "random"
VALIDATION = "validation"
# Macros that a study binds itself -> what says their values.
_OF_THE_STUDY = {
    "MODEL_DIR": "--output=DIR", "RANDOM_SEED": "seeds = [...]",
    "TRAIN_SHARE": "shares = [...]",
    "TEACHER": "teachers = [...], or --teacher=OLD=NEW"}
Setting = tuple[tuple[str, float], ...]  # Of a sweep: (name, value) each.
# A study's students are scored, not gone on with.
_ONE_CHECKPOINT = {"CHECKPOINTS_KEPT": 1}
_MINIATURE_SEEDS, _MINIATURE_LIMIT = 2, 50
_MINIATURE = {
    "TRAIN_STEPS": 4, "BATCH_SIZE": 4, "LEARNING_RATE": 1e-3,
    "EVAL_PERIOD": 2, "CHECKPOINT_PERIOD": 2,
    "train_script.train.train_eval_dataset_cfg": None,
    "train_script.train.infer_eval_dataset_cfg": None,
    "partitioning.PjitPartitioner.num_partitions": 1}
# float32 of a parameter and of what an optimizer keeps of it.
_BYTES_BY_OPTIMIZER = {"adafactor": 4.1, "sgd": 4, "lion": 8}
_BYTES = 12  # AdamW's.


@dataclasses.dataclass(frozen=True)
class Options:
  """What a command line changes of a study.

  Attributes:
    records_dir: where records are.
    gin: bindings, `NAME = VALUE` each, after the study's own.
    students: size to student, over the study's own.
    miniature: tiny students, a few steps, two seeds: to see that all works.
    student_files: student to the gin file of its import.
  """

  records_dir: pathlib.Path
  gin: tuple[str, ...] = ()
  students: Mapping[str, str] = dataclasses.field(default_factory=dict)
  miniature: bool = False
  student_files: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Resolved:
  """A cell's runs, by what their gin files say.

  Attributes:
    cell: which.
    grid: that it is of.
    seeds: to run.
    gin_files: of each run.
    bindings: of each run, without seed and what is swept.
    student: of the size: a folder, a name on the hub, or `random`.
    steps: of each run; None where the gin files do not say it early.
    parameters: of the student, or None.
    benchmarks: what it is scored on, names with commas between.
    optimizer: by name; empty for the papers' AdamW.
    text: all that its gin files say.
  """

  cell: definition.Cell
  grid: definition.Grid
  seeds: tuple[int, ...]
  gin_files: tuple[str, ...]
  bindings: tuple[str, ...]
  student: str
  steps: int | None
  parameters: float | None
  benchmarks: str
  optimizer: str
  text: early_names.Text

  def settings(self) -> list[Setting]:
    """What is swept: the settings to choose from; one that is empty if none."""
    swept = {name: values for name, values in self.grid.sweep.items()
             if definition.SWEPT[name] in self.text.used}
    return [tuple(zip(swept, values))
            for values in itertools.product(*swept.values())]

  def fingerprint(self) -> str:
    """A hash of all that the gin files say."""
    said = sorted(f"{name} {value!r}" for name, value in [
        *self.text.macros.items(), *self.text.arguments.items()])
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]

  def checkpoint_bytes(self) -> float | None:
    """Of one checkpoint, about."""
    if self.parameters is None:
      return None
    return self.parameters * _BYTES_BY_OPTIMIZER.get(
        self.optimizer.lower(), _BYTES)


def literal(value: Any) -> str:
  """A TOML value as gin has it; texts that begin with @ or % are gin's own."""
  if isinstance(value, str) and value.startswith(("@", "%")):
    return value
  return repr(value)


def resolve(study: definition.Study, options: Options) -> list[Resolved]:
  """Reads the gin files of all cells; imports nothing large.

  Raises:
    errors.UserError: a gin file has a mistake, a size has no student, or two
      grids give one name to different runs.
  """
  sizes = list(dict.fromkeys(
      cell.size for grid in study.grids for cell in grid.cells))
  found: dict[str, Resolved] = {}
  swept = {name: () for grid in study.grids for name in grid.sweep}
  for binding in options.gin:
    _check_free(binding.partition("=")[0].strip(), swept, "--gin")
  for number, grid in enumerate(study.grids, 1):
    for name in grid.gin:
      _check_free(name, grid.sweep, f"{study.name}, grid {number}, gin")
    for cell in grid.cells:
      one = _resolve(study, grid, cell, options, sizes)
      before = found.get(cell.name)
      if before is None:
        found[cell.name] = one
        continue
      if (before.gin_files, before.bindings, before.grid.sweep) != (
          one.gin_files, one.bindings, one.grid.sweep):
        raise errors.UserError(
            f"two grids of {study.name} have different runs {cell.name}; give "
            "one of the grids a name of its own: name = \"...\"")
      found[cell.name] = dataclasses.replace(before, seeds=tuple(
          dict.fromkeys((*before.seeds, *one.seeds))))
    for name in grid.sweep:
      if not any(name in dict(found[cell.name].settings()[0])
                 for cell in grid.cells):
        raise errors.UserError(
            f"{study.name}, grid {number}: no method of it has what is swept, "
            f"{name} ({definition.SWEPT[name]})")
  return list(found.values())


def _check_free(name: str, sweep: Mapping[str, Any], where: str) -> None:
  """Raises UserError for a macro that the study binds by itself."""
  macros = {**_OF_THE_STUDY, **{
      definition.SWEPT[swept]: "its sweep" for swept in sweep}}
  if name in macros:
    raise errors.UserError(
        f"{where}: {name} is the study's own; {macros[name]} says it")


def _resolve(study, grid, cell, options, sizes) -> Resolved:
  files, bindings = gin_names.gin_files(
      cell.dataset, cell.method, cell.size, grid.run)
  axes: dict[str, Any] = {"TRAIN_SHARE": cell.share, **(
      {"TEACHER": cell.teacher} if cell.teacher else {})}
  settings: dict[str, Any] = dict(_ONE_CHECKPOINT)
  student = {**study.students, **options.students}.get(cell.size)
  more: dict[str, Any] = {}
  if options.miniature:
    student = RANDOM
    files, more = _miniature(files, cell.size, sizes)
  if student is None:
    raise errors.UserError(
        f"{study.name} does not say where a student of size {cell.size!r} "
        f"begins: --student={cell.size}=FOLDER of an import, "
        f"={cell.size}=NAME on the Hugging Face hub, or ={cell.size}={RANDOM} "
        "for random parameters")
  if student == RANDOM:
    settings["INITIAL_CHECKPOINT_PATH"] = None
  bindings += [f"{name} = {literal(value)}" for name, value in (
      settings | dict(grid.gin) | more).items()]
  bindings += options.gin
  text = _read(tuple(files), tuple(bindings))
  # As if they came first; a file is read once for all values of an axis.
  text = dataclasses.replace(text, macros={**text.macros, **axes})
  bindings = [f"{name} = {value!r}" for name, value in axes.items()] + bindings
  seeds = grid.seeds[:_MINIATURE_SEEDS] if options.miniature else grid.seeds
  scored = text.value("eval_task/task_names.task_name.dataset")
  optimizer = text.value("OPTIMIZER")
  return Resolved(
      cell, grid, seeds, tuple(files), tuple(bindings), student, _steps(text),
      _parameters(text), ",".join(datasets.members(
          scored if isinstance(scored, str) else cell.dataset)),
      optimizer if isinstance(optimizer, str) else (
          "adafactor" if "afactor" in str(optimizer) else ""), text)


@functools.cache
def _read(files: tuple[str, ...], bindings: tuple[str, ...]
          ) -> early_names.Text:
  """What gin files and bindings say; checked, but for what is imported."""
  text = gin_config.check_early(
      files, ["MODEL_DIR = 'none'", "TOKENIZER = 'none'",
              "INITIAL_CHECKPOINT_PATH = None", *bindings], (), ["train"])
  if text is None:
    raise errors.UserError(f"{', '.join(files)} are not all of a training run")
  return text


def _miniature(files, size, sizes) -> tuple[list[str], dict[str, Any]]:
  """A tiny student in a size's place, deeper for each larger size."""
  depth = 1 + sizes.index(size)
  if gin_names.is_decoder(size):
    return [*files, "gin/models/decoder_tiny.gin"], {
        **_MINIATURE, "network.LlamaConfig.num_layers": depth}
  return [*files, "gin/models/t5_1_1_tiny.gin"], {
      **_MINIATURE, "network.T5Config.num_encoder_layers": depth,
      "network.T5Config.num_decoder_layers": depth}


def _steps(text: early_names.Text) -> int | None:
  """TRAIN_STEPS, a number or `steps_of_epochs`."""
  steps = text.value("TRAIN_STEPS")
  if isinstance(steps, int):
    return steps
  if isinstance(steps, early_names.Reference) and (
      steps.name == "students.steps_of_epochs"):
    epochs, records, batch = (text.value(f"{steps.name}.{argument}")
                              for argument in (
                                  "epochs", "records", "batch_size"))
    if all(isinstance(v, (int, float)) for v in (epochs, records, batch)):
      return math.ceil(epochs * records / batch)
  return None


def _parameters(text: early_names.Text) -> float | None:
  from stepdistill_jax.evaluation.report import run_facts

  config = {name: f"%{value.name}" if isinstance(value, early_names.Macro)
            else value
            for name, value in [*text.arguments.items(), *text.macros.items()]}
  return run_facts.size_of(config)["parameters"]


def jobs(
    resolved: Sequence[Resolved], choices: Mapping[str, Setting],
    options: Options, limit: int | None) -> list[jobs_lib.Job]:
  """The runs of all cells, those of a first look first.

  A cell with a sweep has a run for each setting, scored on validation alone,
  until one is chosen; the chosen one is scored on test, by all seeds.

  Args:
    resolved: the cells.
    choices: name of a cell to what was chosen.
    options: of the command line.
    limit: score so many examples alone.
  """
  if options.miniature:
    limit = min(limit or _MINIATURE_LIMIT, _MINIATURE_LIMIT)
  found = [(seed, job) for cell in resolved
           for seed, job in _jobs_of(cell, choices, options, limit)]
  return [job for _, job in sorted(found, key=lambda pair: pair[0])]


def _jobs_of(one: Resolved, choices, options, limit
             ) -> Iterator[tuple[int, jobs_lib.Job]]:
  """(place of the seed, job) of each run of a cell."""
  settings = one.settings()
  chosen = settings[0] if len(settings) == 1 else choices.get(one.cell.name)
  for setting in settings:
    swept = set() if len(settings) == 1 else set(one.grid.sweep_seeds)
    seeds = [*one.seeds, *swept - set(one.seeds)] if setting == chosen else (
        one.grid.sweep_seeds)
    for place, seed in enumerate(seeds):
      splits = [VALIDATION] if seed in swept else []
      if setting == chosen and seed in one.seeds:
        splits.append(jobs_lib.TEST)
      yield place, _job(one, setting, seed, tuple(splits), options, limit)


def job_name(cell: definition.Cell, setting: Setting, seed: int) -> str:
  """The name of a run's folders."""
  return "-".join([cell.name, *(f"{name}{value:g}" for name, value in setting),
                   f"seed{seed}"])


def _job(one: Resolved, setting: Setting, seed: int, splits, options, limit
         ) -> jobs_lib.Job:
  name = job_name(one.cell, setting, seed)
  pairs = 2 if gin_names.has_alpha(one.cell.method) else 1
  return jobs_lib.Job(
      name=name, title=name.replace("-", "  "), gin_files=(
          *one.gin_files, *filter(None, [
              options.student_files.get(one.student)])),
      bindings=(*one.bindings, *(
          f"{definition.SWEPT[swept]} = {value!r}" for swept, value in setting),
                f"RANDOM_SEED = {seed}"),
      steps=one.steps, benchmarks=one.benchmarks,
      records_dir=str(options.records_dir), splits=splits, limit=limit,
      settings={"rationales": "no"},
      step_cost=pairs * (one.parameters or 1e6) / 1e6, group=one.cell.name)


@dataclasses.dataclass(frozen=True)
class Choice:
  """What a sweep chooses of one cell: by validation accuracy, never by test.

  Attributes:
    cell: its name.
    accuracies: setting to its mean validation accuracy over the sweep's
      seeds; None where one of its runs failed.
    setting: the best; the first of equals.
  """

  cell: str
  accuracies: dict[Setting, float | None]
  setting: Setting


def choose(
    folder: pathlib.Path, resolved: Sequence[Resolved],
    failed: Iterable[str] = ()) -> list[Choice]:
  """The choices of cells whose sweeps are done.

  Args:
    folder: of the study.
    resolved: the cells.
    failed: names of runs that were tried and failed: without a score they do
      not count.
  """
  failed, found = set(failed), []
  for one in resolved:
    settings = one.settings()
    if len(settings) == 1:
      continue
    known, waits = {}, False
    for setting in settings:
      values, missing = [], set()
      for seed in one.grid.sweep_seeds:
        run = jobs_lib.Named(job_name(one.cell, setting, seed))
        try:
          results = jobs_lib.read_results(folder, run, VALIDATION)
          values += [s["accuracy"] for s in results["systems"]
                     if s["kind"] == "checkpoint"]
        except FileNotFoundError:
          missing.add(run.name)
      if not missing:
        known[setting] = float(np.mean(values))
      # One that failed and was tried again has a score.
      waits = waits or bool(missing) and not missing & failed
    if known and not waits:
      found.append(Choice(
          one.cell.name, {s: known.get(s) for s in settings},
          max(known, key=lambda setting: known[setting])))
  return found
