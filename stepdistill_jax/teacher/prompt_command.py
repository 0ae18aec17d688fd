r"""Show the prompts, and how one looks with a row in it.

  stepdistill teacher prompt --list
  stepdistill teacher prompt --show --dataset=svamp --prompt=few_shot_cot
  stepdistill teacher prompt --show --dataset=mine --prompt=my_prompt.toml \
      --rows=mine.csv --columns=inputs=question,label=answer --row=3
"""

import argparse
import json

from stepdistill_jax.util import errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
  what = parser.add_mutually_exclusive_group()
  what.add_argument("--list", action="store_true", help="list the prompts")
  what.add_argument(
      "--show", action="store_true", help="show a prompt (the default)")
  add = parser.add_argument
  add("--dataset", help="svamp, cqa, ..., or one of your own")
  add("--prompt", default="few_shot_cot",
      help="a kind, an id, or a .toml file (default: %(default)s)")
  add("--rows", metavar="PATH",
      help="row file or folder; without it the first exemplar is the row")
  add("--split", default="train")
  add("--columns", default="", metavar="NAME=COLUMN,...")
  add("--row", type=int, default=0, metavar="N", help="which row, from 0")
  add("--endpoint", default="chat", help="chat or completion "
      "(default: %(default)s)")
  add("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int | None:
  from stepdistill_jax.teacher import prompts

  if args.list:
    _list(args, prompts.list_prompts())
    return None
  if not args.dataset:
    raise errors.UserError("--show needs --dataset=NAME; --list shows all")
  prompt = prompts.find(args.prompt, args.dataset)
  fields = _fields(args, prompt)
  chat = args.endpoint == "chat"
  shown = prompt.chat(fields) if chat else prompt.text(fields)
  if args.json:
    print(json.dumps({
        **_summary(prompt), "shown": shown,
        "schema": prompt.row_schema(fields)}))
    return None
  print(f"# {prompt.id} (sha256 {prompt.sha256[:12]}), reads "
        f"{prompt.reads}")
  for message in shown if chat else ():
    print(f"--- {message['role']}\n{message['content']}")
  if not chat:
    print(shown)
  return None


def _list(args: argparse.Namespace, prompts: list) -> None:
  found = [p for p in prompts if not args.dataset or p.serves(args.dataset)]
  if args.json:
    print(json.dumps([_summary(prompt) for prompt in found]))
    return
  table = [("id", "kind", "data sets", "exemplars", "sha256")] + [
      (p.id, p.kind, ",".join(p.datasets), str(len(p.exemplars)),
       p.sha256[:12]) for p in found]
  widths = [max(map(len, column)) for column in zip(*table)]
  for line in table:
    print("  ".join(
        cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def _summary(prompt) -> dict:
  return {"id": prompt.id, "kind": prompt.kind,
          "datasets": prompt.datasets, "reads": prompt.reads,
          "gold_given": prompt.gold_given, "sha256": prompt.sha256,
          "exemplars": len(prompt.exemplars)}


def _fields(args: argparse.Namespace, prompt) -> dict:
  """The row's fields, or what stands for them."""
  from stepdistill_jax.teacher.ask import rows
  from stepdistill_jax.teacher.importing import table_files

  if args.rows:
    source = rows.find(args.dataset, args.rows, args.split,
                       table_files.parse_columns(args.columns), None)
    for row in source.read(prompt):
      if row.position >= args.row:
        return dict(row.fields)
    raise errors.UserError(f"{source.path} has no row {args.row}")
  if prompt.exemplars:
    return dict(prompt.exemplars[0])
  return {**{name: f"<{name}>" for name in prompt.fields},
          "choices": ["<choice>", "<choice>"],
          "messages": [{"role": "user", "content": "<the user's turn>"}]}
