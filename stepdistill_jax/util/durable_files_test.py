import errno
import os

import pytest

from stepdistill_jax.util import durable_files


def test_a_file_is_replaced_whole(tmp_path):
  path = tmp_path / "file"
  durable_files.replace(path, b"one")
  durable_files.replace(str(path), "zwei é \udc80")
  assert path.read_text("utf-8") == "zwei é \\udc80"
  assert os.listdir(tmp_path) == ["file"]


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
  path = tmp_path / "file"
  durable_files.replace(path, b"one")

  def full(*unused):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(OSError, match="No space"):
    durable_files.replace(path, b"two")
  assert path.read_bytes() == b"one"
  assert os.listdir(tmp_path) == ["file"]
