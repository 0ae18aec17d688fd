"""One line of progress on a terminal: how many, how fast, how long yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import sys
import time

_SECONDS_BETWEEN = 0.2


@contextlib.contextmanager
def shown(unit: str, *, enabled: bool = True, file=None,
          clock: Callable[[], float] = time.monotonic
          ) -> Iterator[Callable[..., None] | None]:
  """Gives a function to call with the number done so far, and of how many.

  The second number may be a guess or None: then no time left is shown.

  Args:
    unit: what is counted, such as "rows".
    enabled: False for no output.
    file: where to; standard error by default, if it is a terminal.
    clock: returns seconds.
  """
  file = file or sys.stderr
  if not enabled or not file.isatty():
    yield None
    return
  start = clock()
  last = start
  written = False

  def report(done: int, total: int | None = None) -> None:
    nonlocal last, written
    if done % 64 or (now := clock()) - last < _SECONDS_BETWEEN:
      return
    last, written = now, True
    rate = done / max(now - start, 1e-9)
    of_all = ""
    if total and total >= done:
      of_all = f" of {total:,}"
    line = f"{done:,}{of_all} {unit}, {rate:,.0f}/s"
    if of_all:
      line += f", {_clock_text((total - done) / max(rate, 1e-9))} left"
    file.write(f"\r  {line}\x1b[K")
    file.flush()

  try:
    yield report
  finally:
    if written:
      file.write("\r\x1b[K")
      file.flush()


def _clock_text(seconds: float) -> str:
  """Minutes and seconds: `1:05`."""
  minutes, rest = divmod(round(seconds), 60)
  return f"{minutes}:{rest:02d}"
