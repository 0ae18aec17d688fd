"""Runs that differ only in their seed, put together."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

import numpy as np

from stepdistill_jax.evaluation import effect, scored


def summarize(results: Sequence[scored.Scored]) -> list[dict[str, Any]]:
  """Means over seeds, for runs with a `method` in common.

  A checkpoint's summary carries `method`: `{"name", "key", "seed", "run",
  "step"}`, where the key is a hash of its configuration without seed and
  folders. Several checkpoints of one run are points of a curve, not seeds:
  there the runs are put together step by step.

  Args:
    results: of one call, on the same examples.

  Returns:
    One dict a group of two runs or more, as in `results.json`.
  """
  groups = collections.defaultdict(list)
  for result in results:
    s = result.summary
    if s.get("method"):
      groups[s["benchmark"], s["split"], s["mode"],
             s["method"]["key"]].append(result)
  asked = collections.defaultdict(list)  # What seeds' variance is pooled over.
  for (*where, _), members in groups.items():
    asked[tuple(where)] += _of_different_runs(members)
  return [
      _describe(members, pooled)
      for sets in asked.values()
      for pooled in [effect.pooled_seed_variance(list(map(_correct, sets)))]
      for members in sets]


def _of_different_runs(
    members: Sequence[scored.Scored]) -> Iterator[list[scored.Scored]]:
  """Sets of two results or more, each of another run."""
  runs = collections.defaultdict(dict)  # run -> step -> result
  for member in members:
    method = member.summary["method"]
    runs[method["run"]][method["step"]] = member
  if all(len(steps) == 1 for steps in runs.values()):
    sets = [[next(iter(steps.values())) for steps in runs.values()]]
  else:
    sets = [[steps[step] for steps in runs.values() if step in steps]
            for step in sorted({s for steps in runs.values() for s in steps})]
  return (one for one in sets if len(one) > 1)


def _correct(members: Sequence[scored.Scored]) -> np.ndarray:
  return np.array([member.correct for member in members], np.float64)


def _describe(members, pooled) -> dict[str, Any]:
  first = members[0].summary
  return {
      "benchmark": first["benchmark"], "split": first["split"],
      "mode": first["mode"], "method": first["method"]["name"],
      "steps": sorted({m.summary["method"]["step"] for m in members}),
      "systems": [m.summary["name"] for m in members],
      "n_seeds": len(members),
      **dataclasses.asdict(effect.estimate(_correct(members), *pooled))}
