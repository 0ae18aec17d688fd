"""The heart of every import: joined items in, records and counts out.

One pass in bounded memory: parse by both sets of rules, hold out validation
rows, count, write.
"""

import collections
from collections.abc import Callable, Iterable, Mapping
import dataclasses
import json
import math
import os
import pathlib
from typing import Any

from stepdistill_jax.answers import (
  answer_forms,
  labels as labels_lib,
  parsing,
  reading as reading_lib,
  reference_rules,
  rules as rules_lib,
)
from stepdistill_jax.records import (
  datasets,
  declared,
  questions,
  record_writer,
  records,
  vocabulary_losses,
)
from stepdistill_jax.teacher.importing import (
  counts as import_counts,
  joining,
  row_files,
)
from stepdistill_jax.util import errors, locations

# Called after every item with the number of items so far, and of how many
# (None where that is not known).
Progress = Callable[[int, int | None], None]


@dataclasses.dataclass(frozen=True)
class Options:
  """What a user chooses of every import.

  Attributes:
    output: folder of all records; None for `locations.records_dir()`.
    rules: `strict` or `reference`, see `parsing`.
    keep_unverified: True to take labels for the teacher's that may be copies
      of the human ones and cannot be checked.
    progress: called with the numbers of items done and of all.
    allow_useless: True to write records that nothing can be learned from, for
      a person to look at.
    leave_out: data sets whose test questions become no train or validation
      records.
    kind: of a user's own labels, one of `datasets.KINDS`; None to guess it.
    labels: all labels that there are, of kind CLASS; () for those of the rows.
    reading: how completions are read.
    verbalize: label -> the text that the records have for it.
  """

  output: str | os.PathLike | None = None
  rules: str = "strict"
  keep_unverified: bool = False
  progress: Progress | None = None
  allow_useless: bool = False
  leave_out: tuple[str, ...] = ()
  kind: str | None = None
  labels: tuple[str, ...] = ()
  reading: reading_lib.Options = reading_lib.DEFAULT
  verbalize: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Source:
  """One split of what is imported.

  Attributes:
    joined: the split's items, in order.
    files: what they are read from, for the report.
    rows: number of rows; needed where validation rows are held out of them.
    check_overlap: True if the join was by position and has to be checked.
  """

  joined: Iterable[joining.Joined]
  files: tuple[str, ...] = ()
  rows: int = 0
  check_overlap: bool = False


@dataclasses.dataclass(frozen=True)
class ImportResult:
  """What an import wrote.

  Attributes:
    folder: the records' folder.
    dataset: name of the data set.
    teacher: name of the teacher.
    info: what it counted, as in `import.json`.
  """

  folder: pathlib.Path
  dataset: str
  teacher: str
  info: Mapping[str, Any]


def held_out_positions(rows: int, share: float) -> frozenset[int]:
  """Positions of the train rows that serve as validation.

  The papers' rule: the first ceil(share·rows) of numpy's
  `default_rng(0).permutation(rows)`, which is what Hugging Face's
  `train_test_split(test_size=share, seed=0)` takes.

  >>> len(held_out_positions(800, 0.1)), len(held_out_positions(9741, 0.1))
  (80, 975)
  """
  import numpy as np  # Not needed for help texts.

  permutation = np.random.default_rng(0).permutation(rows)
  return frozenset(permutation[:math.ceil(share * rows)].tolist())


