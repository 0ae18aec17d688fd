"""Imports by name, from a hub on loopback, as a user's commands."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from stepdistill_jax.config import gin_config
from stepdistill_jax.util import locations
from tests.support import hf_fixtures, hub as hub_support

NAME = "google/t5-tiny"


@pytest.fixture(name="hub")
def _hub(tmp_path):
  folders = {}
  for revision, family in (("main", "t5_v1_1"), ("old", "flan_t5")):
    folders[revision] = tmp_path / "files" / revision
    hf_fixtures.write_folder(folders[revision], family)
  with hub_support.serve({NAME: folders}) as hub:
    yield hub


@pytest.fixture(name="command")
def _command(hub, tmp_path):
  def command(*arguments, **environment):
    """Runs `import-hf`; returns (exit code, output, errors)."""
    done = subprocess.run(
        [sys.executable, "-m", "stepdistill_jax.cli.stepdistill", "checkpoint",
         "import-hf", *map(str, arguments)], capture_output=True, text=True,
        cwd=tmp_path, env={
            **os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(
                tmp_path / "hf"), "XDG_DATA_HOME": str(tmp_path / "home"),
            "HF_HUB_DOWNLOAD_TIMEOUT": "5", "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": os.pathsep.join(sys.path), **environment})
    return done.returncode, done.stdout, done.stderr

  return command


def provenance(folder):
  return json.loads((folder / "import.json").read_text())


def test_a_name_is_fetched_once_and_found_by_gin(
    hub, command, tmp_path, monkeypatch):
  code, out, err = command(NAME)
  assert code == 0, err
  monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
  folder = locations.import_folder(NAME)
  assert str(folder / "student.gin") in out
  assert provenance(folder)["hub"] == f"{NAME}@{'a' * 40}"
  # An import of the same files by their folder is the same.
  code, _, err = command(tmp_path / "files/main", "--output=by_folder")
  assert code == 0, err
  for file in ("model.gin",):
    lines = [[line for line in (f / file).read_text().splitlines()
              if "/" not in line and not line.startswith("#")]
             for f in (folder, tmp_path / "by_folder")]
    assert lines[0] == lines[1]
  # What gin says of it becomes the checkpoint's path.
  gin_config.parse([], [f"INITIAL_CHECKPOINT_PATH = {NAME!r}"])
  gin_config.make_folders_absolute()
  assert gin_config.bindings()["INITIAL_CHECKPOINT_PATH"] == repr(
      str(folder / "checkpoint_0"))
  # The cache has it: without network, another import asks the hub nothing.
  hub.asked.clear()
  code, _, err = command(NAME, "--output=again", HF_HUB_OFFLINE="1")
  assert code == 0, err
  assert hub.asked == []
  assert provenance(tmp_path / "again")["hub"] == provenance(folder)["hub"]


def test_a_revision_has_a_folder_of_its_own(command, tmp_path):
  code, _, err = command(NAME, "--revision=old")
  assert code == 0, err
  (folder,) = (tmp_path / "home/stepdistill_jax/imports").iterdir()
  assert folder.name == "google--t5-tiny@old"
  assert provenance(folder)["hub"] == f"{NAME}@{'b' * 40}"


def test_an_interrupted_download_goes_on(hub, command):
  weights = hub.folders[NAME]["main"] / "model.safetensors"
  hub.cut[weights.name] = 10_000
  code, _, err = command(NAME)
  assert code == 0, err
  # The rest of what is larger than the library's blocks, else all once more.
  asked = [line for line in hub.asked
           if line.startswith("GET") and weights.name in line]
  assert len(asked) == 2 and not hub.cut


@pytest.mark.parametrize("arguments, environment, expected", [
    (["google/t5-tniy"], {}, "has no model 'google/t5-tniy'"),
    ([NAME, "--revision=new"], {}, "has no revision 'new'"),
    ([NAME], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ([NAME], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be fetched from"),
    (["files/main", "--revision=old", "--output=x"], {}, "--revision needs"),
    (["files/main"], {}, "--output=DIR is missing"),
])
def test_what_cannot_be_fetched_is_one_line(
    command, arguments, environment, expected):
  code, out, err = command(*arguments, **environment)
  assert code == 2 and expected in err and err.count("\n") == 1, err
  assert out == ""


def test_a_private_model_wants_the_token(hub, command):
  hub.private.add(NAME)
  code, _, err = command(NAME)
  assert code == 2 and "HF_TOKEN" in err and err.count("\n") == 1, err
  code, _, err = command(NAME, HF_TOKEN=hub_support.TOKEN)
  assert code == 0, err


def test_paths_are_no_names(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert locations.import_folder("google/t5-v1_1-base@main") is not None
  pathlib.Path("runs/a").mkdir(parents=True)
  for path in ("runs/a", "/runs/a", "./runs", "a/b/c", "gs://bucket/a", "a"):
    assert locations.import_folder(path) is None
