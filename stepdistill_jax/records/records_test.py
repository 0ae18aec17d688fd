import errno
import multiprocessing
import os
import shutil
import signal

import pytest

from stepdistill_jax.records import record_writer, records
from stepdistill_jax.util import errors


def some_records(number, split="train"):
  return [
      records.Record(
          id=f"toy/{split}/{i}", inputs=f"question {i}\nä", label=str(i),
          rationale="because" * (i % 3), dataset="toy", teacher="none",
          split=split)
      for i in range(number)]


def by_id(found):
  return sorted(found, key=lambda record: record.id)


def test_tfds_and_our_reader_give_what_was_written(tmp_path):
  import tensorflow_datasets as tfds

  splits = {"train": some_records(40), "test": some_records(3, "test")}
  record_writer.write_records(tmp_path, "toy", "none", splits)
  assert records.list_records(tmp_path) == [("toy", "none")]
  assert records.split_sizes(tmp_path, "toy", "none") == {
      "train": 40, "test": 3}
  builder = tfds.builder(
      "stepdistill_toy/none:1.0.0", data_dir=str(tmp_path))
  for split, expected in splits.items():
    assert builder.info.splits[split].num_examples == len(expected)
    ours = records.read_records(tmp_path, "toy", "none", split)
    assert by_id(ours) == by_id(expected)
    theirs = [
        records.Record(**{k: v.decode() for k, v in example.items()})
        for example in builder.as_dataset(split).as_numpy_iterator()]
    assert by_id(theirs) == by_id(expected)
  # Several hosts can read different shards.
  assert builder.info.splits["train"].num_shards == 16


def test_large_splits_go_to_more_shards_as_they_come(tmp_path, monkeypatch):
  monkeypatch.setattr(record_writer, "SMALL_ROWS", 30)
  record_writer.write_records(
      tmp_path, "toy", "none", {"train": some_records(300)})
  files = list(records.version_dir(tmp_path, "toy", "none").glob("*-train*"))
  assert len(files) == 128
  assert by_id(records.read_records(tmp_path, "toy", "none", "train")) == (
      by_id(some_records(300)))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setattr(record_writer, "SMALL_ROWS", 40)
  writer = record_writer.RecordsWriter(tmp_path, "toy", "none")
  with pytest.raises(errors.UserError, match=os.strerror(errno.ENOSPC)):
    with writer:
      temporary, = writer.folder.parent.iterdir()
      (temporary / "stepdistill_toy-train.tfrecord-00003-of-00128").symlink_to(
          "/dev/full")
      for record in some_records(300):
        writer.write(record)
  assert list(writer.folder.parent.iterdir()) == []


def test_an_error_leaves_the_older_records(tmp_path):
  record_writer.write_records(
      tmp_path, "toy", "none", {"train": some_records(2)})
  with pytest.raises(RuntimeError):
    with record_writer.RecordsWriter(tmp_path, "toy", "none") as writer:
      writer.write(some_records(1)[0])
      raise RuntimeError
  folder = records.version_dir(tmp_path, "toy", "none")
  assert [p.name for p in folder.parent.iterdir()] == [records.VERSION]
  assert len(list(records.read_records(tmp_path, "toy", "none", "train"))) == 2


def _write_and_die(folder):
  with record_writer.RecordsWriter(folder, "toy", "none") as writer:
    for record in some_records(100):
      writer.write(record)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_import_leaves_no_records_and_the_next_cleans_up(tmp_path):
  process = multiprocessing.get_context("spawn").Process(
      target=_write_and_die, args=(tmp_path,))
  process.start()
  process.join()
  assert process.exitcode == -signal.SIGKILL
  assert records.list_records(tmp_path) == []
  with pytest.raises(errors.UserError, match="no records of data set 'toy'"):
    records.require_records(tmp_path, "toy", "none")
  folder = record_writer.write_records(
      tmp_path, "toy", "none", {"train": some_records(5)})
  assert [p.name for p in folder.parent.iterdir()] == [records.VERSION]


def test_a_damaged_shard_is_one_line(tmp_path):
  folder = record_writer.write_records(
      tmp_path, "toy", "none", {"train": some_records(40)})
  shard = sorted(folder.glob("*-train*"))[3]
  shard.write_bytes(shard.read_bytes()[:-3])
  with pytest.raises(errors.UserError, match=(
      f"{shard}.*import these records anew")):
    list(records.read_records(tmp_path, "toy", "none", "train"))


@pytest.mark.parametrize("damage, reason", [
    (lambda folder: next(folder.glob("*-train*")).unlink(), "cannot be read"),
    (lambda folder: next(folder.glob("*-train*")).write_bytes(b""),
     "has 3[0-9] records of train, not the 40 that were written"),
    (lambda folder: (folder / "dataset_info.json").write_text("{}"),
     "dataset_info.json is damaged"),
    (lambda folder: (folder / "dataset_info.json").write_bytes(b"\xff"),
     "dataset_info.json is damaged"),
])
def test_records_that_are_not_whole_are_one_line(tmp_path, damage, reason):
  damage(record_writer.write_records(
      tmp_path, "toy", "none", {"train": some_records(40)}))
  with pytest.raises(errors.UserError, match=reason):
    list(records.read_records(tmp_path, "toy", "none", "train"))


def test_other_rows_of_another_teacher_are_named(tmp_path):
  rows = some_records(4)
  for teacher, given in (("a", rows[:3]), ("b", rows[:3]), ("c", rows[1:]),
                         ("d", rows[:2])):
    record_writer.write_records(tmp_path, "toy", teacher, {"train": given})
  line = ("toy, split train: as no teacher is named, the rows are the 3 of "
          "a's records; c has 1 other ones, d has 2")
  assert records.other_rows(tmp_path, "toy", "a", "train") == line
  assert records.other_rows(tmp_path, "toy", "a", "test") == ""
  for teacher in ("c", "d"):
    shutil.rmtree(records.version_dir(tmp_path, "toy", teacher))
  assert records.other_rows(tmp_path, "toy", "a", "train") == ""


def test_ids_are_those_of_the_normalized_input():
  assert records.input_hash("How  many\nAPPLES?") == records.input_hash(
      "how many apples?")
  assert records.input_hash("a b") != records.input_hash("ab")


@pytest.mark.parametrize("name", ["", "../x", "Upper", "a/b", "a-b", "a:b"])
def test_names_that_cannot_be_folders(tmp_path, name):
  with pytest.raises(errors.UserError):
    record_writer.RecordsWriter(tmp_path, name, "none")
