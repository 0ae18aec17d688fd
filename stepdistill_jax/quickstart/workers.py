"""Processes that train and score students beside each other.

A student is so small that one core is busy with it and a second idles. So
each of several processes trains a student of its own on one thread; TensorFlow
and JAX are imported once in each, and a program that one has compiled the
others read from JAX's compilation cache.
"""

from __future__ import annotations

import concurrent.futures
from concurrent.futures import process as process_lib
import functools
import itertools
import multiprocessing
from multiprocessing import connection
import os
import pathlib
import signal
import threading
import time
from typing import Any

from stepdistill_jax.quickstart import (
  display,
  plan as plan_lib,
  runs as runs_lib,
)
from stepdistill_jax.util import devices, errors, runtime

# Spawned, as a fork of a process with TensorFlow's threads may hang.
_context = multiprocessing.get_context("spawn")
_SECONDS_TO_END = 10.0
_SECONDS_BETWEEN_NEWS = 0.2  # A person reads no faster.
_news: Any = None  # In a worker: the queue of its progress.


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

  def __init__(self, run: plan_lib.Run):
    self._run, self._last = run, 0.0

  def say(self, text: str) -> None:
    """Lines of `t5x train` stay in its logs."""

  def at_step(self, step: int) -> None:
    self._send("at_step", step)

  def scoring(self, done: int, total: int) -> None:
    self._send("scoring", done, total)

  def _send(self, kind: str, *values: int) -> None:
    now = time.monotonic()
    if now - self._last >= _SECONDS_BETWEEN_NEWS:
      self._last = now
      _news.put((kind, self._run, *values))


def _begin(news: Any) -> None:
  """Begins a worker, which ends when the parent does, however that ends.

  As if killed: the next call goes on from the last checkpoint.
  """
  global _news
  _news = news
  # The parent decides what Ctrl-C means; it reaches all of a terminal.
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=end_with_parent, daemon=True).start()


@functools.cache
def _prepare(alone: bool) -> None:
  """Imports what a worker needs, once."""
  if not alone:
    os.environ["NPROC"] = "1"  # Of XLA's threads on a CPU.
  os.environ["JAX_PLATFORMS"] = platforms()
  runtime.configure()
  devices.start()
  tensorflow = runtime.import_tensorflow()
  if not alone:
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    tensorflow.config.threading.set_intra_op_parallelism_threads(1)


def _train_and_score(
    output_dir: pathlib.Path, plan: plan_lib.Plan, records_dir: pathlib.Path,
    run: plan_lib.Run, alone: bool) -> None:
  _prepare(alone)
  runs_lib.train_and_score(output_dir, plan, records_dir, run, _News(run))


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
    self._output_dir, self._plan = output_dir, plan
    self._todo, self._done = [], []
    for run in plan.runs():
      done = runs_lib.is_done(output_dir, plan, run)
      (self._done if done else self._todo).append(run)
    self._number = min(number, len(self._todo))
    self._news = _context.SimpleQueue()
    self._pool = concurrent.futures.ProcessPoolExecutor(
        self._number or 1, _context, _begin, (self._news,))
    others = multiprocessing.active_children()
    for _ in range(self._number):
      self._pool.submit(_prepare, self._number == 1)
    self.processes = [process for process in multiprocessing.active_children()
                      if process not in others]

  def __enter__(self) -> Workers:
    return self

  def __exit__(self, *unused_exception) -> None:
    # The pool's own thread alone waits for the processes: of two that do, one
    # would be told that there is no such process, and have no exit code.
    for process in self.processes:
      process.terminate()
    deadline = time.monotonic() + _SECONDS_TO_END
    for process in self.processes:
      connection.wait([process.sentinel], max(0.0, deadline - time.monotonic()))
      process.kill()
    self._pool.shutdown(wait=True, cancel_futures=True)

  def train_and_score(
      self, records_dir: pathlib.Path, watcher: display.Display) -> None:
    """Does all runs that are not done yet.

    Args:
      records_dir: of the benchmark.
      watcher: shows progress.

    Raises:
      errors.UserError: of any worker; or one was killed.
    """
    try:
      self._run_all(records_dir, watcher)
    except process_lib.BrokenProcessPool as error:
      # The pool has ended the others by SIGTERM, and knows all exit codes then.
      self._pool.shutdown(wait=True)
      code = next((p.exitcode for p in self.processes if p.exitcode not in (
          None, -signal.SIGTERM)), "unknown")
      raise errors.UserError(
          "a process that trains students was ended from outside (exit code "
          f"{code}; -9 is mostly for want of memory: take --workers=1); the "
          "same command goes on from here") from error

  def _run_all(
      self, records_dir: pathlib.Path, watcher: display.Display) -> None:
    results = functools.partial(runs_lib.read_results, self._output_dir)
    for run in self._done:
      watcher.begin_run(run)
      watcher.end_run(run, results(run), None)
    todo = iter(self._todo)
    under_way: dict[concurrent.futures.Future, tuple[plan_lib.Run, float]] = {}
    while True:
      for run in itertools.islice(todo, self._number - len(under_way)):
        watcher.begin_run(run)
        future = self._pool.submit(
            _train_and_score, self._output_dir, self._plan, records_dir, run,
            self._number == 1)
        under_way[future] = run, time.monotonic()
      if not under_way:
        return
      ended, _ = concurrent.futures.wait(
          under_way, _SECONDS_BETWEEN_NEWS, concurrent.futures.FIRST_COMPLETED)
      while not self._news.empty():
        kind, run, *values = self._news.get()
        getattr(watcher, kind)(run, *values)
      for future in ended:
        run, since = under_way.pop(future)
        future.result()
        watcher.end_run(run, results(run), time.monotonic() - since)
