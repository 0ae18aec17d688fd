"""Weak scaling of a recipe's train step, by `stepdistill plan`'s bounds.

    python benchmarks/plan_scaling.py                # 8 to 256 chips of v5e.
    python benchmarks/plan_scaling.py --chips=8,64 --generation=v5p \
        --gin_file=gin/recipes/esnli_step_by_step_xl.gin

Compiles the train step for slices of growing size, the batch growing with
them, and prints what a chip needs and the examples that it could work off in
a second at best. Nothing runs on a TPU. Needs libtpu (the extra `tpu`).

The last line is the headline; the exit status is 1 if the bound of a chip of
the largest slice is more than 10% below that of the smallest.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from stepdistill_jax.plan import chips, programs

GOAL = 0.9


def _plan(topology, arguments):
  from stepdistill_jax.plan import planning
  return planning.make(planning.Request(
      topology, arguments.gin_file,
      [*arguments.gin_bindings,
       f"BATCH_SIZE = {arguments.pairs_per_chip * topology.num_chips}"],
      programs=("train",), quick=arguments.quick))


def main() -> int:
  parser = argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--gin_file", action="append", metavar="FILE")
  parser.add_argument("--gin_bindings", action="append", default=[],
                      metavar="'NAME = VALUE'")
  parser.add_argument("--generation", default="v5e", choices=chips.CHIPS)
  parser.add_argument("--chips", default="8,16,32,64,128,256", metavar="N,...")
  parser.add_argument("--pairs_per_chip", type=int, default=8, metavar="N")
  parser.add_argument("--quick", action="store_true",
                      help="as of `stepdistill plan`")
  arguments = parser.parse_args()
  arguments.gin_file = arguments.gin_file or [
      "gin/recipes/esnli_step_by_step_base.gin", "gin/models/scanned.gin"]
  topologies = [
      chips.parse(f"{arguments.generation}-"
                  f"{int(n) * chips.CHIPS[arguments.generation].cores}")
      for n in arguments.chips.split(",")]
  programs.prepare_process(topologies[0])

  print(f"{' '.join(arguments.gin_file)}, {arguments.pairs_per_chip} pairs a "
        "chip; bounds from the TPU compiler and published peaks\n"
        "slice     chips  batch  GiB a chip  compute  memory  interconnect  "
        "bound  pairs/s a chip  of the first", flush=True)
  first = last = None
  for topology in topologies:
    plan = _plan(topology, arguments)
    train = plan["programs"]["train"]
    if "bound" not in train:
      print(f"{topology.name}: does not fit: {train['error']}")
      return 1
    by = train["bound"]["by"]
    last = arguments.pairs_per_chip / train["bound"]["seconds"]
    first = first or last
    print(f"{topology.slice_name:<10}{topology.num_chips:>5}"
          f"{plan['batch_size']:>7}"
          f"{train['hbm_bytes']['total'] / 2**30:>12.2f}"
          f"{by['compute'] * 1e3:>7.2f}ms{by['memory'] * 1e3:>6.2f}ms"
          f"{by['interconnect'] * 1e3:>12.2f}ms"
          f"{train['bound']['seconds'] * 1e3:>6.2f}ms{last:>13.1f}"
          f"{last / first:>14.1%}", flush=True)
  good = last / first >= GOAL
  print(f"bound per chip, {topologies[-1].num_chips} against "
        f"{topologies[0].num_chips} chips: {last / first:.1%} "
        f"(goal: {GOAL:.0%} or more) {'met' if good else 'MISSED'}")
  return 0 if good else 1


if __name__ == "__main__":
  sys.exit(main())
