"""Runs put together over seeds, and the differences between their methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from stepdistill_jax.evaluation import effect
from stepdistill_jax.evaluation.report import run_facts, run_scores

BASELINE = "finetune"


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
    optimizer: see `RunFacts`.
    accuracies: seed (or the run's place, where it has none) to accuracy.
    mean: of the accuracies.
    standard_error: of the mean, see `effect`; None where that is not known.
    ci95: over seeds and examples, see `effect`; over examples by Wilson for
      one run of which no other seed says more; None where neither is known.
    ci_of: `seeds and examples`, `examples`, or empty.
    paths: of the runs.
    correct: seed to the answers, see `RunScore`.
  """

  dataset: str
  split: str
  method: str
  size: str
  parameters: float | None
  share: float
  optimizer: str
  accuracies: dict[Any, float]
  mean: float
  standard_error: float | None
  ci95: tuple[float, float] | None
  ci_of: str
  paths: tuple[str, ...]
  correct: Mapping[Any, Mapping[str, bool] | None] = dataclasses.field(
      repr=False, hash=False)

  @property
  def setting(self) -> tuple:
    """What a comparison of methods keeps equal."""
    return (self.dataset, self.split, self.size, self.share, self.optimizer)

  @property
  def is_baseline(self) -> bool:
    return self.method in (BASELINE, _with(BASELINE, self.optimizer))


@dataclasses.dataclass(frozen=True)
class Difference:
  """A method against fine-tuning, in the same setting.

  Attributes:
    group: the method's.
    baseline: fine-tuning's.
    mean: difference of the means, over seeds that both ran where there are.
    ci95: over paired seeds and examples, see `effect`; None where two seeds or
      the answers are wanting.
    seeds: how many were paired.
  """

  group: Group
  baseline: Group
  mean: float
  ci95: tuple[float, float] | None
  seeds: int


def _with(method: str, *more: str) -> str:
  return ", ".join(filter(None, (method, *more)))


def group(scores: Sequence[run_scores.RunScore]) -> list[Group]:
  """Groups runs by everything but the seed, in the order of a table.

  Args:
    scores: one a run and split.
  """
  facts = lambda score, *names: tuple(getattr(score.facts, n) for n in names)
  groups = []
  for here in _by(scores, lambda s: (s.split, s.facts.dataset)).values():
    points = []
    optimizers = {s.facts.optimizer for s in here}
    for curve in _by(here, lambda s: facts(s, "method", "optimizer")).values():
      teachers = {s.facts.teacher for s in curve}
      for point in _by(
          curve, lambda s: facts(s, "size", "share", "teacher")).values():
        differing = [
            name for name in run_facts.SETTINGS
            if len({str(s.facts.settings.get(name)) for s in point}) > 1]
        for values, members in _by(point, lambda s, names=differing: tuple(
            str(s.facts.settings.get(name)) for name in names)).items():
          first = members[0].facts
          points.append((_with(
              first.method,
              first.optimizer if len(optimizers) > 1 else "",
              first.teacher or "" if len(teachers) > 1 else "",
              *map("=".join, zip(differing, values))), _by_seed(members)))
    arrays = [_answers([s.correct for s in members.values()])
              for _, members in points]
    pooled = effect.pooled_seed_variance([a for a in arrays if a is not None])
    groups += [_summarize(method, members, array, pooled)
               for (method, members), array in zip(points, arrays)]
  return sorted(groups, key=lambda g: (
      g.dataset, g.split, g.parameters or 0, g.share, g.method))


def _by(scores, key) -> dict[tuple, list[run_scores.RunScore]]:
  """The scores by a key, in the order in which the keys first come."""
  found: dict[tuple, list[run_scores.RunScore]] = {}
  for score in scores:
    found.setdefault(key(score), []).append(score)
  return found


def _by_seed(members) -> dict[Any, run_scores.RunScore]:
  found: dict[Any, run_scores.RunScore] = {}
  for place, score in enumerate(members):
    seed = score.facts.seed
    if seed is None or seed in found:  # Two runs of one seed: both count.
      seed = f"run {place}"
    found[seed] = score
  return found


def _answers(
    given: Sequence[Mapping[str, bool] | None]) -> np.ndarray | None:
  """Answers to the same examples, float64 `[seeds, examples]`, else None."""
  if not all(given) or len({frozenset(answers) for answers in given}) > 1:
    return None
  return np.array([[answers[i] for i in given[0]] for answers in given],
                  np.float64)


def _summarize(method, members, answers, pooled) -> Group:
  scores = list(members.values())
  first = scores[0]
  mean = float(np.mean([score.accuracy for score in scores]))
  error, ci95, ci_of = None, None, ""
  if answers is not None:
    found = effect.estimate(answers, *pooled)
    mean, error, ci95 = found.mean, found.standard_error, found.ci95
    ci_of = "seeds and examples" if ci95 else ""
  if ci95 is None and len(scores) == 1 and first.ci95 is not None:
    ci95, ci_of = first.ci95, "examples"
  return Group(
      first.facts.dataset, first.split, method, first.facts.size,
      first.facts.parameters, first.facts.share, first.facts.optimizer,
      {seed: score.accuracy for seed, score in members.items()}, mean, error,
      ci95, ci_of, tuple(str(s.facts.path) for s in scores),
      {seed: score.correct for seed, score in members.items()})


def differences(groups: Sequence[Group]) -> list[Difference]:
  """Every method against fine-tuning in its setting."""
  baselines = {g.setting: g for g in groups if g.is_baseline}
  pairs = [(g, baselines[g.setting]) for g in groups
           if g.setting in baselines and not g.is_baseline]
  paired = [_paired_answers(*pair) for pair in pairs]
  found = []
  for (one, baseline), values in zip(pairs, paired):
    seeds = [s for s in one.accuracies if s in baseline.accuracies]
    mean = float(np.mean([one.accuracies[s] - baseline.accuracies[s]
                          for s in seeds])) if seeds else (
                              one.mean - baseline.mean)
    ci95 = None
    if values is not None:
      # A method's differences scatter over seeds alike in all its settings.
      pooled = effect.pooled_seed_variance([
          v for (g, _), v in zip(pairs, paired) if v is not None and (
              g.dataset, g.split, g.method) == (
                  one.dataset, one.split, one.method)])
      ci95 = effect.estimate(values, *pooled, least=-1.0).ci95
    found.append(Difference(one, baseline, mean, ci95, len(seeds)))
  return found


def _paired_answers(one: Group, baseline: Group) -> np.ndarray | None:
  """The difference of the answers to the same examples by seeds of both."""
  seeds = [s for s in one.correct if s in baseline.correct]
  both = _answers([group.correct[s] for group in (one, baseline)
                   for s in seeds])
  if not seeds or both is None:
    return None
  return both[:len(seeds)] - both[len(seeds):]
