"""Real `t5x train` processes for trials that kill them.

A process costs seconds of imports, and a trial needs hundreds. So a server
imports once, before JAX or TensorFlow start a thread, and forks: a fork runs
the same entry point, with its own devices and signals. `fork=False` starts the
command as a user does.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import Any

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
    if not self.log.exists():
      return ""  # A fork opens it itself.
    return self.log.read_text(errors="replace")


class Launcher:
  """Starts trainings, one or several at a time. Use as a context manager."""

  def __init__(self, log_dir: pathlib.Path, fork: bool = True):
    self._log_dir = pathlib.Path(log_dir)
    self._log_dir.mkdir(parents=True, exist_ok=True)
    self._count = 0
    self._fork = fork
    self._started: subprocess.Popen | None = None

  @property
  def _server(self) -> subprocess.Popen | None:
    """What forks trainings, started with the first; None for commands."""
    if self._fork and self._started is None:
      self._started = subprocess.Popen(
          [sys.executable, "-m", "tests.support.trial_processes"],
          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
          env=self._environment({}))
    return self._started

  def __enter__(self):
    return self

  def __exit__(self, *unused_exception):
    if self._started is not None:
      self._started.stdin.close()
      self._started.wait()

  def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join(
        [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **extra}

  def start(
      self, arguments: Sequence[str],
      environment: Mapping[str, str] | None = None) -> Process:
    """Starts `t5x ARGUMENTS`."""
    self._count += 1
    log = self._log_dir / f"{self._count:04}.log"
    if self._server is None:
      with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "stepdistill_jax.cli.t5x", *arguments],
            stdout=stream, stderr=subprocess.STDOUT,
            env=self._environment(environment or {}))
      return Process(process.pid, log, process.wait)
    self._ask({"start": list(arguments), "log": str(log),
               "environment": dict(environment or {})})
    pid = self._answer()

    def wait() -> int:
      self._ask({"wait": pid})
      return self._answer()

    return Process(pid, log, wait)

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

  def _ask(self, request: Mapping[str, Any]) -> None:
    self._server.stdin.write(json.dumps(request) + "\n")
    self._server.stdin.flush()

  def _answer(self) -> int:
    return int(self._server.stdout.readline())


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


def _in_fork(request: Mapping[str, Any]) -> None:
  """The forked process: becomes `t5x` and never returns."""
  stream = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  os.dup2(stream, 1)
  os.dup2(stream, 2)
  os.environ.update(request["environment"])
  code = 1
  try:
    from stepdistill_jax.runs import t5x_command
    from stepdistill_jax.util import runtime
    runtime.START_TIME = time.time()
    code = t5x_command.main(request["start"])
  except SystemExit as done:
    code = done.code
  except BaseException:
    import traceback
    traceback.print_exc()
  import jax
  if jax.distributed.is_initialized():
    atexit._run_exitfuncs()  # Connected processes leave together.
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code or 0)


def _serve() -> None:
  """Forks on request; a request or an answer is a line."""
  from stepdistill_jax.util import runtime
  runtime.configure()
  import tensorflow  # noqa: F401

  from stepdistill_jax.util import t5x_finder
  t5x_finder.install("embedded")
  import jax.interpreters.mlir  # noqa: F401
  with contextlib.suppress(ImportError):  # JAX imports it late, for a second.
    from jaxlib.mlir.dialects import mhlo  # noqa: F401
  from clu import metric_writers  # noqa: F401
  import seqio  # noqa: F401

  from stepdistill_jax import (
    models,  # noqa: F401
    tasks,  # noqa: F401
  )
  from stepdistill_jax.embedded_t5x import (
    main,  # noqa: F401
    train,  # noqa: F401
  )
  codes: dict[int, int] = {}
  # Not `for line in sys.stdin`: a fork would read on in its buffer.
  while line := sys.stdin.readline():
    request = json.loads(line)
    if "wait" in request:
      pid = request["wait"]
      if pid not in codes:
        _, status = os.waitpid(pid, 0)
        codes[pid] = os.waitstatus_to_exitcode(status)
      print(codes[pid], flush=True)
      continue
    pid = os.fork()
    if pid == 0:
      _in_fork(request)
    print(pid, flush=True)


if __name__ == "__main__":
  _serve()
