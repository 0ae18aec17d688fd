"""Makes `stepdistill_jax.tasks` the project's tasks, whatever `tasks` is.

The folder `tasks/` is at the top of the checkout, where any other `tasks` on
the path may hide it. As `stepdistill_jax.tasks` it is always found; in a wheel
it is in the package under this very name. `import tasks`, in T5X's manner,
gives the same module objects, so that nothing is registered twice, unless the
path has another `tasks`: that one is its owner's, and stays.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import pathlib
import sys

from stepdistill_jax.util import locations, t5x_finder

PROJECT = "stepdistill_jax.tasks"
_SHORT = "tasks"


def _folder() -> pathlib.Path:
  return locations.resource_root() / "tasks"


def _is_ours(file: str | None) -> bool:
  """Whether a file is `tasks/__init__.py`; None is a folder without one."""
  return file is None or pathlib.Path(file).resolve().parent == _folder()


class TasksFinder(importlib.abc.MetaPathFinder):
  """Finds the project's tasks by location, under both names."""

  def find_spec(self, fullname: str, *unused: object) -> t5x_finder.Spec:
    if fullname == PROJECT:
      return importlib.util.spec_from_file_location(
          PROJECT, _folder() / "__init__.py",
          submodule_search_locations=[str(_folder())])
    if fullname == _SHORT:
      found = importlib.machinery.PathFinder.find_spec(_SHORT)
      ours = found is None or _is_ours(found.origin)
    else:
      parent = sys.modules.get(_SHORT)
      ours = fullname.startswith(f"{_SHORT}.") and _is_ours(
          getattr(parent, "__file__", None))
    return t5x_finder.alias_spec(
        fullname, PROJECT + fullname[len(_SHORT):]) if ours else None


def install() -> None:
  """Installs the finder, once."""
  if not any(isinstance(f, TasksFinder) for f in sys.meta_path):
    sys.meta_path.insert(0, TasksFinder())


def collision() -> str:
  """What to add to a message if `import tasks` gave another's file."""
  module = sys.modules.get(_SHORT)
  file = getattr(module, "__file__", None)
  if module is None or _is_ours(file):
    return ""
  return (f"; `import {_SHORT}` found {file}, and this project's "
          f"{_folder() / '__init__.py'} is `import {PROJECT}`")
