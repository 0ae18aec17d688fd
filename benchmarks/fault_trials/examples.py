"""The order of real data sets' examples under kills, and finding a step."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
import functools
import os
import pathlib
import re
import shutil
from typing import Any

from benchmarks.fault_trials import worker as worker_lib
from stepdistill_jax.util import locations
from tests.support import real_data as testing, trials

_TEACHER = "palm540b"
_BATCH = 64
_EPOCHS = 1.2  # That the border of two epochs lies within.
_KILLS = 5
_FAR_STEP = 100_000
_MOST_SECONDS_LATER = 2.0


# data set -> (split, labels): of what is there; ANLI's recovered training rows
# have PaLM's labels, and of e-SNLI the training rows are not to be had.
DATASETS = {"svamp": ("train", "gold"), "cqa": ("train", "gold"),
            "anli1": ("train", "teacher"), "esnli": ("validation", "gold")}
_TINY = (
    "DROPOUT_RATE = 0.1", f"BATCH_SIZE = {_BATCH}",
    # The student need not learn: short rationales save most of its time.
    "MAX_RATIONALE = 8",
    "network.T5Config.emb_dim = 16", "network.T5Config.num_heads = 2",
    "network.T5Config.head_dim = 8", "network.T5Config.mlp_dim = 32",
    "network.T5Config.num_encoder_layers = 1",
    "network.T5Config.num_decoder_layers = 1", *trials.NO_EVALUATION)


def _find_data() -> pathlib.Path | None:
  """The real data, whose vocabulary the trials' processes find, too."""
  data = testing.find_real_data()
  if data is not None:
    os.environ.setdefault("STEPDISTILL_DATA", str(data))
  return data


def _import_records(
    worker: worker_lib.Worker, data: pathlib.Path,
    dataset: str) -> pathlib.Path:
  """The folder of a data set's records, as `teacher import` writes them."""
  from stepdistill_jax.cli import stepdistill as cli
  records_dir = worker.folder / "real_data"
  if not (records_dir / f"stepdistill_{dataset}").is_dir():
    code = cli.main([
        "teacher", "import", "--format=published", f"--dataset={dataset}",
        f"--rows={data / dataset}", f"--outputs={data / dataset / 'palm'}",
        f"--teacher={_TEACHER}", f"--output={records_dir}"])
    if code:
      raise RuntimeError(f"the import of {dataset} ended with code {code}")
  return records_dir


def _arguments(
    records_dir: pathlib.Path, dataset: str, steps: int,
    bindings: Sequence[str] = ()) -> list[str]:
  split, labels = DATASETS[dataset]
  return ["train", "--engine=embedded",
          f"--gin_file=gin/recipes/{dataset}_step_by_step.gin",
          f"--tfds_data_dir={records_dir}", *(
              f"--gin_bindings={b}" for b in (
                  f"TRAIN_STEPS = {steps}", *_TINY,
                  f"LABELS = {labels!r}",
                  f"train/utils.DatasetConfig.split = {split!r}",
                  *bindings))]


