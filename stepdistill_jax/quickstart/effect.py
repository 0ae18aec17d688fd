"""Means and differences with intervals that count stories and seeds alike.

Two things vary at once: another set of test stories would give other
accuracies, and so would other seeds. A set of runs that differ only in their
seed answers the same stories, `correct[seed, story]`; the mean's variance is
estimated as

    v = s² / seeds  +  u² / stories

with s² the variance of the seeds' accuracies and u² that, over stories, of
the seeds' mean answer. Two seeds say little about s², so it is pooled over
the groups of a report (methods, sizes), which assumes that seeds scatter
alike in all of them. The interval is mean ± t·√v, with the degrees of freedom
of Welch and Satterthwaite. Chance that concerns one story under one seed is
in both terms: the interval is rather too wide than too narrow.

Differences of two methods go the same way, as the difference of their answers
by seed and story: both methods share the stories, and a seed gives both the
same initial parameters and the same order of stories.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean over seeds and stories.

  Attributes:
    mean: in [-1, 1].
    ci95: its interval; None where one seed says nothing of others.
    by_seed: the mean of each seed.
    stories: how many.
  """

  mean: float
  ci95: tuple[float, float] | None
  by_seed: tuple[float, ...]
  stories: int


def pooled_seed_variance(
    groups: Sequence[np.ndarray]) -> tuple[float, int]:
  """Variance between seeds, pooled over groups of runs.

  Args:
    groups: each float `[seeds, stories]`.

  Returns:
    (variance, its degrees of freedom); (nan, 0) where all have one seed.
  """
  squares, freedom = 0.0, 0
  for group in groups:
    means = group.mean(axis=1)  # [seeds, stories] -> [seeds]
    squares += float(((means - means.mean()) ** 2).sum())
    freedom += len(means) - 1
  return (squares / freedom if freedom else math.nan), freedom


def estimate(
    values: np.ndarray, seed_variance: float, seed_freedom: int) -> Estimate:
  """The mean of one group of runs with its interval.

  Args:
    values: float `[seeds, stories]`: 1 where correct, or a difference.
    seed_variance: of one seed's mean, see `pooled_seed_variance`.
    seed_freedom: its degrees of freedom.
  """
  return _estimate([values], seed_variance, seed_freedom)


def estimate_over_groups(
    groups: Sequence[np.ndarray], seed_variance: float, seed_freedom: int
) -> Estimate:
  """The mean over groups of runs on the same stories, such as sizes.

  Args:
    groups: each float `[seeds, stories]`, the same seeds and stories.
    seed_variance: of one seed's mean in one group.
    seed_freedom: its degrees of freedom.
  """
  return _estimate(groups, seed_variance, seed_freedom)


def _estimate(groups, seed_variance, seed_freedom) -> Estimate:
  from scipy import stats

  values = np.stack([np.asarray(g, np.float64) for g in groups])
  n_groups, n_seeds, n_stories = values.shape
  mean = float(values.mean())
  by_seed = tuple(float(m) for m in values.mean(axis=(0, 2)))
  if not seed_freedom or n_stories < 2:
    return Estimate(mean, None, by_seed, n_stories)
  by_story = values.mean(axis=(0, 1))  # -> [stories]
  terms = (seed_variance / (n_groups * n_seeds),
           float(by_story.var(ddof=1)) / n_stories)
  variance = sum(terms)
  if variance == 0:
    return Estimate(mean, (mean, mean), by_seed, n_stories)
  freedom = variance ** 2 / (
      terms[0] ** 2 / seed_freedom + terms[1] ** 2 / (n_stories - 1))
  reach = float(
      stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance)
  return Estimate(mean, (mean - reach, mean + reach), by_seed, n_stories)
