import errno
import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from stepdistill_jax.runs import run_lock
from stepdistill_jax.util import errors

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_HOLD = """
import sys
from stepdistill_jax.runs import run_lock
with run_lock.held(sys.argv[1]):
  print("held", flush=True)
  sys.stdin.read()
"""


def _no_flock(*unused):
  raise OSError(errno.ENOLCK, "no locks here")


def test_one_run_at_a_time(tmp_path):
  with run_lock.held(str(tmp_path)):
    with pytest.raises(errors.UserError, match=rf"process {os.getpid()} on "):
      with run_lock.held(str(tmp_path)):
        pass
  with run_lock.held(str(tmp_path)):
    pass


def test_a_killed_process_leaves_no_lock(tmp_path, capsys):
  holder = subprocess.Popen(
      [sys.executable, "-c", _HOLD, str(tmp_path)], cwd=_ROOT,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
  assert holder.stdout.readline() == "held\n"
  with pytest.raises(errors.UserError, match=f"process {holder.pid} on "):
    with run_lock.held(str(tmp_path)):
      pass
  holder.kill()
  holder.wait()
  with run_lock.held(str(tmp_path)):
    record = json.loads((tmp_path / run_lock.FILE_NAME).read_text())
    assert record["pid"] == os.getpid()
  assert f"stale lock of process {holder.pid}" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["elsewhere", socket.gethostname()])
@pytest.mark.parametrize("beats", [True, False])
def test_without_the_kernels_lock_beats_count(
    tmp_path, monkeypatch, host, beats):
  # A file system without locks: only what the file says is known.
  monkeypatch.setattr(run_lock.fcntl, "flock", _no_flock)
  path = tmp_path / run_lock.FILE_NAME
  holder = {"host": host, "pid": os.getppid(), "since": "then", "beat": 1}
  path.write_text(json.dumps(holder))
  waited = []

  def sleep(seconds):
    waited.append(seconds)
    if beats:
      path.write_text(json.dumps({**holder, "beat": 1 + len(waited)}))

  if beats:
    with pytest.raises(
        errors.UserError, match=f"process {os.getppid()} on {host}"):
      with run_lock.held(str(tmp_path), sleep):
        pass
  else:
    with run_lock.held(str(tmp_path), sleep):
      pass
  assert waited


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / run_lock.FILE_NAME).mkdir()  # As root, modes do not refuse.
  with pytest.raises(errors.UserError, match="cannot write into MODEL_DIR"):
    with run_lock.held(str(tmp_path)):
      pass
