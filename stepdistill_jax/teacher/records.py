"""Distillation records: a row of a data set joined with a completion.

Records are a TFDS data set, `stepdistill_{dataset}/{teacher}:1.0.0`:

    RECORDS_DIR/stepdistill_svamp/palm540b/1.0.0/
      dataset_info.json  features.json       what TFDS reads
      import.json                            what the import counted
      stepdistill_svamp-train.tfrecord-00000-of-00016 ...

`seqio.TfdsDataSource("stepdistill_svamp/palm540b:1.0.0", ...)` reads it with
no builder code of ours, on any machine that sees the folder. There are
several shards a split, so that hosts can read different ones.

A data set is written beside its final place and renamed when it is whole, so
that a killed import leaves nothing that a later run would take for records.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
import os
import pathlib
import re
import shutil
from typing import Any, Callable, Iterable, Iterator, Mapping
import unicodedata

from stepdistill_jax import errors
from stepdistill_jax.teacher import shard_process
from stepdistill_jax.teacher import shards
from stepdistill_jax.teacher import tfrecord_files

VERSION = "1.0.0"
SPLITS = ("train", "validation", "test")
# In `inputs`, stands for the EOS id between two texts (premise, hypothesis).
# Tasks tokenize the parts apart: in SentencePiece the letters `</s>` are not
# the EOS piece.
EOS_TEXT = "</s>"
OK = "ok"

_PREFIX = "stepdistill_"
_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
_IMPORT_FILE = "import.json"
# About 16,000 records; a second process takes 0.2 s to start.
_AHEAD_BYTES = 10 * 2**20


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


FIELDS = tuple(field.name for field in dataclasses.fields(Record))
_values_of = operator.attrgetter(*FIELDS)


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


def tfds_name(dataset: str, teacher: str) -> str:
  """The name by which TFDS and SeqIO know the records.

  >>> tfds_name("svamp", "palm540b")
  'stepdistill_svamp/palm540b:1.0.0'
  """
  return f"{_PREFIX}{dataset}/{teacher}:{VERSION}"


def dataset_dir(
    records_dir: str | os.PathLike, dataset: str) -> pathlib.Path:
  """The folder of a data set's records, one subfolder a teacher."""
  return pathlib.Path(records_dir) / f"{_PREFIX}{dataset}"


def version_dir(
    records_dir: str | os.PathLike, dataset: str, teacher: str
) -> pathlib.Path:
  """The folder that holds the shards of (dataset, teacher)."""
  return dataset_dir(records_dir, dataset) / teacher / VERSION


def vocabulary_path(
    records_dir: str | os.PathLike, dataset: str) -> pathlib.Path:
  """Where a data set with a vocabulary of its own keeps it.

  Data sets without this file use T5's vocabulary.
  """
  return dataset_dir(records_dir, dataset) / "spiece.model"


def list_records(records_dir: str | os.PathLike) -> list[tuple[str, str]]:
  """Returns the (dataset, teacher) pairs that have records, sorted.

  Only lists folders; a records folder that does not exist has none.
  """
  found = []
  for info in pathlib.Path(records_dir).glob(
      f"{_PREFIX}*/*/{VERSION}/dataset_info.json"):
    teacher_dir = info.parent.parent
    found.append((teacher_dir.parent.name[len(_PREFIX):], teacher_dir.name))
  return sorted(found)


def require_records(
    records_dir: str | os.PathLike, dataset: str, teacher: str
) -> pathlib.Path:
  """Returns `version_dir` of records that exist.

  Raises:
    errors.UserError: there are none; says which there are, and what to run.
  """
  folder = version_dir(records_dir, dataset, teacher)
  if (folder / "dataset_info.json").is_file():
    return folder
  present = [f"{d}/{t}" for d, t in list_records(records_dir)]
  raise errors.UserError(
      f"no records of data set {dataset!r} by teacher {teacher!r} in "
      f"{records_dir} (there: {', '.join(present) or 'nothing'}); write them "
      f"with `stepdistill teacher import --dataset={dataset} "
      f"--teacher={teacher} ...`, or set STEPDISTILL_RECORDS to their folder")


