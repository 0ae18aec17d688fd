"""The `t5x` command."""

import sys

from stepdistill_jax.runs.t5x_command import main

if __name__ == "__main__":
  sys.exit(main())
