"""Tests of intervals and tests against statsmodels, scipy and plain loops."""

import itertools
import math

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import proportion

from stepdistill_jax.evaluation import statistics

_OUTCOMES = st.lists(st.booleans(), min_size=1, max_size=60)


@given(_OUTCOMES)
def test_wilson_equals_scipy_and_statsmodels(outcomes):
  n, right = len(outcomes), sum(outcomes)
  low, high = statistics.wilson_interval(right, n)
  expected = stats.binomtest(right, n).proportion_ci(0.95, "wilson")
  # Two implementations of one formula in float64.
  np.testing.assert_allclose((low, high), tuple(expected), atol=1e-12)
  np.testing.assert_allclose(
      (low, high), proportion.proportion_confint(right, n, method="wilson"),
      atol=1e-12)
  assert low - 1e-12 <= right / n <= high + 1e-12


def test_no_example_gives_no_information():
  assert statistics.wilson_interval(0, 0) == (0.0, 1.0)
  assert math.isnan(statistics.bootstrap_interval([])[0])


def test_bootstrap_is_seeded_and_near_the_normal_interval():
  values = [1.0] * 700 + [0.0] * 300
  one = statistics.bootstrap_interval(values, seed=3)
  assert one == statistics.bootstrap_interval(values, seed=3)
  assert one != statistics.bootstrap_interval(values, seed=4)
  half = 1.96 * math.sqrt(0.7 * 0.3 / 1000)
  # 10,000 resamples put a 2.5% quantile within 0.002 here.
  np.testing.assert_allclose(one, (0.7 - half, 0.7 + half), atol=0.002)


def test_bootstrap_by_counts_equals_bootstrap_by_index():
  """The multinomial short cut draws from the same distribution."""
  values = np.array([1.0] * 40 + [0.0] * 10 + [-1.0] * 14)
  fast = statistics.bootstrap_interval(values, samples=40_000)
  rng = np.random.default_rng(1)
  means = values[rng.integers(0, 64, size=(40_000, 64))].mean(axis=1)
  # Standard error of such a quantile at 40,000 resamples is below 0.004.
  np.testing.assert_allclose(fast, np.quantile(means, [0.025, 0.975]),
                             atol=0.02)
  general = statistics.bootstrap_interval(values * 1.5, samples=40_000)
  np.testing.assert_allclose(general, np.array(fast) * 1.5, atol=0.03)


@given(st.integers(0, 25), st.integers(0, 25))
def test_mcnemar_equals_the_binomial_test(only_first, only_second):
  n = only_first + only_second
  expected = stats.binomtest(only_first, n).pvalue if n else 1.0
  np.testing.assert_allclose(
      statistics.mcnemar_exact(only_first, only_second), expected, atol=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1,
                max_size=40))
@settings(max_examples=30, deadline=None)
def test_comparison_is_antisymmetric(pairs):
  first, second = zip(*pairs)
  ours = statistics.compare(first, second, samples=500)
  swapped = statistics.compare(second, first, samples=500)
  assert ours.difference == -swapped.difference
  assert ours.mcnemar_p == swapped.mcnemar_p
  assert (ours.only_first, ours.only_second) == (
      swapped.only_second, swapped.only_first)
  assert ours.difference == pytest.approx(np.mean(first) - np.mean(second))
  low, high = ours.ci95
  assert low <= high


def test_equal_systems_do_not_differ():
  result = statistics.compare([True, False] * 50, [True, False] * 50)
  assert (result.difference, result.mcnemar_p, result.bootstrap_p) == (0, 1, 1)


def test_a_clear_difference_is_one():
  first = [True] * 90 + [False] * 10
  second = [True] * 50 + [False] * 50
  result = statistics.correct_for_many(
      {"ab": statistics.compare(first, second)})["ab"]
  assert result.significant and result.ci95[0] > 0.2


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=15, deadline=None)
def test_holm_is_the_stepwise_rule(p_values):
  adjusted = statistics.holm(p_values)
  order = np.argsort(p_values, kind="stable")
  m = len(p_values)
  steps = [min(1.0, (m - i) * p_values[j]) for i, j in enumerate(order)]
  expected = np.empty(m)
  expected[order] = list(itertools.accumulate(steps, max))
  np.testing.assert_allclose(adjusted, expected, atol=1e-12)


def test_of_a_metric_means_are_tested():
  """The first is better more often, the second by far more."""
  first = np.array([.5] * 30 + [.1] * 10)
  second = np.array([.49] * 30 + [.9] * 10)
  found = statistics.compare(first, second)
  assert (found.only_first, found.only_second) == (30, 10)
  assert found.mcnemar_p is None and found.difference < 0
  (corrected,) = statistics.correct_for_many({"a": found}).values()
  assert corrected.holm_p == found.bootstrap_p < 0.01
