"""Makes `import t5x` resolve to Google's T5X if installed, else to ours.

The embedded engine lives in `stepdistill_jax.embedded_t5x`, its module names
are T5X's. `t5x.models` and `stepdistill_jax.embedded_t5x.models` must be one
module object: two copies would give two classes of every name, and
`isinstance` checks and gin bindings would miss. So the finder does not load
files a second time; it imports the embedded module and enters it in
`sys.modules` under its T5X name too.

This file is the only place that knows which engine is in use.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types

EMBEDDED = "stepdistill_jax.embedded_t5x"
ENGINES = ("auto", "google", "embedded")
# Read once, at the first import; the `t5x` command sets it from --engine.
ENGINE_VARIABLE = "STEPDISTILL_ENGINE"
Spec = importlib.machinery.ModuleSpec | None


class _AliasLoader(importlib.abc.Loader):
  """Enters an already importable module in `sys.modules` under a new name."""

  def __init__(self, target: str):
    self._target = target

  def exec_module(self, module: types.ModuleType) -> None:
    sys.modules[module.__name__] = importlib.import_module(self._target)


def alias_spec(fullname: str, target: str) -> Spec:
  """The spec that gives `target`'s module object the name `fullname` too."""
  found = importlib.util.find_spec(target)
  if found is None:
    return None
  return importlib.machinery.ModuleSpec(
      fullname, _AliasLoader(target), origin=found.origin,
      is_package=found.submodule_search_locations is not None)


class EmbeddedT5xFinder(importlib.abc.MetaPathFinder):
  """Finds `t5x` and `t5x.*` in the embedded engine.

  `t5x.contrib` is not part of an engine but code of its users: it is that of
  Google's package, where one is installed, and runs on ours.
  """

  def find_spec(self, fullname: str, *unused: object) -> Spec:
    if fullname == "t5x.contrib":
      google = importlib.machinery.PathFinder.find_spec("t5x")
      if google is None:
        raise ModuleNotFoundError(
            "no module named 't5x.contrib': the embedded engine takes it from "
            "Google's T5X, which is not installed; put its checkout on "
            "PYTHONPATH", name=fullname)
      return importlib.machinery.PathFinder.find_spec(
          fullname, google.submodule_search_locations)
    # Below it, by its folder: PathFinder's.
    if fullname != "t5x" and (not fullname.startswith("t5x.")
                              or fullname.startswith("t5x.contrib.")):
      return None
    return alias_spec(fullname, EMBEDDED + fullname[len("t5x"):])


class FormerNamesFinder(importlib.abc.MetaPathFinder):
  """Finds modules by the names that files of before have for them."""

  _NAMES = {"stepdistill_jax.resilience": "stepdistill_jax.runs",
            "stepdistill_jax.embedded_t5x.command":
                "stepdistill_jax.runs.t5x_command",
            "stepdistill_jax.embedded_t5x.device_mesh":
                "stepdistill_jax.distributed.device_mesh",
            "stepdistill_jax.embedded_t5x.lazy_arrays":
                "stepdistill_jax.runs.lazy_arrays",
            "stepdistill_jax.data.cuts": "stepdistill_jax.data.truncation"}

  def find_spec(self, fullname: str, *unused: object) -> Spec:
    for former, name in self._NAMES.items():
      if fullname == former or fullname.startswith(f"{former}."):
        return alias_spec(fullname, name + fullname[len(former):])
    return None


def google_t5x_installed() -> bool:
  """True if a `t5x` other than the embedded one can be imported."""
  spec = importlib.machinery.PathFinder.find_spec("t5x")
  return spec is not None


def install(engine: str | None = None) -> str:
  """Installs the finder where the embedded engine is to serve as `t5x`.

  Args:
    engine: `auto`, `google` or `embedded`; None reads $STEPDISTILL_ENGINE,
      else `auto`, which prefers Google's T5X where it is installed.

  Returns:
    `google` or `embedded`: what `import t5x` now gives.

  Raises:
    ValueError: an unknown engine name.
    ModuleNotFoundError: `google` was asked for and is not installed.
  """
  engine = engine or os.environ.get(ENGINE_VARIABLE) or "auto"
  if engine not in ENGINES:
    raise ValueError(
        f"unknown T5X engine {engine!r}; known: {', '.join(ENGINES)}")
  if engine == "google" and not google_t5x_installed():
    raise ModuleNotFoundError(
        "engine 'google' was asked for, but Google's T5X is not installed; "
        "install it with `pip install 'stepdistill_jax[t5x]'`, or use "
        "--engine=embedded", name="t5x")
  use_google = engine == "google" or (
      engine == "auto" and google_t5x_installed())
  sys.meta_path[:] = [
      f for f in sys.meta_path
      if not isinstance(f, (EmbeddedT5xFinder, FormerNamesFinder))]
  # First: the folder of a package that was found here has files, too.
  sys.meta_path.insert(0, FormerNamesFinder())
  if not use_google:
    # First in line, so that --engine=embedded wins over an installed T5X.
    sys.meta_path.insert(0, EmbeddedT5xFinder())
  return "google" if use_google else "embedded"


def current_engine() -> str:
  """`google` or `embedded`: what `import t5x` gives in this process."""
  embedded = any(isinstance(f, EmbeddedT5xFinder) for f in sys.meta_path)
  return "embedded" if embedded else "google"
