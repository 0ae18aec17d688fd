"""The project's tasks are found beside any other `tasks` on the path."""

import os
import subprocess
import sys
import types

import pytest

from stepdistill_jax.config import tasks_finder
from stepdistill_jax.util import locations

OURS = str(locations.resource_root() / "tasks" / "__init__.py")


def _found(folder, *names):
  """Files that a fresh process finds the names in; nothing is run."""
  process = subprocess.run(
      [sys.executable, "-c",
       "import importlib.util, stepdistill_jax\n"
       f"for name in {names}:\n"
       "  print(importlib.util.find_spec(name).origin)"],
      capture_output=True, text=True, cwd=folder, check=True, env={
          **os.environ, "PYTHONPATH": os.pathsep.join(
              [str(folder), *filter(None, sys.path)])})
  return process.stdout.split()


def test_both_names_are_the_projects_where_there_is_no_other(tmp_path):
  (tmp_path / "tasks").mkdir()  # A folder of somebody's, with no module in it.
  assert _found(tmp_path, "tasks", tasks_finder.PROJECT) == [OURS, OURS]


def test_another_tasks_stays_and_ours_is_found_by_its_full_name(tmp_path):
  other = tmp_path / "tasks.py"
  other.write_text("raise AssertionError('nobody asked for this one')\n")
  assert _found(tmp_path, "tasks", tasks_finder.PROJECT) == [str(other), OURS]


def test_one_module_object_under_both_names():
  from stepdistill_jax import tasks as ours
  from stepdistill_jax.tasks import svamp as ours_svamp
  import tasks
  import tasks.svamp
  assert tasks is ours and tasks.svamp is ours_svamp
  assert tasks_finder.collision() == ""


def test_an_unknown_task_names_both_files(tmp_path, monkeypatch):
  from stepdistill_jax.data import dataset_providers
  from stepdistill_jax.embedded_t5x import datasets
  from stepdistill_jax.util import errors
  other = types.ModuleType("tasks")
  other.__file__ = str(tmp_path / "tasks.py")
  monkeypatch.setitem(sys.modules, "tasks", other)
  with pytest.raises(errors.UserError) as error:
    dataset_providers.find_task(datasets.DatasetConfig(
        "no_such_task", {"inputs": 4, "targets": 4}, "train", 2, False, seed=0))
  assert f"`import tasks` found {other.__file__}, and" in str(error.value)
  assert f"{OURS} is `import stepdistill_jax.tasks`" in str(error.value)
