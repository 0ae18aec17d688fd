"""The table of runs and their accuracies, from what lies in folders.

Two kinds of folders hold accuracies: those of `stepdistill-eval`
(`results.json` and `examples.jsonl`, per checkpoint, with every answer), and a
run's own `inference_eval`, written while it trained (validation, no counts).
The first is preferred; the second is marked as what it is.
"""

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import json
import pathlib
from typing import Any

import pandas as pd

from stepdistill_jax.evaluation.report import run_facts
from stepdistill_jax.interop import run_folder
from stepdistill_jax.records import datasets
from stepdistill_jax.runs import checkpoint_paths, run_lock, run_record
from stepdistill_jax.util import errors, locations

_RESULTS = "results.json"
_ACCURACY_KEYS = ("accuracy", "label_accuracy", "equation_accuracy",
                  "sequence_accuracy")
_COLUMNS = ("path", "dataset", "method", "split", "step", "accuracy", "n",
            "ci95", "source", "correct", "run")


def collect(
    paths: Sequence[str | pathlib.Path],
) -> tuple[pd.DataFrame, pd.DataFrame, list[dict[str, Any]], list[str]]:
  """Finds all runs and results below some folders.

  Args:
    paths: run folders, output folders of `stepdistill-eval`, or folders that
      hold any of them.

  Returns:
    The runs, a row each checkpoint and split, with the columns of
    `run_facts.read` and
      split: `test`, or `validation` from the run's own evaluation;
      step: of the checkpoint;
      accuracy: a share in [0, 1];
      n: number of examples; None where unknown;
      ci95: Wilson's interval over examples; None where n is unknown;
      source: the file that says so;
      correct: example id to whether it was answered right, or None;
      run: the first path of the copies of a run;
    the teachers' scores (dataset, teacher, split, accuracy, n); the runs that
    have not ended, see `unfinished`; and a line for each thing that was
    skipped, with the reason.

  Raises:
    errors.UserError: a path that does not exist, or neither a score nor a run
      that has not ended.
  """
  files, folders = [], {}
  for path in map(pathlib.Path, paths):
    if not path.is_dir():
      raise errors.UserError(
          f"{locations.not_a_folder(path)}; pass runs' folders (MODEL_DIR), "
          "outputs of stepdistill-eval, or a folder that holds them")
    files += _find(path, _RESULTS)
    for config in _find(path, run_folder.CONFIG_FILE):
      folders[config.parent.resolve()] = None
  runs: list[dict[str, Any]] = []
  teachers: list[dict[str, Any]] = []
  skipped: list[str] = []
  for file in files:
    _read_results(file, runs, teachers, skipped)
  scored = {row["path"] for row in runs}
  open_runs = [row for path in folders if (row := unfinished(path))]
  still = {row["path"] for row in open_runs}
  runs += [row for path in folders if path not in scored
           for row in _from_training(path, skipped, path in still)]
  first = run_folder.first_copies({
      row["path"]: run_folder.identities_of(row["path"]) for row in runs})
  runs = [{**row, "run": first[row["path"]]} for row in runs]
  skipped += run_folder.copy_lines(first)
  if not runs and not open_runs:
    raise errors.UserError(
        "no scored run in " + ", ".join(map(str, paths))
        + "".join(f"; {line}" for line in skipped[:3])
        + "; score one with `stepdistill-eval --checkpoint=MODEL_DIR "
        "--benchmarks=... --output=DIR` and pass DIR too")
  return (_largest(runs, ["path", "dataset", "split", "step"]),
          _largest(teachers, ["dataset", "teacher", "split"]), open_runs,
          skipped)


def latest(runs: pd.DataFrame) -> pd.DataFrame:
  """Of each run, data set and split the row of its last checkpoint."""
  last = runs.sort_values(
      "step", kind="stable", ascending=False).drop_duplicates(
          ["run", "dataset", "split"])
  return last.sort_index()


def _find(folder: pathlib.Path, name: str) -> Iterable[pathlib.Path]:
  """Files of a name, not those inside checkpoints."""
  return sorted(
      path for path in folder.rglob(name)
      if not any(part.startswith("checkpoint_")
                 for part in path.relative_to(folder).parts))


def _largest(rows: list[dict[str, Any]], key: list[str]) -> pd.DataFrame:
  """Of rows with an equal key, the first of those on most examples."""
  table = pd.DataFrame(rows, dtype=object)
  if table.empty:
    return pd.DataFrame(columns=_COLUMNS, dtype=object)
  by_size = table.assign(n=[n or 0 for n in table["n"]]).sort_values(
      "n", ascending=False, kind="stable")
  kept = by_size.drop_duplicates(key).index
  return table.loc[sorted(kept)].reset_index(drop=True)


