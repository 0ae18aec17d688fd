"""The `stepdistill-eval` command."""

import sys

from stepdistill_jax.evaluation.command import main

if __name__ == "__main__":
  sys.exit(main())
