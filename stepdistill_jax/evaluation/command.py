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


def build_parser() -> argparse.ArgumentParser:
  """Returns the parser of `stepdistill-eval`."""
  parser = argument_parser.Parser(
      prog="stepdistill-eval",
      description="Scores checkpoints, Hugging Face students, prediction "
      "files and cached teachers on benchmarks.",
      epilog=__doc__.partition("\n\n")[2],
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False)
  add = parser.add_argument_group(
      "systems (any number, each may be given as NAME=PATH)").add_argument
  several = {"action": "append", "default": []}
  add("--checkpoint", **several, metavar="DIR",
      type=argument_parser.local_or_remote,
      help="a run's folder (its latest checkpoint) or one checkpoint_STEP; "
      "local or gs://")
  add("--strict", action="store_true",
      help="refuse a run whose newest checkpoint is not what was written, "
      "instead of scoring the one before it")
  add("--hf", **several, metavar="DIR",
      help="a folder in the Hugging Face format")
  add("--predictions", **several, metavar="FILE",
      help="JSON Lines of `id` and `text` (see --export_inputs)")
  add("--teacher", **several, metavar="NAME|DIR",
      help="a teacher of the records, or the folder of a teacher cache")
  # A flag that was not given is None, and leaves gin's value.
  what = parser.add_argument_group("what to score")
  add = what.add_argument
  add("--benchmarks", help="names with commas between, or `all` (the default)")
  add("--split", help="train, validation or test (the default)")
  add("--limit", type=argument_parser.positive,
      help="only the first so many examples of each benchmark")
  add("--rules",
      help="strict (the default) or reference: the papers' rule exactly")
  add("--mode", help="generate (the default), score (likelihood over the "
      "choices), or both")
  add("--rationales", choices=("auto", "yes", "no"),
      help="also ask models to explain; auto: where they were trained to")
  add("--embeddings", metavar="DIR", type=argument_parser.existing,
      help="also compare free texts by this model of sentence embeddings "
      "(needs sentence-transformers)")
  add("--free_text", action="store_true",
      help="look for the answers of prediction files inside longer texts")
  argument_parser.add_records_dir(what, type=argument_parser.existing)
  add("--records_teacher", metavar="NAME",
      help="whose records give the questions")
  add = parser.add_argument_group("how models are run").add_argument
  add("--batch_size", help="examples at a time, or auto (the default)")
  add("--beam", type=int, help="beam width; 1 (the default) is greedy")
  add("--latency", type=int, metavar="N",
      help="ask N questions once more, one at a time, and report the p50 and "
      "p95 of their seconds (default: 0)")
  add("--prefix", help="what stands before each question; auto (the default): "
      "what the run was trained with")
  add = parser.add_argument_group("output").add_argument
  add("--output", metavar="DIR",
      help="folder of results.json, examples.jsonl, report.html")
  add("--json", action="store_true",
      help="print results.json instead of tables")
  add("--csv", action="store_true", help="also results.csv")
  add("--tensorboard", action="store_true", help="also TensorBoard summaries")
  add("--overwrite", action="store_true",
      help="forget the answers that an earlier call stored")
  add("--export_inputs", metavar="FILE",
      help="write ids and questions for other systems, and end")
  add = parser.add_argument_group("gin").add_argument
  several["type"] = argument_parser.local_or_remote
  add("--gin_file", **several, metavar="FILE",
      help="bindings of EvalConfig and ModelConfig; flags win over them")
  add("--gin_bindings", **several, metavar="BINDING",
      help="one binding; also written --gin.NAME=VALUE")
  return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """Parses flags; `--gin.NAME=VALUE` becomes a binding."""
  argv = sys.argv[1:] if argv is None else argv
  return build_parser().parse_args(gin_arguments.rewrite(argv))


@entry_points.ending_process
@entry_points.command
def main(argv: Sequence[str] | None = None) -> int:
  """Entry point of the `stepdistill-eval` console script."""
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
  if args.hf or args.embeddings:
    runtime.import_transformers()  # Before TensorFlow, if that is needed.
  if args.embeddings:
    from stepdistill_jax.answers import embeddings

    embeddings.load(args.embeddings)
  if args.hf:
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
  from stepdistill_jax.evaluation import scoring
  from stepdistill_jax.evaluation.report import outputs, text as text_report
  from stepdistill_jax.util import progress

  if args.output:
    outputs.prepare(pathlib.Path(args.output))
  with progress.Bars("answers") as bars:
    results, rows = scoring.score_systems(
        configuration.make_systems(
            args, model_config, records_dir, config.rules, bars.update),
        config, records_dir, args.output, overwrite=args.overwrite,
        as_csv=args.csv, as_tensorboard=args.tensorboard)
  if args.json:
    sys.stdout.write(outputs.dump_json(results))
    return 0
  text_report.print_tables(results)
  print(f"report: {pathlib.Path(args.output, 'report.html')} ({len(rows)} "
        "answers in examples.jsonl)")
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


def _export_inputs(path: str, config, records_dir: pathlib.Path) -> int:
  from stepdistill_jax.evaluation import evaluate

  example_sets, _ = evaluate.load_example_sets(config, records_dir)
  durable_files.replace(path, (
      json.dumps({"id": row.id, "benchmark": s.benchmark,
                  "input": row.inputs}, ensure_ascii=False) + "\n"
      for s in example_sets for row in s.examples))
  print(f"wrote {sum(len(s.examples) for s in example_sets)} questions to "
        f"{path}")
  return 0
