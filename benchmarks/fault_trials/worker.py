"""Runs trainings for the trials, in a folder that later calls go on in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import json
import pathlib
import random
import shutil
import signal
import threading
import time
from typing import Any

from stepdistill_jax.runs import fault_points, run_record
from stepdistill_jax.util import durable_files, errors
from tests.support import trial_processes, trials

KILLED = -signal.SIGKILL
_SO_FAR = "so_far.json"
_WHOLE_RUNS = threading.RLock()


@dataclasses.dataclass(frozen=True)
class Training:
  """A command line and where it runs.

  Attributes:
    name: of the run that nothing happened to, a folder.
    arguments: of `t5x`, but for MODEL_DIR.
    devices: virtual ones of each process.
    processes: 1, or several that are connected.
    steps: at which it ends.
  """

  name: str
  arguments: Sequence[str]
  devices: int = 1
  processes: int = 1
  steps: int = trials.STEPS


class OutOfTime(Exception):
  """A trial stops where it is; the next call goes on from there."""


def in_units(total: int, most: int) -> Iterator[tuple[int, int]]:
  """Splits a number of faults: (number of the unit, its faults), in order."""
  for first in range(0, total, most):
    yield first // most, min(most, total - first)


@dataclasses.dataclass
class Worker:
  """What a trial has to work with.

  Attributes:
    folder: of all trials; nothing in it is of worth once they are done.
    launcher: starts its processes.
    seed: of all that is random.
    ends: when to stop, by `time.monotonic`.
    starts: counts the processes.
  """

  folder: pathlib.Path
  launcher: trial_processes.Launcher
  seed: int
  ends: float
  starts: int = 0

  def stop_in_time(self, folder: pathlib.Path, so_far: Any) -> None:
    """Keeps how far a trial is, and ends it if its time is over.

    Args:
      folder: of the trial.
      so_far: for JSON; `read_so_far` gives it to the next call.

    Raises:
      OutOfTime: it is.
    """
    durable_files.write(
        folder / _SO_FAR, json.dumps(so_far).encode())
    if time.monotonic() > self.ends:
      raise OutOfTime()

  def read_so_far(self, folder: pathlib.Path, start: Any) -> Any:
    """What a call before kept; where there is none, `start`."""
    try:
      return json.loads((folder / _SO_FAR).read_text())
    except (OSError, ValueError):
      shutil.rmtree(folder, ignore_errors=True)
      folder.mkdir(parents=True)
      return start

  def random(self, *names) -> random.Random:
    """Random numbers of a trial, the same in every call."""
    return random.Random("/".join(map(str, (self.seed, *names))))

  def new_folder(self, name: str) -> pathlib.Path:
    """An empty folder; what an earlier call left in it is removed."""
    folder = self.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    return folder

  def records(self) -> pathlib.Path:
    """The embedded benchmark's records."""
    with _WHOLE_RUNS:
      return trials.write_records(self.folder / "data")

  def whole(self, training: Training) -> pathlib.Path:
    """The folder of a run that nothing happened to, made when first needed."""
    with _WHOLE_RUNS:
      folder = self.folder / "whole" / training.name
      if "finished" not in (run_record.read(folder) or {}):
        shutil.rmtree(folder, ignore_errors=True)
        if code := self.go_on(training, folder):
          raise RuntimeError(f"the run without faults ended with {code}")
      return folder

  def go_on(
      self, training: Training, model_dir: pathlib.Path, fault: str = "",
      *, victim: int = 0) -> int:
    """Runs a training until it ends, or its fault ends it.

    Args:
      training: what to run.
      model_dir: where.
      fault: `POINT:COUNT:ACTION` of `fault_points`, or `clock:SECONDS:SIGNAL`:
        the signal comes so long after the process's start.
      victim: the process that the fault happens to.

    Returns:
      The exit code, the same of all processes.

    Raises:
      RuntimeError: it is none of 0, 75 and SIGKILL's, or they differ.
    """
    clock = fault.startswith("clock:")
    environment = {"XLA_FLAGS": (
        f"--xla_force_host_platform_device_count={training.devices}")}
    environments = [
        {**environment, fault_points.VARIABLE: (
            fault if index == victim and not clock else "")}
        for index in range(training.processes)]
    arguments = [*training.arguments, f"--gin.MODEL_DIR={str(model_dir)!r}"]
    self.starts += training.processes
    if training.processes == 1:
      started = [self.launcher.start(arguments, environments[0])]
    else:
      started = self.launcher.start_several(arguments, environments)
    if clock:
      _, seconds, name = fault.split(":")
      time.sleep(float(seconds))
      started[victim].kill(getattr(signal, f"SIG{name.upper()}"))
    codes = [process.wait() for process in started]
    if len(set(codes)) > 1 or codes[0] not in (
        0, KILLED, errors.PREEMPTED_EXIT_CODE):
      printed = "\n".join(process.text()[-3000:] for process in started)
      raise RuntimeError(f"exit codes {codes} after {fault!r}:\n{printed}")
    return codes[0]
