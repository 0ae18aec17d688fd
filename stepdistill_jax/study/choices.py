"""What a sweep chooses: by validation accuracy, never by test."""

from collections.abc import Iterable, Sequence
import dataclasses
import pathlib

import numpy as np

from stepdistill_jax.study import jobs as jobs_lib, resolving


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
    accuracies = {
        setting: _accuracy(folder, [
            resolving.job_name(one.cell, setting, seed)
            for seed in one.grid.sweep_seeds], failed)
        for setting in settings}
    known = {s: a for s, a in accuracies.items() if isinstance(a, float)}
    if known and not any(isinstance(a, _Open) for a in accuracies.values()):
      found.append(Choice(
          one.cell.name, {s: known.get(s) for s in settings},
          max(known, key=lambda setting: known[setting])))
  return found


class _Open:
  """A run has no score yet."""


@dataclasses.dataclass(frozen=True)
class _Name:
  name: str


def _accuracy(folder, names: Sequence[str], failed: set[str]
              ) -> float | _Open | None:
  values, missing = [], []
  for name in names:
    try:
      results = jobs_lib.read_results(
          folder, _Name(name), resolving.VALIDATION)
    except FileNotFoundError:
      missing.append(name)
      continue
    values += [s["accuracy"] for s in results["systems"]
               if s["kind"] == "checkpoint"]
  if failed & set(missing):  # Else it was tried again, and has a score.
    return None
  return _Open() if missing else float(np.mean(values))
