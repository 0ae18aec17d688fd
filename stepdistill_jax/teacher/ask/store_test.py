"""The growing cache: whatever happens to it, lines are whole and count once."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.ask import durable, store as store_lib
from stepdistill_jax.util import errors
from tests.support import asking as testing

IDENTITY = {
    "teacher": "t", "dataset": "d", "split": "train", "prompt_sha256": "0" * 64,
    "sampling": {"temperature": 0.2, "samples": 1}, "base_url": "http://a"}


def line(number, *, sample=0, error=None, output="text", key=None, **more):
  return {
      "id": f"d/train/{number}", "sample": sample, "position": number,
      "input": {"inputs": str(number)}, "error": error,
      "request": key or f"{number:064x}",
      "output": None if error else output, "usage": {"prompt_tokens": 3},
      "finish_reason": None if error else "stop", **more}


def make(folder, numbers=(), **arguments):
  store = store_lib.Store(folder, IDENTITY, **arguments)
  for number in numbers:
    store.append([line(number)])
  return store


def ids(folder):
  return [entry.value["id"] for entry in completions.read_completions(folder)]


def test_what_is_closed_is_a_cache(tmp_path):
  store = make(tmp_path, range(3), files={"prompt.toml": b"p"})
  store.append([line(3, sample=0), line(3, sample=1, usage={})])
  store.close(complete=True, note="n")
  manifest = completions.read_manifest(tmp_path)
  assert manifest["complete"] and manifest["count"] == 5
  assert manifest["note"] == "n" and manifest["teacher"] == "t"
  assert (tmp_path / "prompt.toml").read_bytes() == b"p"
  assert len(ids(tmp_path)) == 5  # Also checks the shards' sha256.
  assert sorted(p.name for p in tmp_path.iterdir()) == [
      ".lock", "manifest.json", "prompt.toml", "shard-00000.jsonl"]


def test_reopened_it_knows_what_is_there(tmp_path):
  make(tmp_path, range(5)).close(complete=False)
  with make(tmp_path) as store:
    assert [store.lacks(f"d/train/{n}", 0) for n in (0, 4, 5)] == [
        False, False, True]
    assert store.lacks("d/train/0", 1)
    assert store.line("d/train/2", 0) == line(2)
    assert store.lines_of(f"{2:064x}") == [line(2)]
    assert store.index.usage() == {"prompt_tokens": 15, "completion_tokens": 0}
    assert store.index.counts() == {"stop": 5}


def test_looking_changes_nothing(tmp_path):
  make(tmp_path, range(5)).close(complete=True)
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir()
            if p.name != ".lock"}
  make(tmp_path).abandon()
  assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()
                    if p.name != ".lock"}


def test_cut_anywhere_it_has_the_whole_lines(tmp_path):
  make(tmp_path, range(4)).close(complete=True)
  shard = tmp_path / "shard-00000.jsonl"
  (tmp_path / "manifest.json").write_text(json.dumps(
      {**completions.read_manifest(tmp_path), "shards": None,
       "complete": False}))
  data = shard.read_bytes()
  ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
  for length in range(len(data), -1, -1):
    with shard.open("wb") as file:
      file.write(data[:length])
    with make(tmp_path) as store:
      whole = sum(end <= length for end in ends)
      assert [store.lacks(f"d/train/{n}", 0) for n in range(4)] == [
          n >= whole for n in range(4)]
      if length % 97 == 0:  # What is appended then is whole, too.
        store.append([line(7)])
        store.sync()
        assert [json.loads(x)["id"] for x in shard.open()] == [
            f"d/train/{n}" for n in [*range(whole), 7]]


def test_damage_inside_is_refused(tmp_path):
  make(tmp_path, range(4)).abandon()
  shard = tmp_path / "shard-00000.jsonl"
  data = bytearray(shard.read_bytes())
  data[5] = 10
  shard.write_bytes(data)
  with pytest.raises(errors.UserError, match="damaged at byte 0"):
    make(tmp_path)
  assert shard.read_bytes() == data


def test_a_completion_supersedes_an_error_and_nothing_else(tmp_path):
  store = make(tmp_path)
  store.append([line(1, error="timeout: 5 s")])
  assert store.lacks("d/train/1", 0)
  store.append([line(1, error="server_error: 500")])
  store.append([line(2)])
  assert store.index.counts() == {"error:server_error": 1, "stop": 1}
  store.append([line(1, output="at last")])
  store.append([line(1, error="timeout: late"), line(1, output="again")])
  assert store.index.counts() == {"stop": 2}
  assert store.line("d/train/1", 0)["output"] == "at last"
  store.close(complete=True)
  outputs = {entry.value["id"]: entry.value["output"]
             for entry in completions.read_completions(tmp_path)}
  assert outputs == {"d/train/2": "text", "d/train/1": "at last"}
  assert completions.read_manifest(tmp_path)["count"] == 2


def test_shards_are_begun_and_found_again(tmp_path):
  store = make(tmp_path, range(20), shard_bytes=1000)
  store.close(complete=True)
  shards = sorted(tmp_path.glob("shard-*"))
  assert len(shards) > 3
  assert ids(tmp_path) == [f"d/train/{n}" for n in range(20)]
  with make(tmp_path, shard_bytes=1000) as store:
    assert not store.lacks("d/train/19", 0)
    assert store.line("d/train/0", 0) == line(0)
    store.append([line(20)])
  assert ids(tmp_path)[-1] == "d/train/20"


def test_another_identity_is_refused_and_a_free_one_is_not(tmp_path):
  make(tmp_path, [1]).close(complete=True)
  for change in ({"teacher": "u"}, {"prompt_sha256": "1" * 64},
                 {"sampling": {"temperature": 0.9, "samples": 1}}):
    with pytest.raises(errors.UserError, match=next(iter(change))):
      store_lib.Store(tmp_path, IDENTITY | change)
  store_lib.Store(tmp_path, IDENTITY | {
      "base_url": "http://b",
      "sampling": {"temperature": 0.2, "samples": 5}}).abandon()


def test_shards_without_a_manifest_are_refused(tmp_path):
  make(tmp_path, [1]).abandon()
  (tmp_path / "manifest.json").unlink()
  with pytest.raises(errors.UserError, match="no manifest.json"):
    make(tmp_path)


def test_one_writer_at_a_time(tmp_path):
  store = make(tmp_path, [1])
  with pytest.raises(durable.Locked, match=f"process {os.getpid()}"):
    make(tmp_path)
  told = []
  with pytest.raises(errors.UserError, match="did not end within"):
    durable.wait_for_lock(lambda: make(tmp_path), longest_s=0.2,
                          waiting=told.append)
  assert len(told) == 1
  store.abandon()
  durable.wait_for_lock(
      lambda: make(tmp_path), longest_s=0, waiting=told.append).abandon()


def test_a_killed_writers_lock_is_free_and_its_lines_are_there(tmp_path):
  program = (
      "import os, signal\n"
      "from stepdistill_jax.teacher.ask import store_test\n"
      f"store = store_test.make({str(tmp_path)!r}, range(50))\n"
      "store.sent('ab' * 32); store.sent('cd' * 32)\n"
      "store.answered('ab' * 32)\n"
      "os.kill(os.getpid(), signal.SIGKILL)\n")
  ended = subprocess.run([sys.executable, "-c", program],
                         env=testing.environment(), check=False)
  assert ended.returncode == -9
  with make(tmp_path) as store:
    assert not any(store.lacks(f"d/train/{n}", 0) for n in range(50))
    assert store.in_doubt == {"cd" * 16}


def test_what_is_in_doubt_stays_so_until_answered(tmp_path):
  store = make(tmp_path, [1])
  store.sent("ab" * 32)
  store.abandon()
  for _ in range(2):
    store = make(tmp_path)
    assert store.in_doubt == {"ab" * 16}
    store.close(complete=False)
  store = make(tmp_path)
  store.sent("ab" * 32)
  store.answered("ab" * 32)
  store.close(complete=True)
  assert not (tmp_path / ".sent").exists()


def test_a_full_disk_is_told_and_loses_nothing(tmp_path, monkeypatch):
  store = make(tmp_path, range(3))
  write = os.write

  def full(file, data):
    if len(data) > 60:
      return write(file, data[:40])  # A short write, then none.
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "write", full)
  with pytest.raises(errors.UserError, match="No space left"):
    store.append([line(3)])
  monkeypatch.setattr(os, "write", write)
  store.append([line(4)])
  store.abandon()
  assert ids(tmp_path) == [f"d/train/{n}" for n in (0, 1, 2, 4)]


def test_a_folder_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.UserError, match="cannot write the cache"):
    make(pathlib.Path(tmp_path / "file" / "cache"))
