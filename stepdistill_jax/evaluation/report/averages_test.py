"""Tests of means over seeds: which results are seeds, and of what a curve."""

import numpy as np
import pytest

from stepdistill_jax.evaluation import effect, scored
from stepdistill_jax.evaluation.report import averages

EXAMPLES = 40


def scored_run(run, step, seed=0, key="k", benchmark="svamp"):
  correct = np.random.default_rng([step, seed]).random(EXAMPLES) < 0.5
  summary = {
      "name": f"{run} step {step}", "benchmark": benchmark, "split": "test",
      "mode": "generate", "accuracy": float(correct.mean()),
      "method": {"name": "svamp_label_gold", "key": key, "seed": seed,
                 "run": f"/runs/{run}", "step": step}}
  return scored.Scored(
      summary, tuple({"correct": bool(c)} for c in correct))


def test_checkpoints_of_one_run_are_not_seeds():
  assert not averages.summarize([scored_run("a", 100), scored_run("a", 200)])
  assert not averages.summarize([scored_run("a", 100), scored_run("a", 100)])


def test_a_copy_is_not_a_seed():
  results = [scored_run("a", 100), scored_run("copy", 100)]
  for result in results:
    result.summary["method"]["identities"] = ["of a"]
  assert not averages.summarize(results)
  assert averages.first_copies(results) == {
      "/runs/a": "/runs/a", "/runs/copy": "/runs/a"}


def test_two_runs_are():
  results = [scored_run("a", 100), scored_run("b", 200, seed=1)]
  group, = averages.summarize(results)
  values = np.array([r.values for r in results], float)
  expected = effect.estimate(values, *effect.pooled_seed_variance([values]))
  assert (group["n_seeds"], group["steps"]) == (2, [100, 200])
  assert group["mean"] == expected.mean
  assert group["ci95"] == expected.ci95


def test_curves_are_put_together_step_by_step():
  results = [scored_run(run, step, seed) for seed, run in enumerate("ab")
             for step in (100, 200)] + [scored_run("a", 300)]
  groups = averages.summarize(results)
  assert [(g["steps"], g["systems"]) for g in groups] == [
      ([100], ["a step 100", "b step 100"]),
      ([200], ["a step 200", "b step 200"])]
  # Seeds scatter alike in all groups of a call: their variance is pooled.
  arrays = [np.array([results[i].values, results[j].values], float)
            for i, j in ((0, 2), (1, 3))]
  pooled = effect.pooled_seed_variance(arrays)
  for group, array in zip(groups, arrays):
    assert group["ci95"] == effect.estimate(array, *pooled).ci95


@pytest.mark.parametrize("other", [{"key": "l"}, {"benchmark": "asdiv"}])
def test_other_methods_and_benchmarks_stay_apart(other):
  assert not averages.summarize(
      [scored_run("a", 100), scored_run("b", 100, seed=1, **other)])
