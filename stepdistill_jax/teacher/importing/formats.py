"""From rows and completions to distillation records, one function a format.

| function | completions | joined |
|---|---|---|
| `import_published` | batches of strings (PaLM) | by position, then checked |
| `import_llama3_cot` | cleaned Llama-3 batches | by position, then checked |
| `import_llama3` | raw Llama-3 generations | by content |
| `import_cache` | our own caches | each with its row |
| `import_columns` | a user's own tables | each with its row |
| `import_rows` | none: human labels and explanations | |

Each takes the fields of `record_importer.Options` as keywords and returns a
`record_importer.ImportResult`.
"""

from collections.abc import Iterator, Mapping, Sequence
import itertools
import os
import pathlib
import re
from typing import Any

from stepdistill_jax.answers import free_text_rules, parsing, rules
from stepdistill_jax.records import datasets, records
from stepdistill_jax.teacher import completions, text_files
from stepdistill_jax.teacher.importing import (
  cache_joining,
  joining,
  label_kinds,
  record_importer,
  row_files,
)
from stepdistill_jax.teacher.importing.record_importer import (
  ImportResult,
  Options,
  Source,
)
from stepdistill_jax.util import errors

# Of a user's own train split, where there is no validation split.
OWN_HELD_OUT = 0.1


def import_published(
    *, dataset: str, rows: str | os.PathLike, outputs: str | os.PathLike,
    teacher: str, **options) -> ImportResult:
  """Imports a published cache: row files, and batches joined by position.

  Args:
    dataset: a known data set, see `datasets.DATASETS`.
    rows: folder of the row files, `svamp_train.json[.gz]`.
    outputs: folder of the batches, `train_CoT_0.json[.gz]`.
    teacher: the name to give the teacher, such as `palm540b`.
    **options: fields of `Options`.

  Raises:
    errors.UserError: files are missing or damaged, or rows and completions do
      not belong together.
  """
  spec, notes = known_dataset(dataset), []
  sources = _batch_sources(spec, rows, outputs, notes)
  return record_importer.import_sources(
      spec, teacher, sources, options=Options(**options),
      format_name="published", notes=notes, writer=rules.PUBLISHED)


def import_llama3_cot(
    *, dataset: str, rows: str | os.PathLike, outputs: str | os.PathLike,
    teacher: str, raw: str | os.PathLike | None = None, **options
) -> ImportResult:
  """Imports cleaned Llama-3 batches, which hold copied human labels.

  The script that made them wrote the human label where it found none in the
  generation. A label is believed where the raw generation names a label, it
  is flagged `label_copied_from_gold` where it names none, and
  `label_unverified` where there is no raw generation of the row; flagged
  labels do not count as the teacher's.

  Args:
    dataset: a known data set.
    rows: folder of the row files.
    outputs: folder of the cleaned batches.
    teacher: the name to give the teacher.
    raw: folder of the raw generations, `cqa_test_llama3.json`; by default the
      folder `llama3` beside `outputs`, if there is one.
    **options: fields of `Options`.
  """
  spec, notes = known_dataset(dataset), []
  raw = pathlib.Path(raw) if raw else pathlib.Path(outputs).parent / "llama3"
  sources = _batch_sources(spec, rows, outputs, notes)
  for split, source in sources.items():
    # The generations that the script read; others of the split are not.
    name = f"{spec.name}_{_SHORT_SPLITS[split]}_llama3.json"
    index = None
    if (raw / name).is_file() or (raw / f"{name}.gz").is_file():
      index = joining.ContentIndex()
      _index_generations(spec, [text_files.find_file(raw, name)], index, [])
    else:
      notes.append(f"{split}: no raw generations ({name} in {raw}), so no "
                   "label can be distinguished from a copied human one")
    source.joined = _doubt_labels(spec, source.joined, index)
  return record_importer.import_sources(
      spec, teacher, sources, options=Options(**options),
      format_name="llama3_cot", notes=notes, writer=rules.PUBLISHED)


