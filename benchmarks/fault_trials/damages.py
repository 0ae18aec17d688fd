"""Damage to all files of a real run's checkpoint."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
import shutil
from typing import Any

from benchmarks.fault_trials import worker as worker_lib
from stepdistill_jax.runs import restore_choice
from tests.support import damage, trials

_DAMAGES_A_UNIT = 100


class Damages:
  """Bit flips, truncation, deletion, swapped files."""

  name = "damage"
  fault = "bit flips, truncation, deletion, swapped files in a checkpoint"

  def __init__(self, damages: int):
    self._damages = damages

  def units(self) -> Sequence[Mapping[str, Any]]:
    return [{"number": i, "damages": damages} for i, damages in
            worker_lib.in_units(self._damages, _DAMAGES_A_UNIT)]

  def run(self, worker: worker_lib.Worker, unit) -> Mapping[str, Any]:
    rng = worker.random("damage", unit["number"])
    whole = worker.whole(worker_lib.Training(
        "1_processes",
        trials.arguments(worker.records(), trials.NO_EVALUATION)))
    good = whole / f"checkpoint_{trials.STEPS}"
    bad = worker.new_folder(f"damaged{unit['number']}") / good.name
    found: collections.Counter[str] = collections.Counter()
    for i in range(unit["damages"]):
      kind = damage.KINDS[i % len(damage.KINDS)]
      shutil.copytree(good, bad)
      damaged = damage.inflict(kind, bad, rng)
      if not restore_choice.problems(str(bad)):
        raise AssertionError(f"not found: {damaged}")
      found[kind] += 1
      shutil.rmtree(bad)
    if restore_choice.problems(str(good)):
      raise AssertionError(f"{good} is said to be damaged")
    shutil.rmtree(bad.parent)
    return {"found": found, "damages": unit["damages"]}

  def result(self, done: Sequence[Mapping[str, Any]]) -> str:
    found = sum((collections.Counter(d["found"]) for d in done),
                collections.Counter())
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.items())
    tried = sum(d["damages"] for d in done)
    return f"{found.total():,} of {tried:,} found ({kinds})"
