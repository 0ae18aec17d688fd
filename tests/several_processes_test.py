"""Two processes train, one is killed, all are restarted; others go on.

For real, through launch/local: 2 processes with 4 virtual CPU devices each on
loopback. The same checkpoint goes on as 1 process with 8 devices and with 2;
2 processes evaluate and infer as one does.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from stepdistill_jax.distributed import processes
from stepdistill_jax.quickstart import benchmark_data, plan
from stepdistill_jax.runs import t5x_command
from tests.support import forking, trial_processes

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = str(ROOT / "launch" / "local" / "run.py")
LAUNCH = [sys.executable, SCRIPT]
# What the launcher starts is without the imports of a process, which take 10 s.
OF_FORKS = """
import runpy, sys
sys.executable = sys.argv[1]
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
STEPS, SAVED = 6, 3
# One layer of each is enough: less to compile. Tests before these may have
# named the scanned `network`, too, in this process.
SMALL = {"t5.network.T5Config.num_encoder_layers": 1,
         "t5.network.T5Config.num_decoder_layers": 1}
# Float32 sums over 2, 8 or 2 x 4 devices are added in other orders.
LOSS_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
  """Starts `t5x` without its imports, which take 10 s."""
  return trial_processes.Launcher(tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def records_dir(tmp_path_factory):
  small = dataclasses.replace(
      plan.BUDGETS["small"], train_stories=60,
      validation_stories=11,  # Batches of 4 over 2 processes: the last has 3.
      test_stories=1)  # Fewer than processes.
  return benchmark_data.prepare(
      tmp_path_factory.mktemp("benchmark"), small).records_dir


def _arguments(model_dir, records_dir, **bindings):
  bindings = {"MODEL_DIR": f'"{model_dir}"', "TRAIN_STEPS": STEPS,
              "BATCH_SIZE": 16, "CHECKPOINT_PERIOD": SAVED,
              "EVAL_PERIOD": 33 * SAVED,
              # Not tried here, and built anew in each process, for seconds.
              "train_script.train.verify_matching_vocabs_fn": "None",
              "train_script.train.stats_period": 1, "CHECKPOINTS_KEPT": "None",
              **SMALL, **bindings}
  return ["train", "--gin_file=gin/recipes/tracking_step_by_step.gin",
          f"--tfds_data_dir={records_dir}",
          *(f"--gin.{name}={value}" for name, value in bindings.items())]


def _environment(**changes):
  return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu",
          **changes}


def _losses(model_dir):
  """step -> loss, the last written where a step was repeated."""
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.util import tensor_util
  events = event_accumulator.EventAccumulator(
      str(model_dir / "train"), size_guidance={"tensors": 0})
  events.Reload()
  return {event.step: float(tensor_util.make_ndarray(event.tensor_proto))
          for event in events.Tensors("loss")}


def _predictions(model_dir):
  """All predictions that the evaluation of the last step wrote."""
  (file,) = (model_dir / "inference_eval").rglob(f"*-{STEPS:06}.jsonl")
  lines = [json.loads(line) for line in file.read_text().splitlines()]
  return [(line["input"], line["prediction"]) for line in lines]


