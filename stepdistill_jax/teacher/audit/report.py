"""An audit as text for a terminal, and as one HTML page without scripts."""

import collections
from collections.abc import Mapping
import pathlib
from typing import Any

from stepdistill_jax.answers import labels
from stepdistill_jax.records import datasets, questions, records
from stepdistill_jax.teacher.audit import audit
from stepdistill_jax.teacher.importing import counts as import_counts
from stepdistill_jax.util import pages

_BARS = 32
_EXAMPLE_WIDTH = 60  # Beside count and reason, in a terminal of 100 columns.
_TEMPLATE = pathlib.Path(__file__).parent / "templates" / "audit.html"
_NOT_MEASURED = "not measured"


def percent(share: float | None) -> str:
  return _NOT_MEASURED if share is None else f"{share:.2%}"


def text_lines(report: Mapping[str, Any]) -> list[str]:
  """The audit for a terminal."""
  info = report["import"]
  lines = [f"{report['dataset']}/{report['teacher']}  {report['folder']}"]
  for split, source in info.get("sources", {}).items():
    lines.append(
        f"source {split}: {source['rows']:,} rows, "
        + (f"{source['completions']:,}" if source["completions"] else "no")
        + " completions" + (
            "" if source["without_continuation"] is None else
            f", {source['without_continuation']:,} without a made-up next "
            "example"))
    for rules, counts in source["rules"].items():
      empty = counts["empty_rationales"]
      lines.append(
          f"  {rules + ' rules':<16} {counts['labels']:,} labels, accuracy "
          + import_counts.accuracy_text(
              counts["correct"], counts["with_gold"],
              counts["why_no_accuracy"])
          + (", no rationales" if empty is None
             else f", {empty:,} empty rationales"))
      lines += _counted({reason: entry for reason, entry in
                         counts["statuses"].items() if reason != "ok"})
      for title, found in _readings(counts):
        lines.append(f"    {title}: {', '.join(import_counts.in_words(found))}")
    lines += _counted(source.get("human_labels", {}), "human label: ")
    lines += _counted(source["dropped"], "dropped: ")
  for split, numbers in report["splits"].items():
    accuracy = numbers["teacher_accuracy"]
    against = numbers["rationales_contradicting_their_label"]
    states = numbers["rationales_stating_the_answer"]
    lines += [
        f"records {split}: {numbers['records']:,}, "
        f"{numbers['with_rationale']:,} with a rationale, "
        f"{numbers['with_teacher_label']:,} with a teacher's label, "
        f"{numbers['with_human_label']:,} with a human one",
        "  teacher accuracy " + _accuracy(accuracy),
        f"  {report['unit_of_lengths']} of rationales: "
        + (", ".join(
            f"{name} {value:.1f}" if name == "mean" else f"{name} {value}"
            for name, value in numbers["lengths"]["rationale"].items())
           or "none"),
        f"  rationales that contradict their label {_count(against)}; that "
        f"state the answer {percent(states['share'])}",
        "  words of rationales found in their inputs "
        f"{percent(numbers['mean_overlap_with_inputs'])}",
        f"  repeated inputs {numbers['repeated_inputs']:,}",
    ]
  leaked = report["leaked_inputs"]
  lines.append("inputs in two splits: " + (
      _NOT_MEASURED if leaked is None else ", ".join(
          f"{n:,} in {pair}" for pair, n in leaked.items()) or "none"))
  lines += map(questions.overlap_line, report["also_elsewhere"])
  lines += [f"labels in the vocabulary: {line}"
            for line in _vocabulary_lines(report)]
  lines += [f"note: {note}" for note in info.get("notes", [])]
  return lines


def _counted(entries: import_counts.Entries, title: str = "") -> list[str]:
  return [f"    {entry['count']:>7,} {title + reason:<24}"
          f"{_short_example(entry['examples'])}"
          for reason, entry in entries.items()]


def _readings(counts: Mapping[str, Any]) -> list[tuple[str, Any]]:
  """What answers were read by, and what was taken off; of what there is."""
  return [(title, counts[name]) for title, name in (
      ("read by", "read_by"), ("cleaned", "cleaned")) if counts.get(name)]


def _accuracy(numbers: Mapping[str, Any]) -> str:
  return import_counts.accuracy_text(
      numbers["correct"], numbers["of_all_with_human_label"],
      numbers["why_not"])


def _count(numbers: Mapping[str, Any]) -> str:
  """`3 of 720 (0.42%)`."""
  if numbers["count"] is None:
    return _NOT_MEASURED
  return (f"{numbers['count']:,} of {numbers['of']:,} "
          f"({percent(numbers['share'])})")


def _short_example(examples: list[str]) -> str:
  """The first example, without its file's folder, cut for a terminal."""
  if not examples:
    return ""
  file, colon, text = examples[0].partition(": ")
  example = f"  e.g. {file.rpartition('/')[2]}{colon}{text}"
  return example if len(example) <= _EXAMPLE_WIDTH else (
      example[:_EXAMPLE_WIDTH - 1] + "…")


def html_page(report: Mapping[str, Any],
              splits: Mapping[str, audit.SplitAudit]) -> str:
  """The audit as a page: tables, a histogram a split, sampled records."""
  return pages.render(
      _TEMPLATE, title=f"Audit of {report['dataset']} by {report['teacher']}",
      report=report, splits=splits, also_elsewhere=list(map(
          questions.overlap_line, report["also_elsewhere"])),
      unit=report["unit_of_lengths"],
      percentiles=[f"p{p}" for p in audit.PERCENTILES], percent=percent,
      accuracy=_accuracy, count=_count, vocabulary_lines=_vocabulary_lines,
      histogram=_histogram, agrees=_agrees, readings=_readings)


def _vocabulary_lines(report: Mapping[str, Any]) -> list[str]:
  lines = report["labels_in_vocabulary"]
  if lines is None:
    return [_NOT_MEASURED + ", as no vocabulary was found"]
  return lines or ["each keeps its form"]


def _histogram(lengths: collections.Counter) -> tuple[int, list[int]]:
  """How many values each bar of the rationales' lengths has, and the bars."""
  if not lengths:
    return 0, []
  longest = max(lengths)
  width = max(1, -(-(longest + 1) // _BARS))
  bars = [0] * (longest // width + 1)
  for length, count in lengths.items():
    bars[length // width] += count
  return width, bars


def _agrees(record: records.Record, split_audit: audit.SplitAudit
            ) -> bool | None:
  """Whether the teacher's label is the human one; None if not to compare."""
  if not (record.label and record.teacher_label) or split_audit.own_labels or (
      split_audit.dataset.label_kind in datasets.LONG_TEXTS):
    return None
  return labels.is_correct(
      split_audit.dataset, record.teacher_label, record.label)
