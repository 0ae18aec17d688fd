"""Starting a worker, and showing what it does until it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, TextIO

from stepdistill_jax.teacher import prompts
from stepdistill_jax.teacher.ask import client, job, retries, rows, worker
from stepdistill_jax.teacher.importing import table_files
from stepdistill_jax.util import errors

_ROOT = pathlib.Path(__file__).resolve().parents[3]
# Where nobody watches a terminal, a line this often is enough.
_LINE_EVERY_S = 30.0


def run(spec: job.Spec, *, show: bool = True) -> job.Outcome:
  """Collects in a worker process; returns when it has ended.

  Ctrl-C (and SIGTERM) has the worker finish what is under way; a second one
  has it stop at once.

  Raises:
    errors.UserError: a mistake in the spec, or something the worker met.
  """
  check(spec)
  with tempfile.TemporaryFile() as log:
    with subprocess.Popen(
        [sys.executable, "-m", worker.__name__], stdin=subprocess.PIPE,
        # Not this process's own outputs: who waits for their end must not
        # wait for a worker that outlives this process.
        stdout=subprocess.PIPE, stderr=log, env=_environment(),
        # Signals to this process's group must not reach it.
        start_new_session=True) as process:
      orders = _Orders(process)
      with orders.signals():
        orders.write(json.dumps(dataclasses.asdict(spec)))
        ended = _follow(process.stdout, Display(enabled=show), orders)
    if ended is None:
      log.seek(0)
      raise errors.UserError(
          "the collector's process was killed; what was collected is in "
          f"{spec.output}: run the same command again "
          + log.read()[-300:].decode("utf-8", "replace"))
  ended["progress"] = retries.Progress(**ended["progress"])
  return job.Outcome(**ended)


def check(spec: job.Spec) -> None:
  """Refuses mistakes before anything is started.

  Raises:
    errors.UserError: there is one.
  """
  prompt = prompts.find(spec.prompt, spec.dataset)
  job.make_settings(spec, prompt)
  job.api_key(spec)
  source = rows.find(spec.dataset, spec.rows, spec.split,
                     table_files.parse_columns(spec.columns), spec.limit)
  next(source.read(prompt), None)
  _ = spec.teacher_name  # Refuses what cannot be one.
  client.require_openai()


def _environment() -> dict[str, str]:
  """This process's environment, with this package on Python's path."""
  paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
  return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _follow(events, display: Display, orders: _Orders
            ) -> dict[str, Any] | None:
  """Shows events until the last; its fields, or None if there was none.

  Raises:
    errors.UserError: the worker met a user's mistake.
  """
  for line in events:
    event = json.loads(line)
    kind = event.pop("event")
    if kind == worker.Event.ENDED:
      display.clear()
      return event
    if kind == worker.Event.ERROR:
      display.clear()
      raise errors.UserError(event["message"])
    if kind == worker.Event.CRASHED:
      display.clear()
      raise RuntimeError(f"the collector failed:\n{event['message']}")
    display.show(kind, event, orders.given)
  return None


class _Orders:
  """What is told to the worker, by signals to this process."""

  def __init__(self, process: subprocess.Popen):
    self._input = process.stdin
    self.given = 0

  def write(self, line: str) -> None:
    try:
      self._input.write(line.encode("utf-8") + b"\n")
      self._input.flush()
    except OSError:
      pass  # It has ended; its last event tells why.

  def signals(self) -> _Signals:
    return _Signals(self._obey)

  def _obey(self, *unused) -> None:
    self.given += 1
    self.write(worker.DRAIN if self.given == 1 else worker.ABORT)


class _Signals:
  """Handles SIGINT and SIGTERM for a while; a context manager."""

  def __init__(self, handler: Callable[..., None]):
    self._handler = handler
    self._before: dict[int, Any] = {}

  def __enter__(self) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
      try:
        self._before[number] = signal.signal(number, self._handler)
      except ValueError:
        pass  # Not the main thread, as in a notebook's.

  def __exit__(self, *exception) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)


class Display:
  """One line of progress: how many, how fast, how long, what it costs."""

  def __init__(self, *, enabled: bool = True, file: TextIO | None = None,
               clock: Callable[[], float] = time.monotonic):
    self._file = file or sys.stderr
    self._enabled = enabled
    self._terminal = self._file.isatty()
    self._clock = clock
    self._total = self._present = 0
    self._start = self._last = clock()
    self._told_orders = self._told_notes = 0
    self._line_open = False

  def show(self, kind: str, event: Mapping[str, Any], orders: int) -> None:
    """Shows a worker's event."""
    if not self._enabled:
      return
    if kind == worker.Event.WAITING:
      self._say(f"{event['message']}; waiting for it to end")
    elif kind == worker.Event.STARTED:
      self._total, self._present = event["total"], event["present"]
      self._start = self._clock()
      self._say(f"{self._present:,} of {self._total:,} completions are there")
      if event["in_doubt"]:
        self._say(
            f"{event['in_doubt']:,} requests were under way when the last "
            "collector was killed; a server that does not know the "
            "Idempotency-Key header may charge them twice "
            "(--in_doubt=hold leaves them out)")
    elif kind == worker.Event.PROGRESS:
      if orders > self._told_orders:
        self._told_orders = orders
        self._say(
            f"finishing {event['under_way']} requests under way; Ctrl-C again "
            "stops at once and may lose them" if orders == 1 else "stopping")
      for note in event["notes"][self._told_notes:]:
        self._say(note)
      self._told_notes = len(event["notes"])
      self._show_progress(retries.Progress(**event))

  def clear(self) -> None:
    """Ends the line of progress."""
    if self._line_open:
      self._file.write("\r\x1b[K")
      self._file.flush()
      self._line_open = False

  def _say(self, text: str) -> None:
    self.clear()
    print(text, file=self._file, flush=True)

  def _show_progress(self, progress: retries.Progress) -> None:
    text = progress_text(
        progress, total=self._total, present=self._present,
        seconds=self._clock() - self._start)
    if self._terminal:
      self._file.write(f"\r  {text}\x1b[K")
      self._file.flush()
      self._line_open = True
    elif self._clock() - self._last >= _LINE_EVERY_S:
      self._last = self._clock()
      self._say(text)


def progress_text(progress: retries.Progress, *, total: int, present: int,
                  seconds: float) -> str:
  """One line: how many, how fast, how long, what it costs."""
  done = progress.durable - progress.failed
  rate = done / max(seconds, 1e-9)
  parts = [f"{present + done:,}/{total:,}", f"{rate:,.1f}/s"]
  if rate > 0:
    parts.append(f"ETA {_duration((total - present - done) / rate)}")
  parts.append(f"{progress.under_way} under way")
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


def _duration(seconds: float) -> str:
  """Seconds as h:mm:ss."""
  whole = max(0, round(seconds))
  return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
