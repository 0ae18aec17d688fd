"""A study's folder: whose it is, what it was made of, what has changed.

    STUDY/study.toml    the file, as it was read
    STUDY/study.json    every run's gin files and bindings, versions, data
    STUDY/runs/, scores/, logs/, replaced/
    STUDY/report.{html,md,json}, *.png
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import datetime
import hashlib
import json
import pathlib
import re
from typing import Any

from stepdistill_jax.records import datasets, records
from stepdistill_jax.runs import run_lock, run_record
from stepdistill_jax.study import definition, jobs as jobs_lib, resolving
from stepdistill_jax.util import durable_files, errors, locations

FILE = "study.json"
_LINES_SHOWN = 3
# What has changed of a cell with runs: a line; and the kinds of its folders
# that are not what they would be now.
_Change = tuple[str, Sequence[str]]
# What follows a cell's name in that of a run's or score's folder.
_OF_A_RUN = re.compile(
    rf"(-({'|'.join(definition.SWEPT)})-?\d[\d.e+-]*)*-seed\d+"
    rf"(-{resolving.VALIDATION})?")


def cells_of(resolved: Sequence[resolving.Resolved], limit: int | None
             ) -> dict[str, Any]:
  """What decides each cell's runs, as JSON values."""
  return {one.cell.name: {
      "gin_files": list(one.gin_files), "bindings": list(one.bindings),
      "student": one.student, "sweep": {
          name: list(values) for name, values in one.grid.sweep.items()},
      "limit": limit, "gin": one.fingerprint()} for one in resolved}


@contextlib.contextmanager
def claimed(
    folder: pathlib.Path, study: definition.Study, cells: Mapping[str, Any],
    accept: bool) -> Iterator[list[str]]:
  """Makes a folder this study's, or checks that it is; holds its lock.

  Args:
    folder: of the study.
    study: whose it is to be.
    cells: of `cells_of`.
    accept: take changes, although runs were made: their folders go to
      `replaced/`; of a changed `limit` their scores alone.

  Yields:
    A line for each folder that was put aside.

  Raises:
    errors.UserError: it is another study's, or something else, or the study
      has changed since runs were made, or another process works in it.
  """
  _check(folder, study, cells, accept)  # Nothing is written where it refuses.
  folder.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(run_lock.held(str(folder)))
    except errors.UserError as error:
      raise errors.UserError(str(error).replace(
          "another run", "another process").replace(
              "take another MODEL_DIR", "take another --output=DIR")) from error
    # Once more, as another process may have been here until now.
    before, changed = _check(folder, study, cells, accept)
    stale = [path for cell, (_, kinds) in changed.items()
             for path in _of_cell(folder, cell, kinds)]
    if stale:  # And what says how they did.
      stale += sorted(folder.glob("report.*"))
    aside = [_put_aside(folder, path) for path in stale]
    durable_files.replace(folder / "study.toml", study.text)
    _write(folder, {
        **before, "schema_version": 1, "study": study.name,
        "title": study.title, "created": before.get("created") or _now(),
        "cells": cells, "versions": dict(run_record.versions()),
        **({"failed": {}} if stale else {})})
    yield aside


def _check(folder: pathlib.Path, study: definition.Study,
           cells: Mapping[str, Any], accept: bool
           ) -> tuple[dict[str, Any], dict[str, _Change]]:
  """What FILE says, and what has changed since; see `claimed`."""
  path = folder / FILE
  if not path.exists() and folder.is_dir() and any(
      p.name not in ("runs", run_lock.FILE_NAME) and not p.name.startswith(".")
      for p in folder.iterdir()):
    raise errors.UserError(
        f"{folder} is not empty and not a study's; choose another folder with "
        "--output=DIR")
  before = _read(path)
  if before and before["study"] != study.name:
    raise errors.UserError(
        f"{folder} holds the study {before['study']!r}, not {study.name!r}; "
        "choose another folder with --output=DIR")
  made = {cell for cell in before.get("cells", {}) if _of_cell(folder, cell)}
  changed = _changes(before.get("cells", {}), cells, made)
  if changed and not accept:
    more = len(changed) - _LINES_SHOWN
    kinds = {kind for _, of in changed.values() for kind in of}
    aside = "" if not kinds else (
        f", and puts these {'runs' if 'runs' in kinds else 'scores'} aside in "
        f"{folder / 'replaced'}")
    raise errors.UserError(
        f"the study has changed since runs in {folder} were made: "
        + "; ".join([line for line, _ in changed.values()][:_LINES_SHOWN])
        + (f"; and {more} more" if more > 0 else "")
        + f"; --accept takes the changes{aside}; or choose another folder with "
        "--output=DIR")
  return before, changed


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


def _write(folder: pathlib.Path, value: Mapping[str, Any]) -> None:
  durable_files.replace(folder / FILE, json.dumps(value, indent=1) + "\n")


def _add(folder: pathlib.Path, key: str, more: Mapping[str, Any]) -> None:
  """Adds to one of the objects in FILE."""
  value = _read(folder / FILE)
  _write(folder, {**value, key: {**value.get(key, {}), **more}})


def _of_cell(folder: pathlib.Path, cell: str,
             kinds: Iterable[str] = ("runs", "scores")) -> list[pathlib.Path]:
  """The folders of a cell's runs and scores."""
  return [path for kind in kinds for path in sorted((folder / kind).glob("*"))
          if path.name.startswith(cell)
          and _OF_A_RUN.fullmatch(path.name[len(cell):])]


def _changes(before: Mapping[str, Any], now: Mapping[str, Any],
             made: Iterable[str]) -> dict[str, _Change]:
  """Cells with runs that are not what they were -> what has changed."""
  found = {}
  for cell in sorted(made):
    if cell not in now:
      found[cell] = f"{cell} is no longer in it", ("runs", "scores")
      continue
    keys = [key for key in now[cell] if before[cell].get(key) != now[cell][key]]
    if not keys:
      continue
    differences = [
        f"{key} was {_short(before[cell].get(key), now[cell][key])}, now "
        f"{_short(now[cell][key], before[cell].get(key))}"
        # The gin files' fingerprint says what the others do not.
        for key in keys if key != "gin" or len(keys) == 1]
    # A run of a sweep has its setting in its name.
    kinds = () if keys == ["sweep"] else ("scores",) if (
        set(keys) <= {"sweep", "limit"}) else ("runs", "scores")
    found[cell] = f"{cell}: {', '.join(differences)}", kinds
  return found


def _short(value: Any, other: Any) -> str:
  """A value; of a list what the other has not."""
  if isinstance(value, list) and isinstance(other, list):
    value = [v for v in value if v not in other]
    return ", ".join(map(str, value)) or "without"
  return str(value)


def _put_aside(folder: pathlib.Path, path: pathlib.Path) -> str:
  """Moves what is in a study's folder to `replaced/`; returns a line of it."""
  target = folder / "replaced" / path.relative_to(folder)
  number = 1
  while target.exists():
    number += 1
    target = target.with_name(f"{path.name}.{number}")
  target.parent.mkdir(parents=True, exist_ok=True)
  path.rename(target)
  return f"put aside: {path} -> {target}"


def failed(folder: pathlib.Path) -> dict[str, str]:
  """Names of runs that failed in earlier calls, and why."""
  return dict(_read(folder / FILE).get("failed", {}))


def add_failed(folder: pathlib.Path, more: Mapping[str, str]) -> None:
  """Keeps what failed, so that what a sweep chose stays chosen."""
  _add(folder, "failed", more)


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
  _add(folder, "data_sha256", found)