class RecordsWriter:
  """Writes one data set of records; a context manager.

  Leaving the block without an error puts the whole data set in its place,
  instead of an older one; an error, or the process's end, leaves the older
  one as it was.

  Memory is bounded: a split's first 16,384 records are held, to see whether
  it is small; from then on records go to the shards as they come.
  """

  def __init__(
      self, records_dir: str | os.PathLike, dataset: str, teacher: str):
    self._dataset = check_name("data set", dataset)
    self._teacher = check_name("teacher", teacher)
    self.folder = version_dir(records_dir, dataset, teacher)
    self._temporary = self.folder.with_name(
        f".incomplete-{VERSION}-{os.getpid()}")
    self._splits: dict[str, shards.SplitWriter] = {}
    self.import_info: Mapping[str, Any] = {}

  def __enter__(self) -> RecordsWriter:
    try:
      self.folder.parent.mkdir(parents=True, exist_ok=True)
      _remove_leftovers(self.folder.parent)
      self._temporary.mkdir()
    except OSError as error:
      raise self._cannot_write(error) from error
    return self

  def write(self, record: Record) -> None:
    """Appends one record to its split."""
    writer = self._splits.get(record.split)
    if writer is None:
      if record.split not in SPLITS:
        raise errors.UserError(errors.unknown_name_message(
            "split", record.split, SPLITS))
      writer = self._splits[record.split] = shards.SplitWriter(
          self._temporary, f"{_PREFIX}{self._dataset}-{record.split}", FIELDS)
    try:
      writer.write(_values_of(record))
    except OSError as error:
      raise self._cannot_write(error) from error

  def __exit__(self, exception_type, exception, traceback) -> None:
    if exception_type is not None:
      self._abandon()
      return
    try:
      self._finish()
    except OSError as error:
      self._abandon()
      raise self._cannot_write(error) from error
    except BaseException:
      self._abandon()
      raise

  def _finish(self) -> None:
    info = _dataset_info(
        self._dataset, self._teacher,
        {split: self._splits[split].finish()
         for split in SPLITS if split in self._splits})
    _write_json(self._temporary / "features.json", _features_info())
    _write_json(self._temporary / _IMPORT_FILE, self.import_info)
    _write_json(self._temporary / "dataset_info.json", info)
    _put_in_place(self._temporary, self.folder)

  def _abandon(self) -> None:
    for writer in self._splits.values():
      writer.abandon()
    shutil.rmtree(self._temporary, ignore_errors=True)

  def _cannot_write(self, error: OSError) -> errors.UserError:
    return errors.UserError(
        f"cannot write records to {self.folder.parent}: {error.strerror}; "
        "choose another folder with --output=DIR")


def write_records(
    records_dir: str | os.PathLike, dataset: str, teacher: str,
    splits: Mapping[str, Iterable[Record]],
    import_info: Mapping[str, Any] | None = None) -> pathlib.Path:
  """Writes a whole data set of records; returns its folder.

  Args:
    records_dir: the folder of all records, `locations.records_dir()`.
    dataset: name of the data set, such as `svamp`.
    teacher: name of the teacher, such as `palm540b`.
    splits: records of each split; `dataset`, `teacher` and `split` of the
      records are set to these names.
    import_info: JSON values to keep beside them.
  """
  with RecordsWriter(records_dir, dataset, teacher) as writer:
    writer.import_info = import_info or {}
    for split, split_records in splits.items():
      for record in split_records:
        writer.write(dataclasses.replace(
            record, dataset=dataset, teacher=teacher, split=split))
  return writer.folder


def read_records(
    records_dir: str | os.PathLike, dataset: str, teacher: str, split: str, *,
    ahead: bool = False) -> Iterator[Record]:
  """Yields a split's records, shard by shard, without TensorFlow.

  Args:
    records_dir: the folder of all records.
    dataset: name of the data set.
    teacher: name of the teacher.
    split: name of the split.
    ahead: True to have a second process read a large split meanwhile; for
      work that goes through all of it.

  Raises:
    errors.UserError: no such records or split, or a damaged shard.
  """
  def read(paths):
    if ahead and sum(
        path.stat().st_size for path in paths if path.exists()) > _AHEAD_BYTES:
      for values in shard_process.read(paths, FIELDS):
        yield Record(*values)
      return
    for example in shards.read(paths):
      yield Record(**{name: example.get(name, "") for name in FIELDS})

  return _read_split(records_dir, dataset, teacher, split, read)


def read_ids(
    records_dir: str | os.PathLike, dataset: str, teacher: str, split: str
) -> Iterator[str]:
  """Yields the ids of a split's records, faster than `read_records`."""
  def read(paths):
    for name, value in shards.read(paths, tfrecord_files.decode_first):
      if name != FIELDS[0]:
        raise errors.UserError(
            f"the records of {dataset!r} by {teacher!r} in {records_dir} do "
            "not begin with their ids; import them anew")
      yield value

  return _read_split(records_dir, dataset, teacher, split, read)