def _read_results(file, runs, teachers, skipped) -> None:
  """Appends what a `results.json` holds."""
  try:
    systems = json.loads(file.read_text(encoding="utf-8"))["systems"]
    if not all(isinstance(system, dict) for system in systems):
      raise TypeError
  except (ValueError, KeyError, TypeError):
    skipped.append(f"{file} was not written by stepdistill-eval")
    return
  answers = _read_answers(file.with_name("examples.jsonl"), skipped)
  for system in systems:
    if system.get("mode") != "generate" or system.get("accuracy") is None:
      continue
    if system.get("text_metrics"):
      skipped.append(
          f"{system['name']} in {file}: {system['benchmark']} has texts, which "
          f"are compared by {system.get('metric')} and not by accuracy; see "
          f"{file.with_name('report.md')}, or `stepdistill scorecard`")
      continue
    if system["kind"] == "teacher":
      teachers.append({
          "dataset": system["benchmark"],
          "teacher": system["name"].removeprefix("teacher "),
          **{name: system[name] for name in ("split", "accuracy", "n")}})
    elif system["kind"] == "checkpoint":
      runs += _of_checkpoint(system, file, answers, skipped)


def _read_answers(file: pathlib.Path, skipped: list[str]) -> dict:
  """(system, benchmark, split) -> id -> whether the answer was right."""
  answers: dict[tuple, dict[str, bool]] = {}
  try:
    with file.open(encoding="utf-8") as lines:
      for line in lines:
        row = json.loads(line)
        if row["mode"] == "generate":
          answers.setdefault(
              (row["system"], row["benchmark"], row["split"]), {})[
                  row["id"]] = bool(row["correct"])
  except (OSError, ValueError, KeyError, TypeError) as error:
    why = error.strerror if isinstance(error, OSError) else error
    skipped.append(f"{file} has no answers ({why}): no intervals over seeds "
                   "from there")
    return {}
  return answers


def _folder_of(run: pathlib.Path, scores: pathlib.Path) -> pathlib.Path:
  """A run's folder; of one that was moved together with its scores, the new.
  """
  if run.is_dir():
    return run.resolve()
  for parent in scores.resolve().parents:
    for start in range(1, len(run.parts) - 1):
      moved = parent.joinpath(*run.parts[start:])
      if (moved / run_folder.CONFIG_FILE).is_file():
        return moved
  return run


def _of_checkpoint(
    system: Mapping[str, Any], file: pathlib.Path, answers: Mapping[tuple, Any],
    skipped: list[str]) -> Iterable[dict[str, Any]]:
  checkpoint = pathlib.Path(system["source"])
  try:
    facts = run_facts.read(_folder_of(checkpoint.parent, file))
  except errors.UserError as error:
    skipped.append(f"{system['name']} in {file}: {error}")
    return
  others = {} if facts["dataset"] == system["benchmark"] else {
      "dataset": system["benchmark"],
      "method": f"{facts['method']}, on {facts['dataset']}"}
  if system["benchmark"] not in datasets.members(facts["dataset"]):
    skipped.append(
        f"{system['name']} in {file}: trained on {facts['dataset']}, scored "
        f"on {system['benchmark']}")
    return
  yield {
      **facts, **others, "split": system["split"],
      "step": int(checkpoint.name.rpartition("_")[2]), "n": system["n"],
      "accuracy": system["accuracy"], "ci95": tuple(system["ci95"]),
      "source": str(file), "correct": answers.get(
          (system["name"], system["benchmark"], system["split"]))}


def _from_training(
    path: pathlib.Path, skipped: list[str], is_open: bool
) -> Iterable[dict[str, Any]]:
  """The last validation accuracy that a run itself wrote."""
  try:
    facts = run_facts.read(path)
  except errors.UserError as error:
    skipped.append(str(error))
    return
  if datasets.get(facts["dataset"]).label_kind in datasets.LONG_TEXTS:
    skipped.append(f"{path}: {facts['dataset']} has texts, which have no "
                   "accuracy; score it with stepdistill-eval")
    return
  found = _own_scores(path)
  if found:
    step, accuracy, file = found[-1]
    yield {
        **facts, "split": "validation", "step": step, "n": None,
        "accuracy": accuracy, "ci95": None, "source": str(file),
        "correct": None}
    return
  if is_open:
    return  # It may have one yet.
  skipped.append(
      f"{path} has no score: neither in a results.json nor in its "
      "inference_eval")


def _own_scores(path: pathlib.Path) -> list[tuple[int, float, pathlib.Path]]:
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


def unfinished(path: pathlib.Path) -> dict[str, Any] | None:
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
  found = _own_scores(path)
  total = run_facts.lookup(record.get("config") or {}, "TRAIN_STEPS")
  best = max(found, key=lambda entry: entry[1], default=None)
  return {
      "path": path,
      "state": "running" if run_lock.is_beating(str(path)) else "stopped",
      "step": checkpoint_paths.latest_step(str(path)),
      "of": int(total) if str(total).isdecimal() else None,
      "best": best and best[1], "best_step": best and best[0]}
