"""The `stepdistill-eval` command: systems scored on benchmarks.

examples:
  stepdistill-eval --checkpoint=/runs/svamp --benchmarks=svamp --output=/scores
  stepdistill-eval --checkpoint=a=/runs/a --checkpoint=b=/runs/b \\
      --benchmarks=svamp,cqa --output=/scores
  stepdistill-eval --teacher=palm540b --benchmarks=all --output=/scores
  stepdistill-eval --predictions=gpt.jsonl --benchmarks=cqa --output=/scores

A run that was interrupted goes on where it stopped when the same command is
given again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import pathlib
import sys

from stepdistill_jax.config import gin_arguments
from stepdistill_jax.util import (
  argument_parser,
  durable_files,
  entry_points,
  errors,
  locations,
)

_LEAVE_TO_GIN = None  # A flag that was not given leaves gin's value.


def build_parser() -> argparse.ArgumentParser:
  """Returns the parser of `stepdistill-eval`."""
  parser = argument_parser.Parser(
      prog="stepdistill-eval",
      description="Scores checkpoints, Hugging Face students, prediction "
      "files and cached teachers on benchmarks.",
      epilog=__doc__.partition("\n\n")[2],
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False)
  systems = parser.add_argument_group(
      "systems (any number, each may be given as NAME=PATH)")
  systems.add_argument(
      "--checkpoint", action="append", default=[], metavar="DIR",
      type=argument_parser.local_or_remote,
      help="a run's folder (its latest checkpoint) or one checkpoint_STEP; "
      "local or gs://")
  systems.add_argument(
      "--strict", action="store_true",
      help="refuse a run whose newest checkpoint is not what was written, "
      "instead of scoring the one before it")
  systems.add_argument(
      "--hf", action="append", default=[], metavar="DIR",
      help="a folder in the Hugging Face format")
  systems.add_argument(
      "--predictions", action="append", default=[], metavar="FILE",
      help="JSON Lines of `id` and `text` (see --export_inputs)")
  systems.add_argument(
      "--teacher", action="append", default=[], metavar="NAME|DIR",
      help="a teacher of the records, or the folder of a teacher cache")
  what = parser.add_argument_group("what to score")
  what.add_argument(
      "--benchmarks", default=_LEAVE_TO_GIN,
      help="names with commas between, or `all` (the default)")
  what.add_argument(
      "--split", default=_LEAVE_TO_GIN,
      help="train, validation or test (the default)")
  what.add_argument(
      "--limit", type=argument_parser.positive, default=_LEAVE_TO_GIN,
      help="only the first so many examples of each benchmark")
  what.add_argument(
      "--rules", default=_LEAVE_TO_GIN,
      help="strict (the default) or reference: the papers' rule exactly")
  what.add_argument(
      "--mode", default=_LEAVE_TO_GIN,
      help="generate (the default), score (likelihood over the choices), "
      "or both")
  what.add_argument(
      "--rationales", choices=("auto", "yes", "no"), default=_LEAVE_TO_GIN,
      help="also ask models to explain; auto: where they were trained to")
  what.add_argument(
      "--free_text", action="store_true",
      help="look for the answers of prediction files inside longer texts")
  argument_parser.add_records_dir(what, type=argument_parser.existing)
  what.add_argument(
      "--records_teacher", metavar="NAME", default=_LEAVE_TO_GIN,
      help="whose records give the questions")
  how = parser.add_argument_group("how models are run")
  how.add_argument(
      "--batch_size", default=_LEAVE_TO_GIN,
      help="examples at a time, or auto (the default)")
  how.add_argument(
      "--beam", type=int, default=_LEAVE_TO_GIN,
      help="beam width; 1 (the default) is greedy")
  how.add_argument(
      "--latency", type=int, metavar="N", default=_LEAVE_TO_GIN,
      help="ask N questions once more, one at a time, and report the p50 and "
      "p95 of their seconds (default: 0)")
  how.add_argument(
      "--prefix", default=_LEAVE_TO_GIN,
      help="what stands before each question; auto (the default): what the "
      "run was trained with")
  out = parser.add_argument_group("output")
  out.add_argument("--output", metavar="DIR", default=None,
                   help="folder of results.json, examples.jsonl, report.html")
  out.add_argument("--json", action="store_true",
                   help="print results.json instead of tables")
  out.add_argument("--csv", action="store_true", help="also results.csv")
  out.add_argument("--tensorboard", action="store_true",
                   help="also TensorBoard summaries")
  out.add_argument("--overwrite", action="store_true",
                   help="forget the answers that an earlier call stored")
  out.add_argument("--export_inputs", metavar="FILE", default=None,
                   help="write ids and questions for other systems, and end")
  gin_group = parser.add_argument_group("gin")
  gin_group.add_argument(
      "--gin_file", action="append", default=[], metavar="FILE",
      type=argument_parser.local_or_remote,
      help="bindings of EvalConfig and ModelConfig; flags win over them")
  gin_group.add_argument(
      "--gin_bindings", action="append", default=[], metavar="BINDING",
      type=argument_parser.local_or_remote,
      help="one binding; also written --gin.NAME=VALUE")
  return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """Parses flags; `--gin.NAME=VALUE` becomes a binding."""
  argv = sys.argv[1:] if argv is None else argv
  return build_parser().parse_args(gin_arguments.rewrite(argv))


def main(argv: Sequence[str] | None = None) -> int:
  """Entry point of the `stepdistill-eval` console script."""
  return _main(argv)


@entry_points.ending_process
@entry_points.command
def _main(argv: Sequence[str] | None) -> int:
  args = parse_args(argv)
  if args.export_inputs is None and not (
      args.checkpoint or args.hf or args.predictions or args.teacher):
    raise errors.UserError(
        "nothing to score; pass --checkpoint, --hf, --predictions or "
        "--teacher; see stepdistill-eval --help")
  if args.output is None and args.export_inputs is None and not args.json:
    raise errors.UserError(
        "--output=DIR is missing: the folder for results.json and report.html"
        " (or pass --json)")
  with errors.answers_are_kept():
    return _run(args)


def _run(args: argparse.Namespace) -> int:
  from stepdistill_jax.util import devices, runtime

  runtime.configure()  # Before JAX and TensorFlow are imported.
  _require_folders(args)
  if args.hf:
    runtime.import_transformers()  # Before TensorFlow, if that is needed.
    print("stepdistill-eval: Hugging Face students run in torch on the CPU",
          file=sys.stderr)
  if args.checkpoint:
    print(f"stepdistill-eval: checkpoints run on {devices.description()}",
          file=sys.stderr)
  if args.checkpoint or args.gin_file:
    runtime.import_tensorflow()
  from stepdistill_jax.evaluation import configuration

  config, model_config = configuration.from_flags(args)
  records_dir = pathlib.Path(args.records_dir or locations.records_dir())
  if args.export_inputs:
    return _export_inputs(args.export_inputs, config, records_dir)
  results, rows, output = _score(args, config, model_config, records_dir)
  if args.json:
    from stepdistill_jax.evaluation.report import outputs

    sys.stdout.write(outputs.dump_json(results))
    return 0
  from stepdistill_jax.evaluation.report import text as text_report

  text_report.print_tables(results)
  print(f"report: {output / 'report.html'} ({len(rows)} answers in "
        "examples.jsonl)")
  return 0


def _require_folders(args: argparse.Namespace) -> None:
  """Raises UserError for a missing folder, before what takes long begins."""
  if args.hf:
    from stepdistill_jax.evaluation import hugging_face
    for value in args.hf:
      hugging_face.require_folder(argument_parser.split_name(value)[1])
  if args.checkpoint:
    from stepdistill_jax.interop import run_folder
    for value in args.checkpoint:
      run_folder.require_folder(argument_parser.split_name(value)[1])


def _score(args, config, model_config, records_dir: pathlib.Path):
  """Returns results, rows of examples.jsonl, and the output folder if any."""
  from stepdistill_jax.evaluation import (
    configuration,
    evaluate,
    store as store_lib,
  )
  from stepdistill_jax.evaluation.report import outputs
  from stepdistill_jax.util import progress

  output = outputs.prepare(pathlib.Path(args.output)) if args.output else None
  store = store_lib.AnswerStore(output / "answers" if output else None)
  if args.overwrite:
    store.clear()
  with progress.Bars("answers") as bars:
    systems = configuration.make_systems(
        args, model_config, records_dir, config.rules, bars.update)
    example_sets, warnings = evaluate.load_example_sets(
        config, records_dir, evaluate.preferred_teacher(systems))
    results, rows = evaluate.evaluate(
        systems, example_sets, config, store=store, records_dir=records_dir,
        warnings=warnings)
  if output:
    outputs.write(output, results, rows, as_csv=args.csv,
                  as_tensorboard=args.tensorboard)
  return results, rows, output


def _export_inputs(path: str, config, records_dir: pathlib.Path) -> int:
  from stepdistill_jax.evaluation import evaluate

  example_sets, _ = evaluate.load_example_sets(config, records_dir)
  lines = [
      json.dumps({"id": row.id, "benchmark": s.benchmark,
                  "input": row.inputs}, ensure_ascii=False) + "\n"
      for s in example_sets for row in s.examples]
  durable_files.replace(path, "".join(lines))
  print(f"wrote {len(lines)} questions to {path}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
