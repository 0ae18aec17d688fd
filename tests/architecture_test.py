"""The arrows between rooms, as docs/architecture.md has them."""

import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_rooms_import_those_below_them_and_nothing_goes_in_circles(tmp_path):
  # Tests may use whatever they need, so they are not among the modules.
  shutil.copytree(ROOT / "stepdistill_jax", tmp_path / "stepdistill_jax",
                  ignore=shutil.ignore_patterns("*_test.py", "conftest.py"))
  done = subprocess.run(
      [pathlib.Path(sys.executable).with_name("lint-imports"), "--no-cache",
       str(ROOT / "importlinter.ini")],
      cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True,
      text=True)
  assert "2 kept, 0 broken" in done.stdout, done.stdout + done.stderr


def test_nothing_but_init_is_at_the_top():
  assert [p.name for p in (ROOT / "stepdistill_jax").glob("*.py")] == [
      "__init__.py"]
