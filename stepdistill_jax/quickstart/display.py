"""What a person sees while the students train.

In a terminal two bars: all runs, and the current one, with rate and time
left. Elsewhere a line a run.
"""

from __future__ import annotations

import time
from typing import Any, Callable

import rich.console
import rich.progress

from stepdistill_jax import progress as progress_lib
from stepdistill_jax.quickstart import plan as plan_lib

# A pair is two examples; a step of step_by_step takes about twice as long.
_EXAMPLES_PER_RECORD = {"step_by_step": 2}
_MAX_FRACTION = 0.999  # Of a run, before its scores are there.


class Display:
  """Follows `runs.train_and_score`; a context manager."""

  def __init__(
      self, plan: plan_lib.Plan, console: rich.console.Console,
      clock: Callable[[], float] = time.monotonic):
    self._plan, self._console, self._clock = plan, console, clock
    self._runs = list(plan.runs())
    self._place = 0
    self._work_done = self._work_skipped = 0.0
    self._start = self._run_start = clock()
    self._first_step: int | None = None
    self._bars = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.TaskProgressColumn(),
        rich.progress.TextColumn("{task.fields[note]}"),
        console=console, transient=True, disable=not console.is_terminal)
    self._all = self._bars.add_task(
        "all students", total=sum(map(self._work, self._runs)), note="")
    self._one = self._bars.add_task("", total=plan.steps, note="")

  def __enter__(self) -> Display:
    self._bars.start()
    return self

  def __exit__(self, *unused_exception) -> None:
    self._bars.stop()

  def begin_run(self, run: plan_lib.Run) -> None:
    self._place += 1
    self._run_start, self._first_step = self._clock(), None
    self._bars.reset(
        self._one, total=self._plan.steps, note="preparing",
        description=f"{self._place}/{len(self._runs)} {run.method}, "
        f"{run.share:.0%} of the stories, seed {run.seed}")

  def say(self, text: str) -> None:
    """Lines of `t5x train` stay in its logs."""

  def at_step(self, step: int) -> None:
    now = self._clock()
    if self._first_step is None:
      # The first step's time is that of reading and compiling.
      self._first_step, self._stepping_since = step, now
      return
    rate = (step - self._first_step) / max(now - self._stepping_since, 1e-9)
    left = (self._plan.steps - step) / max(rate, 1e-9)
    self._bars.update(
        self._one, completed=step,
        note=f"{rate:.1f} steps/s, {progress_lib.duration(left)} left")
    self._show_all(step / self._plan.steps)

  def scoring(self, done: int, total: int) -> None:
    self._bars.update(
        self._one, completed=self._plan.steps,
        note=f"scoring: {done:,}/{total:,} answers")

  def end_run(self, run: plan_lib.Run, results: dict[str, Any],
              seconds: float | None) -> None:
    work = self._work(run)
    self._work_done += work
    if seconds is None:
      self._work_skipped += work
    self._show_all(0)
    scores = results["systems"][0]
    low, high = scores["ci95"]
    took = "done earlier" if seconds is None else progress_lib.duration(
        seconds)
    self._console.print(
        f"  {self._place:2}/{len(self._runs)}  {run.method:12}  "
        f"{run.share:4.0%} of the stories  seed {run.seed}  "
        f"{scores['accuracy']:6.1%} [{low:.1%}, {high:.1%}]  {took}",
        highlight=False, markup=False)

  def _work(self, run: plan_lib.Run) -> float:
    return self._plan.steps * _EXAMPLES_PER_RECORD.get(run.method, 1)

  def _show_all(self, fraction_of_run: float) -> None:
    """Updates the upper bar; time left goes by what this call has done."""
    done = self._work_done
    if fraction_of_run:
      run = self._runs[self._place - 1]
      done += self._work(run) * min(fraction_of_run, _MAX_FRACTION)
    fresh = done - self._work_skipped
    total = sum(map(self._work, self._runs))
    seconds = self._clock() - self._start
    note = ""
    if fresh:
      note = progress_lib.duration(seconds / fresh * (total - done)) + " left"
    self._bars.update(self._all, completed=done, note=note)
