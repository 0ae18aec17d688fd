"""What a person sees while the students train.

In a terminal bars: one of all runs, and one of each that is under way, with
rate and time left. Elsewhere a line a run.
"""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

import rich.console
import rich.progress

from stepdistill_jax.quickstart import plan as plan_lib
from stepdistill_jax.util import progress as progress_lib

_MAX_FRACTION = 0.999  # Of a run, before its scores are there.


class _RunBar:
  """One run's bar, from its begin to its end."""

  def __init__(self, bars, clock, run, place, total):
    self._bars, self._clock, self._steps = bars, clock, total
    self._first_step: int | None = None
    self.fraction = 0.0
    self._bar = bars.add_task(
        f"{place} {run.method}, {run.share:.0%} of the stories, seed "
        f"{run.seed}", total=total, note="preparing")

  def at_step(self, step: int) -> None:
    now = self._clock()
    if self._first_step is None:
      # The first step's time is that of reading and compiling.
      self._first_step, self._stepping_since = step, now
      return
    rate = (step - self._first_step) / max(now - self._stepping_since, 1e-9)
    left = (self._steps - step) / max(rate, 1e-9)
    self.fraction = min(step / self._steps, _MAX_FRACTION)
    self._bars.update(
        self._bar, completed=step,
        note=f"{rate:.1f} steps/s, {progress_lib.duration(left)} left")

  def scoring(self, done: int, total: int) -> None:
    self.fraction = _MAX_FRACTION
    self._bars.update(self._bar, completed=self._steps,
                      note=f"scoring: {done:,}/{total:,} answers")

  def remove(self) -> None:
    self._bars.remove_task(self._bar)


class Display:
  """Follows `workers.Workers`; a context manager."""

  def __init__(
      self, plan: plan_lib.Plan, console: rich.console.Console,
      clock: Callable[[], float] = time.monotonic):
    self._plan, self._console, self._clock = plan, console, clock
    self._runs = list(plan.runs())
    self._ended = self._begun = 0
    self._work_done = self._work_skipped = 0.0
    self._under_way: dict[plan_lib.Run, _RunBar] = {}
    self._start = clock()
    self._bars = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.TaskProgressColumn(),
        rich.progress.TextColumn("{task.fields[note]}"),
        console=console, transient=True, disable=not console.is_terminal)
    self._all = self._bars.add_task(
        "all students", total=sum(map(plan.work, self._runs)), note="")

  def __enter__(self) -> Display:
    self._bars.start()
    return self

  def __exit__(self, *unused_exception) -> None:
    self._bars.stop()

  def begin_run(self, run: plan_lib.Run) -> None:
    self._begun += 1
    self._under_way[run] = _RunBar(
        self._bars, self._clock, run, f"{self._begun}/{len(self._runs)}",
        self._plan.steps)

  def at_step(self, run: plan_lib.Run, step: int) -> None:
    self._under_way[run].at_step(step)
    self._show_all()

  def scoring(self, run: plan_lib.Run, done: int, total: int) -> None:
    self._under_way[run].scoring(done, total)

  def end_run(self, run: plan_lib.Run, results: dict[str, Any],
              seconds: float | None) -> None:
    self._under_way.pop(run).remove()
    self._ended += 1
    self._work_done += self._plan.work(run)
    if seconds is None:
      self._work_skipped += self._plan.work(run)
    self._show_all()
    scores = results["systems"][0]
    low, high = scores["ci95"]
    took = "done earlier" if seconds is None else progress_lib.duration(
        seconds)
    self._console.print(
        f"  {self._ended:2}/{len(self._runs)}  {run.method:12}  "
        f"{run.share:4.0%} of the stories  seed {run.seed}  "
        f"{scores['accuracy']:6.1%} [{low:.1%}, {high:.1%}]  {took}",
        highlight=False, markup=False, soft_wrap=True)

  def _show_all(self) -> None:
    """Updates the upper bar; time left goes by what this call has done."""
    done = self._work_done + sum(
        self._plan.work(run) * bar.fraction
        for run, bar in self._under_way.items())
    fresh = done - self._work_skipped
    seconds = self._clock() - self._start
    note = ""
    if fresh:
      left = sum(map(self._plan.work, self._runs)) - done
      note = progress_lib.duration(seconds / fresh * left) + " left"
    self._bars.update(self._all, completed=done, note=note)
