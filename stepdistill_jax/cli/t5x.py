"""The `t5x` command."""

import sys

from stepdistill_jax.embedded_t5x.command import main

if __name__ == "__main__":
  sys.exit(main())
