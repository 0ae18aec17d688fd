import os
import socket

import pytest

from stepdistill_jax.util import whole_folders


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_an_older_folder_is_replaced_or_stays(tmp_path):
  folder = tmp_path / "in" / "a"
  for text in ("1", "2"):
    with whole_folders.written(folder) as temporary:
      (temporary / "file").write_text(text)
      assert folder.exists() == (text == "2")
    assert names(folder.parent) == ["a"]
  with pytest.raises(KeyError):
    with whole_folders.written(folder) as temporary:
      (temporary / "file").write_text("3")
      raise KeyError
  assert names(folder.parent) == ["a"]
  assert (folder / "file").read_text() == "2"


def test_what_is_left_by_killed_processes_of_this_machine_is_removed(tmp_path):
  host, gone = socket.gethostname(), 2**30  # No process has this number.
  stays = [f".incomplete-a-{host}-{os.getppid()}", ".incomplete-a-other.host-1",
           f".incomplete-b-{host}-{gone}", ".incomplete-a-x"]
  for name in (*stays, f".incomplete-a-{host}-{gone}", f".replaced-a-{gone}"):
    (tmp_path / name).mkdir()
  with whole_folders.written(tmp_path / "a"):
    pass
  assert names(tmp_path) == sorted([*stays, "a"])
