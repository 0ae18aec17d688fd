"""One line of progress on a terminal: how many, how fast, how long yet."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Callable, Iterator

_SECONDS_BETWEEN = 0.2


@contextlib.contextmanager
def shown(unit: str, *, enabled: bool = True, file=None,
          clock: Callable[[], float] = time.monotonic
          ) -> Iterator[Callable[[int], None] | None]:
  """Gives a function to call with the number done so far.

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

  def report(done: int) -> None:
    nonlocal last, written
    if done % 64 or (now := clock()) - last < _SECONDS_BETWEEN:
      return
    last, written = now, True
    rate = done / max(now - start, 1e-9)
    file.write(f"\r  {done:,} {unit}, {rate:,.0f}/s\x1b[K")
    file.flush()

  try:
    yield report
  finally:
    if written:
      file.write("\r\x1b[K")
      file.flush()
