"""`stepdistill data show`: a task's examples in a terminal and as a page."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import re
from typing import Any

from stepdistill_jax.config import data_folder, gin_config
from stepdistill_jax.util import errors, pages, runtime

_TEMPLATE = pathlib.Path(__file__).parent / "templates" / "examples.html"
# What files require of who trains.
_OPEN = ("MODEL_DIR = 'none'", "INITIAL_CHECKPOINT_PATH = None")
# Of the terminal; the names of the tasks say the same without colours.
_COLOURS = {1: "on blue", 2: "on dark_orange3", 3: "on dark_green"}


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  if not args.task and not args.gin_file:
    raise errors.UserError(
        "data show needs a task or a recipe, such as svamp_step_gold_palm540b "
        "or --gin_file=gin/recipes/svamp_step_by_step.gin; `stepdistill data "
        "list` has all tasks")
  if args.chat and not args.tokenizer:
    raise errors.UserError("--chat needs --tokenizer")
  gin_config.check_early(args.gin_file, [*_OPEN, *args.gin_bindings],
                         args.gin_search_paths, ["train"])
  runtime.configure()
  os.environ.setdefault("JAX_PLATFORMS", "cpu")  # No device is needed.
  runtime.import_tensorflow()
  with data_folder.tfds_data_dir(args.records_dir or None):
    import gin

    import stepdistill_jax.tasks  # noqa: F401

    try:
      with _parsed(args) as (cfg, name, weights):
        shown = look(name, cfg, args.examples, weights)
    finally:
      # Its lock would refuse what the next command of a program imports.
      gin.clear_config()
  if args.html:
    with errors.reported(OSError, lambda error: (
        f"cannot write {args.html}: {error.strerror}")):
      pathlib.Path(args.html).write_text(page(shown), "utf-8")
  if args.json:
    print(json.dumps(dataclasses.asdict(shown), indent=1))
    return
  print_examples(shown)
  if args.html:
    print(f"page: {args.html}")


@contextlib.contextmanager
def _parsed(
    args: argparse.Namespace) -> Iterator[tuple[Any, str, list[float]]]:
  """Parses gin files: (data config, task, weights of the tasks)."""
  import gin

  from stepdistill_jax.data import pair_rows, showing, task_registry

  bindings = list(args.gin_bindings)
  files = list(args.gin_file)
  if args.tokenizer:
    vocabulary = "hugging_face_vocabulary.HuggingFaceVocabulary"
    module = "stepdistill_jax.data."
    bindings += [
        f"{module}{vocabulary}.tokenizer_file = {args.tokenizer!r}",
        f"{module}{vocabulary}.chat = {args.chat}",
        f"{module}hugging_face_vocabulary.tokenizer.vocabulary = "
        f"@{module}{vocabulary}()"]
  if not files:
    task = task_registry.require_task(args.task)
    dataset = getattr(_parts(task)[0].source, "dataset", "")
    own = f"gin/datasets/{dataset}.gin"
    files = [own] if dataset and any(
        os.path.isfile(os.path.join(folder, own))
        for folder in gin_config.search_paths(args.gin_search_paths)) else []
    gin_config.parse(files, bindings, args.gin_search_paths, stand_ins=_OPEN)
    yield (showing.Config(
        split=args.split or "train", task_feature_lengths=_lengths(task)),
           args.task, [])
    return
  # T5X's own, as a stand-in would take its name in gin's registry.
  train = importlib.import_module("t5x.train").train
  with gin_config.main_module(train=train):
    gin_config.parse(files, bindings, args.gin_search_paths, stand_ins=_OPEN)
    found = gin_config.arguments_of(
        gin.get_configurable(train), ["model", "train_dataset_cfg"])
    if "train_dataset_cfg" not in found:
      raise errors.UserError(
          f"{', '.join(files)}: no training run (train_script.train has no "
          "train_dataset_cfg); name a task, or give the files of `t5x train`")
    cfg = pair_rows.with_bool(found["train_dataset_cfg"])
    yield (dataclasses.replace(cfg, split=args.split or cfg.split),
           args.task or cfg.mixture_or_task_name, weights_of(found))


def weights_of(arguments: Any) -> list[float]:
  """The weights of a student's tasks at its first step; [] for others."""
  weights = getattr(arguments.get("model"), "task_weights", None)
  return [] if weights is None else [float(w) for w in weights.at(0)]


