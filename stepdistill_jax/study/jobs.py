"""A student of many: how it is trained and scored, and what is left of that.

    FOLDER/runs/{name}/     as `t5x train` leaves it
    FOLDER/scores/{name}/   as `stepdistill-eval` leaves it

What is finished is skipped; a training that was interrupted goes on from its
last checkpoint.
"""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any, Protocol

from stepdistill_jax.runs import run_record
from stepdistill_jax.util import progress

TEST = "test"


@dataclasses.dataclass(frozen=True)
class Named:
  """What has folders of this name."""

  name: str


class Watcher(progress.Watcher, Protocol):
  """Follows one run."""

  def scoring(self, done: int, total: int) -> None:
    """Called as answers to the benchmark's questions come."""


@dataclasses.dataclass(frozen=True)
class Job:
  """A student to train and score.

  Attributes:
    name: of its folders.
    title: in lines and bars.
    gin_files: of its training.
    bindings: of its training, MODEL_DIR apart.
    steps: of its training; None where only its gin files know.
    benchmarks: what it is scored on, names with commas between.
    records_dir: of what it learns and is asked.
    splits: to score.
    limit: score the first so many examples alone.
    settings: of `model_config.ModelConfig`, how it is asked.
    step_cost: how long a step takes, compared with other jobs.
    group: what it has in common with the jobs of other seeds.
  """

  name: str
  title: str
  gin_files: tuple[str, ...]
  bindings: tuple[str, ...]
  steps: int | None
  benchmarks: str
  records_dir: str
  splits: tuple[str, ...] = (TEST,)
  limit: int | None = None
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  step_cost: float = 1.0
  group: str = ""

  def __hash__(self) -> int:
    return hash(self.name)

  @property
  def work(self) -> float:
    """A measure of its time, for time left."""
    return (self.steps or 1) * self.step_cost


def run_dir(folder: pathlib.Path, job: Named) -> pathlib.Path:
  """The run's MODEL_DIR."""
  return folder / "runs" / job.name


def scores_dir(folder: pathlib.Path, job: Named, split: str = TEST
               ) -> pathlib.Path:
  """The folder of a split's `results.json` and `examples.jsonl`."""
  return folder / "scores" / (
      job.name if split == TEST else f"{job.name}-{split}")


def read_results(folder: pathlib.Path, job: Named, split: str = TEST
                 ) -> dict[str, Any]:
  """What the eval binary found of a run."""
  path = scores_dir(folder, job, split) / "results.json"
  return json.loads(path.read_text("utf-8"))


def is_trained(folder: pathlib.Path, job: Job) -> bool:
  """Whether a run has come to its last step."""
  record = run_record.read(run_dir(folder, job)) or {}
  step = record.get("finished", {}).get("step")
  return step is not None and job.steps in (None, step)


def unscored(folder: pathlib.Path, job: Job) -> list[str]:
  """The splits that are left to score."""
  return [split for split in job.splits
          if not (scores_dir(folder, job, split) / "results.json").is_file()]


def is_done(folder: pathlib.Path, job: Job) -> bool:
  """Whether a run is trained to its end and scored."""
  return is_trained(folder, job) and not unscored(folder, job)


def bindings(folder: pathlib.Path, job: Job) -> list[str]:
  """All that a run's training binds."""
  return [f"MODEL_DIR = {str(run_dir(folder, job))!r}", *job.bindings]


def train_and_score(folder: pathlib.Path, job: Job, watcher: Watcher) -> None:
  """Does what is left to do of a run.

  Args:
    folder: of all runs.
    job: what to train.
    watcher: called with steps and answers.
  """
  from stepdistill_jax.evaluation import scoring

  # Imported before the first run: it registers gin configurables, which gin
  # refuses while it holds a run's configuration.
  from stepdistill_jax.interop import rebuilding  # noqa: F401
  from stepdistill_jax.runs import t5x_command

  if not is_trained(folder, job):
    with progress.watched_by(watcher):
      t5x_command.run(
          "train", job.gin_files, bindings(folder, job),
          tfds_data_dir=job.records_dir)
  for split in unscored(folder, job):
    scoring.score_checkpoint(
        run_dir(folder, job), job.benchmarks, split,
        records_dir=job.records_dir, output=scores_dir(folder, job, split),
        name=job.name, limit=job.limit,
        progress=lambda done, total, what: watcher.scoring(done, total),
        **job.settings)
