"""What an import counts: nothing is dropped that is not in these numbers."""

import collections
from collections.abc import Mapping
import dataclasses
import shlex
from typing import Any

from stepdistill_jax.answers import (
  labels as labels_lib,
  parsing,
  rules as rules_lib,
)
from stepdistill_jax.records import datasets, task_names
from stepdistill_jax.teacher import text_files
from stepdistill_jax.util import locations

# Of the form of these counts in `import.json`.
VERSION = 3
# Examples kept of each reason, for a person to look up.
_EXAMPLES = 3
_EXCERPT = 160  # Characters.


class Reasons:
  """Counts under named reasons, with a few examples each."""

  def __init__(self):
    self._counts: collections.Counter[str] = collections.Counter()
    self._examples: dict[str, list[str]] = {}

  def add(self, reason: str, where: str, text: str | None = None) -> None:
    self._counts[reason] += 1
    if reason == "ok":
      return
    examples = self._examples.setdefault(reason, [])
    if len(examples) < _EXAMPLES:
      examples.append(where if text is None else f"{where}: {excerpt(text)}")

  def __getitem__(self, reason: str) -> int:
    return self._counts[reason]

  def total(self) -> int:
    return self._counts.total()

  def as_json(self) -> dict[str, Any]:
    return {reason: {"count": count, "examples": self._examples.get(reason, [])}
            for reason, count in self._counts.most_common()}


Entries = Mapping[str, Mapping[str, Any]]  # `Reasons.as_json()`.


def in_words(entries: Entries, example: bool = False) -> list[str]:
  """`3 no_marker` of each reason, and perhaps where it came first."""
  return [f"{entry['count']:,} {reason}"
          + "".join(f" ({where})" for where in entry["examples"][:example])
          for reason, entry in entries.items()]


def with_places(title: str, entries: Entries) -> list[str]:
  """A line for each reason: its count, and where it came first."""
  return [f"{title}{entry['count']:,} {reason}, first at "
          f"{entry['examples'][0]}"
          + f"; {text_files.TO_UTF8}" * (reason == text_files.INVALID_UTF8)
          for reason, entry in entries.items()]


def excerpt(text: str) -> str:
  """The text's start and end, as one line."""
  text = " ".join(text.split())
  if len(text) <= _EXCERPT:
    return text
  return f"{text[:_EXCERPT // 2]} … {text[-_EXCERPT // 2:]}"


