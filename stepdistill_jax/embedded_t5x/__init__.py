"""The engine that serves as `t5x` where Google's is not installed.

As in Google's package, `import t5x` gives its modules as attributes
(`t5x.models`); each is imported when it is first asked for, so that commands
stay quick. `t5x.checkpointing` is T5X's second name of `t5x.checkpoints`.
"""

from __future__ import annotations

import importlib
from typing import Any

from stepdistill_jax.util.version import __version__ as __version__

_MODULES = (
    "adafactor", "checkpoints", "decoding", "gin_utils", "infer", "losses",
    "models", "partitioning", "state_utils", "train_state", "trainer", "utils",
    "version")
_ALIASES = {"checkpointing": "checkpoints"}


def __getattr__(name: str) -> Any:
  if name not in _MODULES and name not in _ALIASES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return importlib.import_module(f"{__name__}.{_ALIASES.get(name, name)}")


def __dir__() -> list[str]:
  return sorted({*globals(), *_MODULES, *_ALIASES})
