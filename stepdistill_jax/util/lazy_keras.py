"""Keras, imported when it is used.

TensorFlow, TensorFlow Text and TensorBoard import Keras when they are imported
themselves, and Keras imports scikit-learn, pandas and matplotlib where they are
installed: half of the time that importing SeqIO takes, for what reading data
never uses.
"""

from collections.abc import Sequence
import importlib.abc
import importlib.machinery
import sys
import types
from typing import Any

# Layers for models of Keras, and TensorBoard's callback for them.
_FOR_KERAS = ("tensorflow_text.python.keras", "tensorboard.plugins.hparams.api")


class _NotForTensorFlow(importlib.abc.Loader):
  """Loads Keras for all but TensorFlow's `__init__`, which can do without.

  That imports it at its end for what Keras registers when it is imported, and
  goes on where there is none; `tf.keras` imports it at its first use.
  """

  def __init__(self, loader: importlib.abc.Loader):
    self._loader = loader

  def create_module(
      self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
    tensorflow = sys.modules.get("tensorflow")
    if getattr(getattr(tensorflow, "__spec__", None), "_initializing", False):
      raise ModuleNotFoundError(
          "keras is imported when it is used", name=spec.name)
    return self._loader.create_module(spec)

  def exec_module(self, module: types.ModuleType) -> None:
    assert module.__spec__ is not None
    module.__spec__.loader = module.__loader__ = self._loader
    self._loader.exec_module(module)


class _AtFirstUse(importlib.abc.Loader):
  """Loads a module when a public name of it is asked for.

  Not `importlib.util.LazyLoader`: for that any name is a use, such as
  `__file__`, which `inspect` asks all modules for.
  """

  def __init__(self, loader: importlib.abc.Loader):
    self._loader = loader

  def exec_module(self, module: types.ModuleType) -> None:
    def load(name: str) -> Any:
      if name.startswith("__"):
        raise AttributeError(f"module {module.__name__!r} has no {name!r}")
      vars(module).pop("__getattr__", None)
      self._loader.exec_module(module)
      return getattr(module, name)

    vars(module)["__getattr__"] = load


class _Finder(importlib.abc.MetaPathFinder):
  """Finds modules as Python does, and changes how these are loaded."""

  def find_spec(
      self, fullname: str, path: Sequence[str] | None,
      target: types.ModuleType | None = None
  ) -> importlib.machinery.ModuleSpec | None:
    if fullname not in ("keras", *_FOR_KERAS):
      return None
    spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
    if spec is not None and spec.loader is not None:
      make = _NotForTensorFlow if fullname == "keras" else _AtFirstUse
      spec.loader = make(spec.loader)
    return spec


def install() -> None:
  """Has Keras imported at its first use; once, and before TensorFlow is."""
  if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
    sys.meta_path.insert(0, _Finder())
