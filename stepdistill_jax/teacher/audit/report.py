"""An audit as text for a terminal, and as one HTML page without scripts."""

from __future__ import annotations

import collections
from collections.abc import Mapping
import html
from typing import Any

from stepdistill_jax.answers import labels as labels_lib
from stepdistill_jax.teacher.audit import audit
from stepdistill_jax.teacher.importing import counts as import_counts

_BARS = 32
_EXAMPLE_WIDTH = 60  # Beside count and reason, in a terminal of 100 columns.
_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem;
       margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .8rem .2rem 0;
         text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.example { color: #666; font-size: .85rem; overflow-wrap: anywhere; }
.record { border: 1px solid #ddd; border-radius: .4rem; padding: .6rem 1rem;
          margin: .8rem 0; }
.record p { margin: .2rem 0; white-space: pre-wrap;
            overflow-wrap: anywhere; }
.wrong { color: #a00; } .right { color: #070; }
rect { fill: #4a7ab5; } svg text { font-size: 11px; fill: #555; }
"""


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
      for reason, entry in counts["statuses"].items():
        if reason != "ok":
          lines.append(f"    {entry['count']:>7,} {reason:<24}"
                       f"{_short_example(entry['examples'])}")
      for title, found in _readings(counts):
        lines.append(f"    {title}: " + ", ".join(
            f"{entry['count']:,} {name}" for name, entry in found.items()))
    for reason, entry in source.get("human_labels", {}).items():
      lines.append(
          f"    {entry['count']:>7,} {'human label: ' + reason:<24}"
          f"{_short_example(entry['examples'])}")
    for reason, entry in source["dropped"].items():
      lines.append(f"    {entry['count']:>7,} {'dropped: ' + reason:<24}"
                   f"{_short_example(entry['examples'])}")
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
        + _percentile_text(numbers["lengths"]["rationale"]),
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
  lines += [f"labels in the vocabulary: {line}"
            for line in _vocabulary_lines(report)]
  lines += [f"note: {note}" for note in info.get("notes", [])]
  return lines


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


def _percentile_text(lengths: Mapping[str, float]) -> str:
  return ", ".join(
      f"{name} {value:.1f}" if name == "mean" else f"{name} {value}"
      for name, value in lengths.items()) or "none"


def html_page(report: Mapping[str, Any],
              splits: Mapping[str, audit.SplitAudit]) -> str:
  """The audit as a page: tables, a histogram a split, sampled records."""
  title = html.escape(f"Audit of {report['dataset']} by {report['teacher']}")
  parts = [
      f"<!doctype html><html lang=en><head><meta charset=utf-8>"
      f"<title>{title}</title><style>{_CSS}</style></head><body>",
      f"<h1>{title}</h1><p>{html.escape(report['folder'])}</p>"]
  for split, source in report["import"].get("sources", {}).items():
    parts.append(_source_section(split, source))
  for note in report["import"].get("notes", []):
    parts.append(f"<p>Note: {html.escape(note)}</p>")
  parts += [f"<p>labels in the vocabulary: {html.escape(line)}</p>"
            for line in _vocabulary_lines(report)]
  parts.append(_leaks(report["leaked_inputs"]))
  for split, numbers in report["splits"].items():
    parts.append(_split_section(
        split, numbers, splits[split], report["unit_of_lengths"]))
  parts.append("</body></html>")
  return "\n".join(parts)


def _table(header: list[str], rows: list[list[Any]]) -> str:
  """A table; numbers are set right, texts escaped, `Markup` kept."""

  def cell(value: Any) -> str:
    if value is None:
      return f"<td>{_NOT_MEASURED}</td>"
    if isinstance(value, int):
      return f"<td class=n>{value:,}</td>"
    if isinstance(value, _Markup):
      return f"<td>{value}</td>"
    return f"<td>{html.escape(str(value))}</td>"

  head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
  body = "".join(
      "<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows)
  return f"<table><tr>{head}</tr>{body}</table>"


class _Markup(str):
  """Text that is HTML already."""


def _source_section(split: str, source: Mapping[str, Any]) -> str:
  parts = [
      f"<h2>Completions of the source's {html.escape(split)} split</h2>",
      _table(["", ""], [
          ["rows", source["rows"]], ["completions", source["completions"]],
          ["without a made-up next example", source["without_continuation"]],
          *([["words found in the own row / in the row before",
              f"{percent(source['overlap']['own_row'])} / "
              f"{percent(source['overlap']['row_before'])}"]]
            if source["overlap"] else [])]),
      _table(
          ["rules", "labels", "accuracy", "correct", "with a human label",
           "empty rationales", "with newlines", "not ASCII"],
          [[rules, c["labels"], percent(c["accuracy"]), c["correct"],
            c["with_gold"], c["empty_rationales"], c["multiline_rationales"],
            c["non_ascii_rationales"]]
           for rules, c in source["rules"].items()])]
  reasons = [
      [rules, reason, entry["count"], _examples(entry["examples"])]
      for rules, counts in source["rules"].items()
      for reason, entry in counts["statuses"].items()]
  reasons += [
      [f"{rules}, {title}", name, entry["count"], _examples(entry["examples"])]
      for rules, counts in source["rules"].items()
      for title, found in _readings(counts)
      for name, entry in found.items()]
  reasons += [
      ["human labels", reason, entry["count"], _examples(entry["examples"])]
      for reason, entry in source.get("human_labels", {}).items()]
  reasons += [
      ["dropped", reason, entry["count"], _examples(entry["examples"])]
      for reason, entry in source["dropped"].items()]
  parts.append(_table(
      ["rules", "status or rule", "completions", "examples"], reasons))
  return "".join(parts)


def _examples(texts: list[str]) -> _Markup:
  return _Markup("".join(
      f"<div class=example>{html.escape(text)}</div>" for text in texts))


def _vocabulary_lines(report: Mapping[str, Any]) -> list[str]:
  lines = report["labels_in_vocabulary"]
  if lines is None:
    return [_NOT_MEASURED + ", as no vocabulary was found"]
  return lines or ["each keeps its form"]


def _leaks(leaked: Mapping[str, int] | None) -> str:
  if leaked is None:
    return "<p>Inputs in two splits: not measured.</p>"
  if not leaked:
    return "<p>No input is in two splits.</p>"
  return "<h2>Inputs in two splits</h2>" + _table(
      ["splits", "inputs"], [[pair, n] for pair, n in leaked.items()])


def _split_section(split: str, numbers: Mapping[str, Any],
                   split_audit: audit.SplitAudit, unit: str) -> str:
  accuracy = numbers["teacher_accuracy"]
  against = numbers["rationales_contradicting_their_label"]
  states = numbers["rationales_stating_the_answer"]
  rows = [
      ["records", numbers["records"]],
      ["with a human label", numbers["with_human_label"]],
      ["with a teacher's label", numbers["with_teacher_label"]],
      ["with a rationale", numbers["with_rationale"]],
      ["teacher accuracy", _accuracy(accuracy)],
      ["rationales that contradict their label", _count(against)],
      ["rationales that state the answer", percent(states["share"])],
      ["rationales' words found in their inputs",
       percent(numbers["mean_overlap_with_inputs"])],
      ["repeated inputs", numbers["repeated_inputs"]],
  ]
  lengths = [
      [name, *(f"{values.get(key, '-'):.1f}" if key == "mean" and values
               else values.get(key, "-")
               for key in ("mean", *(f"p{p}" for p in audit.PERCENTILES)))]
      for name, values in numbers["lengths"].items()]
  balance = [
      [kind, label, count]
      for kind, labels in numbers["label_balance"].items()
      for label, count in labels["most_common"].items()]
  chosen = sorted(split_audit.samples, key=lambda item: item[1])
  return "".join([
      f"<h2>Records of the {html.escape(split)} split</h2>",
      _table(["", ""], rows),
      _table(["status", "records"],
             [[k, v] for k, v in numbers["statuses"].items()]),
      f"<h3>Lengths in {unit}</h3>",
      _table(["", "mean", *(f"p{p}" for p in audit.PERCENTILES)], lengths),
      _histogram(split_audit.lengths["rationale"], unit),
      "<h3>Most common labels</h3>",
      _table(["label of", "label", "records"], balance),
      *(["<h3>Rationales that contradict their label</h3>",
         _examples(against["examples"])] if against["examples"] else []),
      f"<h3>{len(chosen)} records to read</h3>",
      *(_record(record, split_audit) for _, _, record in chosen),
  ])


def _histogram(lengths: collections.Counter, unit: str) -> str:
  """Bars of the rationales' lengths, as SVG."""
  if not lengths:
    return ""
  longest = max(lengths)
  width = max(1, -(-(longest + 1) // _BARS))
  bars = [0] * (longest // width + 1)
  for length, count in lengths.items():
    bars[length // width] += count
  highest = max(bars)
  shapes = "".join(
      f"<rect x={18 * i} y={120 - 110 * n / highest:.1f} width=16 "
      f"height={110 * n / highest:.1f}><title>{width * i} to "
      f"{width * (i + 1) - 1} {unit}: {n:,}</title></rect>"
      for i, n in enumerate(bars))
  marks = "".join(
      f"<text x={18 * i} y=134>{width * i}</text>"
      for i in range(0, len(bars), 4))
  return (f"<p>Rationales by length in {unit} (highest bar {highest:,})</p>"
          f"<svg width={18 * len(bars) + 40} height=140 role=img>"
          f"{shapes}{marks}</svg>")


def _record(record, split_audit) -> str:
  verdict = ""
  if record.label and record.teacher_label and not split_audit.own_labels:
    right = labels_lib.is_correct(
        split_audit.dataset, record.teacher_label, record.label)
    verdict = (" <span class=right>agrees</span>" if right
               else " <span class=wrong>differs</span>")
  texts = "".join(
      f"<p><b>{name}</b> {html.escape(value) or '<i>none</i>'}</p>"
      for name, value in (
          ("inputs", record.inputs), ("human label", record.label),
          ("teacher's label", record.teacher_label),
          ("rationale", record.rationale), ("thinking", record.thinking))
      if value or name != "thinking")
  return (f"<div class=record><p class=example>{html.escape(record.id)}, "
          f"{html.escape(record.origin)}, {html.escape(record.status)}"
          f"{html.escape(record.rule and f', read by {record.rule}')}"
          f"{verdict}</p>{texts}</div>")
