"""Distillation records: a row of a data set joined with a completion.

Records are a TFDS data set, `stepdistill_{dataset}/{teacher}:1.0.0`:

    RECORDS_DIR/stepdistill_svamp/palm540b/1.0.0/
      dataset_info.json  features.json       what TFDS reads
      import.json                            what the import counted
      stepdistill_svamp-train.tfrecord-00000-of-00016 ...

`seqio.TfdsDataSource("stepdistill_svamp/palm540b:1.0.0", ...)` reads it with
no builder code of ours, on any machine that sees the folder. There are
several shards a split, so that hosts can read different ones.

`record_writer` writes them.
"""

from collections.abc import Callable, Iterator
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from typing import Any
import unicodedata

from stepdistill_jax.records import tfrecord_files
from stepdistill_jax.util import errors, locations

StrPath = str | os.PathLike[str]
VERSION = "1.0.0"
SPLITS = ("train", "validation", "test")
# In `inputs`, stands for the EOS id between two texts (premise, hypothesis).
# Tasks tokenize the parts apart: in SentencePiece the letters `</s>` are not
# the EOS piece.
EOS_TEXT = "</s>"
# Stands before a rationale that is read with its question (PINTO tuning).
RATIONALE_TEXT = " Rationale: "
OK = "ok"
# Whose records serve first where no teacher is named.
PUBLISHED_TEACHER = "palm540b"

# Of the names by which TFDS knows the data sets.
TFDS_PREFIX = "stepdistill_"
_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
IMPORT_FILE = "import.json"


@dataclasses.dataclass(slots=True)
class Record:
  """One record; the fields are those of the TFDS data set, all texts.

  Attributes:
    id: stable name, `svamp/train/1f0c…`: see `record_id`.
    inputs: the text that both tasks read, without prefix.
    label: human label, empty where there is none.
    teacher_label: parsed from the completion, empty where it did not parse.
    rationale: parsed from the completion, empty where it did not parse.
    status: `ok`, or the named reason why it is not.
    teacher: such as `palm540b`.
    dataset: such as `svamp`.
    split: `train`, `validation` or `test`.
    origin: where it came from, for a person to look it up: `train[538]` is
      the row at position 538 of the source's train split.
    weight: what the record's teacher outputs weigh in the loss, a number as
      text; empty for 1. The share of several samples that agree, for one.
    rule: what the teacher's label was read by, such as `json` or `answer is`.
    thinking: what a reasoning model thought before its answer.
    references: further human labels, such as other summaries, as a JSON list
      of texts; empty where there are none.
    rounds: of chain of density, what the teacher wrote in each round: a JSON
      list of objects with `missing_entities` and `summary`; else empty.
  """

  id: str
  inputs: str
  label: str = ""
  teacher_label: str = ""
  rationale: str = ""
  status: str = OK
  teacher: str = ""
  dataset: str = ""
  split: str = "train"
  origin: str = ""
  weight: str = ""
  rule: str = ""
  thinking: str = ""
  references: str = ""
  rounds: str = ""

  @property
  def labels(self) -> tuple[str, ...]:
    """All human labels, `label` first; () where there is none."""
    more = json.loads(self.references) if self.references else []
    return (self.label, *more) if self.label else ()


FIELDS = tuple(field.name for field in dataclasses.fields(Record))


def with_rationale(record: Record) -> Record:
  """A record whose inputs have the teacher's rationale after the question.

  >>> with_rationale(Record("a", "1 + 1?", rationale="One more.")).inputs
  '1 + 1? Rationale: One more.'
  """
  if not record.rationale:
    return record
  return dataclasses.replace(
      record, inputs=record.inputs + RATIONALE_TEXT + record.rationale)


def normalize_input(text: str) -> str:
  """What two inputs have in common that differ in form only.

  Unicode form NFKC, case folded, runs of white space as one space, also
  around the sign between premise and hypothesis.

  >>> normalize_input(" How MANY\\napples? ")
  'how many apples?'
  """
  if not text.isascii():
    text = unicodedata.normalize("NFKC", text)
  text = text.replace(EOS_TEXT, f" {EOS_TEXT} ")
  return " ".join(text.casefold().split())


def input_hash(text: str) -> str:
  """64 bits of SHA-256 of the normalized input, as 16 hex digits."""
  return hashlib.sha256(normalize_input(text).encode("utf-8")).hexdigest()[:16]


