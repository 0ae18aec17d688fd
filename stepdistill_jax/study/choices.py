"""What a sweep chooses: by validation accuracy, never by test."""

from collections.abc import Iterable, Sequence
import dataclasses
import pathlib

import numpy as np

from stepdistill_jax.study import jobs, resolving


@dataclasses.dataclass(frozen=True)
class Choice:
  """Of one cell.

  Attributes:
    cell: its name.
    accuracies: setting to its mean validation accuracy over the sweep's
      seeds; None where one of its runs failed.
    setting: the best; the first of equals.
  """

  cell: str
  accuracies: dict[resolving.Setting, float | None]
  setting: resolving.Setting


def choose(
    folder: pathlib.Path, resolved: Sequence[resolving.Resolved],
    failed: Iterable[str] = ()) -> list[Choice]:
  """The choices of cells whose sweeps are done.

  Args:
    folder: of the study.
    resolved: the cells.
    failed: names of runs that were tried and failed: without a score they do
      not count.
  """
  failed, found = set(failed), []
  for one in resolved:
    settings = one.settings()
    if len(settings) == 1:
      continue
    known, waits = {}, False
    for setting in settings:
      values, missing = [], set()
      for seed in one.grid.sweep_seeds:
        run = jobs.Named(resolving.job_name(one.cell, setting, seed))
        try:
          results = jobs.read_results(folder, run, resolving.VALIDATION)
          values += [s["accuracy"] for s in results["systems"]
                     if s["kind"] == "checkpoint"]
        except FileNotFoundError:
          missing.add(run.name)
      if not missing:
        known[setting] = float(np.mean(values))
      # One that failed and was tried again has a score.
      waits = waits or bool(missing) and not missing & failed
    if known and not waits:
      found.append(Choice(
          one.cell.name, {s: known.get(s) for s in settings},
          max(known, key=lambda setting: known[setting])))
  return found
