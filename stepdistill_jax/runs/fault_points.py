"""Places where a test or a benchmark lets a process fail.

`$STEPDISTILL_FAULT=POINT:COUNT:ACTION` acts when POINT is reached for the
COUNT-th time: `kill` sends SIGKILL to the process itself, `term` and `int` the
other signals, `hang:SECONDS` waits. Without the variable nothing happens.

Points: `step` (after each training step), `save_started`,
`checkpoint_written` (all files, no manifest), `manifest_written` (before the
folder gets its name), `checkpoint_named` (before old ones are deleted),
`evaluation`.
"""

import collections
import os
import signal
import time

VARIABLE = "STEPDISTILL_FAULT"
_SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM,
            "int": signal.SIGINT}
_reached: collections.Counter[str] = collections.Counter()


def reach(point: str) -> None:
  """Says that a point is reached; cheap where no fault is asked for."""
  wanted = os.environ.get(VARIABLE)
  if not wanted:
    return
  for fault in wanted.split(","):
    name, count, action, *rest = fault.split(":")
    if name != point:
      continue
    _reached[fault] += 1
    if _reached[fault] != int(count):
      continue
    if action == "hang":
      time.sleep(float(rest[0]))
    else:
      os.kill(os.getpid(), _SIGNALS[action])
