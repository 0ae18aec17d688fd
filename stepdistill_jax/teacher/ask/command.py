r"""Ask a live teacher, into a cache that never pays twice for a completion.

  export OPENAI_API_KEY=...   # Not for servers of your own without a key.
  stepdistill teacher collect --dataset=svamp --rows=data/svamp \
      --base_url=http://localhost:8000/v1 --model=meta-llama/Llama-3.1-8B \
      --prompt=few_shot_cot --output=caches/svamp_llama/train

Killed, or interrupted by Ctrl-C, run the same command again: only what is
missing is asked for. The records for training are written at the end.

Your own data: a CSV or JSON Lines file with
--columns=inputs=question,label=answer; see docs/own_data.md.
"""

import argparse
import dataclasses
import json
from typing import Any

from stepdistill_jax.teacher.importing import command as import_command
from stepdistill_jax.util import argument_parser, errors, locations

_FROM_SERVER = "server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  data = parser.add_argument_group("rows, prompt, cache")
  add = data.add_argument
  add("--dataset", required=True,
      help="svamp, cqa, anli1, esnli, asdiv, gsm8k, or a name of your own")
  add("--rows", required=True, metavar="PATH",
      help="a row file (CSV, TSV, JSON Lines, JSON), or a data set's folder")
  add("--split", default="train", help="(default: %(default)s)")
  add("--columns", default="", metavar="NAME=COLUMN,...",
      help="which column is what, as in inputs=question,label=answer")
  add("--limit", type=int, metavar="N", help="only the first N rows")
  add("--prompt", default="few_shot_cot",
      help="a kind, an id, or a .toml file; see `stepdistill teacher prompt "
      "--list` (default: %(default)s)")
  add("--output", required=True, metavar="CACHE", help="the cache's folder")
  add("--teacher", default="",
      help="its name in task names (default: made from --model)")
  argument_parser.add_records_dir(data, "--records")
  add("--no_records", action="store_true",
      help="only collect; `stepdistill teacher import --format=cache` later")
  add("--reject_wrong", action="store_true",
      help="records get no rationale that leads to another label than the "
      "human one")
  add("--min_success_ratio", type=float, default=0.7, metavar="SHARE",
      help="fail if fewer completions end as they should (default: "
      "%(default)s)")
  import_command.add_reading_arguments(parser)
  add_server_arguments(parser)
  add = parser.add_argument_group("other ways to ask").add_argument
  add("--batch_write", metavar="FILE",
      help="write the missing requests as OpenAI batch JSON Lines")
  add("--batch_read", metavar="FILE", action="append", default=[],
      help="take the completions from a batch's output")
  add("--offline", choices=("vllm",),
      help="run --model in this process by vLLM, without a server")
  parser.add_argument(
      "--json", action="store_true", help="print the outcome as JSON")


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds what says which model is asked, how, how fast and at what cost."""
  add = parser.add_argument_group("what is asked").add_argument
  add("--model", default="", help="the server's name of it")
  add("--base_url", metavar="URL",
      help="such as http://localhost:8000/v1 (default: OpenAI's)")
  add("--api_key_env", default="OPENAI_API_KEY", metavar="NAME",
      help="environment variable that has the key (default: %(default)s)")
  add("--endpoint", default="chat", help="chat or completion "
      "(default: %(default)s)")
  add("--temperature", default="0.2",
      help=f"or `{_FROM_SERVER}` (default: %(default)s)")
  add("--top_p", default="0.1",
      help=f"or `{_FROM_SERVER}` (default: %(default)s)")
  add("--seed", type=int, help="of the first sample; others count up")
  add("--stop", action="append", default=[], metavar="TEXT",
      help="stop string; may be given several times")
  add("--max_tokens", type=int, metavar="N",
      help="of a completion (default: the prompt's)")
  add("--samples", type=int, default=1, metavar="N",
      help="completions of each row (default: %(default)s)")
  add("--samples_per_request", type=int, default=1, metavar="N",
      help="ask for several at once, where the server can (default: "
      "%(default)s)")
  add("--json_schema", action="store_true",
      help="have the server keep to the prompt's JSON schema")
  add("--extra_body", default="", metavar="JSON",
      help="further keys of each request, such as '{\"top_k\": 20}'")
  add("--merge_system", action="store_true",
      help="put a system message's text before the user's, for a server "
      "without that role")
  add("--history", default="regenerated",
      help="what a conversation's later turns see of the earlier ones: "
      "regenerated or gold (default: %(default)s)")
  add = parser.add_argument_group("how fast, how long").add_argument
  add("--concurrency", type=int, default=16, metavar="N",
      help="requests under way at once (default: %(default)s)")
  add("--requests_per_minute", type=float, metavar="N")
  add("--tokens_per_minute", type=float, metavar="N")
  add("--timeout_s", type=float, default=120.0, metavar="S",
      help="for a request's whole answer (default: %(default)s)")
  add("--attempts", type=int, default=8, metavar="N",
      help="of a request that fails in passing (default: %(default)s)")
  add("--backoff_s", type=float, default=0.5, metavar="S",
      help="longest wait after the first failure; doubles (default: "
      "%(default)s)")
  add("--give_up_s", type=float, default=900.0, metavar="S",
      help="stop when nothing has succeeded for so long (default: "
      "%(default)s)")
  add("--in_doubt", default="ask", choices=("ask", "hold"),
      help="what a killed collector had under way may have been paid for: ask "
      "again, or leave it out (default: %(default)s)")
  add = parser.add_argument_group("cost").add_argument
  add("--dry-run", "--dry_run", dest="dry_run", action="store_true",
      help="ask nothing; estimate tokens and cost")
  add("--tokenizer", metavar="PATH|NAME",
      help="spiece.model, tokenizer.json, or a tiktoken encoding")
  add("--usd_per_million_prompt", type=float, metavar="USD")
  add("--usd_per_million_completion", type=float, metavar="USD")
  add("--budget_usd", type=float, metavar="USD",
      help="stop before the cache has cost more")


def run(args: argparse.Namespace) -> int | None:
  from stepdistill_jax.teacher.ask import batch, dry_run, offline, supervisor

  spec = spec_of(args)
  if args.dry_run:
    return dry_run.show(spec, args.json)
  if args.batch_write:
    written = batch.write(spec, args.batch_write)
    print(json.dumps(written) if args.json else "\n".join(batch.lines(written)))
    return None
  import_command.reading_options(args)  # Refused before anything is paid for.
  if not (args.no_records or args.records_dir):
    locations.records_dir()
  if args.batch_read:
    outcome = batch.read(spec, args.batch_read)
  elif args.offline:
    outcome = offline.run(spec)
  else:
    outcome = supervisor.run(spec, show=not args.json)
  return finish(args, outcome)


def spec_of(args: argparse.Namespace):
  """The run that the arguments describe; a `spec.Spec`."""
  from stepdistill_jax.teacher.ask import spec as spec_lib

  names = {field.name for field in dataclasses.fields(spec_lib.Spec)}
  values = {name: value for name, value in vars(args).items() if name in names}
  values.update(
      stop=tuple(args.stop), extra_body=_json_object(args.extra_body),
      temperature=_number_or_server(args.temperature, "temperature"),
      top_p=_number_or_server(args.top_p, "top_p"))
  return spec_lib.Spec(**values)


def finish(args: argparse.Namespace, outcome) -> int:
  """Prints the outcome, writes the records, judges the success ratio.

  Raises:
    errors.UserError: too few completions ended as they should, or no record
      can be used.
  """
  from stepdistill_jax.teacher.ask import outcomes
  from stepdistill_jax.teacher.importing import formats

  imported = useless = None
  stopped = outcome.progress.stopped
  enough = (outcome.total > 0
            and outcome.success_ratio >= args.min_success_ratio)
  if enough and not stopped and not args.no_records:
    try:
      imported = formats.import_cache(
          outcomes.caches_of_all_splits(outcome.folder),
          output=args.records_dir, reject_wrong=args.reject_wrong,
          **import_command.reading_options(args))
    except errors.UserError as error:
      useless = error
  if args.json:
    print(json.dumps(outcomes.as_json(outcome, imported)))
  else:
    print("\n".join(outcomes.lines(outcome, imported)))
  if useless is not None:
    raise errors.UserError(
        f"{useless}; the completions are kept in {outcome.folder}: see "
        f"`stepdistill teacher audit {outcome.folder}`") from useless
  return outcomes.judge(outcome, args.min_success_ratio)


def _number_or_server(text: str, name: str) -> float | None:
  if text == _FROM_SERVER:
    return None
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not 0 <= value < float("inf"):
    raise errors.UserError(
        f"--{name}={text}; it must be a number, 0 or more, or "
        f"`{_FROM_SERVER}` to leave it to the server")
  return value


def _json_object(text: str) -> dict[str, Any]:
  try:
    value = json.loads(text) if text else {}
  except ValueError:
    value = None
  if not isinstance(value, dict):
    raise errors.UserError(
        f"--extra_body={text!r} is not a JSON object, such as "
        "'{\"top_k\": 20}'")
  return value
