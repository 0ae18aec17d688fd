"""Conversions that are interrupted, and what people see of them."""

import errno
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from stepdistill_jax.interop import streaming
from stepdistill_jax.interop.hf import (
  exporting as export_hf,
  importing as import_hf,
  weights as hf_weights,
)
from stepdistill_jax.runs import array_reader as t5x_reader
from stepdistill_jax.util import errors
from tests.support import hf_fixtures as fixtures


def contents(folder):
  """Everything in a T5X checkpoint, name -> bytes."""
  arrays = t5x_reader.open_checkpoint(folder).arrays
  return {name: a.read(...).tobytes() for name, a in arrays.items()}


@pytest.fixture(name="source")
def _source(tmp_path):
  fixtures.write_folder(tmp_path / "in", "t5_v1_1", shards=2)
  import_hf.import_hf(tmp_path / "in", tmp_path / "whole", quiet=True)
  return tmp_path / "in"


class Interrupted(Exception):
  pass


def stop_after(monkeypatch, reads):
  """Lets `reads` reads pass, then interrupts; returns the list of reads."""
  seen = []
  read_rows = hf_weights.safetensors_files.read_rows

  def counted(file, slot, start, stop):
    if len(seen) == reads:
      raise Interrupted
    seen.append((file, slot.offset, start))
    return read_rows(file, slot, start, stop)

  monkeypatch.setattr(hf_weights.safetensors_files, "read_rows", counted)
  return seen


def test_an_import_goes_on_where_it_stopped(source, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    first = stop_after(patch, 20)
    with pytest.raises(Interrupted):
      import_hf.import_hf(source, tmp_path / "out", quiet=True)
  # Nothing that `t5x` would take for a checkpoint.
  assert not t5x_reader.checkpoint_paths.all_steps(str(tmp_path / "out"))
  with monkeypatch.context() as patch:
    second = stop_after(patch, -1)
    import_hf.import_hf(source, tmp_path / "out", quiet=True)
  assert not set(first) & set(second)  # No tensor was read twice.
  assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_export_goes_on_where_it_stopped(source, tmp_path, monkeypatch):
  export_hf.export_hf(tmp_path / "whole", tmp_path / "expected",
                      export_hf.Options(quiet=True))
  write_rows = export_hf.safetensors_files.Writer.write_rows

  def stop_writing_after(limit):
    written = []

    def counted(self, name, start, rows):
      if len(written) == limit:
        raise Interrupted
      written.append(name)
      write_rows(self, name, start, rows)

    monkeypatch.setattr(
        export_hf.safetensors_files.Writer, "write_rows", counted)
    return written

  options = export_hf.Options(quiet=True, name="expected")
  first = stop_writing_after(20)
  with pytest.raises(Interrupted):
    export_hf.export_hf(tmp_path / "whole", tmp_path / "out", options)
  assert not (tmp_path / "out").exists()
  second = stop_writing_after(None)
  export_hf.export_hf(tmp_path / "whole", tmp_path / "out", options)
  assert first and second and not set(first) & set(second)
  for file in (tmp_path / "expected").iterdir():
    assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_kills_do_no_harm(source, tmp_path, monkeypatch):
  """Kills the real process at random moments until it comes to its end."""
  output = tmp_path / "out"
  command = [sys.executable, "-m", "stepdistill_jax.cli.stepdistill",
             "checkpoint",
             "import-hf", str(source), f"--output={output}", "--quiet"]
  rng = random.Random(0)
  kills = 0
  while True:
    process = subprocess.Popen(command)
    if kills < 3:
      partial = output / "partial_checkpoint_0" / streaming.JOURNAL_FILE
      wanted = rng.randrange(2 + 15 * kills, 15 + 15 * kills)
      while process.poll() is None and not (
          partial.exists() and partial.read_bytes().count(b"\n") > wanted):
        time.sleep(0.0005)
      process.send_signal(signal.SIGKILL)
    if process.wait() == 0:
      break
    assert not (output / "checkpoint_0").exists()
    kills += 1
  assert kills == 3
  assert contents(output) == contents(tmp_path / "whole")


def test_another_conversion_does_not_go_on_with_this_ones(
    source, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    stop_after(patch, 20)
    with pytest.raises(Interrupted):
      import_hf.import_hf(source, tmp_path / "out", quiet=True)
  with pytest.raises(errors.UserError, match="differs in: dtype"):
    import_hf.import_hf(source, tmp_path / "out", dtype="bfloat16", quiet=True)
  shutil.copy(source / "config.json", source / "x")
  for file in source.glob("*.safetensors"):
    os.utime(file, (1, 1))
  with pytest.raises(errors.UserError, match="differs in: files"):
    import_hf.import_hf(source, tmp_path / "out", quiet=True)


def test_a_line_of_the_journal_that_was_cut_off_counts_for_nothing(tmp_path):
  file = tmp_path / "journal"
  journal = streaming.Journal(file, {"a": 1})
  journal.mark("first")
  journal.mark("second")
  file.write_bytes(file.read_bytes()[:-4])
  again = streaming.Journal(file, {"a": 1})
  assert again.done == {"first"}
  again.mark("third")
  assert streaming.Journal(file, {"a": 1}).done == {"first", "third"}
  file.write_bytes(b'{"a": ')
  assert streaming.Journal(file, {"a": 2}).done == set()


def test_after_a_new_start_of_the_machine_only_what_was_synced_counts(tmp_path):
  file = tmp_path / "journal"
  journal = streaming.Journal(file, {}, boot_id=lambda: "monday")
  journal.mark("first")
  journal.sync()
  journal.mark("second")
  assert streaming.Journal(file, {}, lambda: "monday").done == {
      "first", "second"}
  for _ in range(2):
    assert streaming.Journal(file, {}, lambda: "tuesday").done == {"first"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_a_line(tmp_path, code):
  def fail(advance):
    raise OSError(code, os.strerror(code))

  with pytest.raises(errors.UserError, match="goes on where it stopped"):
    streaming.run([streaming.Task("x", 1, fail)],
                  streaming.Journal(tmp_path / "journal", {}), "import",
                  quiet=True)


def test_too_little_space_is_said_before(tmp_path):
  with pytest.raises(errors.UserError, match="GB free; the conversion needs"):
    streaming.check_free_space(tmp_path / "not" / "yet", 10**18)


def test_lines_of_progress_where_there_is_no_terminal():
  now, stream = [0.0], io.StringIO()
  progress = streaming.Progress(
      "import", 4 * 10**9, stream=stream, now=lambda: now[0])
  for now[0] in (50.0, 100.0, 110.0):
    progress.advance(5 * 10**8)
  progress.close()
  assert stream.getvalue() == (
      "import: 1,000 of 4,000 MB, 10/s, 5m 00s left\n")


def test_what_was_done_before_does_not_count_for_the_rate():
  now, stream = [0.0], io.StringIO()
  progress = streaming.Progress(
      "import", 10**9, stream=stream, now=lambda: now[0])
  progress.skip(8 * 10**8)
  now[0] = 100.0
  progress.advance(10**8)
  assert "900 of 1,000 MB, 1/s, 1m 40s left" in stream.getvalue()
