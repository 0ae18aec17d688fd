"""Tests of more than one module, and in `support/` what tests share."""

import stepdistill_jax  # noqa: F401, makes t5x importable.
