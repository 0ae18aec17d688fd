"""The finder gives one module object under two names, in a fresh process."""

import os
import subprocess
import sys

import pytest

from stepdistill_jax.util import t5x_finder


def _run(code, **env):
  return subprocess.run(
      [sys.executable, "-c", code], capture_output=True, text=True,
      env={**os.environ, "STEPDISTILL_ENGINE": "embedded", **env})


def test_one_module_object_under_both_names():
  result = _run(
      "import stepdistill_jax, t5x.losses\n"
      "from stepdistill_jax.embedded_t5x import losses\n"
      "assert t5x.losses is losses\n"
      "assert t5x.losses.__spec__.name == losses.__name__\n"
      "assert stepdistill_jax.util.t5x_finder.current_engine() == 'embedded'")
  assert result.returncode == 0, result.stderr


def test_import_is_light():
  result = _run(
      "import sys, stepdistill_jax.cli.stepdistill as c; c.build_parser()\n"
      "heavy = {'jax', 'tensorflow', 'seqio', 'flax', 'matplotlib'}\n"
      "assert not heavy & set(sys.modules), heavy & set(sys.modules)")
  assert result.returncode == 0, result.stderr


def test_an_installed_t5x_is_preferred_and_can_be_refused(tmp_path):
  (tmp_path / "t5x").mkdir()
  (tmp_path / "t5x" / "__init__.py").write_text("NAME = 'google'\n")
  code = ("import stepdistill_jax, t5x\n"
          "print(getattr(t5x, 'NAME', 'embedded'))")
  path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
  for engine, expected in [
      ("auto", "google"), ("google", "google"), ("embedded", "embedded")]:
    result = _run(code, STEPDISTILL_ENGINE=engine, PYTHONPATH=path)
    assert result.stdout.strip() == expected, result.stderr


def test_what_users_contributed_runs_on_ours(tmp_path):
  """`t5x.contrib` of a Google T5X that is there, on the embedded engine."""
  package = tmp_path / "t5x" / "contrib" / "own"
  package.mkdir(parents=True)
  for folder in (tmp_path / "t5x", package.parent, package):
    (folder / "__init__.py").write_text("")
  (package / "models.py").write_text("from t5x import losses\n")
  code = ("import stepdistill_jax\n"
          "from t5x.contrib.own import models\n"
          "from stepdistill_jax.embedded_t5x import losses\n"
          "assert models.losses is losses")
  path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
  found = _run(code, PYTHONPATH=path)
  assert found.returncode == 0, found.stderr
  if not t5x_finder.google_t5x_installed():
    missing = _run(code)
    assert missing.returncode == 1
    assert "put its checkout on PYTHONPATH" in missing.stderr


def test_unknown_engine_is_refused():
  with pytest.raises(ValueError, match="known: auto, google, embedded"):
    t5x_finder.install("googel")


def test_former_names_of_rooms_are_found():
  result = _run(
      "import gin\n"
      "from stepdistill_jax.runs import guards\n"
      "gin.parse_config('from __gin__ import dynamic_registration\\n'\n"
      "    'from stepdistill_jax.resilience import guards\\n'\n"
      "    'guards.Guards.nonfinite = \"skip\"')\n"
      "from stepdistill_jax.embedded_t5x import command\n"
      "from stepdistill_jax.runs import t5x_command\n"
      "assert command is t5x_command\n"
      "from stepdistill_jax.distributed import device_mesh\n"
      "from stepdistill_jax.embedded_t5x import device_mesh as former\n"
      "assert former is device_mesh\n"
      "print(gin.get_configurable(guards.Guards)().nonfinite)\n")
  assert result.stdout == "skip\n", result.stderr
