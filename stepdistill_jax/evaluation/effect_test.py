"""Tests of the report's intervals against simulation and known formulas."""

import math

import numpy as np
import pytest
from scipy import stats

from stepdistill_jax.evaluation import effect


def test_pooled_variance_is_the_mean_of_equal_groups():
  rng = np.random.default_rng(0)
  groups = [rng.random((3, 50)) for _ in range(4)]
  variance, freedom = effect.pooled_seed_variance(groups)
  each = [g.mean(axis=1).var(ddof=1) for g in groups]
  assert freedom == 8
  assert variance == pytest.approx(np.mean(each), rel=1e-12)


def test_without_seed_scatter_it_is_the_t_interval_over_stories():
  values = np.random.default_rng(1).random((1, 200))
  found = effect.estimate(values, seed_variance=0.0, seed_freedom=5)
  expected = stats.t.interval(
      0.95, 199, loc=values.mean(), scale=stats.sem(values[0]))
  assert found.ci95 == pytest.approx(expected, rel=1e-12)


def test_with_constant_stories_it_is_the_t_interval_over_seeds():
  accuracies = np.array([0.4, 0.5, 0.7])
  values = np.repeat(accuracies[:, None], 100, axis=1)
  variance, freedom = effect.pooled_seed_variance([values])
  found = effect.estimate(values, variance, freedom)
  expected = stats.t.interval(
      0.95, 2, loc=accuracies.mean(), scale=stats.sem(accuracies))
  assert found.ci95 == pytest.approx(expected, rel=1e-9)
  assert found.by_seed == pytest.approx(accuracies)


def test_one_seed_has_no_interval():
  values = np.ones((1, 10))
  variance, freedom = effect.pooled_seed_variance([values])
  assert math.isnan(variance) and freedom == 0
  assert effect.estimate(values, variance, freedom).ci95 is None


def test_all_alike_is_a_point():
  values = np.ones((2, 10))
  found = effect.estimate(values, *effect.pooled_seed_variance([values]))
  assert found.mean == 1 and found.ci95 == (1, 1)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
  """Draws seeds and stories anew 600 times, as the model of `effect` says."""
  rng = np.random.default_rng(2)
  sizes, seeds, stories, truth = 2, 2, 300, 0.15
  covered = covered_over_sizes = 0
  for _ in range(600):
    story = rng.normal(0, 0.3, (1, 1, stories))
    groups = list(
        truth + story + rng.normal(0, 0.05, (sizes, seeds, 1))
        + rng.normal(0, 0.4, (sizes, seeds, stories)))
    pooled = effect.pooled_seed_variance(groups)
    low, high = effect.estimate(groups[0], *pooled, least=-1.0).ci95
    covered += low <= truth <= high
    low, high = effect.estimate(groups, *pooled, least=-1.0).ci95
    covered_over_sizes += low <= truth <= high
  # 95% of 600 with four standard errors below; above it may be anything, as
  # the intervals are meant to be wide.
  assert covered / 600 > 0.914
  assert covered_over_sizes / 600 > 0.914


def test_an_interval_of_accuracies_stays_within_what_they_can_be():
  rare = np.zeros((2, 20))
  rare[0, 0] = 1
  pooled = effect.pooled_seed_variance([rare])
  low, high = effect.estimate(rare, *pooled).ci95
  assert low == 0 < high < 1
  low, high = effect.estimate(1 - rare, *pooled).ci95
  assert 0 < low < high == 1
  assert effect.estimate(rare, *pooled, least=-1.0).ci95[0] < 0
