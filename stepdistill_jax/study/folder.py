"""A study's folder: whose it is, what it was made of, what has changed.

    STUDY/study.toml    the file, as it was read
    STUDY/study.json    every run's gin files and bindings, versions, data
    STUDY/runs/, scores/, logs/, replaced/
    STUDY/report.{html,md,json}, *.png
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import datetime
import hashlib
import json
import pathlib
from typing import Any

from stepdistill_jax.records import datasets, records
from stepdistill_jax.runs import run_record
from stepdistill_jax.study import definition, jobs as jobs_lib, resolving
from stepdistill_jax.util import durable_files, errors, locations

FILE = "study.json"
_LINES_SHOWN = 3


def cells_of(resolved: Sequence[resolving.Resolved], limit: int | None
             ) -> dict[str, Any]:
  """What decides each cell's runs, as JSON values."""
  return {one.cell.name: {
      "gin_files": list(one.gin_files), "bindings": list(one.bindings),
      "student": one.student, "sweep": {
          name: list(values) for name, values in one.grid.sweep.items()},
      "limit": limit, "gin": one.fingerprint()} for one in resolved}


def claim(
    folder: pathlib.Path, study: definition.Study, cells: Mapping[str, Any],
    accept: bool) -> list[str]:
  """Makes a folder this study's, or checks that it is.

  Args:
    folder: of the study.
    study: whose it is to be.
    cells: of `cells_of`.
    accept: take changes, although runs were made: their folders go to
      `replaced/`.

  Returns:
    A line for each run that was put aside.

  Raises:
    errors.UserError: it is another study's, or something else, or the study
      has changed since runs were made.
  """
  path = folder / FILE
  if not path.exists() and folder.is_dir() and any(
      p.name != "runs" and not p.name.startswith(".")
      for p in folder.iterdir()):
    raise errors.UserError(
        f"{folder} is not empty and not a study's; choose another folder with "
        "--output=DIR")
  before = _read(path)
  if before and before["study"] != study.name:
    raise errors.UserError(
        f"{folder} holds the study {before['study']!r}, not {study.name!r}; "
        "choose another folder with --output=DIR")
  made = _made(folder, before.get("cells", {}))
  changed = _changes(before.get("cells", {}), cells, made)
  if changed and not accept:
    more = len(changed) - _LINES_SHOWN
    raise errors.UserError(
        f"the study has changed since runs in {folder} were made: "
        + "; ".join(list(changed.values())[:_LINES_SHOWN])
        + (f"; and {more} more" if more > 0 else "")
        + "; --accept takes the changes, and puts these runs aside in "
        f"{folder / 'replaced'}; or choose another folder with --output=DIR")
  aside = [line for cell in changed for line in _put_aside(folder, cell)]
  folder.mkdir(parents=True, exist_ok=True)
  durable_files.replace(folder / "study.toml", study.text)
  durable_files.replace(path, json.dumps({
      **before, "schema_version": 1, "study": study.name, "title": study.title,
      "created": before.get("created") or _now(), "cells": cells,
      "versions": dict(run_record.versions())}, indent=1) + "\n")
  return aside


def _now() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _read(path: pathlib.Path) -> dict[str, Any]:
  if not path.exists():
    return {}
  with errors.reported((ValueError, KeyError, TypeError, AttributeError),
                       lambda error: f"{path} is damaged ({error}); put it "
                       "back, or take another folder with --output=DIR"):
    value = json.loads(path.read_text("utf-8"))
    value["study"], value["cells"].items()
    return dict(value)


def _of_cell(folder: pathlib.Path, cell: str) -> list[pathlib.Path]:
  """The folders of a cell's runs and scores."""
  return [path for kind in ("runs", "scores") for path in sorted(
      (folder / kind).glob(f"{cell}-*")) if path.name.startswith(
          (f"{cell}-seed", *(f"{cell}-{name}" for name in definition.SWEPT)))]


def _made(folder: pathlib.Path, cells: Iterable[str]) -> set[str]:
  return {cell for cell in cells if _of_cell(folder, cell)}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any],
             made: Iterable[str]) -> dict[str, str]:
  """Cells with runs that are not what they were -> what has changed."""
  found = {}
  for cell in sorted(made):
    if cell not in now:
      found[cell] = f"{cell} is no longer in it"
      continue
    differences = [
        f"{key} was {_short(before[cell].get(key), now[cell][key])}, now "
        f"{_short(now[cell][key], before[cell].get(key))}"
        for key in now[cell] if before[cell].get(key) != now[cell][key]]
    # The gin files' fingerprint says what the others do not.
    if len(differences) > 1:
      differences = [d for d in differences if not d.startswith("gin was")]
    if differences:
      found[cell] = f"{cell}: {', '.join(differences)}"
  return found


def _short(value: Any, other: Any) -> str:
  """A value; of a list what the other has not."""
  if isinstance(value, list) and isinstance(other, list):
    value = [v for v in value if v not in other]
    return ", ".join(map(str, value)) or "without"
  return str(value)


def _put_aside(folder: pathlib.Path, cell: str) -> Iterable[str]:
  for path in _of_cell(folder, cell):
    target = folder / "replaced" / path.parent.name / path.name
    number = 1
    while target.exists():
      number += 1
      target = target.with_name(f"{path.name}.{number}")
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    yield f"put aside: {path} -> {target}"


def write_data(folder: pathlib.Path, jobs: Sequence[jobs_lib.Job],
               resolved: Sequence[resolving.Resolved]) -> None:
  """Adds the records' hashes and the runs' own to `study.json`."""
  found: dict[str, Any] = {}
  folders = {job.records_dir for job in jobs}
  pairs = {(member, teacher) for one in resolved
           for member in datasets.members(one.cell.dataset)
           for records_dir in folders
           for teacher in ([one.cell.teacher] if one.cell.teacher
                           else records.teachers_of(records_dir, member)[:1])}
  for dataset, teacher in sorted(pairs):
    for records_dir in folders:
      version = records.version_dir(records_dir, dataset, teacher)
      if version.is_dir():
        found[f"{dataset}/{teacher}"] = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(version.iterdir()) if path.is_file()}
  with contextlib.suppress(errors.UserError):
    vocabulary = locations.t5_vocabulary_path()
    found["vocabulary"] = {vocabulary.name: hashlib.sha256(
        vocabulary.read_bytes()).hexdigest()}
  value = _read(folder / FILE)
  durable_files.replace(folder / FILE, json.dumps(
      {**value, "data_sha256": found}, indent=1) + "\n")
