"""What a person sees of a run: a progress bar in a terminal, lines elsewhere.

Everything goes to the standard error, so that results can be piped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import time
from typing import Any, Protocol, Self

import numpy as np
import rich.console
import rich.progress

from stepdistill_jax.util import runtime

_console = rich.console.Console(stderr=True, highlight=False)


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


class Progress:
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
    self._total = total_steps
    self._first = self._step = first_step
    self._now = now
    self._start = now()
    self._bar: rich.progress.Progress | None = None
    if _console.is_terminal and _watcher is None:
      self._bar = rich.progress.Progress(
          rich.progress.TextColumn("step {task.completed}/{task.total}"),
          rich.progress.BarColumn(),
          rich.progress.TextColumn("{task.fields[rate]}"),
          rich.progress.TimeRemainingColumn(compact=True),
          rich.progress.TextColumn("{task.fields[note]}"),
          console=_console, transient=True)
      self._task = self._bar.add_task(
          "", total=total_steps, completed=first_step, rate="", note="")

  def __enter__(self) -> Self:
    self._start = self._now()
    if self._bar is not None:
      self._bar.start()
    if _watcher is not None:
      _watcher.at_step(self._first)
    return self

  def __exit__(self, *unused_exception: object) -> None:
    if self._bar is not None:
      self._bar.stop()

  def _rate(self) -> float:
    return (self._step - self._first) / max(self._now() - self._start, 1e-9)

  def at_step(self, step: int) -> None:
    """Called after every step."""
    if self._step == self._first < step:
      say(f"first step done {time.time() - runtime.START_TIME:.1f} s after "
          "the start")
    self._step = step
    if _watcher is not None:
      _watcher.at_step(step)
    if self._bar is not None:
      self._bar.update(self._task, completed=step,
                       rate=f"{self._rate():.1f} steps/s")

  def report(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Called with the merged metrics of some steps, name -> float."""
    line = metrics_line(metrics)
    if self._bar is not None:
      self._bar.update(self._task, note=line)
      return
    rate = metrics.get("timing/steps_per_second") or self._rate()
    left = (self._total - step) / rate if rate else 0.0
    say(f"step {step}/{self._total}  {line}  {rate:.3g} steps/s  "
        f"{duration(left)} left")
