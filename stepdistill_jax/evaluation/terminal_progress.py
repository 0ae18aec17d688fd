"""A progress bar of scoring, on a terminal's standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import sys


@contextlib.contextmanager
def shown(file=None) -> Iterator[Callable[[int, int, str], None] | None]:
  """Gives a function to call with (done, total, what); None off a terminal.

  Each `what` (a system, a benchmark, a way of asking) is a bar of its own,
  with rate and time left.
  """
  file = file or sys.stderr
  if not file.isatty():
    yield None
    return
  import rich.console
  import rich.progress

  bar = rich.progress.Progress(
      rich.progress.TextColumn("{task.description}", markup=False),
      rich.progress.BarColumn(), rich.progress.MofNCompleteColumn(),
      rich.progress.TextColumn("{task.fields[rate]}"),
      rich.progress.TimeRemainingColumn(),
      console=rich.console.Console(file=file), transient=True)
  tasks: dict[str, rich.progress.TaskID] = {}

  def report(done: int, total: int, what: str) -> None:
    if what not in tasks:
      tasks[what] = bar.add_task(what, total=total, rate="")
    task = bar.tasks[bar.task_ids.index(tasks[what])]
    rate = f"{task.speed:.1f}/s" if task.speed else ""
    bar.update(tasks[what], completed=done, rate=rate)

  with bar:
    yield report
