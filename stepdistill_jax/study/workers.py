"""Processes that train and score students beside each other.

Each of several processes trains a student of its own, on an accelerator of its
own or on some of the processors; TensorFlow and JAX are imported once in each,
and a program that one has compiled the others read from JAX's compilation
cache.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
import concurrent.futures
from concurrent.futures import process as process_lib
import functools
import multiprocessing
from multiprocessing import connection
import os
import pathlib
import signal
import threading
import time
import traceback
from typing import Any

from stepdistill_jax.study import display, jobs as jobs_lib, places
from stepdistill_jax.util import devices, errors, runtime

# Spawned, as a fork of a process with TensorFlow's threads may hang.
_context = multiprocessing.get_context("spawn")
_SECONDS_TO_END = 10.0
_SECONDS_BETWEEN_NEWS = 0.2  # A person reads no faster.
# A process that was ended takes its run along, and may not have been its fault.
_MOST_STARTS = 2
_news: Any = None  # In a worker: the queue of its progress.


class _News:
  """Sends a run's progress to the parent; a `jobs.Watcher`."""

  def __init__(self, job: jobs_lib.Job, log: pathlib.Path | None):
    self._job, self._log, self._last = job, log, 0.0

  def say(self, text: str) -> None:
    """Lines of `t5x train` go to the run's log, where there is one."""
    if self._log is not None:
      with self._log.open("a", encoding="utf-8") as file:
        file.write(text + "\n")

  def at_step(self, step: int) -> None:
    self._send("at_step", step)

  def scoring(self, done: int, total: int) -> None:
    self._send("scoring", done, total)

  def _send(self, kind: str, *values: int) -> None:
    now = time.monotonic()
    if now - self._last >= _SECONDS_BETWEEN_NEWS:
      self._last = now
      _news.put((kind, self._job.name, *values))


def _begin(news: Any, environments: Any) -> None:
  """Begins a worker, which ends when the parent does, however that ends.

  As if killed: the next call goes on from the last checkpoint.
  """
  global _news
  _news = news
  if environments is not None:
    os.environ.update(environments.get())
  # The parent decides what Ctrl-C means; it reaches all of a terminal.
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=end_with_parent, daemon=True).start()


@functools.cache
def _prepare(platforms: str, threads: int | None) -> None:
  """Imports what a worker needs, once."""
  if threads is not None:
    os.environ["NPROC"] = str(threads)  # Of XLA's threads on a CPU.
  if platforms:
    os.environ["JAX_PLATFORMS"] = platforms
  runtime.configure()
  devices.start()
  tensorflow = runtime.import_tensorflow()
  if threads is not None:
    tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
    tensorflow.config.threading.set_intra_op_parallelism_threads(threads)


