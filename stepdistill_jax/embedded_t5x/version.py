"""T5X's module of its version."""

from stepdistill_jax.util.version import __version__ as __version__