def record_id(
    dataset: str, split: str, hashed_input: str, occurrence: int = 1) -> str:
  """A record's id: data set, split and the hash of its normalized input.

  Args:
    dataset: name of the data set.
    split: name of the split.
    hashed_input: `input_hash(inputs)`.
    occurrence: 1 for the first row of the split with these inputs; repeated
      rows get `-2`, `-3`, so that ids stay unique.

  >>> record_id("svamp", "train", "00ff00ff00ff00ff", 2)
  'svamp/train/00ff00ff00ff00ff-2'
  """
  suffix = f"-{occurrence}" if occurrence > 1 else ""
  return f"{dataset}/{split}/{hashed_input}{suffix}"


def check_name(kind: str, name: str) -> str:
  """Returns `name` if it may be part of folder and task names.

  Raises:
    errors.UserError: it has other characters than a-z, 0-9 and _.
  """
  if not _NAME.fullmatch(name):
    raise errors.UserError(
        f"{kind} {name!r} is not a name of lower-case letters, digits and _; "
        f"rename it, for instance to "
        f"{re.sub('[^a-z0-9]+', '_', name.lower()).strip('_') or kind!r}")
  return name


def dataset_dir(records_dir: StrPath, dataset: str) -> pathlib.Path:
  """The folder of a data set's records, one subfolder a teacher."""
  folder = locations.local(records_dir, "the records' folder")
  return folder / f"{TFDS_PREFIX}{dataset}"


def version_dir(
    records_dir: StrPath, dataset: str, teacher: str
) -> pathlib.Path:
  """The folder that holds the shards of (dataset, teacher)."""
  return dataset_dir(records_dir, dataset) / teacher / VERSION


def vocabulary_path(records_dir: StrPath, dataset: str) -> pathlib.Path:
  """Where a data set with a vocabulary of its own keeps it.

  Data sets without this file use T5's vocabulary.
  """
  return dataset_dir(records_dir, dataset) / "spiece.model"


def list_records(records_dir: StrPath) -> list[tuple[str, str]]:
  """Returns the (dataset, teacher) pairs that have records, sorted.

  Only lists folders; a records folder that does not exist has none.
  """
  found = []
  for info in locations.local(records_dir, "the records' folder").glob(
      f"{TFDS_PREFIX}*/*/{VERSION}/dataset_info.json"):
    teacher_dir = info.parent.parent
    found.append((teacher_dir.parent.name.removeprefix(TFDS_PREFIX),
                  teacher_dir.name))
  return sorted(found)


def teachers_of(records_dir: StrPath, dataset: str) -> list[str]:
  """Names of the teachers with records of `dataset`.

  In the order in which they serve where none is named, in training and in
  scoring alike: the published one, then by name.
  """
  teachers = [t for d, t in list_records(records_dir) if d == dataset]
  return sorted(teachers, key=lambda t: (t != PUBLISHED_TEACHER, t))


def other_rows(
    records_dir: StrPath, dataset: str, teacher: str, split: str) -> str:
  """Says how other teachers' rows of a split differ from a teacher's.

  Returns:
    A line for a person; empty where all teachers have the same rows.
  """
  size = split_sizes(records_dir, dataset, teacher).get(split, 0)
  found: list[str] = []
  ids: set[str] = set()
  for other in teachers_of(records_dir, dataset):
    others = split_sizes(records_dir, dataset, other).get(split, 0)
    if other == teacher or not others:
      continue
    if others != size:
      found.append(f"{other} has {others:,}")
      continue
    ids = ids or set(read_ids(records_dir, dataset, teacher, split))
    new = sum(i not in ids for i in read_ids(
        records_dir, dataset, other, split))
    if new:
      found.append(f"{other} has {new:,} other ones")
  return (f"{dataset}, split {split}: as no teacher is named, the rows are the "
          f"{size:,} of {teacher}'s records; " + ", ".join(found)
          if found else "")


def require_records(
    records_dir: StrPath, dataset: str, teacher: str
) -> pathlib.Path:
  """Returns `version_dir` of records that exist.

  Raises:
    errors.UserError: there are none; says which there are, and what to run.
  """
  folder = version_dir(records_dir, dataset, teacher)
  if (folder / "dataset_info.json").is_file():
    return folder
  if not os.path.isdir(records_dir):
    raise errors.UserError(
        f"there is no folder of records {records_dir}; name another one with "
        f"--records_dir, or write it with `stepdistill teacher import "
        f"--dataset={dataset} --teacher={teacher} ...`")
  present = [f"{d}/{t}" for d, t in list_records(records_dir)]
  raise errors.UserError(
      f"no records of data set {dataset!r} by teacher {teacher!r} in "
      f"{records_dir} (there: {', '.join(present) or 'nothing'}); write them "
      f"with `stepdistill teacher import --dataset={dataset} "
      f"--teacher={teacher} ...`, or name their folder with --records_dir")


