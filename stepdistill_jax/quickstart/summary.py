"""From the runs' `results.json` and `examples.jsonl` to `report.json`.

Nothing is kept from training: a report can be made again from the folders.
"""

import dataclasses
import datetime
import itertools
import json
import os
import pathlib
import platform
from typing import Any

import numpy as np

from stepdistill_jax.evaluation import effect
from stepdistill_jax.quickstart import (
  benchmark_data,
  plan as plan_lib,
  tracking,
)
from stepdistill_jax.runs import run_record
from stepdistill_jax.study import jobs

SCHEMA_VERSION = 1
EXAMPLES_SHOWN = 3
_FIRST, _SECOND = "step_by_step", "finetune"  # The difference's terms.


def summarize(
    output_dir: pathlib.Path, plan: plan_lib.Plan,
    data: benchmark_data.BenchmarkData,
    seconds: float | None = None) -> dict[str, Any]:
  """Gathers all runs of a plan.

  Args:
    output_dir: the quickstart's folder, with all runs scored.
    plan: what was run.
    data: what was trained on.
    seconds: that this call took; None leaves it out.

  Returns:
    The contents of `report.json`.
  """
  all_runs = list(plan.runs())
  results = {run: jobs.read_results(output_dir, run) for run in all_runs}
  answers = {run: _read_answers(output_dir, run) for run in all_runs}
  sizes = benchmark_data.count_train_stories(data.records_dir, plan)
  correct = _correct_by_group(plan, answers)
  return {
      "schema_version": SCHEMA_VERSION,
      "created": datetime.datetime.now(datetime.UTC).isoformat(
          timespec="seconds"),
      "plan": plan.as_json(),
      "train_stories": {f"{share:g}": n for share, n in sizes.items()},
      "machine": _machine(output_dir, all_runs[0]),
      "versions": dict(run_record.versions()),
      "parameters": results[all_runs[0]]["systems"][0]["cost"]["parameters"],
      "seconds": seconds,
      "teacher": _teacher(data.import_info, results[all_runs[0]]),
      "how": effect.HOW,
      "methods": _methods(plan, correct, sizes),
      "differences": _differences(plan, correct, sizes),
      "runs": [_run(output_dir, run, sizes, results[run]) for run in all_runs],
      "examples": _examples(plan, answers),
  }


def _read_answers(
    output_dir: pathlib.Path, run: plan_lib.Run) -> dict[str, dict[str, Any]]:
  """The run's rows of `examples.jsonl`, by id, in the order of asking."""
  path = jobs.scores_dir(output_dir, run) / "examples.jsonl"
  with path.open(encoding="utf-8") as file:
    rows = [json.loads(line) for line in file]
  return {row["id"]: row for row in rows if row["system"] == run.name}


def _correct_by_group(plan, answers) -> dict[tuple[str, float], np.ndarray]:
  """(method, share) -> float64 `[seeds, stories]`, stories in one order."""
  ids = list(next(iter(answers.values())))
  return {
      (method, share): np.array([
          [float(answers[plan_lib.Run(method, share, seed)][story]["correct"])
           for story in ids] for seed in plan.seeds])
      for method, share in itertools.product(plan.methods, plan.shares)}


def _methods(plan, correct, sizes) -> list[dict[str, Any]]:
  """Mean accuracy of each method at each size."""
  groups = list(itertools.product(plan.methods, plan.shares))
  return [
      {"method": method, "share": share, "train_stories": sizes[share],
       **dataclasses.asdict(estimate)}
      for (method, share), estimate in zip(
          groups, effect.estimate_all([correct[group] for group in groups]))]


def _differences(plan, correct, sizes) -> list[dict[str, Any]]:
  """step_by_step − finetune at each size, and over all sizes."""
  if not {_FIRST, _SECOND} <= set(plan.methods):
    return []
  differences = [correct[_FIRST, share] - correct[_SECOND, share]
                 for share in plan.shares]
  pooled = effect.pooled_seed_variance(differences)
  sizes_together = [(None, differences)] if len(plan.shares) > 1 else []
  return [
      {"first": _FIRST, "second": _SECOND, "share": share,
       "train_stories": sizes.get(share),
       **dataclasses.asdict(effect.estimate(values, *pooled, least=-1.0))}
      for share, values in [*zip(plan.shares, differences), *sizes_together]]


def _teacher(import_info, results) -> dict[str, Any]:
  """The teacher's own line, and what became of its completions."""
  line = next(s for s in results["systems"] if s["kind"] == "teacher")
  train = import_info["sources"]["train"]
  counts = train["rules"][import_info["rules"]]
  return {
      "test_accuracy": line["accuracy"], "test_ci95": line["ci95"],
      "train_accuracy": counts["accuracy"],
      "train_completions": train["completions"],
      "train_statuses": {name: entry["count"] for name, entry in
                         counts["statuses"].items()},
  }


def _run(output_dir, run, sizes, results) -> dict[str, Any]:
  scores = results["systems"][0]
  record = run_record.read(jobs.run_dir(output_dir, run)) or {}
  return {
      "method": run.method, "share": run.share, "seed": run.seed,
      "train_stories": sizes[run.share], "name": run.name,
      **{name: scores[name] for name in (
          "n", "correct", "accuracy", "ci95", "unparsable")},
      "rationales": scores.get("rationales"),
      "restarts": max(0, len(record.get("starts", ())) - 1),
      "model_dir": str(jobs.run_dir(output_dir, run)),
      "results": str(jobs.scores_dir(output_dir, run) / "results.json"),
  }


def _examples(plan, answers) -> list[dict[str, Any]]:
  """The first stories of the test split, answered by the first student.

  The first ones, right or wrong: chosen by nobody.
  """
  if _FIRST not in plan.methods:
    return []
  run = plan_lib.Run(_FIRST, plan.shares[-1], plan.seeds[0])
  rows = [row for row in answers[run].values() if "rationale" in row]
  return [
      {"run": run.name, "input": row["input"], "label": row["target"],
       "answer": row["prediction"], "rationale": row["rationale"],
       "correct": row["correct"]} for row in rows[:EXAMPLES_SHOWN]]


def _machine(output_dir, run) -> dict[str, Any]:
  record = run_record.read(jobs.run_dir(output_dir, run)) or {}
  return {"processors": os.cpu_count(), "system": platform.system(),
          "machine": platform.machine(), "devices": record.get("devices"),
          "benchmark": tracking.DATASET}
