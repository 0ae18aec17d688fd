"""Distilling step-by-step in JAX: a small T5 student from a large teacher.

Importing this package makes `t5x` importable: Google's T5X where it is
installed, else `stepdistill_jax.embedded_t5x` (see `t5x_finder`), and the
folder `tasks/` as `stepdistill_jax.tasks` (see `tasks_finder`). It imports
neither jax nor tensorflow, so that command-line help stays instant.
"""

from stepdistill_jax.config import tasks_finder
from stepdistill_jax.util import t5x_finder
from stepdistill_jax.util.version import __version__ as __version__

t5x_finder.install()
tasks_finder.install()
