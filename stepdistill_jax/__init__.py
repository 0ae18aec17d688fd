"""Distilling step-by-step in JAX: a small T5 student from a large teacher.

Importing this package makes `t5x` importable: Google's T5X where it is
installed, else `stepdistill_jax.embedded_t5x` (see `t5x_finder`), and the
folder `tasks/` as `stepdistill_jax.tasks` (see `tasks_finder`). It imports
neither jax nor tensorflow, so that command-line help stays instant; nor do
the names of the Python API, `evaluation.api`, before they are used.
"""

from typing import TYPE_CHECKING, Any

from stepdistill_jax.config import tasks_finder
from stepdistill_jax.util import t5x_finder
from stepdistill_jax.util.version import __version__ as __version__

if TYPE_CHECKING:
  from stepdistill_jax.evaluation.api import (
    Student as Student,
    evaluate as evaluate,
    load as load,
    load_records as load_records,
  )

t5x_finder.install()
tasks_finder.install()

_API = ("Student", "evaluate", "load", "load_records")


def __getattr__(name: str) -> Any:
  if name not in _API:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  from stepdistill_jax.evaluation import api

  return getattr(api, name)


def __dir__() -> list[str]:
  return sorted({*globals(), *_API})
