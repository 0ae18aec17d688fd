"""Progress of long work: bars in a terminal, lines elsewhere.

Everything goes to the standard error, so that results can be piped.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import time
from typing import Any, Protocol, Self

import numpy as np
import rich.console
import rich.progress

from stepdistill_jax.util import runtime

_console = rich.console.Console(stderr=True, highlight=False)
_SECONDS_BETWEEN = 0.2  # A person reads no faster.
_SECONDS_SILENT = 60.0  # Off a terminal.


class Watcher(Protocol):
  """Takes a run's progress in place of the terminal."""

  def say(self, text: str) -> None:
    """Called with what would be a line."""

  def at_step(self, step: int) -> None:
    """Called after every step, and before the first."""


_watcher: Watcher | None = None


@contextlib.contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
  """Gives the progress of runs inside to a program that shows its own."""
  global _watcher
  before, _watcher = _watcher, watcher
  try:
    yield
  finally:
    _watcher = before


def is_watched() -> bool:
  """Whether another program shows the progress."""
  return _watcher is not None


def say(text: str) -> None:
  """Prints a line, above the progress bar if there is one."""
  if _watcher is not None:
    _watcher.say(text)
    return
  _console.print(text, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
  """Seconds as `42s`, `3m 20s` or `2h 05m`."""
  seconds = int(round(seconds))
  if seconds < 60:
    return f"{seconds}s"
  if seconds < 3600:
    return f"{seconds // 60}m {seconds % 60:02}s"
  return f"{seconds // 3600}h {seconds % 3600 // 60:02}m"


def number(value: float) -> str:
  """A number in about five characters."""
  value = float(value)
  if value == 0 or 1e-3 <= abs(value) < 1e5:
    return f"{value:.4g}"
  return f"{value:.1e}"


def metrics_line(metrics: Mapping[str, Any]) -> str:
  """The metrics of the train loss that a person follows; else empty."""
  names = [n for n in metrics if n.split("/")[0] in ("loss", "accuracy")
           or n == "loss_per_nonpadding_target_token"]
  if "loss" not in names:
    return ""
  pairs = [f"{n} {number(metrics[n])}" for n in sorted(names, reverse=True)]
  if "learning_rate/current" in metrics:
    pairs.append(f"lr {number(metrics['learning_rate/current'])}")
  return "  ".join(pairs)


def floats(metrics: Mapping[str, Any]) -> Mapping[str, float]:
  """The scalars among metrics, `clu.values.Scalar` or plain."""
  scalars = {k: getattr(v, "value", v) for k, v in metrics.items()}
  return {k: float(v) for k, v in scalars.items()
          if np.ndim(v) == 0 and not isinstance(v, (str, bytes))}


def say_metrics(
    kind: str, step: int, metrics: Mapping[str, Mapping[str, Any]]) -> None:
  """Prints a line for each evaluated task.

  Args:
    kind: of evaluation, `train-eval` or `infer-eval`.
    step: of the checkpoint.
    metrics: task -> metric -> value.
  """
  for task, values in metrics.items():
    values = floats(values)
    line = metrics_line(values) or "  ".join(
        f"{name} {number(value)}" for name, value in values.items())
    say(f"{kind} at step {step}  {task}  {line}")


class Bars:
  """A bar for each piece of work that is under way; a context manager.

  Off a terminal each is a line every minute.
  """

  def __init__(
      self, unit: str = "", *, console: rich.console.Console | None = None,
      quiet: bool = False, clock: Callable[[], float] = time.monotonic):
    """Initializes.

    Args:
      unit: what is counted, such as `rows`.
      console: where to; the standard error by default.
      quiet: shows nothing.
      clock: returns seconds.
    """
    self._unit, self._clock, self._quiet = unit, clock, quiet
    self._console = console or _console
    self._start = clock()
    self.next_line_at = self._start + _SECONDS_SILENT
    # Work -> (how many were done when it began, when, its bar).
    self._work: dict[str, tuple[int, float, rich.progress.TaskID]] = {}
    self._shown: dict[str, float] = {}
    self._bars = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.TextColumn("{task.fields[text]}", markup=False),
        console=self._console, transient=True,
        disable=quiet or not self._console.is_terminal)

  def __enter__(self) -> Self:
    self._start = self._clock()
    self._bars.start()
    return self

  def __exit__(self, *unused_exception: object) -> None:
    self._bars.stop()

  def update(self, done: int, total: float | None = None, what: str = "", *,
             first: int | None = None, note: str | None = None,
             more: str = "") -> None:
    """Shows how far a piece of work is.

    Args:
      done: how many are done.
      total: of how many, about; None where that is unknown.
      what: the name of the work; a new one has a bar of its own.
      first: how many were done when the bars began; by default 0 for work
        that has no name, while other begins with its first call.
      note: shown instead of the numbers.
      more: shown after the numbers.
    """
    now = self._clock()
    if self._quiet or not note and now - self._shown.get(
        what, 0.0) < _SECONDS_BETWEEN:
      return
    self._shown[what] = now
    if what not in self._work:
      own_clock = what and first is None
      self._work[what] = (
          done if own_clock else first or 0, now if own_clock else self._start,
          self._bars.add_task(what, text=""))
    begun, since, bar = self._work[what]
    text = note or ", ".join(filter(None, (
        self._count(done - begun, now - since, done, total), more)))
    if self._console.is_terminal:
      self._bars.update(bar, completed=done, total=total, text=text)
    elif now >= self.next_line_at:
      self._console.print(f"{what}: {text}" if what else text, markup=False,
                          soft_wrap=True)
      self.next_line_at = now + _SECONDS_SILENT

  def _count(self, fresh: int, seconds: float, done: int,
             total: float | None) -> str:
    """`640 of 6,400 rows, 64/s, 1m 30s left`."""
    rate = fresh / max(seconds, 1e-9)
    left = None if total is None or total < done else total - done
    text = f"{done:,}" + ("" if left is None else f" of {total:,}")
    text += f" {self._unit}" if self._unit else ""
    if rate > 0:
      text += f", {rate:,.0f}/s" if rate >= 100 else f", {rate:.3g}/s"
      if left is not None:
        text += f", {duration(left / rate)} left"
    return text

  def remove(self, what: str) -> None:
    """Takes a piece of work's bar away."""
    if what in self._work:
      self._bars.remove_task(self._work.pop(what)[2])
      del self._shown[what]