def _parts(provider: Any) -> list[Any]:
  import seqio

  return sorted(seqio.get_subtasks(provider), key=lambda task: task.name)


def _lengths(provider: Any) -> dict[str, int]:
  """Feature -> tokens, of a data set's gin file; {} where there is none."""
  from stepdistill_jax.data import truncation

  texts = truncation.texts_of(_parts(provider)[0])
  if texts is None:
    return {}
  bound = gin_config.bindings()
  stated = {name: bound.get(texts.macro(name), "") for name in texts.names}
  return {name: int(value) for name, value in stated.items()
          if re.fullmatch(r"\d+", value)}


@dataclasses.dataclass(frozen=True)
class Shown:
  """A task as it is shown: of a mixture, each of its parts.

  Attributes:
    name: of the task or mixture.
    lengths: feature -> tokens.
    packed: whether these are of whole rows.
    weights: of the tasks, by which tokens' weights are multiplied.
    figures: of each part.
    examples: of all parts.
  """

  name: str
  lengths: dict[str, int]
  packed: bool
  weights: list[float]
  figures: list[Any]
  examples: list[Any]

  def notes(self) -> list[str]:
    """What stands above the examples."""
    lines = [line for figures in self.figures for line in figures.lines()]
    if self.lengths:
      lines.append(f"lengths: {self.lengths}"
                   + (" of a packed row" if self.packed else ""))
    else:
      lines.append("lengths: none are given, so nothing is cut; a recipe or "
                   "gin/datasets/DATASET.gin has some")
    if self.weights:
      lines.append("weights of the tasks at step 0: " + ", ".join(
          f"{weight:g}" for weight in self.weights))
    return lines


def look(name: Any, cfg: Any, count: int, weights: list[float]) -> Shown:
  """Reads what is shown of a task."""
  from stepdistill_jax.data import showing, task_registry

  provider = task_registry.require_task(name)
  parts = _parts(provider)
  return Shown(
      provider.name, dict(cfg.task_feature_lengths or {}), cfg.pack, weights,
      [showing.figures(task, cfg) for task in parts],
      [example for task in parts
       for example in showing.examples(task, cfg, count, weights)])


def print_examples(shown: Shown) -> None:
  """Prints examples; a token's colour is its task's, bold weighs most."""
  import rich.console
  import rich.text

  console = rich.console.Console(highlight=False, soft_wrap=True)
  for line in shown.notes():
    console.print(line, markup=False)
  for example in shown.examples:
    console.print(f"\n{example.id or 'example'}", markup=False, style="bold")
    if example.left_out:
      console.print(f"  left out of training: {example.left_out}",
                    markup=False)
    for sequence in example.sequences:
      console.print(f"  {sequence.name}: {sequence.notes()}", markup=False)
      console.print(f"    {sequence.text}", markup=False)
      shown_tokens = rich.text.Text("    ")
      for token in sequence.tokens:
        style = _COLOURS.get(min(token.task, 3), "dim")
        if token.task and not token.weight:
          style += " strike"
        elif token.task and (token.weight or 0) >= example.most:
          style += " bold"
        shown_tokens.append(token.piece, style).append(" ")
      console.print(shown_tokens)
      console.print("    " + " ".join(str(t.id) for t in sequence.tokens),
                    markup=False)


def page(shown: Shown) -> str:
  """The page of what is shown."""
  return pages.render(
      _TEMPLATE, title=f"Examples of {shown.name}", notes=shown.notes(),
      examples=shown.examples)