def import_sources(
    spec: datasets.Dataset, teacher: str, sources: Mapping[str, Source], *,
    options: Options, format_name: str, notes: list[str] | None = None,
    writer: str = rules_lib.ANY,
    form: str = answer_forms.CHAIN_OF_THOUGHT) -> ImportResult:
  """Parses, counts and writes all splits.

  Args:
    spec: the data set.
    teacher: name of the teacher.
    sources: split -> its items; not empty.
    options: what the user chose.
    format_name: for the report.
    notes: sentences for the report; sources may append while they are read.
    writer: who wrote the completions, see `rules.get_parser`.
    form: what they consist of, see `answer_forms`.

  Raises:
    errors.UserError: nothing could be imported, the name is a union's, or a
      join by position is misaligned; then no records are left behind.
  """
  if spec.name in datasets.UNIONS:
    raise errors.UserError(
        f"--dataset={spec.name} is the name of "
        f"{' and '.join(datasets.members(spec.name))} taken together; import "
        "each of them, or choose another name")
  rules_lib.check_rules(options.rules)
  output = (locations.records_dir() if options.output is None
            else options.output)
  notes = [] if notes is None else notes
  notes += filter(None, (declared.value(spec.name, name, "") for name in (
      "licence", "note")))
  tested = questions.test_questions(output, options.leave_out)
  total = _expected(sources.values()) if options.progress else None
  seen = row_files.SeenInputs()
  counts = {split: import_counts.SourceCounts() for split in sources}
  labels = vocabulary_losses.LabelCheck()
  verbalizer = _Verbalizer(spec, options.verbalize)
  with record_writer.RecordsWriter(output, spec.name, teacher) as target:
    done = 0
    for split, source in sources.items():
      importer = _SplitImporter(
          spec, teacher, split, options, seen, counts[split],
          held_out=held_out_positions(source.rows, spec.held_out)
          if split == "train" and "validation" not in sources else frozenset(),
          writer=writer, form=form, tested=tested)
      overlap = joining.OverlapCheck() if source.check_overlap else None
      for joined in source.joined:
        record = importer.record(joined, overlap)
        if record is not None:
          record = verbalizer.verbalize(record)
          labels.add(record.label, record.teacher_label)
          target.write(record)
        done += 1
        if options.progress is not None:
          options.progress(done, total)
      if overlap is not None:
        overlap.require_alignment()
        counts[split].overlap = overlap.shares()
    if not any(split_counts.written for split_counts in counts.values()):
      raise errors.UserError(
          f"no row of {spec.name} could be imported: "
          + (_reasons(counts, lambda c: c.dropped) or "the sources are empty"))
    verbalizer.require_all_used()
    vocabulary = vocabulary_losses.find_vocabulary(output, spec.name)
    if not options.allow_useless:
      _require_use(spec.name, teacher, counts, options.rules)
    info = {
        "counts_version": import_counts.VERSION, "dataset": spec.name,
        "teacher": teacher, "format": format_name, "rules": options.rules,
        "notes": notes,
        "files": {split: source.files for split, source in sources.items()},
        "sources": {split: split_counts.as_json()
                    for split, split_counts in counts.items()},
        "own_labels": any(split_counts.rules[options.rules].own_labels
                          for split_counts in counts.values()),
        "kind": spec.label_kind, "labels": [
            options.verbalize.get(label, label) for label in spec.labels],
        "labels_guessed": spec.labels_guessed,
        "markers": options.reading.markers,
        "label_losses": None if vocabulary is None else [
            f"{line} (by {vocabulary})"
            for line in labels.losses(vocabulary).lines()],
        "verbalize": dict(options.verbalize),
        "repeated_inputs": seen.repeated(), "leaked_inputs": seen.leaked(),
    }
    target.import_info = info
    seen.close()
  info["also_elsewhere"] = questions.overlaps(output, spec.name, teacher)
  notes += map(questions.overlap_line, info["also_elsewhere"])
  return ImportResult(target.folder, spec.name, teacher, info)


def _expected(sources: Iterable[Source]) -> int | None:
  """About how many items the sources have; None where that is not known."""
  counts = [
      source.rows or (row_files.guess_rows(pathlib.Path(source.files[0]))
                      if source.files else 0) for source in sources]
  return sum(counts) if all(counts) else None


def _reasons(
    counts: Mapping[str, import_counts.SourceCounts],
    of: Callable[[import_counts.SourceCounts], import_counts.Reasons]
) -> str:
  """What was counted in each split, with an example each."""
  return "; ".join(
      f"{split}: {reason}" for split, split_counts in counts.items()
      for reason in import_counts.in_words(
          of(split_counts).as_json(), example=True))


def _require_use(
    dataset: str, teacher: str,
    counts: Mapping[str, import_counts.SourceCounts], rules: str) -> None:
  """Raises UserError if no record has what a task could be trained on."""
  filled = sum((field_counts for split_counts in counts.values()
                for field_counts in split_counts.filled.values()),
               collections.Counter())
  foreign = sum(split_counts.human_labels.total()
                for split_counts in counts.values())
  if foreign and foreign == filled["label"]:
    reasons = [reason for split_counts in counts.values()
               for reason in import_counts.in_words(
                   split_counts.human_labels.as_json(), example=True)]
    raise errors.UserError(
        f"none of the {foreign:,} human labels is one of {dataset}'s "
        f"({'; '.join(reasons)}), so no records were written; give a data "
        "set of your own a --dataset name of its own")
  if filled["teacher_label"] or filled["rationale"]:
    return
  if any(split_counts.completions for split_counts in counts.values()):
    raise errors.UserError(
        f"no completion of {dataset} by {teacher} has a usable label or "
        "rationale, so no records were written: "
        + _reasons(counts, lambda c: c.rules[rules].statuses))
  if not filled["label"]:
    rows = sum(split_counts.rows for split_counts in counts.values())
    raise errors.UserError(
        f"none of the {rows:,} rows of {dataset} has a label or a completion "
        f"by {teacher}, so no records were written; name their columns or "
        "files")