class Progress(Bars):
  """Shows how far training is. Use as a context manager."""

  def __init__(
      self, total_steps: int, first_step: int,
      now: Callable[[], float] = time.time):
    """Initializes.

    Args:
      total_steps: the step at which training ends.
      first_step: the step at which it begins.
      now: the clock, in seconds.
    """
    super().__init__("steps", quiet=_watcher is not None, clock=now)
    self._total = total_steps
    self._first = self._step = first_step
    self._line = ""

  def __enter__(self) -> Self:
    super().__enter__()
    if _watcher is not None:
      _watcher.at_step(self._first)
    return self

  def at_step(self, step: int) -> None:
    """Called after every step."""
    if self._step == self._first < step:
      say(f"first step done {time.time() - runtime.START_TIME:.1f} s after "
          "the start")
    self._step = step
    if _watcher is not None:
      _watcher.at_step(step)
    self.update(step, self._total, first=self._first, more=self._line)

  def report(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Called with the merged metrics of some steps, name -> float."""
    self._line = metrics_line(metrics)
    if _console.is_terminal and _watcher is None:
      return
    rate = metrics.get("timing/steps_per_second") or (
        step - self._first) / max(self._clock() - self._start, 1e-9)
    left = (self._total - step) / rate if rate else 0.0
    say(f"step {step}/{self._total}  {self._line}  {rate:.3g} steps/s  "
        f"{duration(left)} left")
    self.next_line_at = self._clock() + _SECONDS_SILENT
