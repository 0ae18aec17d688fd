"""The `t5x` command: train, eval, infer, precompile or export by gin files.

examples:
  t5x train --gin_file=gin/recipes/svamp_step_by_step.gin \\
      --gin.MODEL_DIR='"/tmp/svamp"'
  t5x eval --gin_file=t5x/examples/t5/t5_1_1/small.gin \\
      --gin_file=t5x/configs/runs/eval.gin --gin.CHECKPOINT_PATH='"..."' ...

Training saves and ends on SIGTERM with exit code 75, on Ctrl-C with 130; the
same command goes on from there.

Runs on Google's T5X where that is installed, else on the embedded engine;
`--engine` chooses. Gin files are found relative to the current folder, to
this project (gin/...) and to T5X (t5x/...).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import contextlib
import os
import sys
import time
from typing import Any

from stepdistill_jax.config import gin_arguments
from stepdistill_jax.distributed import processes
from stepdistill_jax.util import (
  argument_parser,
  devices,
  entry_points,
  errors,
  runtime,
  t5x_finder,
)

MODES = {
    "train": "train a model; a second run goes on from its last checkpoint",
    "eval": "evaluate checkpoints on a SeqIO task",
    "infer": "write a checkpoint's predictions or scores",
    "precompile": "compile the train step without training",
    "export": "write a model that runs without this project",
}


def build_parser() -> argparse.ArgumentParser:
  """Returns the parser of `t5x`."""
  parser = argument_parser.Parser(
      prog="t5x", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      usage="t5x MODE --gin_file=FILE [--gin_file=FILE ...] "
      "[--gin.NAME=VALUE ...]")
  add = parser.add_argument
  add("mode", choices=MODES, metavar="MODE",
      help="; ".join(f"{mode}: {what}" for mode, what in MODES.items()))
  gin_arguments.add(parser)
  argument_parser.add_records_dir(
      parser, "--tfds_data_dir", type=argument_parser.local_or_remote,
      advice=", and of other TFDS tasks; also T5X's --tfds_data_dir")
  add("--seqio_additional_cache_dirs", default="", metavar="DIR,...",
      type=argument_parser.local_or_remote, help="where cached SeqIO tasks are")
  add("--engine", choices=t5x_finder.ENGINES, default=None,
      help="auto (default) takes Google's T5X if it is installed")
  add("--allow_config_change", action="store_true",
      help="let a run go on with a config other than it began with")
  add("--strict", action="store_true", help="refuse to start where a "
      "checkpoint is bad, rather than to take the one before it")
  add("--dry_run", action="store_true", help="parse the gin files and, of "
      "train, print what would be trained: task, examples, lengths, batches, "
      "parameters, steps")
  several = parser.add_argument_group(
      "several processes (SLURM, Open MPI, GKE and TPU VMs are recognized)")
  add = several.add_argument
  add("--multiprocess_gpu", type=_true_or_false, nargs="?", const=True,
      default=False, metavar="BOOL",
      help="this is one of several processes, on whatever devices")
  add("--coordinator_address", metavar="HOST:PORT", help="of process 0")
  add("--process_count", type=int, metavar="N", help="number of processes")
  add("--process_index", type=int, metavar="I", help="of this one, from 0")
  return parser


def _true_or_false(text: str) -> bool:
  if text.lower() not in ("true", "false", "1", "0"):
    raise argparse.ArgumentTypeError(f"{text!r} is not true or false")
  return text.lower() in ("true", "1")


def run(
    mode: str, gin_files: Sequence[str] = (), gin_bindings: Sequence[str] = (),
    *, engine: str | None = None, gin_search_paths: Sequence[str] = (),
    allow_config_change: bool = False, strict: bool = False,
    dry_run: bool = False, cluster: processes.Cluster | None = None,
    command: Sequence[str] | None = None, **data_folders: Any) -> Any:
  """Runs a mode in this process.

  Gin's configuration is global: it is replaced, and only one run at a time
  may go on.

  Args:
    mode: a key of MODES.
    gin_files: later ones override.
    gin_bindings: such as `MODEL_DIR = "/tmp/x"`; override the files.
    engine: `auto`, `google` or `embedded`; None asks $STEPDISTILL_ENGINE.
    gin_search_paths: where gin files are looked for first.
    allow_config_change: let a run folder's configuration change.
    strict: refuse a folder whose latest checkpoint is bad.
    dry_run: only parse, and of `train` print what would be trained.
    cluster: the processes that this is one of; None if it is alone.
    command: what to record as the command; by default the call's arguments.
    **data_folders: see `launching.launch`.

  Returns:
    What T5X's function returns; for `train`, (last step, train state).

  Raises:
    errors.UserError: a mistake in the configuration, data or folders.
    errors.Preempted: a training saved and ended on SIGTERM.
  """
  errors.require_known("mode", mode, MODES)
  from stepdistill_jax.config import gin_config
  from stepdistill_jax.runs import launching
  text = gin_config.check_early(
      gin_files, gin_bindings, gin_search_paths, launching.main_names(mode))
  if mode == "train" and text is not None and not dry_run:
    from stepdistill_jax.data import early_records
    early_records.require(text, data_folders.get("tfds_data_dir"))
  runtime.configure()
  # A second run in a process that has imported `t5x` keeps its engine.
  if engine is not None or "t5x" not in sys.modules:
    with errors.reported((ModuleNotFoundError, ValueError), str):
      t5x_finder.install(engine)
  if strict and t5x_finder.current_engine() == "google":
    raise errors.UserError(
        "--strict: Google's T5X does not check its checkpoints; restore with "
        "--engine=embedded")
  from stepdistill_jax.runs import run_record
  from stepdistill_jax.util import progress
  processes.join(cluster)
  if command is None:
    runtime.START_TIME = time.time()
    command = ["t5x", mode, *(f"--gin_file={f}" for f in gin_files),
               *(f"--gin_bindings={b}" for b in gin_bindings)]
  if dry_run:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # Uses no device.
  with processes.guard():
    where = "" if dry_run else f", {devices.description()}"
    runtime.import_tensorflow()
    # Together again: the devices of CPUs wait for each other for 30 s only.
    processes.exchange("imported", "")
    # Of several processes only the first tells of the run's progress. Asking
    # for the index of a process alone would start JAX's devices.
    import jax
    silent = jax.distributed.is_initialized() and jax.process_index() > 0
    with (progress.watched_by(_Silent()) if silent
          else contextlib.nullcontext(),
          run_record.launched(command, allow_config_change, strict)):
      progress.say(_first_line(mode, cluster) + where)
      return launching.launch(
          mode, gin_files, gin_bindings, gin_search_paths=gin_search_paths,
          dry_run=dry_run, **data_folders)


class _Silent:
  """Takes the progress of processes other than the first."""

  def say(self, text: str) -> None:
    if text.startswith("warning"):
      print(text, file=sys.stderr, flush=True)

  def at_step(self, step: int) -> None:
    pass


def _first_line(mode: str, cluster: processes.Cluster | None) -> str:
  """Says which engine runs where."""
  engine = t5x_finder.current_engine()
  name = {"google": "Google's T5X",
          "embedded": "stepdistill_jax's embedded T5X"}[engine]
  started = "" if cluster is None else f", started by {cluster.kind}"
  return f"t5x {mode}: engine {engine} ({name}){started}"


@entry_points.ending_process
@entry_points.command
def main(argv: Sequence[str] | None = None) -> int:
  """Entry point of the `t5x` console script."""
  argv = list(sys.argv[1:] if argv is None else argv)
  with (runtime.preempted_on_sigterm() if argv[:1] == ["train"]
        else contextlib.nullcontext()):
    return _main(argv)


def _main(argv: list[str]) -> int:
  parser = build_parser()
  if argv and argv[0] in MODES:
    parser.prog += f" {argv[0]}"
  args = parser.parse_args(gin_arguments.rewrite(argv))
  if not args.gin_file and not args.gin_bindings:
    raise errors.UserError(
        f"t5x {args.mode} needs at least one --gin_file; see "
        f"{parser.prog} --help")
  run(args.mode, args.gin_file, args.gin_bindings, engine=args.engine,
      gin_search_paths=args.gin_search_paths,
      tfds_data_dir=args.records_dir,
      seqio_additional_cache_dirs=gin_arguments.paths(
          args.seqio_additional_cache_dirs),
      allow_config_change=args.allow_config_change, strict=args.strict,
      dry_run=args.dry_run,
      cluster=None if args.dry_run else processes.find(
          args.multiprocess_gpu, args.coordinator_address, args.process_count,
          args.process_index),
      command=["t5x", *argv])
  return 0


if __name__ == "__main__":
  sys.exit(main())
