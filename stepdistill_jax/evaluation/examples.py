"""The examples of a benchmark: what is asked, and what is right."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import pathlib

from stepdistill_jax.answers import benchmarks
from stepdistill_jax.records import datasets, questions, records
from stepdistill_jax.util import disk_lists, errors, locations

SPLITS = records.SPLITS


# One question of a benchmark. Its `label` is empty where there is no human
# one; `teacher_label` and `rationale` are the cached teacher's.
Example = records.Record


@dataclasses.dataclass(frozen=True)
class ExampleSet:
  """The examples of one split of one benchmark.

  Attributes:
    benchmark: its name.
    split: which.
    teacher: whose records these are.
    examples: those with a gold label, in the records' order.
    without_label: rows that cannot be scored, for want of a gold label.
    left_out_ids: ids of those rows and of the rows after `--limit`.
    dataset: the kind of the labels, as the records were imported; None for
      what the name alone says.
  """

  benchmark: str
  split: str
  teacher: str
  examples: Sequence[Example]
  without_label: int = 0
  left_out_ids: frozenset[str] = frozenset()
  dataset: datasets.Dataset | None = None

  @property
  def spec(self) -> benchmarks.Benchmark:
    """How the answers are read and scored."""
    return benchmarks.get(
        self.benchmark, own=[self.benchmark], dataset=self.dataset)

  @functools.cached_property
  def numbers(self) -> Mapping[str, int]:
    """The place of each example by its id."""
    return {row.id: i for i, row in enumerate(self.examples)}

  def fingerprint(self) -> str:
    """A hash of ids, questions and answers; the order does not matter."""
    digest = hashlib.sha256()
    for name in sorted(self.numbers):
      row = self.examples[self.numbers[name]]
      for field in (row.id, row.inputs, row.label):
        digest.update(field.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


def make_example_set(
    benchmark: str, split: str, teacher: str, rows: Iterable[Example],
    limit: int | None = None,
) -> ExampleSet:
  """Checks ids, sets rows without gold label apart, and applies a limit.

  Raises:
    errors.UserError: an id occurs twice, or no row has a gold label.
  """
  kept = disk_lists.DiskList(of=Example)
  seen: set[str] = set()
  left_out: set[str] = set()
  without_label = 0
  for row in rows:
    if row.id in seen:
      raise errors.UserError(
          f"records of {benchmark}/{teacher}, split {split}: id {row.id!r} "
          "occurs twice; import them again with `stepdistill teacher import`")
    seen.add(row.id)
    without_label += not row.label
    if row.label and (limit is None or len(kept) < limit):
      kept.append(row)
    else:
      left_out.add(row.id)
  if without_label == len(seen):
    raise errors.UserError(
        f"split {split!r} of {benchmark}/{teacher} has {len(seen)} rows and "
        "none with a gold label, so nothing can be scored; choose a --split "
        "with human labels, or import rows that have them")
  return ExampleSet(
      benchmark, split, teacher, kept, without_label, frozenset(left_out))


def available_datasets(records_dir: pathlib.Path) -> list[str]:
  """Names of the data sets with records, sorted."""
  return sorted({d for d, _ in records.list_records(records_dir)})


def choose_teacher(
    dataset: str, records_dir: pathlib.Path, wanted: str | None = None,
    split: str | None = None) -> str:
  """Returns the teacher whose records give a benchmark's rows.

  Args:
    dataset: the benchmark's name.
    records_dir: where records lie.
    wanted: a teacher's name; None takes the first that serves.
    split: where there is a choice, a teacher whose records have it.

  Raises:
    errors.UserError: there are no such records.
  """
  teachers = records.teachers_of(records_dir, dataset)
  if not teachers:
    known = available_datasets(records_dir)
    raise errors.UserError(
        f"benchmark {dataset!r} has no local data: no records "
        f"stepdistill_{dataset}/… under {records_dir} "
        f"(there: {', '.join(known) or 'none'}); make them with "
        f"`stepdistill teacher import --dataset={dataset} …`, or name their "
        "folder with --records_dir")
  if wanted is None:
    return next(
        (teacher for teacher in teachers if split in records.split_sizes(
            records_dir, dataset, teacher)), teachers[0])
  errors.require_known(f"teacher of {dataset}", wanted, teachers,
                       f"(records under {records_dir})")
  return wanted


def load(
    dataset: str, split: str, *, teacher: str | None = None,
    records_dir: pathlib.Path | None = None, limit: int | None = None,
) -> ExampleSet:
  """Reads one split of a benchmark from its records.

  Raises:
    errors.UserError: no such benchmark data, teacher or split.
  """
  records_dir = pathlib.Path(records_dir or locations.records_dir())
  teacher = choose_teacher(dataset, records_dir, teacher, split)
  rows = records.read_records(records_dir, dataset, teacher, split)
  return dataclasses.replace(
      make_example_set(dataset, split, teacher, rows, limit),
      dataset=datasets.of_records(records_dir, dataset, teacher))


def overlap(test: Iterable[Example], train: Iterable[Example]) -> int:
  """How many test questions are also training questions, in any form."""
  asked = collections.Counter(
      questions.question_key(row.inputs) for row in test)
  return sum(asked.pop(questions.question_key(row.inputs), 0) for row in train)