def _train_and_score(
    folder: pathlib.Path, job: jobs_lib.Job, platforms: str,
    threads: int | None, log: pathlib.Path | None) -> str:
  """Does a job; returns why it failed, where there is a log for the rest."""
  try:
    if log is not None:
      log.parent.mkdir(parents=True, exist_ok=True)
    _prepare(platforms, threads)
    jobs_lib.train_and_score(folder, job, _News(job, log))
    return ""
  except Exception as error:
    if log is None:
      raise
    import gin

    gin.clear_config()
    if not isinstance(error, errors.UserError):
      with log.open("a", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
      return (f"{type(error).__name__}: {errors.first_line(error)} (the rest: "
              f"{log})")
    return errors.one_line(str(error))


class Workers:
  """Processes that do jobs; a context manager that ends them.

  They import what they need while the caller prepares the data.
  """

  def __init__(self, folder: pathlib.Path, jobs: Sequence[jobs_lib.Job],
               place: places.Place, *, logs: pathlib.Path | None = None,
               on_failure: Callable[[], object] = lambda: None):
    """Initializes.

    Args:
      folder: of all runs.
      jobs: what to do; those that are done are shown as such.
      place: where; fewer processes if fewer runs are left.
      logs: a folder for each run's log. Given, a run that fails does not end
        the others.
      on_failure: called when one has; what it raises ends all.
    """
    self._folder, self._place, self._logs = folder, place, logs
    self._on_failure = on_failure
    done = {job.name for job in jobs if jobs_lib.is_done(folder, job)}
    self._jobs = {job.name: job for job in jobs}
    self._done = [job for job in jobs if job.name in done]
    self._todo = collections.deque(job for job in jobs if job.name not in done)
    self._number = min(place.number, len(self._todo))
    self._open()

  def _open(self) -> None:
    self._news = _context.SimpleQueue()
    environments = None
    if self._place.environments:
      environments = _context.SimpleQueue()
      for environment in self._place.environments:
        environments.put(environment)
    self._pool = concurrent.futures.ProcessPoolExecutor(
        self._number or 1, _context, _begin, (self._news, environments))
    others = multiprocessing.active_children()
    for _ in range(self._number):
      self._pool.submit(_prepare, self._place.platforms, self._threads)
    self.processes = [process for process in multiprocessing.active_children()
                      if process not in others]

  @property
  def _threads(self) -> int | None:
    """Of each; one that is alone has all."""
    return None if self._number == 1 else self._place.threads

  def __enter__(self) -> Workers:
    return self

  def __exit__(self, *unused_exception) -> None:
    self._close()

  def _close(self) -> None:
    # The pool's own thread alone waits for the processes: of two that do, one
    # would find that there is no such process, and have no exit code.
    for process in self.processes:
      process.terminate()
    deadline = time.monotonic() + _SECONDS_TO_END
    for process in self.processes:
      connection.wait([process.sentinel], max(0.0, deadline - time.monotonic()))
      process.kill()
    self._pool.shutdown(wait=True, cancel_futures=True)

  def run(self, watcher: display.Display,
          failures: dict[str, str] | None = None) -> dict[str, str]:
    """Does all jobs that are not done yet.

    Args:
      watcher: shows progress.
      failures: takes what fails, as it does.

    Returns:
      Names of the runs that failed, and why; empty without logs.

    Raises:
      errors.UserError: of any worker, or one was killed; without logs.
    """
    for job in self._done:
      watcher.begin_run(job)
      watcher.end_run(job, self._results(job), None)
    failures = {} if failures is None else failures
    starts: collections.Counter[str] = collections.Counter()
    while self._todo:
      under_way: dict[concurrent.futures.Future, tuple[Any, float]] = {}
      try:
        self._run_all(watcher, under_way, failures, starts)
      except process_lib.BrokenProcessPool as error:
        line = self._why_broken()
        if self._logs is None:
          raise errors.UserError(
              f"{line}; the same command goes on from here") from error
        self._close()
        for job, _ in under_way.values():
          if starts[job.name] < _MOST_STARTS:
            self._todo.appendleft(job)
          else:
            failures[job.name] = line
            watcher.fail_run(job, line)
        self._open()
    return failures

  def _why_broken(self) -> str:
    # The pool has ended the others by SIGTERM, and knows all exit codes then.
    self._pool.shutdown(wait=True)
    code = next((p.exitcode for p in self.processes if p.exitcode not in (
        None, -signal.SIGTERM)), "unknown")
    return ("a process that trains students was ended from outside (exit code "
            f"{code}; -9 is mostly for want of memory: take --workers=1)")

  def _results(self, job: jobs_lib.Job) -> dict[str, Any]:
    return jobs_lib.read_results(self._folder, job, job.splits[-1])

  def _run_all(self, watcher, under_way, failures, starts) -> None:
    while True:
      while self._todo and len(under_way) < self._number:
        job = self._todo.popleft()
        watcher.begin_run(job)
        starts[job.name] += 1
        # A pool that is broken refuses it at once, or when it is asked.
        future: concurrent.futures.Future = concurrent.futures.Future()
        under_way[future] = job, time.monotonic()
        log = self._logs and self._logs / f"{job.name}.log"
        submitted = self._pool.submit(
            _train_and_score, self._folder, job, self._place.platforms,
            self._threads, log)
        under_way[submitted] = under_way.pop(future)
      if not under_way:
        return
      ended, _ = concurrent.futures.wait(
          under_way, _SECONDS_BETWEEN_NEWS, concurrent.futures.FIRST_COMPLETED)
      while not self._news.empty():
        kind, name, *values = self._news.get()
        getattr(watcher, kind)(self._jobs[name], *values)
      for future in ended:
        failure = future.result()
        job, since = under_way.pop(future)
        if failure:
          failures[job.name] = failure
          watcher.fail_run(job, failure)
          self._on_failure()
        else:
          watcher.end_run(job, self._results(job), time.monotonic() - since)
