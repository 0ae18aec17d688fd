"""Tests of what a run's folder says."""

from etils import epath

from stepdistill_jax.interop import run_folder


def test_a_link_leads_to_the_same_run(tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "link").symlink_to("run")
  found = [run_folder.RunFolder(epath.Path(path), epath.Path(path) / "x", 1)
           for path in (tmp_path / "run", tmp_path / "link", "gs://a/run")]
  assert [run.real_path() for run in found] == [
      *2 * [str((tmp_path / "run").resolve())], "gs://a/run"]
