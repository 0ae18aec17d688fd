"""Tests of what a run's folder says."""

import json
import shutil

from etils import epath

from stepdistill_jax.interop import run_folder


def test_a_link_leads_to_the_same_run(tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "link").symlink_to("run")
  found = [run_folder.RunFolder(epath.Path(path), epath.Path(path) / "x", 1)
           for path in (tmp_path / "run", tmp_path / "link", "gs://a/run")]
  assert [run.real_path() for run in found] == [
      *2 * [str((tmp_path / "run").resolve())], "gs://a/run"]


def test_copies_and_repetitions_are_one_run(tmp_path):
  def write(name, seed, start="monday", files="x"):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.gin").write_text(
        f"MODEL_DIR = '{name}'\nRANDOM_SEED = {seed}\n")
    (folder / "run.json").write_text(json.dumps({
        "created": start, "seeds": {"model": seed}, "starts": [
            {"time": start, "step": 0}], "data": {"files_sha256": files}}))
    return folder

  first = write("first", 0)
  copy = shutil.copytree(first, tmp_path / "copy")
  with (copy / "config.gin").open("a") as config:
    config.write("TRAIN_STEPS = 9\n")  # It went on.
  runs = [first, copy, write("again", 0, "friday"), write("seed", 1),
          write("data", 0, "sunday", files="y")]
  found = run_folder.first_copies(
      {run.name: run_folder.identities_of(run) for run in runs})
  assert found == {"first": "first", "copy": "first", "again": "first",
                   "seed": "seed", "data": "data"}
  assert run_folder.copy_lines(found) == [
      f"{name} has the record, or configuration, data and seed, of first: they "
      "count as one run" for name in ("copy", "again")]
