"""One process or two: the same bytes, the same records, the same errors."""

import errno
import os

import pytest

from stepdistill_jax.records import (
  record_writer,
  records,
  shard_process,
  split_writer,
)
from stepdistill_jax.util import errors

RECORDS = [
    records.Record(f"toy/train/{i:04x}", f"question {i} é 🙂", label=str(i),
                   rationale="because\n" * (i % 7))
    for i in range(300)]


@pytest.fixture(autouse=True)
def _many_small_batches(monkeypatch):
  monkeypatch.setattr(split_writer, "SMALL_ROWS", 40)
  monkeypatch.setattr(records, "_AHEAD_BYTES", 0)
  monkeypatch.setattr(shard_process, "_BATCH_CHARACTERS", 1000)


def use_cores(monkeypatch, cores):
  monkeypatch.setattr(shard_process, "_cores", lambda: cores)


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_process_or_two(tmp_path, monkeypatch):
  written, read = {}, {}
  for cores in (1, 2):
    use_cores(monkeypatch, cores)
    folder = record_writer.write_records(
        tmp_path / str(cores), "toy", "none",
        {"train": RECORDS, "test": RECORDS[:5]})
    written[cores] = contents(folder)
    read[cores] = [list(records.read_records(
        tmp_path / "1", "toy", "none", split, ahead=True))
                   for split in ("train", "test")]
  assert len(written[1]) == 128 + 5 + 3
  assert written[1] == written[2]
  assert len(read[1][0]) == 300
  assert read[1] == read[2]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("cores", [1, 2])
def test_a_full_disk_is_one_line(tmp_path, monkeypatch, cores):
  use_cores(monkeypatch, cores)
  writer = record_writer.RecordsWriter(tmp_path, "toy", "none")
  with pytest.raises(errors.UserError, match=os.strerror(errno.ENOSPC)):
    with writer:
      temporary, = writer.folder.parent.iterdir()
      (temporary / "stepdistill_toy-train.tfrecord-00003-of-00128").symlink_to(
          "/dev/full")
      for record in RECORDS:
        writer.write(record)
  assert list(writer.folder.parent.iterdir()) == []


def test_damage_is_told_in_the_same_words(tmp_path, monkeypatch):
  folder = record_writer.write_records(
      tmp_path, "toy", "none", {"train": RECORDS})
  shard = sorted(folder.glob("*-train*"))[3]
  shard.write_bytes(shard.read_bytes()[:-3])
  told = {}
  for cores in (1, 2):
    use_cores(monkeypatch, cores)
    read = []
    with pytest.raises(errors.UserError) as raised:
      for record in records.read_records(
          tmp_path, "toy", "none", "train", ahead=True):
        read.append(record)
    told[cores] = str(raised.value), read
  assert str(shard) in told[1][0]
  assert told[1] == told[2]


def test_a_writer_whose_parent_is_killed_ends_unfinished(tmp_path):
  writer = shard_process.writer(str(tmp_path), "stem", 2, records.FIELDS)
  process = writer._process
  for record in RECORDS:
    writer.write(record_writer._values_of(record))
  process.stdin.close()  # What the parent's end does.
  assert process.wait(timeout=60) == 0
  assert process.stdout.read() == b""
  with pytest.raises(OSError, match="ended early"):
    writer._answer()


def test_a_second_process_that_is_killed_is_one_line(tmp_path):
  writer = shard_process.writer(str(tmp_path), "stem", 2, records.FIELDS)
  writer._process.kill()
  writer._process.wait()
  with pytest.raises(OSError, match=r"ended early \(exit code -9\)"):
    for record in RECORDS:
      writer.write(record_writer._values_of(record))


def test_a_reader_that_is_left_early_ends(tmp_path, monkeypatch):
  started = []
  start = shard_process._start
  monkeypatch.setattr(
      shard_process, "_start", lambda task: started.append(start(task))
      or started[0])
  record_writer.write_records(tmp_path, "toy", "none", {"train": RECORDS[:30]})
  reading = records.read_records(
      tmp_path, "toy", "none", "train", ahead=True)
  next(reading)
  reading.close()
  assert started[0].returncode is not None
