"""The process that holds the connections: `python -m …ask.worker`.

`stepdistill teacher collect` starts it, and watches it. They are two so that
an answer which is on its way is not lost with the command: if that is killed,
the worker's standard input ends, and the worker finishes what is under way,
asks for nothing new, and ends. The next run waits for that.

Standard input: one line of JSON, the job; then lines `drain` or `abort`.
Standard output: one line of JSON an event, see `Event`.
"""

import asyncio
from collections.abc import Callable
import dataclasses
import json
import os
import signal
import sys
import threading
import traceback
from typing import Any

from stepdistill_jax.teacher.ask import (
  job as job_lib,
  retries,
  spec as spec_lib,
)
from stepdistill_jax.util import errors

DRAIN, ABORT = "drain", "abort"


class Event:
  """Names of the events that a worker writes."""
  WAITING = "waiting"  # Another process writes to the cache.
  STARTED = "started"  # total, present, in_doubt
  PROGRESS = "progress"  # The fields of retries.Progress.
  ENDED = "ended"  # The fields of job.Outcome.
  ERROR = "error"  # message: a user's mistake.
  CRASHED = "crashed"  # message: ours.


def main() -> int:
  """Runs the job that standard input names."""
  # Ctrl-C reaches the whole terminal; only the command decides what it means.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  values = json.loads(sys.stdin.readline())
  spec = spec_lib.Spec(**dict(values, stop=tuple(values["stop"])))
  try:
    with job_lib.open_job(
        spec, waiting=lambda who: emit(Event.WAITING, message=who)) as job:
      emit(Event.STARTED, total=job.total, present=job.present,
           in_doubt=len(job.store.in_doubt))
      outcome = asyncio.run(_run(job))
      emit(Event.ENDED, **dataclasses.asdict(outcome))
    return 0
  except errors.UserError as error:
    emit(Event.ERROR, message=str(error))
    return errors.USER_ERROR_EXIT_CODE
  except Exception:
    emit(Event.CRASHED, message=traceback.format_exc())
    return 1


async def _run(job: job_lib.Job) -> job_lib.Outcome:
  async with job.client() as asker:
    collector = job.collector(
        asker, lambda progress: emit(
            Event.PROGRESS, **dataclasses.asdict(progress)))
    task = asyncio.current_task()
    here = asyncio.get_running_loop()

    def obey(order: str) -> None:
      collector.stop(retries.INTERRUPTED)
      if order == ABORT:
        task.cancel()

    _listen(lambda order: here.call_soon_threadsafe(obey, order))
    try:
      await collector.run(job.items())
    except asyncio.CancelledError:
      task.uncancel()
    return job.close(collector.progress)


def _listen(obey: Callable[[str], None]) -> None:
  """Passes on the orders of standard input; its end means `drain`."""
  def read() -> None:
    for line in sys.stdin:
      obey(line.strip())
    obey(DRAIN)

  threading.Thread(target=read, daemon=True).start()


def emit(event: str, **fields: Any) -> None:
  """Writes an event; nobody may be there to read it."""
  try:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()
  except OSError:
    # The command was killed. Later writes must not fail either.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
  sys.exit(main())