def _read_split(
    records_dir: str | os.PathLike, dataset: str, teacher: str, split: str,
    read: Callable[[list[pathlib.Path]], Iterator[Any]]) -> Iterator[Any]:
  folder = require_records(records_dir, dataset, teacher)
  lengths = _shard_lengths(folder)
  if split not in lengths:
    raise errors.UserError(errors.unknown_name_message(
        "split", split, lengths, f"({folder})"))
  stem, shard_count = f"{_PREFIX}{dataset}-{split}", len(lengths[split])
  count = 0
  try:
    for value in read([folder / shards.file_name(stem, i, shard_count)
                       for i in range(shard_count)]):
      yield value
      count += 1
    if count != sum(lengths[split]):
      raise tfrecord_files.CorruptFileError(
          f"{folder} has {count} records of {split}, not the "
          f"{sum(lengths[split])} that were written")
  except tfrecord_files.CorruptFileError as error:
    raise errors.UserError(f"{error}; import these records anew") from error


def split_sizes(
    records_dir: str | os.PathLike, dataset: str, teacher: str
) -> dict[str, int]:
  """Number of records of each split."""
  lengths = _shard_lengths(require_records(records_dir, dataset, teacher))
  return {split: sum(numbers) for split, numbers in lengths.items()}


def _shard_lengths(folder: pathlib.Path) -> dict[str, list[int]]:
  """Number of records of each split's shards."""
  path = folder / "dataset_info.json"
  try:
    return {split["name"]: [int(n) for n in split["shardLengths"]]
            for split in _read_json(path)["splits"]}
  except (KeyError, TypeError, ValueError) as error:
    raise _damaged(path) from error


def import_info(
    records_dir: str | os.PathLike, dataset: str, teacher: str
) -> dict[str, Any]:
  """What the import that wrote these records counted; {} if it kept none."""
  path = require_records(records_dir, dataset, teacher) / _IMPORT_FILE
  return _read_json(path) if path.is_file() else {}


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise _damaged(path) from error
  if not isinstance(value, dict):
    raise _damaged(path)
  return value


def _damaged(path: pathlib.Path) -> errors.UserError:
  return errors.UserError(f"{path} is damaged; import these records anew")


def _features_info() -> dict[str, Any]:
  """The contents of TFDS's features.json: a dictionary of texts."""
  features = "tensorflow_datasets.core.features."
  return {
      "pythonClassName": features + "features_dict.FeaturesDict",
      "featuresDict": {"features": {
          name: {"pythonClassName": features + "text_feature.Text", "text": {}}
          for name in FIELDS}},
  }


def _dataset_info(
    dataset: str, teacher: str, splits: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
  """The contents of TFDS's dataset_info.json."""
  return {
      "name": f"{_PREFIX}{dataset}",
      "configName": teacher,
      "version": VERSION,
      "fileFormat": "tfrecord",
      "description": f"Distillation records of {dataset} by {teacher}.",
      "splits": [
          {
              "name": name,
              "filepathTemplate":
                  "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
              # Protocol buffers' JSON has 64-bit integers as texts.
              "shardLengths": [str(n) for n in split["shard_lengths"]],
              "numBytes": str(split["num_bytes"]),
          } for name, split in splits.items()],
  }


def _write_json(path: pathlib.Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _put_in_place(temporary: pathlib.Path, folder: pathlib.Path) -> None:
  """Renames `temporary` to `folder`, in whose place an older one may be."""
  if folder.exists():
    # Between the two renames readers see no records; never half of them.
    older = folder.with_name(f".replaced-{VERSION}-{os.getpid()}")
    os.rename(folder, older)
    os.rename(temporary, folder)
    shutil.rmtree(older, ignore_errors=True)
  else:
    os.rename(temporary, folder)


def _remove_leftovers(folder: pathlib.Path) -> None:
  """Removes what killed imports left; one that still runs keeps its own."""
  for pattern in (".incomplete-*", ".replaced-*"):
    for leftover in folder.glob(pattern):
      if not _is_running(leftover.name.rpartition("-")[2]):
        shutil.rmtree(leftover, ignore_errors=True)


def _is_running(process_id: str) -> bool:
  if not process_id.isdigit() or int(process_id) == os.getpid():
    return False
  try:
    os.kill(int(process_id), 0)
  except ProcessLookupError:
    return False
  except OSError:
    return True  # Another user's process.
  return True