def import_llama3(
    *, dataset: str, rows: str | os.PathLike,
    outputs: str | os.PathLike | Sequence[str | os.PathLike], teacher: str,
    **options) -> ImportResult:
  """Imports raw generations `{"input", "gen_label", "org_label"}`.

  They are joined by content: some of the published files hold rows of another
  split than their names say.

  Args:
    dataset: a known data set.
    rows: folder of the row files.
    outputs: files of generations; or a folder, of which the files
      `{dataset}_{split}_llama3.json` are read.
    teacher: the name to give the teacher.
    **options: fields of `Options`.
  """
  spec = known_dataset(dataset)
  files = _generation_files(spec, outputs)
  index, dropped, notes = joining.ContentIndex(), [], []
  _index_generations(spec, files, index, dropped)
  sources = {}
  for split in records.SPLITS:
    row_file = row_files.find_row_file(spec, rows, split)
    if row_file is None:
      continue
    # Finds all, not any: what is found for no split has no row.
    found = sum(
        index.find(records.input_hash(entry.row.inputs)) is not None
        for entry in row_files.read_rows(spec, row_file)
        if entry.row is not None)
    if not found:
      notes.append(f"{split}: no completion in the files given; left out")
      continue
    sources[split] = Source(
        _join_by_content(spec, row_file, index),
        files=(str(row_file), *map(str, files)),
        rows=row_files.count_rows(row_file))
  if not sources:
    raise errors.UserError(
        f"no generation of {', '.join(map(str, files))} is of a row in "
        f"{rows} ({'; '.join(notes) or 'no row files there'})")
  # What has no row is reported with the first split.
  first = next(iter(sources.values()))
  first.joined = itertools.chain(
      first.joined, dropped,
      (joining.Joined(None, output, "", where, dropped="no_row")
       for output, where in index.unused()))
  return record_importer.import_sources(
      spec, teacher, sources, options=Options(**options),
      format_name="llama3", notes=notes,
      writer=rules.FREE_TEXT)


def import_cache(
    folder: str | os.PathLike | Sequence[pathlib.Path], *,
    dataset: str | None = None, teacher: str | None = None,
    reject_wrong: bool = False, **options) -> ImportResult:
  """Imports teacher caches of our own format, one a split.

  Args:
    folder: a cache, or a folder whose subfolders are the caches of the splits
      of one data set by one teacher, or a list of such caches.
    dataset: name to use instead of the manifests'.
    teacher: name to use instead of the manifests'.
    reject_wrong: True to use no rationale that leads to another label than
      the human one.
    **options: fields of `Options`.

  Raises:
    errors.UserError: no cache, a damaged one, or caches that do not belong
      together.
  """
  if isinstance(folder, (str, os.PathLike)):
    folder = completions.find_caches(folder)
  manifests = {path: completions.read_manifest(path) for path in folder}
  dataset = dataset or _only("dataset", manifests)
  teacher = teacher or _only("teacher", manifests)
  spec = datasets.get(dataset)
  forms = {path: cache_joining.Form.of(
      manifest, str(path / completions.MANIFEST))
           for path, manifest in manifests.items()}
  if spec.name not in datasets.DATASETS and any(
      form.collected for form in forms.values()):
    spec = datasets.own_dataset(spec.name, held_out=OWN_HELD_OUT)
  sources: dict[str, Source] = {}
  notes: list[str] = []
  chosen = Options(**options)
  spec = label_kinds.with_kind(
      spec, lambda: label_kinds.of_caches(folder), chosen, notes)
  for path, manifest in manifests.items():
    split = manifest["split"]
    errors.require_known("split", split, records.SPLITS,
                         where=str(path / completions.MANIFEST))
    if split in sources:
      raise errors.UserError(
          f"{path} and {sources[split].files[0]} are both caches of split "
          f"{split!r}; import one of them")
    rows = forms[path].rows
    if not rows and spec.held_out:
      rows = sum(1 for _ in completions.read_completions(path))
    joined = cache_joining.join(
        spec, path, forms[path], reject_wrong=reject_wrong, notes=notes,
        options=chosen.reading)
    sources[split] = Source(joined, files=(str(path),), rows=rows)
  return record_importer.import_sources(
      spec, teacher, sources, options=chosen, format_name="cache", notes=notes)


def known_dataset(dataset: str) -> datasets.Dataset:
  """Returns a known data set.

  Raises:
    errors.UserError: there is none of this name; lists the near ones.
  """
  errors.require_known(
      "data set", dataset, datasets.DATASETS,
      "(data sets of your own: --format=columns or --format=cache)")
  return datasets.DATASETS[dataset]


# ---- Batches, joined by position ------------------------------------------

_SHORT_SPLITS = {"train": "train", "validation": "valid", "test": "test"}


