"""The progress of the students: their bars, and a line each when it ends."""

from collections.abc import Callable
import time
from typing import Any

import rich.console

from stepdistill_jax.quickstart import plan as plan_lib
from stepdistill_jax.util import progress

_MAX_FRACTION = 0.999  # Of a run, before its scores are there.


class Display(progress.Bars):
  """Follows `workers.Workers`; a context manager."""

  def __init__(
      self, plan: plan_lib.Plan, console: rich.console.Console,
      clock: Callable[[], float] = time.monotonic):
    super().__init__(
        "steps", console=console, quiet=console.quiet, clock=clock)
    self._plan = plan
    self._runs = list(plan.runs())
    self._begun: dict[plan_lib.Run, str] = {}
    self._fractions: dict[plan_lib.Run, float] = {}  # Of those under way.
    self._ended: list[plan_lib.Run] = []
    self._work_skipped = 0.0

  def begin_run(self, run: plan_lib.Run) -> None:
    name = (f"{len(self._begun) + 1}/{len(self._runs)} {run.method}, "
            f"{run.share:.0%} of the stories, seed {run.seed}")
    self._begun[run] = name
    self._fractions[run] = 0.0
    self.update(0, self._plan.steps, name, note="preparing")

  def at_step(self, run: plan_lib.Run, step: int) -> None:
    if not self._fractions[run]:
      # The first step's time is that of reading and compiling.
      self.remove(self._begun[run])
    self._fractions[run] = min(
        max(step, 1) / self._plan.steps, _MAX_FRACTION)
    self.update(step, self._plan.steps, self._begun[run])
    self._show_all()

  def scoring(self, run: plan_lib.Run, done: int, total: int) -> None:
    self._fractions[run] = _MAX_FRACTION
    self.update(
        self._plan.steps, self._plan.steps, self._begun[run],
        note=f"scoring: {done:,}/{total:,} answers")

  def end_run(self, run: plan_lib.Run, results: dict[str, Any],
              seconds: float | None) -> None:
    del self._fractions[run]
    self.remove(self._begun[run])
    self._ended.append(run)
    if seconds is None:
      self._work_skipped += self._plan.work(run)
    self._show_all()
    scores = results["systems"][0]
    low, high = scores["ci95"]
    took = "done earlier" if seconds is None else progress.duration(seconds)
    self._console.print(
        f"  {len(self._ended):2}/{len(self._runs)}  {run.method:12}  "
        f"{run.share:4.0%} of the stories  seed {run.seed}  "
        f"{scores['accuracy']:6.1%} [{low:.1%}, {high:.1%}]  {took}",
        highlight=False, markup=False, soft_wrap=True)

  def _show_all(self) -> None:
    """Updates the bar of all; time left goes by what this call has done."""
    work = self._plan.work
    done = sum(map(work, self._ended)) + sum(
        work(run) * fraction for run, fraction in self._fractions.items())
    total, fresh = sum(map(work, self._runs)), done - self._work_skipped
    if fresh:
      seconds = (self._clock() - self._start) / fresh * (total - done)
      self.update(int(done), total, "all students",
                        note=f"{progress.duration(seconds)} left")
