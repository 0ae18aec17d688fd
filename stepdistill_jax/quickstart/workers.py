"""Processes that train and score students beside each other.

A student is so small that one core is busy with it and a second idles. So
each of several processes trains a student of its own on one thread; TensorFlow
and JAX are imported once in each, and a program that one has compiled the
others read from JAX's compilation cache.
"""

from __future__ import annotations

from collections.abc import Callable
import multiprocessing
from multiprocessing import connection as connection_lib
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
from typing import Any, Protocol

from stepdistill_jax.quickstart import plan as plan_lib, runs as runs_lib
from stepdistill_jax.util import devices, errors

# Spawned, as a fork of a process with TensorFlow's threads may hang.
_context = multiprocessing.get_context("spawn")
_SECONDS_TO_END = 10.0
_SECONDS_BETWEEN_NEWS = 0.2  # A person reads no faster.


class Watcher(Protocol):
  """Follows all runs; see `display`."""

  def begin_run(self, run: plan_lib.Run) -> None:
    """Called before a run's training."""

  def at_step(self, run: plan_lib.Run, step: int) -> None:
    """Called some times a second while a run trains."""

  def scoring(self, run: plan_lib.Run, done: int, total: int) -> None:
    """Called as answers to the test stories come."""

  def end_run(self, run: plan_lib.Run, results: dict[str, Any],
              seconds: float | None) -> None:
    """Called with a run's scores; seconds is None where all was skipped."""


def platforms() -> str:
  """Where students train: on the CPU, unless $JAX_PLATFORMS says otherwise.

  They are so small that an accelerator would wait for its next program.
  """
  return os.environ.get("JAX_PLATFORMS") or "cpu"


def where(number: int) -> str:
  """The same in words, for `number` processes."""
  chosen = platforms()
  text = "the CPU" if chosen == "cpu" else f"JAX_PLATFORMS={chosen}"
  text += ", one at a time" if number == 1 else f", {number} at a time"
  found = devices.present()
  if chosen == "cpu" and found:
    text += (f", without {devices.names(found)} (which JAX_PLATFORMS="
             f"{next(iter(found))} would take)")
  return text


def default_number() -> int:
  """Two where there are two processors; one for an accelerator.

  An accelerator belongs to one process at a time.
  """
  if platforms() != "cpu":
    return 1
  processors = len(os.sched_getaffinity(0)) if hasattr(
      os, "sched_getaffinity") else os.cpu_count() or 1
  return min(2, processors)


class _News:
  """Sends a run's progress to the parent; a `runs.Watcher`."""

  def __init__(self, tell: Callable[..., None]):
    self._tell, self._last = tell, 0.0

  def say(self, text: str) -> None:
    """Lines of `t5x train` stay in its logs."""

  def at_step(self, step: int) -> None:
    self._tell_seldom("at_step", step)

  def scoring(self, done: int, total: int) -> None:
    self._tell_seldom("scoring", done, total)

  def _tell_seldom(self, *news) -> None:
    now = time.monotonic()
    if now - self._last >= _SECONDS_BETWEEN_NEWS:
      self._last = now
      self._tell(*news)


def _end_with_parent() -> None:
  """Ends this process when the parent does, however that ends.

  As if killed: the next call goes on from the last checkpoint.
  """
  sentinel = multiprocessing.parent_process().sentinel

  def wait() -> None:
    connection_lib.wait([sentinel])
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


def _work(connection, output_dir: pathlib.Path, plan: plan_lib.Plan,
          alone: bool) -> None:
  """A worker's main function: does the runs that come until None does."""
  # The parent decides what Ctrl-C means; it reaches all of a terminal.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  _end_with_parent()
  if not alone:
    os.environ["NPROC"] = "1"  # Of XLA's threads on a CPU.
  os.environ["JAX_PLATFORMS"] = platforms()
  from stepdistill_jax.util import runtime

  runtime.configure()
  try:
    devices.start()
  except errors.UserError as error:
    connection.send(("user_error", str(error)))
    return
  tensorflow = runtime.import_tensorflow()
  if not alone:
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    tensorflow.config.threading.set_intra_op_parallelism_threads(1)
  try:
    while (job := connection.recv()) is not None:
      records_dir, run = job
      runs_lib.train_and_score(
          output_dir, plan, records_dir, run,
          _News(lambda *news: connection.send(news)))
      connection.send(("done",))
  except errors.UserError as error:
    connection.send(("user_error", str(error)))
  except (EOFError, BrokenPipeError, errors.Preempted):
    pass  # The parent is gone, or has ended this worker.
  except Exception:  #  # Raised by the parent.
    connection.send(("failed", traceback.format_exc()))


