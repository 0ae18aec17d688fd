"""Runs a T5X mode from gin files: train, eval, infer, precompile, export.

`python -m stepdistill_jax.embedded_t5x.main --run_mode=train --gin_file=...`
is the same as `t5x train --gin_file=...`.
"""

from __future__ import annotations

from collections.abc import Sequence
import sys

from stepdistill_jax.runs import t5x_command
from stepdistill_jax.util import entry_points


@entry_points.ending_process
def main(argv: Sequence[str] | None = None) -> int:
  """T5X's own command line: `--run_mode=train` among the flags."""
  argv = list(sys.argv[1:] if argv is None else argv)
  modes = [a for a in argv if a.startswith("--run_mode=")]
  rest = [a for a in argv if a not in modes and a != "--logtostderr"]
  mode = modes[-1].removeprefix("--run_mode=") if modes else "--help"
  return t5x_command.main([mode, "--engine=embedded", *rest])


if __name__ == "__main__":
  sys.exit(main())
