"""Runs that stop, are killed and move, on several layouts of devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import itertools
import shutil
from typing import Any

from benchmarks.fault_trials import worker as worker_lib
from tests.support import trials

_DEVICES = (1, 2, 8)
_STEPS = 16
# 16 rows: two microbatches have a row for each of 8 devices.
_BATCH = "BATCH_SIZE = 16"


class Layouts:
  """1, 2, 8 devices, packed or not, microbatches or not."""

  name = "layouts"
  fault = "resume on 1, 2, 8 virtual devices, packed, with microbatches"

  def units(self) -> Sequence[Mapping[str, Any]]:
    return [{"packed": packed, "microbatches": microbatches,
             "devices": devices}
            for packed, microbatches, devices in itertools.product(
                (False, True), (False, True), _DEVICES)]

  def run(self, worker: worker_lib.Worker, unit) -> Mapping[str, Any]:
    """Stops and kills the layout; goes on elsewhere from its middle."""

    def training(devices: int, processes: int = 1) -> worker_lib.Training:
      return worker_lib.Training(
          f"layout_{key}_{devices}_{processes}", trials.arguments(
              worker.records(), (
                  *trials.NO_EVALUATION, _BATCH,
                  *(trials.PACKED if unit["packed"] else ()),
                  *(trials.MICROBATCHES if unit["microbatches"] else ())),
              _STEPS),
          devices=devices, processes=processes, steps=_STEPS)

    key = f"{unit['packed']:d}{unit['microbatches']:d}"
    here = training(unit["devices"])
    whole = worker.whole(here)
    cut = worker.new_folder(f"cut_{key}_{unit['devices']}")
    for fault in ("step:7:term", "step:6:kill", ""):
      worker.go_on(here, cut, fault)
    compared = trials.assert_same_run(cut, whole, _STEPS)
    following = _DEVICES[
        (_DEVICES.index(unit["devices"]) + 1) % len(_DEVICES)]
    moved = worker.new_folder(f"moved_{key}_{unit['devices']}")
    worker.go_on(here, moved, "step:7:term")
    # As many devices in two processes, where that many are even.
    there = training(following, 1) if following == 1 else training(
        following // 2, 2)
    worker.go_on(there, moved)
    trials.assert_same_examples(moved, whole)
    difference = trials.largest_difference(moved, whole, _STEPS)
    if difference > trials.OTHER_DEVICES_TOLERANCE:
      raise AssertionError(
          f"{unit} went on on {following} devices: parameters differ by "
          f"{difference:.1e} of the largest")
    for folder in (cut, moved):
      shutil.rmtree(folder)
    return {"compared": compared, "difference": difference}

  def result(self, done: Sequence[Mapping[str, Any]]) -> str:
    worst = max(d["difference"] for d in done)
    return (f"{len(done)} combinations, each stopped and killed: bit-equal; "
            "gone on on another number of devices and processes: same "
            f"examples, parameters within {worst:.1e} of the largest (allowed "
            f"{trials.OTHER_DEVICES_TOLERANCE:.0e})")
