"""Imports without garbage collection, where T5X's variable asks for it.

Our own commands need none of it: see `util.runtime.configure`.
"""

import builtins
from collections.abc import Iterator
import contextlib
import gc
import os
from typing import Any

_import = builtins.__import__


@contextlib.contextmanager
def disabled_gc() -> Iterator[None]:
  """Collects nothing meanwhile, and afterwards if it did before."""
  before = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if before:
      gc.enable()


def gc_disabled_import(*args: Any, **kwargs: Any) -> Any:
  """`builtins.__import__` with `disabled_gc`."""
  with disabled_gc():
    return _import(*args, **kwargs)


def try_disable_gc_during_import() -> None:
  """Replaces the builtin if EXPERIMENTAL_DISABLE_GC_DURING_IMPORT is set."""
  if os.environ.get("EXPERIMENTAL_DISABLE_GC_DURING_IMPORT"):
    builtins.__import__ = gc_disabled_import
