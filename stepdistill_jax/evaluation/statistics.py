"""Intervals and tests over examples; `effect` has those over seeds.

scipy and statsmodels do the mathematics that they have; the bootstrap is
seeded, so that a report can be made again. All accuracies are shares in
[0, 1]; all intervals are two-sided.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

CONFIDENCE = 0.95
BOOTSTRAP_SAMPLES = 10_000
_BOOTSTRAP_CELLS = 2_000_000  # Resampled outcomes held in memory at a time.


def mean(values: Sequence[float | None]) -> float | None:
  """The mean of the values that are known; None of none."""
  known = [value for value in values if value is not None]
  return sum(known) / len(known) if known else None


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
  """Wilson's score interval of a share; (0, 1) where there is no example."""
  from statsmodels.stats import proportion

  if n == 0:
    return (0.0, 1.0)
  low, high = proportion.proportion_confint(
      correct, n, alpha=1 - CONFIDENCE, method="wilson")
  return float(low), float(high)


def accuracy(correct: int, n: int) -> dict[str, Any]:
  """How many of `n` answers are right, their share, and its interval."""
  return {"correct": correct, "accuracy": correct / n if n else None,
          "ci95": list(wilson_interval(correct, n))}


def bootstrap_interval(
    values: Sequence[float], *, seed: int = 0,
    samples: int = BOOTSTRAP_SAMPLES) -> tuple[float, float]:
  """Percentile bootstrap interval of a mean over examples.

  Args:
    values: one value an example, e.g. 1.0 where it is correct.
    seed: of the resampling.
    samples: number of resamples.

  Returns:
    (low, high); (nan, nan) where there is no value.
  """
  values = np.asarray(values, dtype=np.float64)
  if values.size == 0:
    return (math.nan, math.nan)
  means = _resampled_means(values, seed, samples)
  tail = (1 - CONFIDENCE) / 2
  low, high = np.quantile(means, [tail, 1 - tail])
  return float(low), float(high)


def _resampled_means(values: np.ndarray, seed: int, samples: int):
  """Means of `samples` resamples with replacement; `[samples]` float64."""
  rng = np.random.default_rng(seed)
  if not np.isin(values, (-1.0, 0.0, 1.0)).all():
    return _means_by_index(values, rng, samples)
  # Values of few kinds (right or wrong, and differences of those): resampling
  # examples is a multinomial draw of the counts, which needs no index array.
  kinds, counts = np.unique(values, return_counts=True)
  draws = rng.multinomial(values.size, counts / values.size, size=samples)
  return draws @ kinds / values.size


def _means_by_index(values, rng, samples):
  means = []
  step = max(1, _BOOTSTRAP_CELLS // values.size)
  for start in range(0, samples, step):
    size = (min(step, samples - start), values.size)
    means.append(values[rng.integers(0, values.size, size=size)].mean(axis=1))
  return np.concatenate(means)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Two systems on the same examples.

  Attributes:
    n: examples that both answered.
    difference: mean of the first minus that of the second.
    ci95: paired bootstrap interval of the difference.
    only_first: examples that only the first got right; of a metric with more
      values than right and wrong, those on which the first is better.
    only_second: likewise of the second.
    mcnemar_p: exact two-sided McNemar test; None of a metric with more values,
      whose difference of means a test of these two counts does not judge.
    bootstrap_p: two-sided p of the paired bootstrap.
    holm_p: `mcnemar_p`, else `bootstrap_p`, after Holm's correction over the
      table's tests.
    significant: `holm_p` < 0.05; if not, the difference is within noise.
  """

  n: int
  difference: float
  ci95: tuple[float, float]
  only_first: int
  only_second: int
  mcnemar_p: float | None
  bootstrap_p: float
  holm_p: float | None = None
  significant: bool | None = None


def mcnemar_exact(only_first: int, only_second: int) -> float:
  """Exact two-sided McNemar p-value of the discordant counts."""
  from statsmodels.stats import contingency_tables

  if only_first + only_second == 0:
    return 1.0
  result = contingency_tables.mcnemar(
      [[0, only_first], [only_second, 0]], exact=True)
  return min(1.0, float(result.pvalue))


def compare(
    first: Sequence[float], second: Sequence[float], *, seed: int = 0,
    samples: int = BOOTSTRAP_SAMPLES,
) -> Comparison:
  """Compares two systems' outcomes on the same examples in the same order.

  Args:
    first: whether each answer is right, or its value of a metric.
    second: likewise.
    seed: of the resampling.
    samples: number of resamples.
  """
  first = np.asarray(first, dtype=np.float64)
  second = np.asarray(second, dtype=np.float64)
  if first.shape != second.shape:
    raise ValueError(
        f"paired outcomes of different lengths: {first.size}, {second.size}")
  differences = first - second
  only_first = int((differences > 0).sum())
  only_second = int((differences < 0).sum())
  if first.size == 0:
    return Comparison(0, math.nan, (math.nan, math.nan), 0, 0, 1.0, 1.0)
  means = _resampled_means(differences, seed, samples)
  low, high = np.quantile(means, [0.025, 0.975])
  # Twice the share of resamples on the far side of zero; the added one keeps
  # the p-value of a finite number of resamples from being zero.
  tail = min((means <= 0).sum(), (means >= 0).sum())
  return Comparison(
      n=int(first.size), difference=float(differences.mean()),
      ci95=(float(low), float(high)), only_first=only_first,
      only_second=only_second,
      mcnemar_p=mcnemar_exact(only_first, only_second)
      if np.isin((first, second), (0, 1)).all() else None,
      bootstrap_p=float(min(1.0, 2 * (tail + 1) / (samples + 1))))


def holm(p_values: Sequence[float]) -> list[float]:
  """Holm's correction of a family of p-values, in their order."""
  from statsmodels.stats import multitest

  if not p_values:
    return []
  return [float(p) for p in
          multitest.multipletests(list(p_values), method="holm")[1]]


def correct_for_many(
    comparisons: Mapping[object, Comparison]) -> dict[object, Comparison]:
  """Fills in `holm_p` and `significant` over one family of comparisons."""
  adjusted = holm([c.bootstrap_p if c.mcnemar_p is None else c.mcnemar_p
                   for c in comparisons.values()])
  return {
      key: dataclasses.replace(c, holm_p=p, significant=p < 1 - CONFIDENCE)
      for (key, c), p in zip(comparisons.items(), adjusted, strict=True)}
