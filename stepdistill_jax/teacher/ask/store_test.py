"""The growing cache: whatever happens to it, lines are whole and count once."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.ask import locking, store as store_lib
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
    assert store.usage() == {"prompt_tokens": 15, "completion_tokens": 0}
    assert store.counts() == {"stop": 5}


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
  near_ends = {end + near for end in (0, *ends) for near in (-2, -1, 0, 1)}
  # Others than near the ends of lines are alike: some of them.
  for length in sorted((near_ends | set(range(0, len(data), 97))) & set(
      range(len(data) + 1)), reverse=True):
    with shard.open("wb") as file:
      file.write(data[:length])
    with make(tmp_path) as store:
      whole = sum(end <= length for end in ends)
      assert [store.lacks(f"d/train/{n}", 0) for n in range(4)] == [
          n >= whole for n in range(4)]
      if length % 97 == 0:  # What is appended then is whole, too.
        store.append([line(7)])
        store.sync()
        assert ids(tmp_path) == [
            f"d/train/{n}" for n in [*range(whole), 7]]
        store.close(complete=False)
        assert ids(tmp_path) == [
            f"d/train/{n}" for n in [*range(whole), 7]]
        shard.write_bytes(data)
        (tmp_path / "manifest.json").write_text(json.dumps(
            {**completions.read_manifest(tmp_path), "shards": None}))


def test_damage_inside_is_refused(tmp_path):
  make(tmp_path, range(4)).close(complete=True)
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
  assert store.counts() == {"error:server_error": 1, "stop": 1}
  store.append([line(1, output="at last")])
  store.append([line(1, error="timeout: late"), line(1, output="again")])
  assert store.counts() == {"stop": 2}
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
  with pytest.raises(locking.Locked, match=f"process {os.getpid()}"):
    make(tmp_path)
  reported = []
  with pytest.raises(errors.UserError, match="did not end within"):
    locking.wait_for_lock(lambda: make(tmp_path), longest_s=0.2,
                          waiting=reported.append)
  assert len(reported) == 1
  store.abandon()
  locking.wait_for_lock(
      lambda: make(tmp_path), longest_s=0, waiting=reported.append).abandon()


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
  assert not (tmp_path / completions.GROWING).exists()


def test_a_full_disk_is_reported_and_loses_nothing(tmp_path):
  store = make(tmp_path, range(3))
  database = store._database
  (pages,) = database.execute("PRAGMA page_count").fetchone()
  database.execute(f"PRAGMA max_page_count = {pages}")
  with pytest.raises(errors.UserError, match="is full; what was collected is"):
    store.append([line(3, output="x" * 100_000)])
  database.execute(f"PRAGMA max_page_count = {2**30}")
  store.append([line(4)])
  store.abandon()
  assert ids(tmp_path) == [f"d/train/{n}" for n in (0, 1, 2, 4)]


def test_shards_that_cannot_be_written_lose_nothing(tmp_path, monkeypatch):
  store = make(tmp_path, range(3))

  def full(*unused):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(os, "fsync", full)
    with pytest.raises(errors.UserError, match="No space left.*is safe"):
      store.close(complete=True)
  store.abandon()
  assert ids(tmp_path) == [f"d/train/{n}" for n in range(3)]
  make(tmp_path).close(complete=True)
  assert ids(tmp_path) == [f"d/train/{n}" for n in range(3)]
  assert not (tmp_path / completions.GROWING).exists()


@pytest.mark.parametrize("stop_at", range(1, 7))
def test_killed_while_it_writes_shards_it_loses_nothing(
    tmp_path, monkeypatch, stop_at):
  """As by SIGKILL between any two of the steps of `close`."""
  make(tmp_path, range(9), shard_bytes=700).close(complete=True)
  assert len(completions.shard_paths(tmp_path)) == 3
  store = make(tmp_path, range(9, 12), shard_bytes=2000)
  replace, calls = os.replace, []

  class Killed(BaseException):
    pass

  def replace_or_die(*paths):
    calls.append(paths)
    if len(calls) == stop_at:
      raise Killed
    replace(*paths)

  with monkeypatch.context() as patch:
    patch.setattr(os, "replace", replace_or_die)
    try:
      store.close(complete=True)
    except Killed:
      store.abandon()
  assert ids(tmp_path) == [f"d/train/{n}" for n in range(12)]
  make(tmp_path).close(complete=True)
  assert ids(tmp_path) == [f"d/train/{n}" for n in range(12)]


def test_a_cache_of_before_is_read_with_what_it_left_in_doubt(tmp_path):
  make(tmp_path, range(3)).close(complete=False)
  (tmp_path / "manifest.json").write_text(json.dumps({
      key: value for key, value in completions.read_manifest(
          tmp_path).items() if key not in ("shards", "count")}))
  with (tmp_path / "shard-00000.jsonl").open("a", encoding="utf-8") as file:
    # As no program here writes it, but a person may.
    file.write(json.dumps(line(3, output="é"), ensure_ascii=False) + "\n"
               + '{"id": "cut')
  (tmp_path / ".sent").write_text(
      f"+{'ab' * 16}\n+{'cd' * 16}\n-{'ab' * 16}\n+{'ef' * 3}")
  for _ in range(2):
    with make(tmp_path) as store:
      assert store.in_doubt == {"cd" * 16}
      assert store.counts() == {"stop": 4}
      assert store.line("d/train/3", 0)["output"] == "é"
  store = make(tmp_path, [4])
  store.sent("cd" * 32)
  store.append([line(5, key="cd" * 32)])
  store.close(complete=True)
  assert ids(tmp_path) == [f"d/train/{n}" for n in range(6)]
  assert sorted(p.name for p in tmp_path.iterdir()) == [
      ".lock", "manifest.json", "shard-00000.jsonl"]


def test_without_a_completion_the_settings_may_change(tmp_path):
  store = make(tmp_path)
  store.append([line(1, error="bad_request: no temperature, please")])
  store.close(complete=False)
  other = IDENTITY | {"sampling": {"temperature": None, "samples": 1}}
  with pytest.raises(errors.UserError, match="teacher 't', and this run"):
    store_lib.Store(tmp_path, other | {"teacher": "u"})
  store = store_lib.Store(tmp_path, other)
  store.append([line(1)])
  store.close(complete=True)
  assert completions.read_manifest(tmp_path)["sampling"] == other["sampling"]
  with pytest.raises(errors.UserError, match="sampling.temperature None"):
    make(tmp_path)


def test_a_damaged_database_is_refused_and_kept(tmp_path):
  make(tmp_path, range(3)).abandon()
  path = tmp_path / completions.GROWING
  path.write_bytes(b"no database" * 1000)
  for read in (lambda: make(tmp_path), lambda: ids(tmp_path)):
    with pytest.raises(errors.UserError, match=completions.GROWING):
      read()
  assert path.is_file()


def test_a_folder_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.UserError, match="cannot write the cache"):
    make(pathlib.Path(tmp_path / "file" / "cache"))