@pytest.fixture(scope="module")
def two_processes(records_dir, tmp_path_factory):
  """(run folder, what was printed, seconds from the kill to the restart)."""
  model_dir = tmp_path_factory.mktemp("two") / "run"
  launcher = subprocess.Popen(
      [sys.executable, "-c", OF_FORKS, forking.python(), SCRIPT,
       "--processes=2", "--cpu_devices=4", "--restarts=1", "--",
       *_arguments(model_dir, records_dir)],
      cwd=ROOT, env=_environment(), stderr=subprocess.PIPE, text=True)
  printed, killed_at, noticed_at = [], None, None
  for line in launcher.stderr:
    printed.append((time.monotonic(), line))
    if killed_at is None and (model_dir / f"checkpoint_{SAVED}").is_dir():
      children = subprocess.run(
          ["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True,
          check=True).stdout.split()
      os.kill(int(children[1]), signal.SIGKILL)
      killed_at = time.monotonic()
    if noticed_at is None and "starting all again" in line:
      noticed_at = time.monotonic()
  assert launcher.wait() == 0, "".join(line for _, line in printed)
  assert killed_at and noticed_at, "".join(line for _, line in printed)
  return model_dir, "".join(line for _, line in printed), noticed_at - killed_at


def test_a_killed_process_is_reported_and_all_go_on(two_processes):
  model_dir, printed, seconds = two_processes
  assert "process 0 of 2: process 1 is lost" in printed
  assert "by flags, 8 x cpu, 4 in each of 2 processes" in printed
  assert "done after 1 restarts" in printed
  assert seconds < processes.LOST_SECONDS
  starts = json.loads((model_dir / "run.json").read_text())["starts"]
  assert len(starts) == 2 and starts[1]["step"] >= SAVED
  assert set(_losses(model_dir)) == set(range(1, STEPS + 1))


@pytest.mark.parametrize("num_devices", [8, 2])
def test_one_process_goes_on_with_the_same_losses_and_predictions(
    launcher, two_processes, records_dir, num_devices, tmp_path):
  model_dir = tmp_path / "run"
  model_dir.mkdir()
  for name in ("run.json", f"checkpoint_{SAVED}"):
    source = two_processes[0] / name
    (shutil.copytree if source.is_dir() else shutil.copy)(
        source, model_dir / name)
  code, text = launcher.run(
      _arguments(model_dir, records_dir), trial_processes.devices(num_devices))
  assert code == 0, text
  expected, got = _losses(two_processes[0]), _losses(model_dir)
  assert sorted(got) == list(range(SAVED + 1, STEPS + 1))
  np.testing.assert_allclose(
      [got[step] for step in sorted(got)],
      [expected[step] for step in sorted(got)], rtol=LOSS_TOLERANCE)
  assert _predictions(model_dir) == _predictions(two_processes[0])


STUDENT = ["gin/models/t5_1_1.gin", "gin/models/tracking_student.gin"]
TASK = ["gin/datasets/tracking.gin", "gin/methods/step_by_step.gin"]


def _run_of(mode, checkpoint, output, split):
  """Arguments of `t5x_command.run` that evaluate or infer."""
  name = {"eval": "EVAL_OUTPUT_DIR", "infer": "INFER_OUTPUT_DIR"}[mode]
  return mode, [*STUDENT, f"gin/runs/{mode}.gin", *TASK], [
      f'CHECKPOINT_PATH = "{checkpoint}"', f'{name} = "{output}"',
      "utils.DatasetConfig.batch_size = 4",
      f'utils.DatasetConfig.split = "{split}"',
      *(f"{name} = {value}" for name, value in SMALL.items())]


def _results(folder):
  """file -> what is in it, of answers and metrics."""
  files = [f for pattern in ("*.jsonl", "*.jsonl-0*1")
           for f in sorted(folder.rglob(pattern))]
  assert files
  return {str(f.relative_to(folder)): f.read_text() for f in files}


def test_two_processes_evaluate_and_infer_as_one_does(
    launcher, two_processes, records_dir, tmp_path):
  checkpoint = two_processes[0] / f"checkpoint_{STEPS}"
  both = [("eval", "validation"), ("infer", "validation"), ("eval", "test")]
  run = lambda name, mode, split: _run_of(
      mode, checkpoint, tmp_path / name / f"{mode}_{split}", split)

  def start_two(mode, files, bindings):
    return launcher.start_several(
        [mode, *(f"--gin_file={file}" for file in files),
         *(f"--gin_bindings={binding}" for binding in bindings),
         f"--tfds_data_dir={records_dir}"], [{}, {}])

  for what in both:
    pair = start_two(*run("two", *what))
    # The same in this process, meanwhile.
    mode, files, bindings = run("one", *what)
    t5x_command.run(mode, files, bindings, tfds_data_dir=str(records_dir))
    for process in pair:
      assert process.wait() == 0, process.text()
  # A mistake ends both, by a line of each.
  mistake = start_two(
      "train", ["gin/recipes/tracking_step_by_step.gin"],
      [f'MODEL_DIR = "{tmp_path}/run"', "BATCH_SIZE = 3"])
  for index, process in enumerate(mistake):
    assert process.wait() == 2, process.text()
    assert f"process {index} of 2: error: batch size 3" in process.text()
    assert "Traceback" not in process.text()
  for mode, split in both:
    one, two = (_results(tmp_path / name / f"{mode}_{split}")
                for name in ("one", "two"))
    assert one == two
    answers = [line for text in one.values() for line in text.splitlines()]
    assert len(answers) >= (11 if split == "validation" else 1)


# Stands in for `t5x`: ends with the next of the codes that are its mode.
STAND_IN = """
import os, pathlib, sys
index = next(a for a in sys.argv if a.startswith("--process_index="))[-1]
starts = pathlib.Path("starts" + index)
starts.write_text((starts.read_text() if starts.exists() else "") + "x")
code = sys.argv[1].split(",")[len(starts.read_text()) - 1]
if code == "killed":
  os.kill(os.getpid(), 9)
sys.exit(int(code))
"""


@pytest.mark.parametrize("codes, ends_with, words", [
    ("75,killed,0", 0, "done after 2 restarts"),
    ("2", 2, ""),
    ("1,1,1", 1, "gave up after 2 restarts")])
def test_what_the_launcher_starts_again(codes, ends_with, words, tmp_path):
  folder = tmp_path / "stepdistill_jax/cli"
  folder.mkdir(parents=True)
  for name, text in (("../__init__", ""), ("__init__", ""), ("t5x", STAND_IN)):
    (folder / f"{name}.py").write_text(text)
  process = subprocess.run(
      [*LAUNCH, "--processes=2", "--restarts=2", "--", codes], cwd=tmp_path,
      env=_environment(PYTHONPATH=str(tmp_path)), capture_output=True,
      text=True, timeout=120)
  assert process.returncode == ends_with, process.stderr
  assert words in process.stderr
  starts = len(codes.split(","))
  assert process.stderr.count("starting all again") == starts - 1
  assert (tmp_path / "starts0").read_text() == "x" * starts


@pytest.mark.parametrize("arguments, words", [
    ([], "t5x's arguments are missing"),
    (["--processes=0", "--", "train"], "--processes must be 1 or more"),
    (["--cpu_devices=0", "--", "train"], "must be 1 or more"),
    (["--cpu_devices=2", "--gpus=1", "--", "train"], "exclude each other"),
])
def test_mistakes_in_the_launcher_s_arguments(arguments, words):
  process = subprocess.run(
      [*LAUNCH, *arguments], capture_output=True, text=True)
  assert process.returncode == 2
  assert words in process.stderr


def test_a_dry_run_prints_the_commands():
  process = subprocess.run(
      [*LAUNCH, "--processes=2", "--gpus=2", "--dry_run", "--", "train", "--x"],
      capture_output=True, text=True, check=True)
  first, second = process.stdout.splitlines()
  assert "CUDA_VISIBLE_DEVICES=0,1" in first
  assert "CUDA_VISIBLE_DEVICES=2,3" in second
  assert "--process_count=2 --process_index=1" in second
