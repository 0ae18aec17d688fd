"""Runs put together over seeds, and the differences between their methods."""

from __future__ import annotations

import dataclasses
from typing import Any, Sequence

from stepdistill_jax.evaluation import run_facts
from stepdistill_jax.evaluation import run_scores
from stepdistill_jax.evaluation import statistics

BASELINE = "finetune"
_ADAFACTOR = ", Adafactor"


@dataclasses.dataclass(frozen=True)
class Group:
  """Runs that differ in their seed alone: one point of a figure.

  Attributes:
    dataset: such as `svamp`.
    split: that they were scored on.
    method: such as `step_by_step`, with what tells it from the others.
    size: of the student.
    parameters: of the student, about.
    share: of the train split.
    accuracies: seed (or the run's place, where it has none) to accuracy.
    mean: of the accuracies.
    standard_error: over seeds; None for one.
    ci95: over seeds by Student's t; for one seed over examples by Wilson,
      None where the examples were not counted.
    ci_of: `seeds`, `examples`, or empty.
    paths: of the runs.
  """

  dataset: str
  split: str
  method: str
  size: str
  parameters: float | None
  share: float
  accuracies: dict[Any, float]
  mean: float
  standard_error: float | None
  ci95: tuple[float, float] | None
  ci_of: str
  paths: tuple[str, ...]

  @property
  def setting(self) -> tuple:
    """What a comparison of methods keeps equal."""
    return (self.dataset, self.split, self.size, self.share,
            _ADAFACTOR in self.method)


@dataclasses.dataclass(frozen=True)
class Difference:
  """A method against fine-tuning, in the same setting.

  Attributes:
    group: the method's.
    baseline: fine-tuning's.
    mean: difference of the means, over seeds that both ran where there are.
    ci95: by Student's t over paired seeds; None for fewer than two.
    seeds: how many were paired.
  """

  group: Group
  baseline: Group
  mean: float
  ci95: tuple[float, float] | None
  seeds: int


def group(scores: Sequence[run_scores.RunScore]) -> list[Group]:
  """Groups runs by everything but the seed, in the order of a table."""
  facts = lambda score, *names: tuple(getattr(score.facts, n) for n in names)
  curves = _by(scores, lambda s: (s.split, *facts(s, "dataset", "method")))
  groups = []
  for curve in curves.values():
    teachers = {s.facts.teacher for s in curve}
    points = _by(curve, lambda s: facts(s, "size", "share", "teacher"))
    for (size, share, teacher), point in points.items():
      differing = [
          name for name in run_facts.SETTINGS
          if len({str(s.facts.settings.get(name)) for s in point}) > 1]
      for values, members in _by(point, lambda s: tuple(
          str(s.facts.settings.get(name)) for name in differing)).items():
        first = members[0].facts
        method = ", ".join([
            first.method, *([teacher] if len(teachers) > 1 else []),
            *map("=".join, zip(differing, values))])
        groups.append(_summarize(
            first.dataset, members[0].split, method, size, share, members))
  return sorted(groups, key=lambda g: (
      g.dataset, g.split, g.parameters or 0, g.share, g.method))


def _by(scores, key) -> dict[tuple, list[run_scores.RunScore]]:
  """The scores by a key, in the order in which the keys first come."""
  found: dict[tuple, list[run_scores.RunScore]] = {}
  for score in scores:
    found.setdefault(key(score), []).append(score)
  return found


def _summarize(dataset, split, method, size, share, members) -> Group:
  accuracies: dict[Any, float] = {}
  for place, score in enumerate(members):
    seed = score.facts.seed
    if seed is None or seed in accuracies:  # Two runs of one seed: both count.
      seed = f"run {place}"
    accuracies[seed] = score.accuracy
  summary = statistics.over_seeds(list(accuracies.values()))
  ci95, ci_of = summary.ci95, "seeds" if summary.ci95 else ""
  if ci95 is None and members[0].ci95 is not None:
    ci95, ci_of = members[0].ci95, "examples"
  return Group(
      dataset, split, method, size, members[0].facts.parameters, share,
      accuracies, summary.mean, summary.standard_error, ci95, ci_of,
      tuple(str(s.facts.path) for s in members))


def differences(groups: Sequence[Group]) -> list[Difference]:
  """Every method against fine-tuning in its setting."""
  baselines = {
      g.setting: g for g in groups
      if g.method in (BASELINE, BASELINE + _ADAFACTOR)}
  found = []
  for one in groups:
    baseline = baselines.get(one.setting)
    if baseline is None or one is baseline:
      continue
    if set(one.accuracies) & set(baseline.accuracies):
      summary = statistics.paired_seed_difference(
          one.accuracies, baseline.accuracies)
      found.append(Difference(
          one, baseline, summary.mean, summary.ci95, summary.n_seeds))
    else:
      found.append(Difference(
          one, baseline, one.mean - baseline.mean, None, 0))
  return found
