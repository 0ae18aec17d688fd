"""Kills, stops, moves and damages real runs, and compares what comes out.

    python benchmarks/faults.py --output=/tmp/faults              # All.
    python benchmarks/faults.py --output=/tmp/faults --minutes=3  # A piece.
    python benchmarks/faults.py --only=damage,resume --output=/tmp/faults
    python benchmarks/faults.py --processes=command --output=/tmp/faults2

A training of the embedded benchmark (T5 with 1+1 layers, 40 steps, dropout,
evaluations, checkpoints at every 4th step) is killed in steps, in saving, in
writing the manifest, in evaluating, and at times of the clock, and restarted
with the same command. It must end with the parameters, the optimizer's state
and all metrics of a run that nothing happened to, bit by bit.

All takes hours on 2 cores. What is done is in OUTPUT/journal.jsonl: the same
command goes on from there, also after a kill. Prints a table; the last line
is the headline.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import concurrent.futures
import json
import os
import pathlib
import sys
import threading
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from stepdistill_jax.util import runtime

runtime.configure()

from benchmarks.fault_trials import (
  damages,
  examples,
  interruptions,
  layouts,
  worker as worker_lib,
)
from stepdistill_jax.util import errors
from tests.support import trial_processes

PARTS = ("kills", "sigterms", "damage", "layouts", "epochs", "resume")


class Journal:
  """What is done, a line of JSON for each unit of a part."""

  def __init__(self, file: pathlib.Path):
    self._file = file
    self._lock = threading.Lock()
    self._entries: list[dict[str, Any]] = []
    if file.exists():
      # A line that a kill cut off is not done.
      self._entries = [
          json.loads(line) for line in file.read_text().splitlines(True)
          if line.endswith("}\n")]

  def results(self, part) -> list[Mapping[str, Any]]:
    """Of the units of a part that are done."""
    units = part.units()
    return [e["result"] for e in self._entries
            if e["part"] == part.name and e["unit"] in units]

  def left(self, part) -> list[Mapping[str, Any]]:
    done = [e["unit"] for e in self._entries if e["part"] == part.name]
    return [unit for unit in part.units() if unit not in done]

  def add(self, part, unit, result, seconds: float, starts: int) -> None:
    entry = {"part": part.name, "unit": unit, "result": result,
             "seconds": round(seconds, 1), "processes": starts}
    with self._lock:
      self._entries.append(json.loads(json.dumps(entry)))
      with self._file.open("a") as stream:
        stream.write(json.dumps(entry) + "\n")
        stream.flush()
        os.fsync(stream.fileno())

  def total(self, name: str) -> float:
    return sum(e[name] for e in self._entries)


def _work(
    number: int, folder: pathlib.Path, args, journal: Journal,
    ends: float, claim) -> None:
  """Does units until none is left, or the time is over."""
  launcher = trial_processes.Launcher(
      folder / f"log{number}", fork=args.processes == "fork")
  worker = worker_lib.Worker(folder, launcher, args.seed, ends)
  while (claimed := claim()) is not None:
    part, unit = claimed
    started, before = time.monotonic(), worker.starts
    try:
      result = part.run(worker, unit)
    except worker_lib.OutOfTime:
      return
    seconds = time.monotonic() - started
    journal.add(part, unit, result, seconds, worker.starts - before)
    print(f"{part.name} {json.dumps(unit)} done in {seconds:.0f} s",
          file=sys.stderr, flush=True)


def _result(part, journal: Journal) -> str:
  if not part.units():
    return "NOT RUN: the real data is not here; set STEPDISTILL_DATA"
  done = journal.results(part)
  return part.result(done) if done else "not yet run"


def _table(parts: Sequence[Any], journal: Journal) -> None:
  rows = [("fault", "result"), *(
      (part.fault, _result(part, journal)) for part in parts)]
  print(f"| {rows[0][0]} | {rows[0][1]} |\n|---|---|")
  for row in rows[1:]:
    print(f"| {row[0]} | {row[1]} |")


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--output", metavar="DIR", required=True,
                      help="folder of the trials, to go on in")
  parser.add_argument("--kills", type=int, default=200)
  parser.add_argument("--sigterms", type=int, default=40)
  parser.add_argument("--damage", type=int, default=1000)
  parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...",
                      help="of " + ", ".join(PARTS))
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--jobs", type=int, default=2,
                      help="trials at a time (2)")
  parser.add_argument(
      "--minutes", type=float,
      help="stop after so long, and the same command goes on; 0 prints what "
      "is done so far")
  parser.add_argument(
      "--processes", choices=("fork", "command"), default="fork",
      help="fork: import once, fork each run; command: as a user starts it")
  args = parser.parse_args(argv)
  if unknown := set(args.only.split(",")) - set(PARTS):
    parser.error(f"--only knows {PARTS}, got {sorted(unknown)}")
  made = dict(
      kills=interruptions.Kills(args.kills),
      sigterms=interruptions.Sigterms(args.sigterms),
      damage=damages.Damages(args.damage), layouts=layouts.Layouts(),
      epochs=examples.Epochs(), resume=examples.Resume())
  parts = [made[name] for name in PARTS if name in args.only.split(",")]
  folder = pathlib.Path(args.output).absolute()
  folder.mkdir(parents=True, exist_ok=True)
  journal = Journal(folder / "journal.jsonl")
  # All parts come on evenly, so that a table of a few pieces has some of each.
  shares = [((i + 1) / len(part.units()), part, unit) for part in parts
            for i, unit in enumerate(part.units())
            if unit in journal.left(part)]
  todo = [(part, unit) for _, part, unit in sorted(
      shares, key=lambda share: share[0])]
  ends, lock = time.monotonic() + 60 * (args.minutes or 1e9), threading.Lock()

  def claim():
    with lock:
      return todo.pop(0) if todo and time.monotonic() < ends else None

  def work(number: int) -> None:
    try:
      _work(number, folder, args, journal, ends, claim)
    except BaseException:
      todo.clear()  # The others end, too.
      raise

  if todo and args.minutes != 0:
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
      for future in [pool.submit(work, i) for i in range(args.jobs)]:
        future.result()
  _table(parts, journal)
  done = sum(len(journal.results(part)) for part in parts)
  planned = sum(len(part.units()) for part in parts)
  skipped = [part.name for part in parts if not part.units()]
  print(f"faults: {done} of {planned} trials passed, none failed"
        + (f", {', '.join(skipped)} NOT RUN" if skipped else "")
        + f"; {journal.total('processes'):.0f} processes, "
        f"{journal.total('seconds'):.0f} s"
        + ("; the same command goes on" if done < planned else ""))
  return errors.PREEMPTED_EXIT_CODE if done < planned else 0


if __name__ == "__main__":
  sys.exit(main())