class Epochs:
  """Each example once per epoch, in the batches of runs that are killed."""

  name = "epochs"
  fault = "every example once per epoch under kills"

  def __init__(self):
    self._data = _find_data()

  def units(self) -> Sequence[Mapping[str, Any]]:
    return [{"dataset": name} for name in DATASETS] if self._data else []

  def run(self, worker: worker_lib.Worker, unit) -> Mapping[str, Any]:
    """Kills a training and compares what its processes have read."""
    from tests.support import trial_data
    dataset = unit["dataset"]
    records_dir = _import_records(worker, self._data, dataset)
    expected = _all_examples(records_dir, dataset)
    steps = int(_EPOCHS * len(expected) / _BATCH) + 1
    folder = worker.new_folder(f"epochs_{dataset}")
    folder.mkdir()
    log, gin_file = folder / "examples.jsonl", folder / "log.gin"
    gin_file.write_text(_LOGGED.format(log=str(log)))
    training = worker_lib.Training(
        dataset, [*_arguments(records_dir, dataset, steps, (
            f"CHECKPOINT_PERIOD = {max(1, steps // 16)}",
            "CHECKPOINTS_KEPT = 1")), f"--gin_file={gin_file}"], steps=steps)
    rng, kills = worker.random("epochs", dataset), 0
    for fault in (*(f"step:{rng.randint(1, steps // 4)}:kill"
                    for _ in range(_KILLS)), ""):
      code = worker.go_on(training, folder / "run", fault)
      kills += code == worker_lib.KILLED
    # What is read ahead of the last step was not trained on.
    seen = trial_data.logged_examples(log)[:steps * _BATCH]
    size = len(expected)
    if collections.Counter(seen[:size]) != collections.Counter(expected):
      raise AssertionError(f"{dataset}: not each example once in epoch 1")
    if collections.Counter(seen[size:]) - collections.Counter(expected):
      raise AssertionError(f"{dataset}: an example came twice in epoch 2")
    shutil.rmtree(folder)
    return {"dataset": dataset, "examples": size, "steps": steps,
            "kills": kills}

  def result(self, done: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(
        f"{d['dataset']}: {d['examples']:,} examples, each once in an epoch, "
        f"{d['kills']} kills in {d['steps']} steps" for d in done)


_LOGGED = """\
from __gin__ import dynamic_registration
import __main__ as train_script
from tests.support import trial_data
train_script.train.get_dataset_fn = @trial_data.logged_dataset
trial_data.logged_dataset.log = {log!r}
"""


def _all_examples(records_dir: pathlib.Path, dataset: str) -> list[str]:
  """Fingerprints of all examples that a recipe's run can read."""
  from t5x import utils

  from stepdistill_jax import tasks  # noqa: F401
  from stepdistill_jax.config import data_folder
  from stepdistill_jax.data import feature_converter, task_names
  from tests.support import trial_data
  split, labels = DATASETS[dataset]
  text = (locations.resource_root() / "gin" / "datasets"
          / f"{dataset}.gin").read_text()
  lengths = {
      name: int(re.search(rf"^{macro} = (\d+)", text, re.M)[1])
      for name, macro in (("inputs", "MAX_INPUTS"), ("targets", "MAX_LABEL"))}
  with data_folder.tfds_data_dir(records_dir):
    return trial_data.all_examples(
        utils.DatasetConfig(
            mixture_or_task_name=task_names.task_name(
                "step", dataset, labels, _TEACHER),
            task_feature_lengths={**lengths, "rationale_targets": 8},
            split=split, batch_size=1, shuffle=False, seed=0),
        # As gin/models/t5_1_1.gin has it.
        functools.partial(
            feature_converter.StepDistillFeatureConverter, join_pairs=True))


class Resume:
  """The real pipeline of SVAMP at step 100,000, by `t5x train`."""

  name = "resume"
  fault = "resuming at step 100,000 of SVAMP"

  def __init__(self):
    self._data = _find_data()

  def units(self) -> Sequence[Mapping[str, Any]]:
    return [{"dataset": "svamp"}] if self._data else []

  def run(self, worker: worker_lib.Worker, unit) -> Mapping[str, Any]:
    """Times the way to the first step: of a new run, from steps 4 and 100,000.

    What differs between the last two is the way through the data alone.
    """
    records_dir = _import_records(worker, self._data, unit["dataset"])
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(3):
      folder = worker.new_folder("resume")
      for begins_at in (0, 4, _FAR_STEP):
        if begins_at == _FAR_STEP:
          trials.pretend_step(folder, 4, _FAR_STEP)
        process = worker.launcher.start([
            *_arguments(records_dir, unit["dataset"], begins_at + 4, (
                "CHECKPOINT_PERIOD = 4",)),
            f"--gin.MODEL_DIR={str(folder)!r}"])
        if process.wait():
          raise RuntimeError(process.text()[-3000:])
        seconds[str(begins_at)].append(float(re.search(
            r"first step done (\S+) s after", process.text())[1]))
    least = {name: min(values) for name, values in seconds.items()}
    later = least[str(_FAR_STEP)] - least["4"]
    if later > _MOST_SECONDS_LATER:
      raise AssertionError(
          f"step {_FAR_STEP:,} is found {later:.1f} s later than step 4")
    shutil.rmtree(folder)
    return {"seconds": least, "later": later}

  def result(self, done: Sequence[Mapping[str, Any]]) -> str:
    seconds = done[0]["seconds"]
    return (f"first step {seconds[str(_FAR_STEP)]:.1f} s after the start, from "
            f"step 4 {seconds['4']:.1f} s, of a new run {seconds['0']:.1f} s: "
            f"{max(0.0, done[0]['later']):.1f} s for the way (allowed "
            f"{_MOST_SECONDS_LATER:.0f} s)")