class _Worker:
  """The parent's end of a worker."""

  def __init__(self, output_dir, plan, alone):
    self.connection, theirs = _context.Pipe()
    self.process = _context.Process(
        target=_work, args=(theirs, output_dir, plan, alone), daemon=True)
    self.process.start()
    theirs.close()
    self.run: plan_lib.Run | None = None
    self.since = 0.0

  def start(self, records_dir: pathlib.Path, run: plan_lib.Run) -> None:
    self.run, self.since = run, time.monotonic()
    self._send((records_dir, run))

  def dismiss(self) -> None:
    self.run = None
    self._send(None)

  def _send(self, job) -> None:
    try:
      self.connection.send(job)
    except BrokenPipeError:
      pass  # `news` raises what ended it.

  def news(self) -> tuple[Any, ...]:
    """What the worker reports.

    Raises:
      errors.UserError: a user's mistake, or the process was killed.
      RuntimeError: a defect.
    """
    try:
      kind, *values = self.connection.recv()
    except (EOFError, ConnectionResetError):
      self.process.join()
      name = "no student" if self.run is None else self.run.name
      raise errors.UserError(
          f"the process that trained {name} was ended from outside (exit "
          f"code {self.process.exitcode}; -9 is mostly for want of memory: "
          "take --workers=1); the same command goes on from here") from None
    if kind == "user_error":
      raise errors.UserError(*values)
    if kind == "failed":
      raise RuntimeError(f"in the process of {self.run.name}:\n{values[0]}")
    return kind, *values


class Workers:
  """A plan's processes; a context manager that ends them.

  They import what they need while the caller prepares the data.
  """

  def __init__(self, output_dir: pathlib.Path, plan: plan_lib.Plan,
               number: int):
    """Initializes.

    Args:
      output_dir: the quickstart's folder.
      plan: what to run.
      number: of processes; fewer if fewer runs are left.
    """
    self._output_dir = output_dir
    self._todo, self._done = [], []
    for run in plan.runs():
      done = runs_lib.is_done(output_dir, plan, run)
      (self._done if done else self._todo).append(run)
    number = min(number, len(self._todo))
    sys.stdout.flush()
    self._workers = [_Worker(output_dir, plan, alone=number == 1)
                     for _ in range(number)]

  def __enter__(self) -> Workers:
    return self

  def __exit__(self, *unused_exception) -> None:
    for worker in self._workers:
      worker.process.terminate()
    deadline = time.monotonic() + _SECONDS_TO_END
    for worker in self._workers:
      worker.process.join(max(0.0, deadline - time.monotonic()))
      worker.process.kill()

  def train_and_score(
      self, records_dir: pathlib.Path, watcher: Watcher) -> None:
    """Does all runs that are not done yet.

    Args:
      records_dir: of the benchmark.
      watcher: shows progress.

    Raises:
      errors.UserError: of any worker.
    """
    for run in self._done:
      watcher.begin_run(run)
      watcher.end_run(run, runs_lib.read_results(self._output_dir, run), None)
    todo = iter(self._todo)
    for worker in self._workers:
      self._next(worker, todo, records_dir, watcher)
    while busy := [w for w in self._workers if w.run is not None]:
      ready = connection_lib.wait([w.connection for w in busy])
      for worker in busy:
        if worker.connection in ready:
          self._hear(worker, todo, records_dir, watcher)

  def _next(self, worker, todo, records_dir, watcher) -> None:
    run = next(todo, None)
    if run is None:
      worker.dismiss()
      return
    watcher.begin_run(run)
    worker.start(records_dir, run)

  def _hear(self, worker, todo, records_dir, watcher) -> None:
    kind, *values = worker.news()
    if kind != "done":
      getattr(watcher, kind)(worker.run, *values)
      return
    watcher.end_run(
        worker.run, runs_lib.read_results(self._output_dir, worker.run),
        time.monotonic() - worker.since)
    self._next(worker, todo, records_dir, watcher)
