"""A built wheel, away from the checkout, finds its gin files and tasks."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def _run(*command, **options):
  process = subprocess.run(command, capture_output=True, text=True, **options)
  assert process.returncode == 0, process.stdout + process.stderr
  return process.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """The wheel's files, laid out as in site-packages."""
  pytest.importorskip("setuptools", reason="wheels are built by setuptools")
  folder = tmp_path_factory.mktemp("wheel")
  source = folder / "source"
  # What git tracks: a wheel must not depend on what else lies about.
  files = _run("git", "ls-files", "-z", cwd=ROOT).rstrip("\0").split("\0")
  for name in files:
    target = source / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes((ROOT / name).read_bytes())
  _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
       "--no-build-isolation", "--no-index", "--wheel-dir", str(folder),
       str(source))
  (wheel,) = folder.glob("*.whl")
  _run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
       "--no-index", "--target", str(folder / "site"), str(wheel))
  return folder / "site"


def _environment(site, tmp_path):
  return {**os.environ, "PYTHONPATH": str(site),
          "XDG_DATA_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}


def test_every_gin_file_of_the_checkout_is_in_the_wheel(site):
  tracked = _run("git", "ls-files", "gin", cwd=ROOT).split()
  package = site / "stepdistill_jax"
  assert tracked
  for name in tracked:
    assert (package / name).read_bytes() == (ROOT / name).read_bytes()


def test_recipe_and_tasks_are_found_away_from_the_checkout(site, tmp_path):
  code = (
      "import stepdistill_jax, tasks, seqio\n"
      "from stepdistill_jax import locations\n"
      "print(stepdistill_jax.__file__)\n"
      "print(tasks.__file__)\n"
      "print(locations.resource_root())\n"
      "seqio.get_mixture_or_task('svamp_step_gold_palm540b')\n")
  printed = _run(
      sys.executable, "-c", code, cwd=tmp_path,
      env=_environment(site, tmp_path)).splitlines()
  assert all(line.startswith(str(site)) for line in printed[-3:]), printed
  _run(sys.executable, "-m", "stepdistill_jax.t5x_command", "train",
       "--gin_file=gin/recipes/svamp_step_by_step.gin",
       f"--gin.MODEL_DIR='{tmp_path}/run'", "--dry_run", cwd=tmp_path,
       env=_environment(site, tmp_path))
