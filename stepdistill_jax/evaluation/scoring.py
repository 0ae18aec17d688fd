"""Scoring as a call: what `stepdistill-eval` does, in this process."""

from collections.abc import Callable, Collection, Sequence
import pathlib
from typing import Any

from stepdistill_jax.evaluation import (
  checkpoints,
  evaluate,
  model_config,
  store as store_lib,
  systems as systems_lib,
)
from stepdistill_jax.evaluation.report import outputs
from stepdistill_jax.util import locations


def score_checkpoint(
    model_dir: str | pathlib.Path, benchmark: str, split: str = "test", *,
    records_dir: str | pathlib.Path | None = None,
    output: str | pathlib.Path | None = None, name: str | None = None,
    limit: int | None = None, rules: str = "strict", seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
    strict: bool = False, **model_settings: Any,
) -> dict[str, Any]:
  """Scores one checkpoint in this process, as `stepdistill-eval` does.

  Args:
    model_dir: a run's folder, or one `checkpoint_STEP` of it.
    benchmark: one or several names with commas between.
    split: which split.
    records_dir: of distillation records.
    output: folder of `results.json` and the reports; None writes nothing.
      Answers that an earlier call left there are taken up.
    name: of the checkpoint in tables.
    limit: only the first so many examples.
    rules: `strict` or `reference`.
    seed: of the bootstrap.
    progress: called with (done, total, what) as answers come.
    strict: refuse a run whose newest checkpoint is not what was written,
      instead of taking the one before it.
    **model_settings: of `ModelConfig`, e.g. `rationales="no"`, `beam=4`.

  Returns:
    The contents of `results.json`, and the rows of `examples.jsonl` under
    `examples`.
  """
  records_dir = pathlib.Path(records_dir or locations.records_dir())
  config = evaluate.EvalConfig(benchmarks=benchmark, split=split, limit=limit,
                               rules=rules, seed=seed)
  system = checkpoints.Checkpoint(
      model_dir, model_config.ModelConfig(**model_settings), name=name,
      records_dir=records_dir, progress=progress, strict=strict)
  return score_system(system, config, records_dir, output)


def score_system(
    system: systems_lib.System, config: evaluate.EvalConfig,
    records_dir: pathlib.Path, output: str | pathlib.Path | None = None,
) -> dict[str, Any]:
  """Scores one system; see `score_checkpoint`."""
  results, rows = score_systems([system], config, records_dir, output)
  return {**results, "examples": list(rows)}


def score_systems(
    systems: Sequence[systems_lib.System], config: evaluate.EvalConfig,
    records_dir: pathlib.Path, output: str | pathlib.Path | None = None, *,
    overwrite: bool = False, **written: bool,
) -> tuple[dict[str, Any], Collection[dict[str, Any]]]:
  """Scores systems together.

  Args:
    systems: what is scored.
    config: of the call.
    records_dir: of distillation records.
    output: folder of `results.json` and the reports; None writes nothing.
    overwrite: forget the answers that an earlier call left there.
    **written: see `outputs.write`.

  Returns:
    The contents of `results.json`, and the rows of `examples.jsonl`.
  """
  folder = outputs.prepare(pathlib.Path(output)) if output else None
  store = store_lib.AnswerStore(folder / "answers" if folder else None)
  if overwrite:
    store.clear()
  example_sets, warnings = evaluate.load_example_sets(
      config, records_dir, evaluate.preferred_teacher(systems))
  results, rows = evaluate.evaluate(
      systems, example_sets, config, records_dir=records_dir, store=store,
      warnings=warnings)
  if folder:
    outputs.write(folder, results, rows, **written)
  return results, rows
