"""Starting a worker, and showing what it does until it ends."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from typing import Any

from stepdistill_jax.teacher.ask import (
  client,
  job,
  retries,
  spec as spec_lib,
  worker,
)
from stepdistill_jax.util import errors, progress as progress_lib

_ROOT = pathlib.Path(__file__).resolve().parents[3]


def run(spec: spec_lib.Spec, *, show: bool = True) -> job.Outcome:
  """Collects in a worker process; returns when it has ended.

  Ctrl-C (and SIGTERM) has the worker finish what is under way; a second one
  has it stop at once.

  Raises:
    errors.UserError: a mistake in the spec, or something the worker met.
  """
  check(spec)
  path = os.environ.get("PYTHONPATH", "")
  with tempfile.TemporaryFile() as log:
    with subprocess.Popen(
        [sys.executable, "-m", worker.__name__], stdin=subprocess.PIPE,
        # Not this process's own outputs: who waits for their end must not
        # wait for a worker that outlives this process.
        stdout=subprocess.PIPE, stderr=log, env={
            **os.environ, "PYTHONPATH": os.pathsep.join(
                filter(None, (str(_ROOT), path)))},
        # Signals to this process's group must not reach it.
        start_new_session=True) as process:
      orders = _Orders(process)
      with orders.signals(), progress_lib.Bars(
          "completions", quiet=not show) as bars:
        orders.write(json.dumps(dataclasses.asdict(spec)))
        ended = _Display(
            bars, progress_lib.say if show else lambda text: None,
            orders).follow(process.stdout)
    if ended is None:
      log.seek(0)
      raise errors.UserError(
          "the collector's process was killed; what was collected is in "
          f"{spec.output}: run the same command again "
          + log.read()[-300:].decode("utf-8", "replace"))
  ended["progress"] = retries.Progress(**ended["progress"])
  return job.Outcome(**ended)


def check(spec: spec_lib.Spec) -> None:
  """Refuses mistakes before anything is started.

  Raises:
    errors.UserError: there is one.
  """
  prompt, _, source = job.prepare(spec)
  spec_lib.api_key(spec)
  next(source.read(prompt), None)
  _ = spec.teacher_name  # Refuses what cannot be one.
  client.require_openai()


class _Orders:
  """Orders to the worker, given by signals to this process."""

  def __init__(self, process: subprocess.Popen):
    self._input = process.stdin
    self.given = 0

  def write(self, line: str) -> None:
    with contextlib.suppress(OSError):  # It has ended; its last event says why.
      self._input.write(line.encode("utf-8") + b"\n")
      self._input.flush()

  @contextlib.contextmanager
  def signals(self) -> Iterator[None]:
    """Has SIGINT and SIGTERM give orders inside."""
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
      # Elsewhere than in the main thread, as in a notebook's, there are none.
      with contextlib.suppress(ValueError):
        before[number] = signal.signal(number, self._obey)
    try:
      yield
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)

  def _obey(self, *unused) -> None:
    self.given += 1
    self.write(worker.DRAIN if self.given == 1 else worker.ABORT)


class _Display:
  """Shows a worker's events."""

  def __init__(self, bars: progress_lib.Bars, say: Callable[[str], None],
               orders: _Orders):
    self._bars, self._say, self._given = bars, say, orders
    self._total = self._present = self._notes = self._orders = 0

  def follow(self, events: Iterable[bytes]) -> dict[str, Any] | None:
    """Shows events until the last; its fields, or None if there was none.

    Raises:
      errors.UserError: the worker met a user's mistake.
    """
    for line in events:
      event = json.loads(line)
      kind = event.pop("event")
      if kind == worker.Event.ENDED:
        return event
      if kind == worker.Event.ERROR:
        raise errors.UserError(event["message"])
      if kind == worker.Event.CRASHED:
        raise RuntimeError(f"the collector failed:\n{event['message']}")
      if kind == worker.Event.WAITING:
        self._say(f"{event['message']}; waiting for it to end")
      elif kind == worker.Event.STARTED:
        self._started(**event)
      else:
        self._progress(retries.Progress(**event))
    return None

  def _started(self, total: int, present: int, in_doubt: int) -> None:
    self._total, self._present = total, present
    self._say(f"{present:,} of {total:,} completions are there")
    if in_doubt:
      self._say(
          f"{in_doubt:,} requests were under way when the last collector was "
          "killed; a server that does not know the Idempotency-Key header may "
          "charge them twice (--in_doubt=hold leaves them out)")

  def _progress(self, progress: retries.Progress) -> None:
    if self._given.given > self._orders:
      self._orders = self._given.given
      self._say(
          f"finishing {progress.under_way} requests under way; Ctrl-C again "
          "stops at once and may lose them" if self._orders == 1
          else "stopping")
    for note in progress.notes[self._notes:]:
      self._say(note)
    self._notes = len(progress.notes)
    self._bars.update(
        self._present + progress.durable - progress.failed, self._total,
        first=self._present, more=progress_text(progress))


def progress_text(progress: retries.Progress) -> str:
  """What is under way, what fails, and what it costs."""
  parts = [f"{progress.under_way} under way"]
  if progress.retries:
    # Of them, what fails most often: it may be the user's to mend.
    most = max(progress.failures, key=progress.failures.get, default="")
    parts.append(f"{progress.retries:,} retries" + (most and f" ({most})"))
  if progress.failed:
    parts.append(f"{progress.failed:,} failed")
  parts.append(f"{progress.prompt_tokens:,}+{progress.completion_tokens:,} "
               "tokens")
  if progress.usd:
    parts.append(f"${progress.usd:,.4f}")
  return ", ".join(parts)