class _Verbalizer:
  """Gives labels the texts that a user wants for them."""

  def __init__(self, spec: datasets.Dataset, words: Mapping[str, str]):
    if words and spec.name in datasets.DATASETS:
      raise errors.UserError(
          f"--verbalize is for data sets of your own; the labels of "
          f"{spec.name} are known to its benchmark")
    self._words = words
    self._seen: set[str] = set()

  def verbalize(self, record: records.Record) -> records.Record:
    """The record, with the texts for its labels."""
    if not self._words:
      return record
    self._seen |= {record.label, record.teacher_label}
    return dataclasses.replace(
        record, label=self._words.get(record.label, record.label),
        teacher_label=self._words.get(
            record.teacher_label, record.teacher_label))

  def require_all_used(self) -> None:
    """Raises errors.UserError for a label that no record has."""
    for label in self._words:
      errors.require_known("label", label, filter(None, self._seen),
                           where="--verbalize")


class _SplitImporter:
  """Turns the joined items of one source split into records."""

  def __init__(
      self, spec: datasets.Dataset, teacher: str, split: str, options: Options,
      seen: row_files.SeenInputs, counts: import_counts.SourceCounts, *,
      held_out: frozenset[int], writer: str, form: str,
      tested: Mapping[str, frozenset[str]]):
    self._spec, self._teacher, self._split = spec, teacher, split
    self._options, self._seen, self._counts = options, seen, counts
    self._held_out = held_out
    self._tested = {} if split == "test" else tested
    self._next_example = None if writer == rules_lib.FREE_TEXT else (
        reference_rules.next_example_mark(spec))
    self._parsers = {
        name: rules_lib.get_parser(
            spec, name, writer, form=form, options=options.reading)
        for name in rules_lib.RULES}

  def record(self, joined: joining.Joined,
             overlap: joining.OverlapCheck | None) -> records.Record | None:
    """The item's record; None if it is dropped, under a counted reason."""
    counts, row = self._counts, joined.row
    counts.rows += row is not None or joined.dropped not in ("", "no_row")
    counts.completions += (
        joined.output is not None or joined.parsed is not None
        or joined.problem not in ("", parsing.NO_COMPLETION))
    parsed = self._parse(joined)
    if joined.dropped:
      counts.dropped.add(joined.dropped, joined.where)
      return None
    if overlap is not None and parsed.rationale:
      overlap.add(joined, parsed.rationale)
    if self._tested:
      key = questions.question_key(row.inputs)
      for name, keys in self._tested.items():
        if key in keys:
          counts.dropped.add(f"in_the_test_split_of_{name}", joined.where)
          return None
    split = ("validation" if row.position in self._held_out else self._split)
    counts.written[split] += 1
    if row.label:
      status = labels_lib.label_status(self._spec, row.label, row)
      if status != "ok":
        counts.human_labels.add(status, joined.where, row.label)
    hashed = records.input_hash(row.inputs)
    record = records.Record(
        id=records.record_id(self._spec.name, split, hashed,
                             self._seen.add(hashed, split)),
        inputs=row.inputs, label=row.label,
        teacher_label=labels_lib.spelled(self._spec, parsed.label.strip(), row),
        rationale=parsed.rationale.strip(),
        status=parsed.status, teacher=self._teacher, dataset=self._spec.name,
        split=split, origin=f"{self._split}[{row.position}]",
        weight="" if joined.weight is None else f"{joined.weight:.6g}",
        rule=parsed.rule, thinking=parsed.thinking,
        references=json.dumps(row.references, ensure_ascii=False)
        if row.references else "", rounds=parsed.rounds)
    counts.filled[split].update(
        name for name in ("label", "teacher_label", "rationale")
        if getattr(record, name))
    return record

  def _parse(self, joined: joining.Joined) -> parsing.Parsed:
    """Parses by both rules, counts both, returns what the import's gives."""
    result = None
    row = joined.row or _NO_ROW
    if self._next_example and joined.output is not None:
      self._counts.without_continuation = (
          (self._counts.without_continuation or 0)
          + (self._next_example not in joined.output))
    for name, parser in self._parsers.items():
      if joined.parsed is not None:
        parsed = joined.parsed
      elif joined.output is None:
        parsed = parsing.Parsed("", "", joined.problem or parsing.NO_COMPLETION)
      else:
        parsed = parser(joined.output, row)
        if joined.truncated:
          parsed = parsing.cut_at_limit(parsed)
      doubt = joined.label_doubt
      if doubt == parsing.UNVERIFIED_LABEL and self._options.keep_unverified:
        doubt = ""
      if joined.dropped in ("", "no_row"):
        self._counts.rules[name].add(
            self._spec, joined.row, parsed, doubt, joined.where,
            joined.output)
      if name == self._options.rules:
        result = parsed
        if doubt and parsed.label.strip():
          result = dataclasses.replace(parsed, label="", status=doubt)
    return result


_NO_ROW = datasets.Row("", "")