@dataclasses.dataclass
class RuleCounts:
  """What one set of parsing rules makes of a split's completions.

  Attributes:
    statuses: `ok` and the reasons why not.
    read_by: what labels were read by, such as `json` or `answer is`.
    cleaned: what was taken off the completions.
    labels: completions with a usable label.
    doubted: completions with a label that is in doubt.
    with_gold: completions whose row has a human label.
    own_labels: those whose label is that human one, taken for the teacher's.
    long_texts: those whose label is a text that is not right or wrong.
    compared: those that have a usable label of the teacher's own, too.
    correct: those whose label counts as the human one.
    correct_if_trusted: the same with labels that are in doubt (copied from
      the human ones, or perhaps so) taken for the teacher's.
    empty_rationales: completions without a rationale.
    multiline_rationales: rationales with a newline in them.
    non_ascii_rationales: rationales with other characters than ASCII.
  """

  statuses: Reasons = dataclasses.field(default_factory=Reasons)
  read_by: Reasons = dataclasses.field(default_factory=Reasons)
  cleaned: Reasons = dataclasses.field(default_factory=Reasons)
  labels: int = 0
  doubted: int = 0
  with_gold: int = 0
  own_labels: int = 0
  long_texts: int = 0
  compared: int = 0
  correct: int = 0
  correct_if_trusted: int = 0
  empty_rationales: int = 0
  multiline_rationales: int = 0
  non_ascii_rationales: int = 0

  def add(self, dataset: datasets.Dataset, row: datasets.Row | None,
          parsed: parsing.Parsed, label_doubt: str, where: str,
          output: str | None) -> None:
    """Counts a completion as parsed, before doubts take its label away."""
    doubted = bool(label_doubt and parsed.label.strip())
    self.statuses.add(label_doubt if doubted else parsed.status, where, output)
    usable = bool(parsed.label.strip()) and not doubted
    if usable and parsed.rule:
      self.read_by.add(parsed.rule, where, output)
    for name in parsed.cleaned:
      self.cleaned.add(name, where, output)
    self.labels += usable
    self.doubted += doubted
    self.empty_rationales += not parsed.rationale.strip()
    self.multiline_rationales += "\n" in parsed.rationale.strip()
    self.non_ascii_rationales += not parsed.rationale.isascii()
    if row is not None and row.label:
      self.with_gold += 1
      if parsed.own_label:
        self.own_labels += usable
        return
      if dataset.label_kind in datasets.LONG_TEXTS:
        self.long_texts += usable
        return
      self.compared += usable
      correct = labels_lib.is_correct(dataset, parsed.label, row.label)
      self.correct_if_trusted += correct
      self.correct += correct and not doubted

  def as_json(self) -> dict[str, Any]:
    """The counts; None for what there was nothing to count of.

    Without one label that can be compared with a human one there is no
    accuracy, and without one rationale no count of the empty ones.
    """
    values = {field.name: getattr(self, field.name)
              for field in dataclasses.fields(self)}
    for name in ("statuses", "read_by", "cleaned"):
      values[name] = getattr(self, name).as_json()
    values["rationales"] = self.statuses.total() - self.empty_rationales
    if not values["rationales"]:
      values |= dict.fromkeys((
          "empty_rationales", "multiline_rationales", "non_ascii_rationales"))
    values["accuracy"] = share(self.correct, self.with_gold)
    values["why_no_accuracy"] = why_no_accuracy(
        self.with_gold, self.compared, bool(self.own_labels),
        bool(self.long_texts))
    if not self.compared:
      values |= dict.fromkeys(("correct", "accuracy"))
    if not self.compared and not self.doubted:
      values["correct_if_trusted"] = None
    return values


def share(part: float, whole: float) -> float | None:
  """A part of a whole; None of nothing."""
  return part / whole if whole else None


OWN_LABELS = "the labels are the rows' own"


def why_no_accuracy(
    with_gold: int, compared: int, own_labels: bool, long_texts: bool
) -> str | None:
  """Why a teacher's accuracy cannot be measured; None where it can.

  Args:
    with_gold: number of the rows with a human label.
    compared: those of them that have a label of the teacher's own.
    own_labels: True if the human labels are taken for the teacher's.
    long_texts: True if labels are summaries or an assistant's turns.
  """
  if not with_gold:
    return "no human labels"
  if own_labels:
    return OWN_LABELS
  if long_texts:
    return "such texts are not right or wrong; `stepdistill-eval` has metrics"
  return None if compared else (
      f"no teacher label to compare with {with_gold:,} human ones")


def accuracy_text(correct: int | None, with_gold: int, why_not: str | None
                  ) -> str:
  """A teacher's accuracy on the rows with a human label, in words.

  >>> accuracy_text(150, 200, None)
  '75.00% (150 of 200 with a human label)'
  >>> accuracy_text(None, 200, OWN_LABELS)
  "not measured (the labels are the rows' own)"

  Args:
    correct: number of the teacher labels that count as the human ones.
    with_gold: number of the rows with a human label.
    why_not: from `why_no_accuracy`.
  """
  if why_not is not None:
    return f"not measured ({why_not})"
  return (f"{correct / with_gold:.2%} ({correct:,} of {with_gold:,} with a "
          "human label)")