def _batch_sources(
    spec: datasets.Dataset, rows: str | os.PathLike,
    outputs: str | os.PathLike, notes: list[str]) -> dict[str, Source]:
  """The splits that have both rows and batches; notes tell of the others."""
  rows, outputs = pathlib.Path(rows), pathlib.Path(outputs)
  sources = {}
  for split in records.SPLITS:
    row_file = row_files.find_row_file(spec, rows, split)
    batches = joining.find_batches(outputs, split)
    if row_file and batches:
      sources[split] = _batch_source(spec, row_file, batches)
    elif batches:
      names = " or ".join(spec.row_files.get(split, ("no file known",)))
      notes.append(f"{split}: {len(batches)} batches of completions, but no "
                   f"rows ({names} in {rows}); left out")
    elif row_file:
      notes.append(f"{split}: {row_file.name}, but no completions "
                   f"({_SHORT_SPLITS[split]}_CoT_0.json in {outputs}); left "
                   "out")
  if not sources:
    raise errors.UserError(
        f"nothing to import for {spec.name!r}: "
        + ("; ".join(notes) or f"neither rows in {rows} nor completions in "
           f"{outputs}"))
  return sources


def _batch_source(
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


def _doubt_labels(
    spec: datasets.Dataset, joined: Iterator[joining.Joined],
    index: joining.ContentIndex | None) -> Iterator[joining.Joined]:
  """Marks labels that the raw generation does not name."""
  for item in joined:
    found = None
    if index is not None and item.row is not None:
      found = index.find(records.input_hash(item.row.inputs))
    if found is None:
      item.label_doubt = parsing.UNVERIFIED_LABEL
    elif not free_text_rules.names_a_label(found[0], item.row, spec):
      item.label_doubt = parsing.COPIED_LABEL
    yield item


# ---- Generations, joined by content ----------------------------------------


def _generation_files(
    spec: datasets.Dataset,
    outputs: str | os.PathLike | Sequence[str | os.PathLike]
) -> list[pathlib.Path]:
  if isinstance(outputs, (str, os.PathLike)):
    outputs = [outputs]
  files = []
  for path in map(pathlib.Path, outputs):
    if path.is_dir():
      files += sorted(
          p for short in _SHORT_SPLITS.values()
          for p in path.glob(f"{spec.name}_{short}_llama3.json*"))
    elif path.is_file():
      files.append(path)
    else:
      raise errors.UserError(f"there is no file or folder {path}")
  if not files:
    raise errors.UserError(
        f"no {spec.name}_SPLIT_llama3.json in {', '.join(map(str, outputs))}; "
        "give the files of generations themselves with --outputs")
  return files


def _index_generations(
    spec: datasets.Dataset, files: Sequence[pathlib.Path],
    index: joining.ContentIndex, dropped: list[joining.Joined]) -> None:
  """Enters generations in the index; what cannot be entered in `dropped`."""
  for path in files:
    for entry in text_files.read_entries(path):
      fields = entry.value if isinstance(entry.value, dict) else {}
      question = fields.get("input")
      output, problem = joining.completion_text(fields.get("gen_label"), "")
      reason = entry.problem or ("" if fields else "line_not_object") or (
          "" if isinstance(question, str) else "input_not_text") or problem
      if not reason and not index.add(
          records.input_hash(_generation_inputs(spec, question)), output,
          entry.where):
        reason = "repeated_completion"
      if reason:
        dropped.append(joining.dropped(entry.where, reason))


_PREMISE = re.compile(r"\s*premise:\s*(.*\S)\s*?,?\s*hypothesis:\s*(.*)",
                      re.IGNORECASE | re.DOTALL)


def _generation_inputs(spec: datasets.Dataset, question: str) -> str:
  """The row's inputs, from a generation's `input`.

  NLI files have `premise: P, hypothesis: H` or `Premise: P Hypothesis:H`.
  """
  if spec.label_kind != datasets.CLASS:
    return question
  match = _PREMISE.fullmatch(question)
  if not match:
    return question
  premise, hypothesis = match.groups()
  return premise.removesuffix(",") + records.EOS_TEXT + hypothesis


def _join_by_content(
    spec: datasets.Dataset, row_file: pathlib.Path,
    index: joining.ContentIndex) -> Iterator[joining.Joined]:
  for entry in row_files.read_rows(spec, row_file):
    if entry.row is None:
      yield joining.dropped(entry.where, entry.problem)
      continue
    output, where = index.find(
        records.input_hash(entry.row.inputs)) or (None, entry.where)
    problem = "" if output is not None else parsing.NO_COMPLETION
    yield joining.Joined(entry.row, output, problem, where)


# ---- Our own caches ---------------------------------------------------------


def _only(key: str, manifests: Mapping[pathlib.Path, Mapping[str, Any]]) -> str:
  """The value of `key` that all manifests share."""
  values = sorted({manifest[key] for manifest in manifests.values()})
  if len(values) > 1:
    raise errors.UserError(
        f"the caches are of several {key}s ({', '.join(values)}); give the "
        f"folder of one of them, or --{key}=NAME to take all as one")
  return values[0]
