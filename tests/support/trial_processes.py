"""Real `t5x train` processes for trials that kill them.

A process costs seconds of imports, and a trial needs hundreds: they are forks
that have them, see `forking`. `fork=False` starts the command as a user does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from tests.support import forking

_ROOT = pathlib.Path(__file__).resolve().parents[2]


class Process:
  """A training that was started."""

  def __init__(self, pid: int, log: pathlib.Path, wait):
    self.pid = pid
    self.log = log
    self._wait = wait

  def kill(self, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
      os.kill(self.pid, number)

  def wait(self) -> int:
    """Its exit code; -N where signal N ended it."""
    return self._wait()

  def text(self) -> str:
    """What it has printed so far."""
    return self.log.read_text(errors="replace")


class Launcher:
  """Starts trainings, one or several at a time."""

  def __init__(self, log_dir: pathlib.Path, fork: bool = True):
    self._log_dir = pathlib.Path(log_dir)
    self._log_dir.mkdir(parents=True, exist_ok=True)
    self._count = 0
    self._fork = fork

  def start(
      self, arguments: Sequence[str],
      environment: Mapping[str, str] | None = None) -> Process:
    """Starts `t5x ARGUMENTS`."""
    self._count += 1
    log = self._log_dir / f"{self._count:04}.log"
    path = os.pathsep.join(
        [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    arguments = ["-m", "stepdistill_jax.cli.t5x", *arguments]
    environment = {**os.environ, "PYTHONPATH": path, **(environment or {})}
    if self._fork:
      started = forking.start(arguments, environment, log)
    else:
      with log.open("w") as stream:
        started = subprocess.Popen(
            [sys.executable, *arguments], stdout=stream,
            stderr=subprocess.STDOUT, env=environment)
    return Process(started.pid, log, started.wait)

  def run(self, arguments, environment=None) -> tuple[int, str]:
    """Starts a training and waits: (exit code, what it printed)."""
    process = self.start(arguments, environment)
    code = process.wait()
    return code, process.text()

  def start_several(
      self, arguments: Sequence[str],
      environments: Sequence[Mapping[str, str]]) -> list[Process]:
    """Starts a training of several processes, connected on loopback.

    Args:
      arguments: of each.
      environments: what each has besides.
    """
    with socket.socket() as probe:
      probe.bind(("127.0.0.1", 0))
      port = probe.getsockname()[1]
    return [
        self.start([
            *arguments, f"--coordinator_address=127.0.0.1:{port}",
            f"--process_count={len(environments)}",
            f"--process_index={index}"], environment)
        for index, environment in enumerate(environments)]


def devices(number: int) -> dict[str, str]:
  """What the environment of a process of so many devices of the CPU has."""
  return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
          f"--xla_force_host_platform_device_count={number}"}


@contextlib.contextmanager
def running(process: Process) -> Iterator[Process]:
  """Ends a process that a failed trial left behind."""
  try:
    yield process
  finally:
    process.kill(signal.SIGKILL)


def wait_for(process: Process, text: str, seconds: float = 120.0) -> None:
  """Waits until a process has printed something.

  Raises:
    TimeoutError: it did not, or ended before; with what it printed.
  """
  deadline = time.monotonic() + seconds
  while text not in process.text():
    if time.monotonic() > deadline:
      raise TimeoutError(f"{text!r} did not come:\n{process.text()[-2000:]}")
    time.sleep(0.02)