@dataclasses.dataclass
class SourceCounts:
  """What an import counted in one split of its source.

  The source's split: SVAMP's 800 train rows, before some of them become
  validation.

  Attributes:
    rows: rows of the source, those that were dropped included.
    completions: completions of the source, those without row included.
    without_continuation: completions that do not go on into a made-up next
      example: they were cut at the length limit, or end by themselves; None
      where no completion could show it.
    dropped: items that became no record.
    human_labels: human labels that the data set cannot have, by the reason.
    written: split -> records.
    filled: split -> field -> records in which it is not empty.
    rules: what each set of parsing rules makes of all completions.
    overlap: share of the completions' words in their own row, and in the row
      before; of joins by position.
  """

  rows: int = 0
  completions: int = 0
  dropped: Reasons = dataclasses.field(default_factory=Reasons)
  human_labels: Reasons = dataclasses.field(default_factory=Reasons)
  without_continuation: int | None = None
  written: collections.Counter[str] = dataclasses.field(
      default_factory=collections.Counter)
  filled: dict[str, collections.Counter[str]] = dataclasses.field(
      default_factory=lambda: collections.defaultdict(collections.Counter))
  rules: dict[str, RuleCounts] = dataclasses.field(
      default_factory=lambda: {
          rules: RuleCounts() for rules in rules_lib.RULES})
  overlap: tuple[float, float] | None = None

  def as_json(self) -> dict[str, Any]:
    return {
        "rows": self.rows, "completions": self.completions,
        "without_continuation": self.without_continuation,
        "written": dict(self.written), "dropped": self.dropped.as_json(),
        "human_labels": self.human_labels.as_json(),
        "filled": {split: dict(counts)
                   for split, counts in self.filled.items()},
        # Rules say nothing where no completion was read.
        "rules": {name: counts.as_json()
                  for name, counts in self.rules.items()
                  if self.completions},
        "overlap": None if self.overlap is None else {
            "own_row": self.overlap[0], "row_before": self.overlap[1]},
    }


def summary_lines(result: Any) -> list[str]:
  """What the import did, for a person, and what to run next."""
  info = result.info
  name = f"{result.dataset}/{result.teacher}"
  lines = [f"{name} ({info['rules']} rules) -> {result.folder}"]
  for split, counts in info["sources"].items():
    written = ", ".join(f"{n:,} {s}" for s, n in counts["written"].items())
    lines.append(
        f"  {split}: {counts['rows']:,} rows, {counts['completions']:,} "
        f"completions -> {written or 'no'} records")
    if rules := counts["rules"].get(info["rules"]):
      lines.append("    teacher accuracy " + accuracy_text(
          rules["correct"], rules["with_gold"], rules["why_no_accuracy"]))
      failed = {reason: entry for reason, entry in rules["statuses"].items()
                if reason != "ok"}
      lines += [
          f"    {title}: {', '.join(in_words(entries))}"
          for title, entries in (
              ("not ok", failed), ("read by", rules["read_by"]),
              ("cleaned", rules["cleaned"])) if entries]
    lines += with_places("    human labels: ", counts["human_labels"])
    lines += with_places("    dropped: ", counts["dropped"])
  lines.extend(f"  note: {note}" for note in (
      *info["notes"], *(info["label_losses"] or ())))
  records_dir = result.folder.parents[2]
  elsewhere = ("" if records_dir == locations.records_dir()
               else f" --records_dir={shlex.quote(str(records_dir))}")
  lines.append(
      f"next: `stepdistill teacher audit --dataset={result.dataset} "
      f"--teacher={result.teacher}{elsewhere}`{_training_hint(result)}")
  return lines


def _training_hint(result: Any) -> str:
  """Names a task for which the train records have all that it needs."""
  filled = collections.Counter()
  for counts in result.info["sources"].values():
    filled.update(counts["filled"].get("train", {}))
  labels = (task_names.GOLD if filled["label"]
            else task_names.TEACHER if filled["teacher_label"] else "")
  if labels and filled["rationale"]:
    kind = "step"
  elif labels or filled["rationale"]:
    kind = "label" if labels else "explain"
  else:
    return "; there is nothing to train on, as no train record has a label"
  name = task_names.task_name(
      kind, result.dataset, labels or task_names.GOLD, result.teacher)
  return f", or train on the task {name}"
