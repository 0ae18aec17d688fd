"""Means and differences with intervals that count examples and seeds alike.

Every report's intervals over seeds are these. Two things vary at once: another
set of test examples would give other accuracies, and so would other seeds. A
set of runs that differ only in their seed answers the same examples,
`correct[seed, example]`; the mean's variance is estimated as

    v = s² / seeds  +  u² / examples

with s² the variance of the seeds' accuracies and u² that, over examples, of
the seeds' mean answer. Two seeds say little about s², so it is pooled over
the groups of a report (methods, sizes), which assumes that seeds scatter
alike in all of them. The interval is mean ± t·√v, with the degrees of freedom
of Welch and Satterthwaite, within the values that a mean can have. Chance that
concerns one example under one seed is in both terms: the interval is rather
too wide than too narrow.

Differences of two methods go the same way, as the difference of their answers
by seed and example: both methods share the examples, and a seed gives both the
same initial parameters and the same order of the training data.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from stepdistill_jax.evaluation import statistics

HOW = (
    "Mean over seeds; 95% interval: mean ± t·√(s²/seeds + u²/examples), where "
    "s² is the variance between seeds' accuracies, pooled over all methods "
    "and sizes (for differences: over sizes), and u² the variance over test "
    "examples of the seeds' mean answer; t with Welch-Satterthwaite degrees "
    "of freedom. Differences are paired by seed and by test example.")


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean over seeds and examples.

  Attributes:
    mean: in [-1, 1].
    standard_error: of the mean, √v.
    ci95: its interval; None, as the standard error, where one seed says
      nothing of others, or where all answers are the same (but for shares of 0
      and 1, which have Wilson's interval over the examples).
    by_seed: the mean of each seed.
    examples: how many.
  """

  mean: float
  standard_error: float | None
  ci95: tuple[float, float] | None
  by_seed: tuple[float, ...]
  examples: int


def pooled_seed_variance(groups: Sequence[np.ndarray]) -> tuple[float, int]:
  """Variance between seeds, pooled over groups of runs.

  Args:
    groups: each float `[seeds, examples]`.

  Returns:
    (variance, its degrees of freedom); (nan, 0) where all have one seed.
  """
  squares, freedom = 0.0, 0
  for group in groups:
    means = group.mean(axis=1)  # [seeds, examples] -> [seeds]
    squares += float(((means - means.mean()) ** 2).sum())
    freedom += len(means) - 1
  return (squares / freedom if freedom else math.nan), freedom


def estimate(
    values: np.ndarray | Sequence[np.ndarray], seed_variance: float,
    seed_freedom: int, least: float = 0.0) -> Estimate:
  """The mean of one group of runs, or over several, with its interval.

  Args:
    values: float `[seeds, examples]`: 1 where correct, or a difference; or
      `[groups, seeds, examples]` for the mean over groups of runs with the
      same seeds and examples, such as sizes.
    seed_variance: of one seed's mean in a group, see `pooled_seed_variance`.
    seed_freedom: its degrees of freedom.
    least: the least value that a mean can have: -1 for differences.
  """
  from scipy import stats

  values = np.asarray(values, np.float64)
  values = values.reshape(-1, *values.shape[-2:])
  n_groups, n_seeds, n_examples = values.shape
  mean = float(values.mean())
  by_seed = tuple(float(m) for m in values.mean(axis=(0, 2)))
  if not seed_freedom or n_examples < 2:
    return Estimate(mean, None, None, by_seed, n_examples)
  by_example = values.mean(axis=(0, 1))  # -> [examples]
  terms = (seed_variance / (n_groups * n_seeds),
           float(by_example.var(ddof=1)) / n_examples)
  variance = sum(terms)
  if variance == 0:
    # All answers are the same: how much they scatter was not seen. Of shares
    # of 0 or 1, Wilson's interval over the examples still says something.
    known = least == 0 and mean in (0.0, 1.0)
    return Estimate(
        mean, None, statistics.wilson_interval(
            round(mean * n_examples), n_examples) if known else None,
        by_seed, n_examples)
  freedom = variance ** 2 / (
      terms[0] ** 2 / seed_freedom + terms[1] ** 2 / (n_examples - 1))
  reach = math.sqrt(variance) * float(
      stats.t.ppf((1 + statistics.CONFIDENCE) / 2, freedom))
  return Estimate(mean, math.sqrt(variance),
                  (max(least, mean - reach), min(1.0, mean + reach)),
                  by_seed, n_examples)


def estimate_all(
    groups: Sequence[np.ndarray], least: float = 0.0) -> list[Estimate]:
  """Each group's mean, with the seeds' variance pooled over all of them.

  Args:
    groups: each float `[seeds, examples]`.
    least: the least value that a mean can have: -1 for differences.
  """
  pooled = pooled_seed_variance(groups)
  return [estimate(group, *pooled, least) for group in groups]
