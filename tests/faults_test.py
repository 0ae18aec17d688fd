"""Real `t5x train` processes that are killed, stopped, moved and damaged.

`benchmarks/faults.py` does the same in larger numbers.
"""

import pathlib
import random
import signal

import pytest

from stepdistill_jax.resilience import damage
from stepdistill_jax.resilience import fault_points
from stepdistill_jax.resilience import trial_processes
from stepdistill_jax.resilience import trials

KILLS = 20
SIGTERMS = 4
ONE_DEVICE = {"XLA_FLAGS": ""}
# Decoding is traced anew in each process: where it is not asked for, seconds.
NO_DECODING = ("train_script.train.infer_eval_dataset_cfg = None",)


@pytest.fixture(scope="module", name="launcher")
def _launcher(tmp_path_factory):
  with trial_processes.Launcher(tmp_path_factory.mktemp("logs")) as launcher:
    yield launcher


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


def go_on(launcher, folder, records, fault="", bindings=NO_DECODING):
  return launcher.run(
      trials.arguments(folder, records, bindings),
      {**ONE_DEVICE, fault_points.VARIABLE: fault})


def test_killed_at_random_points(launcher, records, whole, tmp_path):
  rng = random.Random(0)
  for _ in range(KILLS):
    code, text = go_on(launcher, tmp_path, records, trials.random_fault(rng))
    # A run can reach its end before its fault.
    assert code in (0, -signal.SIGKILL), text
  code, text = go_on(launcher, tmp_path, records)
  assert code == 0, text
  assert trials.assert_same_run(tmp_path, whole) > 100


def test_sigterm_saves_and_exits_with_75(launcher, records, tmp_path):
  rng = random.Random(1)
  done, whole, tmp_path = 0, tmp_path / "whole", tmp_path / "run"
  code, text = go_on(launcher, whole, records, bindings=())
  assert code == 0, text
  for _ in range(SIGTERMS):
    steps = rng.randrange(1, 7)
    code, text = go_on(
        launcher, tmp_path, records, f"step:{steps}:term", bindings=())
    done += steps
    assert code == 75, text
    assert f"step {done} is saved" in text
    assert "Traceback" not in text
  code, text = go_on(launcher, tmp_path, records, bindings=())
  assert code == 0, text
  trials.assert_same_run(tmp_path, whole)


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


def test_two_runs_in_one_folder(launcher, records, tmp_path):
  first = launcher.start(
      trials.arguments(tmp_path, records, NO_DECODING),
      {**ONE_DEVICE, fault_points.VARIABLE: "step:5:hang:120"})
  with trial_processes.running(first):
    trial_processes.wait_for(first, "first step done")
    code, text = go_on(launcher, tmp_path, records)
    assert code == 2
    assert f"another run works in {tmp_path}: process {first.pid} on" in text
    first.kill(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL


def test_damaged_latest_checkpoint(launcher, records, whole, tmp_path):
  code, _ = go_on(launcher, tmp_path, records, "step:17:kill")
  assert code == -signal.SIGKILL
  steps = sorted(int(p.name.split("_")[1])
                 for p in tmp_path.glob("checkpoint_*") if p.name[-1].isdigit())
  bad = tmp_path / f"checkpoint_{steps[-1]}"
  damage.inflict("bit_flip", bad, random.Random(3))
  code, text = launcher.run(
      [*trials.arguments(tmp_path, records, NO_DECODING), "--strict"],
      ONE_DEVICE)
  assert code == 2 and f"the checkpoint {bad} is not what was written" in text
  code, text = go_on(launcher, tmp_path, records)
  assert code == 0, text
  assert f"{bad} is now {bad}.bad" in text.replace("\n", " ")
  trials.assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("devices,bindings", [
    (1, (*trials.PACKED, *trials.MICROBATCHES)),
    (2, trials.MICROBATCHES),
    (8, trials.PACKED),
])
def test_layouts(launcher, records, tmp_path, devices, bindings):
  bindings = [*bindings, *trials.NO_EVALUATION]
  environment = {"XLA_FLAGS": (
      f"--xla_force_host_platform_device_count={devices}")}
  runs = [tmp_path / "whole", tmp_path / "stopped"]
  for folder, faults in zip(runs, ([""], ["step:7:term", ""])):
    for fault in faults:
      code, text = launcher.run(
          trials.arguments(folder, records, bindings, steps=16),
          {**environment, fault_points.VARIABLE: fault})
      assert code in (0, 75, -signal.SIGKILL), text
    assert code == 0, text
  trials.assert_same_run(runs[1], runs[0], step=16)
