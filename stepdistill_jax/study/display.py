"""The progress of many students: their bars, a line each when one ends."""

from collections.abc import Callable, Sequence
import time
from typing import Any

import rich.console

from stepdistill_jax.study import jobs as jobs_lib
from stepdistill_jax.util import progress

_MAX_FRACTION = 0.999  # Of a run, before its scores are there.


class Display(progress.Bars):
  """Follows `workers.Workers`; a context manager."""

  def __init__(
      self, jobs: Sequence[jobs_lib.Job], console: rich.console.Console,
      clock: Callable[[], float] = time.monotonic):
    super().__init__("steps", console=console, quiet=console.quiet, clock=clock)
    self._jobs = jobs
    self._width = max((len(job.title) for job in jobs), default=0)
    self._begun: dict[jobs_lib.Job, str] = {}
    self._fractions: dict[jobs_lib.Job, float] = {}  # Of those under way.
    self._ended: list[jobs_lib.Job] = []
    self._work_skipped = 0.0

  def begin_run(self, job: jobs_lib.Job) -> None:
    if job not in self._begun:
      title = " ".join(job.title.split())
      self._begun[job] = f"{len(self._begun) + 1}/{len(self._jobs)} {title}"
    self._fractions[job] = 0.0
    self.update(0, job.steps, self._begun[job], note="preparing")

  def at_step(self, job: jobs_lib.Job, step: int) -> None:
    if not self._fractions[job]:
      # The first step's time is that of reading and compiling.
      self.remove(self._begun[job])
    self._fractions[job] = min(
        max(step, 1) / (job.steps or step or 1), _MAX_FRACTION)
    self.update(step, job.steps, self._begun[job])
    self._show_all()

  def scoring(self, job: jobs_lib.Job, done: int, total: int) -> None:
    self._fractions[job] = _MAX_FRACTION
    steps = job.steps or 1
    self.update(steps, steps, self._begun[job],
                note=f"scoring: {done:,}/{total:,} answers")

  def end_run(self, job: jobs_lib.Job, results: dict[str, Any],
              seconds: float | None) -> None:
    """Called with a run's scores; `seconds` is None where it was done."""
    scores = [s for s in results["systems"] if s["kind"] == "checkpoint"]
    took = "done earlier" if seconds is None else progress.duration(seconds)
    low, high = scores[0]["ci95"]
    text = (f"{scores[0]['accuracy']:6.1%} [{low:.1%}, {high:.1%}]"
            if len(scores) == 1 else ", ".join(
                f"{s['benchmark']} {s['accuracy']:.1%}" for s in scores))
    self._end(job, f"{text}  {took}", seconds)

  def fail_run(self, job: jobs_lib.Job, line: str) -> None:
    """Called with the reason why a run did not come to its end."""
    self._end(job, f"failed: {line}", 0.0)

  def _end(self, job, text: str, seconds: float | None) -> None:
    self._fractions.pop(job, None)
    self.remove(self._begun[job])
    self._ended.append(job)
    if seconds is None:
      self._work_skipped += job.work
    self._show_all()
    self._console.print(
        f"  {len(self._ended):2}/{len(self._jobs)}  "
        f"{job.title:{self._width}}  {text}",
        highlight=False, markup=False, soft_wrap=True)

  def _show_all(self) -> None:
    """Updates the bar of all; time left goes by what this call has done."""
    done = sum(job.work for job in self._ended) + sum(
        job.work * fraction for job, fraction in self._fractions.items())
    total = sum(job.work for job in self._jobs)
    fresh = done - self._work_skipped
    if fresh:
      seconds = (self._clock() - self._start) / fresh * (total - done)
      self.update(int(done), total, "all students",
                        note=f"{progress.duration(seconds)} left")
