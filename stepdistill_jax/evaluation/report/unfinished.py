"""Runs that have not ended: whether they train, their step, their best score.
"""

import contextlib
import json
import pathlib
from typing import Any

from stepdistill_jax.evaluation.report import run_facts
from stepdistill_jax.runs import checkpoint_paths, run_lock, run_record
from stepdistill_jax.util import errors

_ACCURACY_KEYS = ("accuracy", "label_accuracy", "equation_accuracy",
                  "sequence_accuracy")


def scores(path: pathlib.Path) -> list[tuple[int, float, pathlib.Path]]:
  """The validation accuracies that a run itself wrote.

  Args:
    path: the run's folder.

  Returns:
    (step, accuracy in [0, 1], file) of its first scored task, by step. What a
    killed run left of a line is passed over: it writes the line again.
  """
  for file in sorted((path / "inference_eval").glob("*-metrics.jsonl")):
    found = []
    for line in file.read_text("utf-8", "replace").splitlines():
      with contextlib.suppress(ValueError, KeyError, TypeError):
        entry = json.loads(line)
        key = next((k for k in _ACCURACY_KEYS if k in entry), None)
        if key is not None:  # SeqIO's metrics are percentages.
          found.append((int(entry["step"]), float(entry[key]) / 100, file))
    if found:
      return found
  return []


def read(path: pathlib.Path) -> dict[str, Any] | None:
  """What is known of a run that has not ended; None for one that has.

  Returns:
    `path`; `state`, "running" or "stopped"; `step`, of its last checkpoint,
    None for none; `of`, the step to end at, None where that is unknown;
    `best` and `best_step`, its best validation accuracy, or None.
  """
  try:
    record = run_record.read(path)
  except errors.UserError:
    return None  # Who reads the runs' scores says what is wrong with it.
  if record is None or record.get("finished"):
    return None
  found = scores(path)
  total = run_facts.lookup(record.get("config") or {}, "TRAIN_STEPS")
  best = max(found, key=lambda entry: entry[1], default=None)
  return {
      "path": path,
      "state": "running" if run_lock.is_beating(str(path)) else "stopped",
      "step": checkpoint_paths.latest_step(str(path)),
      "of": int(total) if str(total).isdecimal() else None,
      "best": best and best[1], "best_step": best and best[0]}