def shard_name(stem: str, shard: int, shards: int) -> str:
  """A shard's name, as TFDS has it.

  >>> shard_name("stepdistill_svamp-train", 3, 16)
  'stepdistill_svamp-train.tfrecord-00003-of-00016'
  """
  return f"{stem}.tfrecord-{shard:05d}-of-{shards:05d}"


def read_records(
    records_dir: StrPath, dataset: str, teacher: str, split: str
) -> Iterator[Record]:
  """Yields a split's records, shard by shard, without TensorFlow.

  Args:
    records_dir: the folder of all records.
    dataset: name of the data set.
    teacher: name of the teacher.
    split: name of the split.

  Raises:
    errors.UserError: no such records or split, or a damaged shard.
  """
  for example in _read_split(records_dir, dataset, teacher, split,
                             tfrecord_files.decode_example):
    yield Record(**{name: example.get(name, "") for name in FIELDS})


def read_ids(
    records_dir: StrPath, dataset: str, teacher: str, split: str
) -> Iterator[str]:
  """Yields the ids of a split's records, faster than `read_records`."""
  for example in _read_split(
      records_dir, dataset, teacher, split,
      lambda data: tfrecord_files.decode_example(data, ("id",))):
    yield example["id"]


def _read_split(
    records_dir: StrPath, dataset: str, teacher: str, split: str,
    decode: Callable[[bytes], Any]) -> Iterator[Any]:
  folder = require_records(records_dir, dataset, teacher)
  lengths = _shard_lengths(folder)
  if split not in lengths:
    raise errors.UserError(errors.missing_split_message(
        split, SPLITS, lengths, str(folder)))
  stem, shard_count = f"{TFDS_PREFIX}{dataset}-{split}", len(lengths[split])
  count = 0
  with errors.reported((OSError, tfrecord_files.CorruptFileError), lambda e: (
      f"{path} cannot be read ({e.strerror})" if isinstance(e, OSError)
      else str(e)) + "; import these records anew"):
    for shard in range(shard_count):
      path = folder / shard_name(stem, shard, shard_count)
      with path.open("rb") as file:
        for value in tfrecord_files.read_examples(file, str(path), decode):
          yield value
          count += 1
  if count != sum(lengths[split]):
    raise errors.UserError(
        f"{folder} has {count} records of {split}, not the "
        f"{sum(lengths[split])} that were written; import these records anew")


def split_sizes(
    records_dir: StrPath, dataset: str, teacher: str
) -> dict[str, int]:
  """Number of records of each split."""
  lengths = _shard_lengths(require_records(records_dir, dataset, teacher))
  return {split: sum(numbers) for split, numbers in lengths.items()}


def require_features(records_dir: StrPath, dataset: str, teacher: str) -> None:
  """Raises UserError if TFDS could not read how records are written."""
  _read_json(version_dir(records_dir, dataset, teacher) / "features.json")


def _shard_lengths(folder: pathlib.Path) -> dict[str, list[int]]:
  """Number of records of each split's shards."""
  path = folder / "dataset_info.json"
  with errors.reported((KeyError, TypeError, ValueError), _damaged(path)):
    return {split["name"]: [int(n) for n in split["shardLengths"]]
            for split in _read_json(path)["splits"]}


def import_info(
    records_dir: StrPath, dataset: str, teacher: str
) -> dict[str, Any]:
  """What the import that wrote these records counted; {} if it kept none."""
  path = require_records(records_dir, dataset, teacher) / IMPORT_FILE
  return _read_json(path) if path.is_file() else {}


def has_own_labels(records_dir: StrPath, dataset: str, teacher: str) -> bool:
  """Whether the teacher's labels are the rows' own human ones."""
  info = import_info(records_dir, dataset, teacher)
  # Earlier imports did not count it.
  return bool(info.get("own_labels", info.get("format") == "rows"))


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  with errors.reported((OSError, ValueError, RecursionError), _damaged(path)):
    value = json.loads(path.read_text("utf-8"))
  if not isinstance(value, dict):
    raise errors.UserError(_damaged(path))
  return value


def _damaged(path: pathlib.Path) -> str:
  return f"{path} is damaged; import these records anew"
