"""Real `t5x train` processes that are killed, stopped, moved and damaged.

`benchmarks/faults.py` does the same in larger numbers.
"""

import contextlib
import json
import pathlib
import random
import shutil
import signal
import subprocess
import time

import pytest

from stepdistill_jax.runs import fault_points, restore_choice
from tests.support import damage, trial_processes, trials

# Point -> at which of its first so many times a process is killed.
POINTS = {"step": 6, "save_started": 2, "checkpoint_written": 2,
          "manifest_written": 2, "checkpoint_named": 2}
STEPS = 16
KEY = "sk-Zq7-planted-in-the-environment"
ONE_DEVICE = {**trial_processes.devices(1), "OPENAI_API_KEY": KEY}


@pytest.fixture(scope="module", name="logs")
def _logs(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module", name="launcher")
def _launcher(logs):
  return trial_processes.Launcher(logs)


@pytest.fixture(scope="module", name="records")
def _records(tmp_path_factory) -> pathlib.Path:
  return trials.write_records(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="module", name="whole")
def _whole(launcher, records, tmp_path_factory) -> pathlib.Path:
  """A run that nothing happened to."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  code, text = go_on(launcher, folder, records)
  assert code == 0, text
  return folder


# Evaluations are built and traced anew in each process, for seconds: those
# that SIGTERM hits are tested here, and the benchmark kills some, too. So is
# the pipeline of the check of the data, which is not tried here.
NO_CHECK = "train_script.train.verify_matching_vocabs_fn = None"


def command(folder, records, *more, bindings=trials.NO_EVALUATION, steps=STEPS):
  return [*trials.arguments(records, (*bindings, NO_CHECK), steps),
          f"--gin.MODEL_DIR={str(folder)!r}", *more]


def go_on(launcher, folder, records, fault="", *more, **options):
  return launcher.run(command(folder, records, *more, **options),
                      {**ONE_DEVICE, fault_points.VARIABLE: fault})


def checkpoints(folder) -> list[int]:
  """The steps of the checkpoints, all of which are what was written."""
  steps = sorted(int(p.name.split("_")[1]) for p in folder.glob("checkpoint_*")
                 if p.name.split("_")[1].isdigit())
  for step in steps:
    assert not restore_choice.problems(str(folder / f"checkpoint_{step}"))
  return steps


def wait_until(condition, what: str, seconds: float = 120.0) -> None:
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, f"{what} did not come"
    time.sleep(0.02)


def test_killed_at_random_points_with_a_damaged_latest_checkpoint(
    launcher, records, whole, tmp_path):
  """Once at each kind of point; the benchmark does it hundreds of times."""
  rng = random.Random(0)
  for point in rng.sample(list(POINTS), len(POINTS)):
    fault = f"{point}:{rng.randint(1, POINTS[point])}:kill"
    code, text = go_on(launcher, tmp_path, records, fault)
    assert code == -signal.SIGKILL, text
  bad = tmp_path / f"checkpoint_{checkpoints(tmp_path)[-1]}"
  damage.inflict("bit_flip", bad, random.Random(3))
  code, text = go_on(launcher, tmp_path, records, "", "--strict")
  assert code == 2 and f"the checkpoint {bad} is not what was written" in text
  code, text = go_on(launcher, tmp_path, records)
  assert code == 0, text
  assert f"{bad} is now {bad}.bad" in text.replace("\n", " ")
  assert trials.assert_same_run(tmp_path, whole, STEPS) > 100


def test_sigterm_saves_and_exits_with_75(launcher, records, tmp_path):
  """In steps, and in an evaluation, which is then made up for."""
  options = {"bindings": (), "steps": 12}
  code, text = go_on(launcher, tmp_path / "whole", records, **options)
  assert code == 0, text
  for fault, step in (("step:3:term", 3), ("evaluation:1:term", 8)):
    code, text = go_on(launcher, tmp_path / "run", records, fault, **options)
    assert code == 75, text
    assert f"step {step} is saved" in text
    assert "Traceback" not in text
  code, text = go_on(launcher, tmp_path / "run", records, **options)
  assert code == 0, text
  trials.assert_same_run(tmp_path / "run", tmp_path / "whole", 12)


def test_sigterm_to_one_of_two_processes_stops_both_at_the_same_step(
    launcher, records, tmp_path):
  """JAX looks for a signal once a second, and these steps take less: a rest
  after the signal's step keeps the run from ending before it is seen."""
  fault = "step:3:term,step:4:hang:3"

  def go_on_both(name, fault="", victim=0):
    processes = launcher.start_several(
        command(tmp_path / name, records),
        [{**ONE_DEVICE, fault_points.VARIABLE: fault if i == victim else ""}
         for i in range(2)])
    return [(p.wait(), p.text()) for p in processes]

  assert [code for code, _ in go_on_both("whole")] == [0, 0]
  for victim in (1, 0):
    results = go_on_both("run", fault, victim)
    assert [code for code, _ in results] == [75, 75], results
    step = checkpoints(tmp_path / "run")[-1]
    for _, text in results:
      assert f"step {step} is saved; the same command goes on" in text
      assert "Traceback" not in text
  results = go_on_both("run")
  assert [code for code, _ in results] == [0, 0], results
  trials.assert_same_run(tmp_path / "run", tmp_path / "whole", STEPS)


def test_ctrl_c_saves_and_a_second_signal_ends_at_once(
    launcher, records, tmp_path):
  code, text = go_on(launcher, tmp_path, records, "step:2:int")
  assert code == 130, text
  assert "interrupted: step 2 is saved; the same command goes on" in text
  assert "Traceback" not in text
  # While it saves, the second signal comes.
  code, text = go_on(launcher, tmp_path, records,
                     "step:1:int,checkpoint_written:1:int,"
                     "checkpoint_written:1:hang:60")
  assert code == 130, text
  assert "is saved" not in text
  assert checkpoints(tmp_path) == [0, 2]


def test_two_runs_in_one_folder_and_a_run_with_another_config(
    launcher, records, tmp_path):
  first = launcher.start(
      command(tmp_path, records),
      {**ONE_DEVICE, fault_points.VARIABLE: "step:6:hang:120"})
  with trial_processes.running(first):
    trial_processes.wait_for(first, "first step done")
    code, text = go_on(launcher, tmp_path, records)
    assert code == 2
    assert f"another run works in {tmp_path}: process {first.pid} on" in text
    wait_until(lambda: 4 in checkpoints(tmp_path), "checkpoint_4")
    first.kill(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
  other = ["--gin.BATCH_SIZE=16", "--gin.RANDOM_SEED=5"]
  code, text = go_on(launcher, tmp_path, records, "", *other)
  assert code == 2, text
  assert (f"error: {tmp_path} belongs to a run with another config: "
          "BATCH_SIZE was 8, now 16; RANDOM_SEED was 0, now 5; take another "
          "MODEL_DIR, or pass --allow_config_change") in text
  code, text = go_on(launcher, tmp_path, records, "step:1:kill", *other,
                     "--allow_config_change")
  assert code == -signal.SIGKILL
  assert f"took over the stale lock of process {first.pid}" in text
  assert checkpoints(tmp_path) == [0, 4]


def test_a_run_folder_says_what_made_it(whole, records):
  record = json.loads((whole / "run.json").read_text())
  assert set(record["versions"]) >= {"python", "jax", "seqio", "tensorflow"}
  assert record["seeds"] == {"model": 0, "data": 0}
  assert record["devices"] == "1 x cpu"
  assert record["config"]["BATCH_SIZE"] == "8"
  assert len(record["data"]["files_sha256"]) == 64
  assert record["data"]["folders"][0].startswith(str(records))
  (start,) = record["starts"]
  assert start["command"][:2] == ["t5x", "train"] and start["step"] == 0
  assert "train_script.train" in (whole / "config.gin").read_text()


def test_a_key_in_the_environment_is_in_no_output(whole, logs):
  files = [p for folder in (whole, logs) for p in folder.rglob("*")
           if p.is_file()]
  assert len(files) > 20
  for file in files:
    assert KEY.encode() not in file.read_bytes(), file


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, *options: str):
  """A file system of 8 MB in memory; skips where none can be mounted."""
  folder.mkdir()
  mounted = subprocess.run(
      ["mount", "-t", "tmpfs", "-o", ",".join(("size=8m", *options)), "none",
       str(folder)], capture_output=True, text=True, check=False)
  if mounted.returncode:
    pytest.skip(f"no file system can be mounted here: {mounted.stderr}")
  try:
    yield
  finally:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def hanging_after_a_checkpoint(launcher, run, records):
  """A run that has saved step 4 and rests at step 6 while its disk changes."""
  process = launcher.start(
      command(run, records),
      {**ONE_DEVICE, fault_points.VARIABLE: "step:6:hang:4"})
  with trial_processes.running(process):
    wait_until((run / "checkpoint_4").is_dir, "checkpoint_4")
    yield process


def test_a_full_disk(launcher, records, whole, tmp_path):
  disk = tmp_path / "disk"
  with small_disk(disk):
    run, filler = disk / "run", disk / "filler"
    with hanging_after_a_checkpoint(launcher, run, records) as process:
      with contextlib.suppress(OSError), filler.open("wb") as stream:
        while True:
          stream.write(bytes(4096))
      assert process.wait() == 2, process.text()
    text = process.text()
    assert "Traceback" not in text
    (line,) = [x for x in text.splitlines() if x.startswith("error: ")]
    # Checkpoints and metrics are written at the same time.
    assert line.replace("a checkpoint ", "", 1).startswith(
        f"error: cannot write into {run}: no space is left on the disk; the "
        "last good one is checkpoint_4; make room")
    assert checkpoints(run) == [0, 4]
    filler.unlink()
    code, text = go_on(launcher, run, records)
    assert code == 0, text
    trials.assert_same_run(run, whole, STEPS)


def test_a_folder_that_cannot_be_written(launcher, records, tmp_path):
  # A user's modes do not refuse root; a file system that is read only does.
  disk = tmp_path / "disk"
  with small_disk(disk, "ro"):
    code, text = go_on(launcher, disk / "run", records)
  assert code == 2 and "Traceback" not in text
  assert (f"error: cannot make MODEL_DIR={disk / 'run'}: Read-only file "
          "system; take another one") in text


def test_a_folder_that_is_deleted_while_a_run_works_in_it(
    launcher, records, tmp_path):
  run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
  with hanging_after_a_checkpoint(launcher, run, records) as process:
    shutil.move(run, elsewhere)
    run.mkdir()  # As a script may that clears a folder.
    assert process.wait() == 2, process.text()
  assert "Traceback" not in process.text()
  assert f"MODEL_DIR={run} was deleted or moved" in process.text()
  assert checkpoints(elsewhere) == [0, 4]


@pytest.mark.parametrize("devices,bindings", [
    (1, (*trials.PACKED, *trials.MICROBATCHES)),
    (2, trials.MICROBATCHES),
    (8, trials.PACKED),
])
def test_layouts(launcher, records, tmp_path, devices, bindings):
  environment = trial_processes.devices(devices)
  runs = [tmp_path / "whole", tmp_path / "stopped"]
  for folder, faults in zip(runs, ([""], ["step:5:term", ""])):
    for fault in faults:
      code, text = launcher.run(
          command(folder, records,
                  bindings=(*bindings, *trials.NO_EVALUATION), steps=8),
          {**environment, fault_points.VARIABLE: fault})
      assert code == (75 if fault else 0), text
  trials.assert_same_run(runs[1], runs[0], step=8)
