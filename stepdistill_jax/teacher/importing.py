"""From rows and completions to distillation records.

Each format is a small function that yields `joining.Joined` items for every
split of its source; `_import` does the rest in one pass and in bounded
memory: parse, hold out validation rows, count, write.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence

from stepdistill_jax import errors
from stepdistill_jax import locations
from stepdistill_jax.teacher import cache
from stepdistill_jax.teacher import datasets
from stepdistill_jax.teacher import import_counts
from stepdistill_jax.teacher import joining
from stepdistill_jax.teacher import parsing
from stepdistill_jax.teacher import records
from stepdistill_jax.teacher import row_files
from stepdistill_jax.teacher import seen_inputs
from stepdistill_jax.teacher import text_files

# Called after every item with the number of items so far.
Progress = Callable[[int], None]


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


def import_published(
    *, dataset: str, rows: str | os.PathLike, outputs: str | os.PathLike,
    teacher: str, output: str | os.PathLike | None = None,
    rules: str = "strict", progress: Progress | None = None) -> ImportResult:
  """Imports a published cache: row files, and batches joined by position.

  Args:
    dataset: a known data set, see `datasets.DATASETS`.
    rows: folder of the row files, `svamp_train.json[.gz]`.
    outputs: folder of the batches, `train_CoT_0.json[.gz]`.
    teacher: the name to give the teacher, such as `palm540b`.
    output: folder of all records; `locations.records_dir()` by default.
    rules: `strict` or `reference`, see `parsing`.
    progress: called with the number of rows done.

  Raises:
    errors.UserError: files are missing or damaged, or rows and completions do
      not belong together.
  """
  spec = _known(dataset)
  rows, outputs = pathlib.Path(rows), pathlib.Path(outputs)
  sources, notes = {}, []
  for split in records.SPLITS:
    row_file = row_files.find_row_file(spec, rows, split)
    batches = joining.find_batches(outputs, split)
    if row_file and batches:
      sources[split] = _published_source(spec, row_file, batches)
    elif batches:
      notes.append(
          f"{split}: {len(batches)} batches of completions, but no rows "
          f"({' or '.join(spec.row_files.get(split, ('none known',)))} in "
          f"{rows}); left out")
    elif row_file:
      notes.append(f"{split}: {row_file.name}, but no completions "
                   f"({split}_CoT_0.json in {outputs}); left out")
  if not sources:
    raise errors.UserError(
        f"nothing to import for {dataset!r}: "
        + ("; ".join(notes) or f"neither rows in {rows} nor completions in "
           f"{outputs}"))
  return _import(spec, teacher, sources, output=output, rules=rules,
                 format_name="published", notes=notes, progress=progress)


def import_cache(
    folder: str | os.PathLike | Sequence[pathlib.Path], *,
    dataset: str | None = None, teacher: str | None = None,
    output: str | os.PathLike | None = None, rules: str = "strict",
    progress: Progress | None = None) -> ImportResult:
  """Imports teacher caches of our own format, one a split.

  Args:
    folder: a cache, or a folder whose subfolders are the caches of the splits
      of one data set by one teacher, or a list of such caches.
    dataset: name to use instead of the manifests'.
    teacher: name to use instead of the manifests'.
    output: folder of all records; `locations.records_dir()` by default.
    rules: `strict` or `reference`, see `parsing`.
    progress: called with the number of completions done.

  Raises:
    errors.UserError: no cache, a damaged one, or caches that do not belong
      together.
  """
  if isinstance(folder, (str, os.PathLike)):
    folder = cache.find_caches(folder)
  manifests = {path: cache.read_manifest(path) for path in folder}
  dataset = dataset or _only("dataset", manifests)
  teacher = teacher or _only("teacher", manifests)
  spec = datasets.get(dataset)
  sources: dict[str, Source] = {}
  for path, manifest in manifests.items():
    split = manifest["split"]
    if split not in records.SPLITS:
      raise errors.UserError(
          f"{path / cache.MANIFEST}: "
          + errors.unknown_name_message("split", split, records.SPLITS))
    if split in sources:
      raise errors.UserError(
          f"{path} and {sources[split].files[0]} are both caches of split "
          f"{split!r}; import one of them")
    rows = manifest.get("count") or 0
    if not rows and spec.held_out:
      rows = sum(1 for _ in cache.read_completions(path))
    sources[split] = Source(
        _join_cache(spec, path), files=(str(path),), rows=rows)
  return _import(spec, teacher, sources, output=output, rules=rules,
                 format_name="cache", notes=[], progress=progress)


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


def _known(dataset: str) -> datasets.Dataset:
  if dataset not in datasets.DATASETS:
    raise errors.UserError(errors.unknown_name_message(
        "data set", dataset, datasets.DATASETS,
        "(data sets of your own: --format=columns or --format=cache)"))
  return datasets.DATASETS[dataset]


def _only(key: str, manifests: Mapping[pathlib.Path, Mapping[str, Any]]
          ) -> str:
  """The value of `key` that all manifests share."""
  values = sorted({manifest[key] for manifest in manifests.values()})
  if len(values) > 1:
    raise errors.UserError(
        f"the caches are of several {key}s ({', '.join(values)}); give the "
        f"folder of one of them, or --{key}=NAME to take all as one")
  return values[0]


def _published_source(
    spec: datasets.Dataset, row_file: pathlib.Path,
    batches: list[pathlib.Path]) -> Source:
  sparse = row_files.is_sparse(row_file)
  joined = joining.join_by_position(
      row_files.read_rows(spec, row_file), joining.read_batches(batches),
      sparse=sparse, names=(str(row_file), f"the {len(batches)} batches from "
                            f"{batches[0]}"))
  needs_count = spec.held_out and not sparse
  return Source(
      joined, files=(str(row_file), *map(str, batches)),
      rows=row_files.count_rows(row_file) if needs_count else 0,
      check_overlap=True)


def _join_cache(
    spec: datasets.Dataset, folder: pathlib.Path) -> Iterator[joining.Joined]:
  """The completions of a cache, each with the row that it carries."""
  for position, entry in enumerate(cache.read_completions(folder)):
    if entry.problem or not isinstance(entry.value, dict):
      yield joining.Joined(None, None, "", entry.where,
                           dropped=entry.problem or "line_not_object")
      continue
    fields = entry.value.get("input")
    if not isinstance(fields, dict):
      yield joining.Joined(None, None, "", entry.where,
                           dropped="input_not_object")
      continue
    try:
      row = spec.read_row(fields)
    except datasets.BadRow as error:
      yield joining.Joined(None, None, "", entry.where, dropped=str(error))
      continue
    row.position = position
    if entry.value.get("error"):
      text, problem = None, parsing.TEACHER_ERROR
    else:
      text, problem = joining.completion_text(entry.value.get("output"), "")
    yield joining.Joined(
        row, text, problem, entry.where,
        truncated=entry.value.get("finish_reason") == "length")


def _import(
    spec: datasets.Dataset, teacher: str, sources: Mapping[str, Source], *,
    output: str | os.PathLike | None, rules: str, format_name: str,
    notes: list[str], progress: Progress | None) -> ImportResult:
  """Parses, counts and writes all splits; the heart of every import."""
  if rules not in parsing.RULES:
    raise errors.UserError(
        errors.unknown_name_message("rules", rules, parsing.RULES))
  output = locations.records_dir() if output is None else output
  seen = seen_inputs.SeenInputs()
  counts = {split: import_counts.SourceCounts() for split in sources}
  with records.RecordsWriter(output, spec.name, teacher) as writer:
    done = 0
    for split, source in sources.items():
      importer = _SplitImporter(
          spec, teacher, split, rules, seen, counts[split],
          held_out=_held_out(spec, split, source, sources))
      overlap = joining.OverlapCheck() if source.check_overlap else None
      for joined in source.joined:
        record = importer.record(joined, overlap)
        if record is not None:
          writer.write(record)
        done += 1
        if progress is not None:
          progress(done)
      if overlap is not None:
        overlap.require_alignment()
        counts[split].overlap = overlap.shares()
    if not any(split_counts.written for split_counts in counts.values()):
      raise errors.UserError(
          f"no row of {spec.name} could be imported: "
          + "; ".join(_first_reasons(counts)))
    info = {
        "dataset": spec.name, "teacher": teacher, "format": format_name,
        "rules": rules, "notes": notes,
        "files": {split: source.files for split, source in sources.items()},
        "sources": {split: split_counts.as_json()
                    for split, split_counts in counts.items()},
        "repeated_inputs": seen.repeated(), "leaked_inputs": seen.leaked(),
    }
    writer.import_info = info
    seen.close()
  return ImportResult(writer.folder, spec.name, teacher, info)


def _held_out(
    spec: datasets.Dataset, split: str, source: Source,
    sources: Mapping[str, Source]) -> frozenset[int]:
  if split != "train" or "validation" in sources or not source.rows:
    return frozenset()
  return held_out_positions(source.rows, spec.held_out)


def _first_reasons(
    counts: Mapping[str, import_counts.SourceCounts]) -> list[str]:
  return [f"{split}: {reason['count']} {name} ({reason['examples'][0]})"
          for split, split_counts in counts.items()
          for name, reason in split_counts.dropped.as_json().items()
          ] or ["the sources are empty"]


class _SplitImporter:
  """Turns the joined items of one source split into records."""

  def __init__(
      self, spec: datasets.Dataset, teacher: str, split: str, rules: str,
      seen: seen_inputs.SeenInputs, counts: import_counts.SourceCounts, *,
      held_out: frozenset[int]):
    self._spec, self._teacher, self._split = spec, teacher, split
    self._rules, self._seen, self._counts = rules, seen, counts
    self._held_out = held_out
    self._parsers = {
        name: parsing.get_parser(spec, name) for name in parsing.RULES}

  def record(self, joined: joining.Joined,
             overlap: joining.OverlapCheck | None) -> records.Record | None:
    """The item's record; None if it is dropped, under a counted reason."""
    counts, row = self._counts, joined.row
    counts.rows += row is not None or joined.dropped not in ("", "no_row")
    counts.completions += joined.output is not None or bool(joined.problem)
    parsed = self._parse(joined)
    if joined.dropped:
      counts.dropped.add(joined.dropped, joined.where)
      return None
    if overlap is not None and parsed.rationale:
      overlap.add(joined, parsed.rationale)
    split = ("validation" if row.position in self._held_out else self._split)
    counts.written[split] += 1
    hashed = records.input_hash(row.inputs)
    return records.Record(
        id=records.record_id(self._spec.name, split, hashed,
                             self._seen.add(hashed, split)),
        inputs=row.inputs, label=row.label,
        teacher_label=parsed.label.strip(), rationale=parsed.rationale.strip(),
        status=parsed.status, teacher=self._teacher, dataset=self._spec.name,
        split=split, origin=f"{self._split}[{row.position}]")

  def _parse(self, joined: joining.Joined) -> parsing.Parsed:
    """Parses by both rules, counts both, returns what the import's gives."""
    result = None
    row = joined.row or datasets.Row("", "")
    for name, parser in self._parsers.items():
      if joined.output is None:
        parsed = parsing.Parsed(
            "", "", joined.problem or parsing.NO_COMPLETION)
      else:
        parsed = parser(joined.output, row)
        if joined.truncated and not parsed.label:
          parsed.status = parsing.TRUNCATED
        if joined.label_copied and parsed.label:
          parsed = parsing.Parsed(parsed.rationale, "", parsing.COPIED_LABEL)
      if name == self._rules:
        result = parsed
      if joined.dropped in ("", "no_row"):
        self._counts.rules[name].add(
            self._spec, joined.row, parsed, joined.where, joined.output)
    return result
