"""Checkpoints in and out: Hugging Face, T5X's layouts; inspect and verify.

examples:
  stepdistill checkpoint import-hf google/t5-v1_1-base
  stepdistill checkpoint import-hf ~/flan-t5-base --output=/models/flan
  stepdistill checkpoint export-hf /runs/svamp --output=/models/student \\
      --results=/scores/results.json
  stepdistill checkpoint import-t5x /models/t5_1_1_base/checkpoint_1000000 \\
      --output=/models/t5
  stepdistill checkpoint inspect /runs/svamp
  stepdistill checkpoint verify /runs/svamp

A conversion that was interrupted goes on where it stopped when the same
command is given again.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shlex

from stepdistill_jax.util import (
  argument_parser,
  errors,
  locations,
  remote_storage,
)

# Help must not wait for what a command needs.


def _path(text: str) -> pathlib.Path:
  return pathlib.Path(locations.absolute(text))


def _existing(text: str) -> pathlib.Path:
  return _path(argument_parser.existing(text))


def _gigabytes(text: str) -> int:
  value = float(text)
  if not value > 0:
    raise argparse.ArgumentTypeError(f"expected more than 0, got {text}")
  return int(value * 10**9)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the subcommands of `stepdistill checkpoint`."""
  parser.epilog = None
  commands = parser.add_subparsers(
      dest="checkpoint_command", metavar="COMMAND", required=True)

  def command(name: str, summary: str, run, example: str):
    sub = commands.add_parser(
        name, help=summary, description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    sub.set_defaults(run_checkpoint=run)
    sub.add_argument("--json", action="store_true",
                     help="print the result as JSON")
    return sub

  def conversion(sub, positional: str, help_text: str, kind=str,
                 output_help: str = ""):
    add = sub.add_argument
    add("path", metavar=positional, help=help_text, type=kind)
    add("--output", type=_path, required=not output_help, metavar="DIR",
        help=f"the folder to write{output_help}")
    add("--quiet", action="store_true", help="show no progress")

  sub = command(
      "import-hf", "Hugging Face folder, or name on the hub → T5X checkpoint",
      _import_hf, "stepdistill checkpoint import-hf google/t5-v1_1-base")
  conversion(
      sub, "FOLDER|NAME", "a folder with config.json, weights and tokenizer, "
      "or a model's name on the Hugging Face hub, which is fetched",
      output_help=" (of a NAME: one that gin files and studies find by it)")
  add = sub.add_argument
  add("--revision", metavar="REV", help="of a NAME: branch, tag or commit")
  add("--step", type=argument_parser.not_negative, default=0,
      help="that it gets (default 0); our recipes count their own")
  add("--dtype", choices=("float32", "bfloat16", "source"), default="float32",
      help="of the parameters; float32 (the default) loses nothing")
  add("--pad_vocabulary", type=argument_parser.positive, default=1, metavar="N",
      help="round the vocabulary's size up to a multiple of N, so that it can "
      "be sharded (128 makes 32,128 of 32,100); greedy outputs stay the same")
  _add_layout(sub)

  sub = command(
      "export-hf", "T5X checkpoint → Hugging Face folder", _export_hf,
      "stepdistill checkpoint export-hf /runs/svamp --output=/models/student")
  conversion(sub, "CHECKPOINT",
             "MODEL_DIR/checkpoint_STEP, or MODEL_DIR for its latest; local or "
             "gs://", argument_parser.local_or_remote)
  add = sub.add_argument
  add("--dtype", choices=("original", "float32", "bfloat16", "float16"),
      default="original", help="of the weights; original (the default): what "
      "they had before an import, else what the checkpoint has")
  add("--results", type=_existing, metavar="FILE",
      help="results.json of stepdistill-eval, for the model card")
  add("--tokenizer", type=_existing, metavar="PATH",
      help="a Hugging Face folder or a SentencePiece model; by default what "
      "the run was trained with")
  argument_parser.add_records_dir(
      sub, advice=", for a data set with its own vocabulary",
      type=argument_parser.existing)
  add("--family", choices=("t5", "mt5"),
      help="by default that of the initial checkpoint, else t5")
  add("--vocab_size", type=argument_parser.positive, metavar="N",
      help="rows of the vocabulary to keep")
  add("--name", help="the model's; by default the folder's")
  add("--max_new_tokens", type=argument_parser.positive, default=256,
      metavar="N", help="where generation stops at the latest (default 256)")
  add("--max_shard_gb", type=_gigabytes, default=None, metavar="GB",
      help="larger models become several files (default 5)")
  _add_strict(sub)

  sub = command(
      "import-t5x", "T5X checkpoint of any layout → of another",
      _import_t5x, "stepdistill checkpoint import-t5x "
      "/models/t5_1_1_base/checkpoint_1000000 --output=/models/t5")
  conversion(sub, "CHECKPOINT", "a checkpoint, or a folder for its latest; "
             "local or gs://", argument_parser.local_or_remote)
  add = sub.add_argument
  add("--step", type=argument_parser.not_negative, default=None,
      help="that it gets (default: its own)")
  add("--dtype", choices=("float32", "bfloat16", "source"), default="source",
      help="of the parameters (default: as they are)")
  add("--optimizer_state", action="store_true",
      help="copy the optimizer's state too")
  _add_strict(sub)
  _add_layout(sub)

  sub = command(
      "inspect", "arrays, shapes, dtypes, sizes and step; no weights are read",
      _inspect, "stepdistill checkpoint inspect /runs/svamp")
  sub.add_argument(
      "path", metavar="PATH", type=argument_parser.local_or_remote,
      help="a T5X checkpoint or run folder (local or gs://), a Hugging Face "
      "folder, or a safetensors file")

  sub = command(
      "verify", "are the files what was written? by their checksums",
      _verify, "stepdistill checkpoint verify /runs/svamp")
  sub.add_argument(
      "path", metavar="PATH", type=argument_parser.local_or_remote,
      help="a checkpoint, or a run folder for all of its; local or gs://")


def _add_layout(sub) -> None:
  sub.add_argument(
      "--layout", choices=("orbax", "legacy"), default="orbax",
      help="orbax (the default) is T5X's current one, legacy its older one")


def _add_strict(sub) -> None:
  sub.add_argument(
      "--strict", action="store_true",
      help="refuse a folder whose latest checkpoint is not what was written, "
      "instead of taking the one before it")


def _say(args: argparse.Namespace, result, lines: list[str]) -> int:
  print(json.dumps(result, indent=1) if args.json else "\n".join(lines))
  return 0


def _converted(args: argparse.Namespace, done, folder, extra: list[str]) -> int:
  from stepdistill_jax.interop import inspect_checkpoint
  size = inspect_checkpoint.size(done.nbytes)
  return _say(args, {
      "output": str(folder), "parameters": done.parameters,
      "bytes": done.nbytes,
  }, [f"wrote {folder}: {done.parameters:,} parameters, {size}", *extra])


def _import_hf(args: argparse.Namespace) -> int:
  from stepdistill_jax.interop.hf import hub, importing as import_hf
  options = dict(
      step=args.step, dtype=args.dtype, pad_vocabulary=args.pad_vocabulary,
      layout=args.layout, quiet=args.quiet)
  name = args.path + (f"@{args.revision}" if args.revision else "")
  if locations.import_folder(args.path) is not None:
    done = hub.import_named(name, args.output, **options)
  elif args.revision or args.output is None:
    raise errors.UserError(
        f"{args.path} is not a name on the Hugging Face hub: "
        + ("--revision needs one" if args.revision else
           "--output=DIR is missing, the folder to write"))
  else:
    done = import_hf.import_hf(_path(args.path), args.output, **options)
  return _converted(args, done, done.checkpoint, _next_steps(done))


def _next_steps(done) -> list[str]:
  from stepdistill_jax.interop import architecture, gin_decoder, gin_model
  if done.no_recipe:
    return [f"its gin file, for tasks of your own with its VOCABULARY: "
            f"{done.model_file}",
            f"no recipe can follow it: {done.no_recipe}"]
  student = done.model_file.with_name(gin_model.STUDENT_FILE)
  if isinstance(done.arch, architecture.DecoderArchitecture):
    recipe = gin_decoder.recipe(done.arch)
  else:
    recipe = ("gin/recipes/svamp_step_by_step_"
              f"{gin_model.recipe_size(done.arch)}.gin")
  return [
      f"its gin file: {done.model_file}",
      # A pretrained student's recipe: the papers' learning rate and steps.
      f"to distill into it: {gin_model.environment(done.spiece)}t5x train "
      f"--gin_file={recipe} "
      f"--gin_file={shlex.quote(str(student))} "
      "--gin.MODEL_DIR='\"/tmp/run\"'"]


def _export_hf(args: argparse.Namespace) -> int:
  from stepdistill_jax.interop.hf import exporting as export_hf
  options = export_hf.Options(
      dtype=args.dtype, family=args.family, vocab_size=args.vocab_size,
      tokenizer=args.tokenizer, records_dir=args.records_dir,
      results=args.results, name=args.name,
      max_new_tokens=args.max_new_tokens, quiet=args.quiet, strict=args.strict,
      max_shard_bytes=args.max_shard_gb or export_hf.MAX_SHARD_BYTES)
  done = export_hf.export_hf(args.path, args.output, options)
  return _converted(args, done, done.folder, [
      f"to score it: stepdistill-eval --hf={done.folder} --output=DIR"])


def _import_t5x(args: argparse.Namespace) -> int:
  from stepdistill_jax.interop.t5x import importing as import_t5x
  done = import_t5x.import_t5x(
      args.path, args.output, layout=args.layout, dtype=args.dtype,
      step=args.step, optimizer_state=args.optimizer_state, quiet=args.quiet,
      strict=args.strict)
  return _converted(args, done, done.checkpoint, _next_steps(done))


def _inspect(args: argparse.Namespace) -> int:
  from stepdistill_jax.interop import inspect_checkpoint
  found = inspect_checkpoint.inspect(args.path)
  return _say(args, found, [inspect_checkpoint.text(found)])


def _verify(args: argparse.Namespace) -> int:
  from stepdistill_jax.interop import verify
  return verify.run(args.path, as_json=args.json)


def run(args: argparse.Namespace) -> int:
  """Runs `stepdistill checkpoint COMMAND`."""
  if remote_storage.is_remote(args.path):  # Read through TensorFlow.
    from stepdistill_jax.util import runtime
    runtime.configure()
    runtime.import_tensorflow()
  return args.run_checkpoint(args)
