"""Which data sets, teachers and tasks there are; imports no TensorFlow."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
import os
from typing import Any

from stepdistill_jax.records import datasets, declared, records, task_names


def found(records_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Data sets with their records and tasks, as JSON values.

  Args:
    records_dir: the folder of all records; one that is not there has none.

  Returns:
    For each data set that is declared or has records `dataset`, `declared`,
    `union` (its members), `tasks` (names by kind) and `teachers`: name ->
    {"records": split -> number, "statuses": status -> number}.
  """
  teachers: dict[str, list[str]] = collections.defaultdict(list)
  for dataset, teacher in records.list_records(records_dir):
    teachers[dataset].append(teacher)
  known = declared.tables()
  entries = []
  for dataset in sorted({*known, *teachers}):
    union = datasets.UNIONS.get(dataset, ())
    if union:
      present = sorted(set.intersection(
          *(set(teachers.get(member, ())) for member in union)))
    else:
      present = records.teachers_of(records_dir, dataset)
    entries.append({
        "dataset": dataset, "declared": dataset in known,
        "union": list(union), "tasks": _tasks(dataset, present, bool(union)),
        "teachers": {
            teacher: {} if union else _counts(records_dir, dataset, teacher)
            for teacher in present}})
  return entries


def _counts(
    records_dir: str | os.PathLike[str], dataset: str, teacher: str
) -> dict[str, Any]:
  statuses: collections.Counter[str] = collections.Counter()
  info = records.import_info(records_dir, dataset, teacher)
  for source in info.get("sources", {}).values():
    for counts in source.get("rules", {}).values():
      for status, entry in counts.get("statuses", {}).items():
        statuses[status] += entry["count"]
  return {"records": records.split_sizes(records_dir, dataset, teacher),
          "statuses": dict(statuses.most_common())}


def _tasks(
    dataset: str, teachers: list[str], is_union: bool
) -> dict[str, list[str]]:
  """Kind -> the tasks of these teachers."""
  return {kind: list(dict.fromkeys(
      task_names.task_name(kind, dataset, labels, teacher)
      for teacher in teachers for labels in ("gold", "teacher")))
          for kind in task_names.KINDS if teachers and not (
              is_union and kind in ("mix", "single", "pinto"))}


def lines(
    entries: Sequence[Mapping[str, Any]], records_dir: object) -> list[str]:
  """In words."""
  text = []
  for entry in entries:
    if not entry["teachers"]:
      continue
    of = f" (of {', '.join(entry['union'])})" if entry["union"] else ""
    text.append(f"{entry['dataset']}{of}")
    for teacher, counts in entry["teachers"].items():
      numbers = ", ".join(f"{n:,} {split}" for split, n in
                          counts.get("records", {}).items())
      unusable = {s: n for s, n in counts.get("statuses", {}).items()
                  if s != records.OK}
      text.append(f"  by {teacher}" + (f": {numbers} records" if numbers
                                       else "") + (
          "; completions not used: " + ", ".join(
              f"{n:,} {status}" for status, n in unusable.items())
          if unusable else ""))
    for kind, names in entry["tasks"].items():
      text.append(f"  {kind:<10}{'  '.join(names)}")
  absent = [e["dataset"] for e in entries if not e["teachers"]]
  if not text:
    text.append(f"no records in {records_dir}; write some with `stepdistill "
                "teacher import`")
  if absent:
    text.append(f"declared, without records: {', '.join(absent)}")
  return text
