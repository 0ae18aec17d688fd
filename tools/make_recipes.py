"""Writes gin/recipes: one file for each row of the papers' tables.

  python tools/make_recipes.py          # writes the files
  python tools/make_recipes.py --check  # exit code 1 if they differ

A recipe is a model, a run, a data set and a method, put together, with the
number to expect and what it needs in its header. The files are kept in the
repository, so that a reader need not run this.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import textwrap
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECIPES = ROOT / "gin" / "recipes"

DATASETS = {"svamp": "SVAMP", "cqa": "CQA", "anli1": "ANLI", "esnli": "e-SNLI"}
SIZES = {"small": "77M", "base": "220M", "large": "770M", "xl": "3B",
         "xxl": "11B"}
_REPORTED_SIZES = ("base", "large", "xxl")


class Method(NamedTuple):
  title: str
  gin: str
  overrides: str = ""


METHODS = {
    "finetune": Method("standard fine-tuning on human labels", "finetune"),
    "distill": Method("distillation from the teacher's labels", "distill"),
    "step_by_step": Method(
        "distilling step-by-step, human labels", "step_by_step"),
    "step_by_step_teacher": Method(
        "distilling step-by-step without human labels", "step_by_step",
        "LABELS = 'teacher'\n"),
    "single_task": Method(
        "one target, rationale then label", "single_task"),
    "pinto": Method(
        "PINTO tuning: it reads the teacher's rationale, at test time too",
        "pinto"),
    "mutual_information": Method(
        "step-by-step with a mutual-information term", "mutual_information"),
}
# Only reported for the 220M student.
_BASE_ONLY = ("single_task", "pinto", "mutual_information")
# Its term needs one record a row.
_NOT_PACKED = "mutual_information"

# Test accuracy in percent: data sets as in DATASETS; 220M, 770M, 11B. From
# arXiv 2305.02301: 220M with human labels from its table, the others read off
# its plots (±0.15). Mutual information: arXiv 2403.03348.
EXPECTED = {
    "finetune": {
        "svamp": (62.63, 74.9, 87.3), "cqa": (62.19, 72.5, 82.6),
        "anli1": (43.58, 61.7, 73.2), "esnli": (88.38, 91.1, 92.7)},
    "step_by_step": {
        "svamp": (65.50, 80.3, 88.5), "cqa": (63.29, 73.6, 83.3),
        "anli1": (49.58, 68.0, 75.1), "esnli": (89.51, 92.5, 93.15)},
    "distill": {
        "svamp": (42.6, 54.9, 63.3), "cqa": (60.2, 67.8, 76.8),
        "anli1": (37.1, 52.6, 67.7), "esnli": (81.6, 83.1, 84.1)},
    "step_by_step_teacher": {
        "svamp": (44.8, 57.1, 66.8), "cqa": (61.1, 69.3, 77.5),
        "anli1": (44.5, 62.1, 69.7), "esnli": (82.6, 84.5, 85.6)},
    "single_task": {
        "svamp": (63.00,), "cqa": (61.37,), "anli1": (43.50,),
        "esnli": (88.88,)},
    "pinto": {
        "svamp": (66.7,), "cqa": (78.1,), "anli1": (67.0,),
        "esnli": (89.3,)},
    "mutual_information": {
        "svamp": (68.0,), "cqa": (63.88,), "anli1": (51.2,),
        "esnli": (89.5,)},
}
# Standard error of one accuracy on the test set, in points.
STANDARD_ERROR = {"svamp": 3.4, "cqa": 1.4, "anli1": 1.6, "esnli": 0.3}


class Network(NamedTuple):
  """A size's dimensions, to count its parameters and operations."""

  embed: int
  heads: int
  layers: int
  mlp: int

  def attention(self) -> int:
    return 4 * self.embed * self.heads * 64

  def feed_forward(self) -> int:
    return 3 * self.embed * self.mlp


NETWORKS = {
    "small": Network(512, 6, 8, 1024), "base": Network(768, 12, 12, 2048),
    "large": Network(1024, 16, 24, 2816), "xl": Network(2048, 32, 24, 5120),
    "xxl": Network(4096, 64, 24, 10240)}
VOCABULARY = 32128
# (inputs, label, rationale, both in one) of gin/datasets, in tokens.
LENGTHS = {"svamp": (88, 24, 104, 112), "cqa": (112, 16, 72, 80),
           "anli1": (208, 8, 176, 184), "esnli": (136, 8, 80, 88)}
# The least TPU v5e slice that holds the parameters, their gradients and
# AdamW's state (16 bytes a parameter) in 16 GB a chip, with room to work.
CHIPS = {"small": 1, "base": 1, "large": 4, "xl": 16, "xxl": 64}
# XXL's 32 pairs cannot be shared by 64 chips: groups of 4 share the layers.
MODEL_PARALLEL = {"xxl": 4}
V5E_FLOPS = 197e12  # bfloat16 peak of a chip, by its data sheet
ASSUMED_UTILIZATION = 0.4


def parameters(size: str) -> int:
  """Parameters of matrices; layer norms and position biases are noise."""
  n = NETWORKS[size]
  return (2 * VOCABULARY * n.embed
          + n.layers * (3 * n.attention() + 2 * n.feed_forward()))


def step_flops(dataset: str, method: str, size: str, batch: int) -> float:
  """Multiply-adds ×2 of a train step: one forward, two for the gradient."""
  n = NETWORKS[size]
  inputs, label, rationale, single = LENGTHS[dataset]
  if METHODS[method].gin in ("finetune", "distill"):
    encoder, decoder = inputs, label
  elif method == "single_task":
    encoder, decoder = inputs, single
  elif method == "pinto":
    encoder, decoder = inputs + rationale, label
  else:
    encoder, decoder = 2 * inputs, label + rationale
  per_encoder = n.layers * (1.5 * n.attention() + n.feed_forward())
  per_decoder = (n.layers * (1.5 * n.attention() + n.feed_forward())
                 + VOCABULARY * n.embed)
  return 3 * 2 * batch * (encoder * per_encoder + decoder * per_decoder)


def hours(dataset: str, method: str, size: str) -> float:
  batch, steps = (32, 4000) if size == "xxl" else (64, 10000)
  flops = steps * step_flops(dataset, method, size, batch)
  return flops / (CHIPS[size] * V5E_FLOPS * ASSUMED_UTILIZATION) / 3600


def _duration(value: float) -> str:
  return f"{value:.1f} hours" if value >= 1 else (
      f"{max(1, round(value * 60))} minutes")


def expectation(dataset: str, method: str, size: str) -> str:
  """The number to expect, with its error, in a sentence."""
  if size not in _REPORTED_SIZES:
    return f"The papers report no number for {SIZES[size]}."
  values = EXPECTED[method][dataset]
  index = _REPORTED_SIZES.index(size)
  source = "arXiv 2403.03348" if method == "mutual_information" else (
      "arXiv 2305.02301")
  seeds = "" if method == "mutual_information" else ", mean of 4 seeds"
  return (f"Expected test accuracy: {values[index]}% ({source}{seeds}); one "
          f"test set's standard error is {STANDARD_ERROR[dataset]} points, so "
          "compare over several RANDOM_SEED.")


def _comment(*paragraphs: str) -> str:
  lines = []
  for paragraph in paragraphs:
    lines += textwrap.wrap(paragraph, 76, break_long_words=False,
                           break_on_hyphens=False) + [""]
  return "\n".join(f"# {line}".rstrip() for line in lines[:-1]) + "\n"


_SHARDING_IMPORT = """from __gin__ import dynamic_registration

from t5x import partitioning

"""
_SHARDING = """
# Parameters and optimizer state sharded over all chips.
partitioning.standard_logical_axis_rules.parameter_partitioning_dims = 2
"""


def recipe(dataset: str, method: str, size: str) -> tuple[str, str]:
  """The name and the text of one row's file."""
  name = f"{dataset}_{method}_{size}"
  chips = CHIPS[size]
  run = "paper_xxl" if size == "xxl" else "paper"
  rows = " (its 549,367 train rows)" if dataset == "esnli" else (
      " (all 16,946 train rows)" if dataset == "anli1" else "")
  t5x_habit = () if method == _NOT_PACKED else (
      "T5X's habits instead (Adafactor, packed rows): add "
      "--gin_file=gin/runs/t5x_habit.gin, or take "
      f"gin/recipes/t5x_habit/{name}.gin.",)
  header = _comment(
      f"{DATASETS[dataset]}, {METHODS[method].title}, T5 v1.1 {size} "
      f"({SIZES[size]}).",
      expectation(dataset, method, size),
  ) + f"""#
#   stepdistill checkpoint import-hf HF_FOLDER --output=t5_1_1_{size}
#   t5x train --gin_file=gin/recipes/{name}.gin \\
#     --gin_file=t5_1_1_{size}/student.gin --gin.MODEL_DIR=\\"/path/to/run\\"
#
""" + _comment(
    f"Needs the records of `stepdistill teacher import --dataset={dataset}`"
    f"{rows} and a pretrained T5 v1.1.",
    f"Hardware: {chips} TPU v5e chip{'s' if chips > 1 else ''} or more "
    f"({parameters(size) * 16 / 1e9:.0f} GB of parameters, gradients and "
    f"AdamW's state); about {_duration(hours(dataset, method, size))} on "
    f"{chips}, evaluation apart. An estimate from the FLOPs at "
    f"{ASSUMED_UTILIZATION:.0%} of peak, not a measurement; `stepdistill "
    "plan` bounds it.",
    *t5x_habit)
  sharding = "" if chips == 1 else _SHARDING
  if size in MODEL_PARALLEL:
    sharding += (
        "# BATCH_SIZE is below the number of chips: groups of them share the "
        "layers.\npartitioning.PjitPartitioner.num_partitions = "
        f"{MODEL_PARALLEL[size]}\n")
  imports = _SHARDING_IMPORT if sharding else ""
  body = f"""{imports}include 'gin/models/t5_1_1.gin'
include 'gin/models/t5_1_1_{size}.gin'
include 'gin/runs/{run}.gin'
include 'gin/datasets/{dataset}.gin'
include 'gin/methods/{METHODS[method].gin}.gin'
{sharding}"""
  if METHODS[method].overrides:
    body += "\n" + METHODS[method].overrides
  return name, header + body


def t5x_variant(name: str) -> str:
  """The same row by T5X's habits."""
  return _comment(
      f"gin/recipes/{name}.gin with T5X's habits: Adafactor at a constant "
      "1e-3, packed rows. Another recipe than the papers': report it as such."
  ) + f"""#
#   t5x train --gin_file=gin/recipes/t5x_habit/{name}.gin ...
include 'gin/recipes/{name}.gin'
include 'gin/runs/t5x_habit.gin'
"""


def quick_recipe(dataset: str, method: str) -> tuple[str, str]:
  """A tiny student of a row, for a CPU."""
  name = f"{dataset}_{method}"
  header = _comment(
      f"{DATASETS[dataset]}, {METHODS[method].title}: a quick run for a CPU.",
      "A `tiny` student from random parameters: it shows that everything "
      "works, not what the papers report; for that see "
      f"gin/recipes/{name}_base.gin."
  ) + f"""#
#   t5x train --gin_file=gin/recipes/{name}.gin \\
#     --gin.MODEL_DIR=\\"/tmp/{name}\\"
#
# Records: stepdistill teacher import --format=published --dataset={dataset} \\
#   --rows=DIR --outputs=DIR --teacher=palm540b
#
# Another size: add --gin_file=gin/models/t5_1_1_small.gin (to xxl).
# Commonly overridden options: TRAIN_STEPS, BATCH_SIZE, LEARNING_RATE{
    ", ALPHA" if "step" in method else ""}.
"""
  return name, header + f"""include 'gin/models/t5_1_1.gin'
include 'gin/models/t5_1_1_tiny.gin'
include 'gin/runs/paper.gin'
include 'gin/datasets/{dataset}.gin'
include 'gin/methods/{METHODS[method].gin}.gin'

INITIAL_CHECKPOINT_PATH = None  # random parameters
LEARNING_RATE = 1e-3  # from scratch; 5e-5 is for a pretrained student
BATCH_SIZE = 16
TRAIN_STEPS = 400
EVAL_PERIOD = 100
EVAL_STEPS = 5  # 80 validation rows
CHECKPOINT_PERIOD = 100
"""


# The second paper's pairs (arXiv 2410.18588): students of the teacher's family
# and smaller ones, by its kinds of synthetic data and by step-by-step.
DECODERS = {
    "smollm2_135m": "SmolLM2 135M", "qwen2_5_0_5b": "Qwen 2.5 0.5B",
    "llama3_2_1b": "Llama 3.2 1B", "llama3_1_8b": "Llama 3.1 8B",
    "llama3_1_70b": "Llama 3.1 70B"}
DECODER_METHODS = {
    "finetune": "human answers",
    "synthetic_vanilla": "the teacher's plain answers",
    "synthetic_cot_answer": "answers that the teacher reasoned for",
    "synthetic_cot_reason": "the teacher's reasoning and answer in one target",
    "step_by_step": "distilling step-by-step"}


# Their parameters and optimizer state fill a chip or more.
SHARDED_DECODERS = ("llama3_2_1b", "llama3_1_8b", "llama3_1_70b")
PAIRED_STUDENTS = ("llama3_1_8b", "llama3_1_70b")
_PAIR = """\
# One of the paper's pairs: Llama 3.1 405B teaches this student. What
# it wrote, imported with --teacher=llama405b, is
# --gin.TEACHER=\\"llama405b\\".
#
"""


def decoder_recipe(method: str, size: str) -> tuple[str, str]:
  """Name and text of a decoder's recipe."""
  imports, sharding = (_SHARDING_IMPORT, _SHARDING) if (
      size in SHARDED_DECODERS) else ("", "")
  name = f"gsm8k_{method}_{size}"
  file = f"gin/recipes/decoder/{name}.gin"
  return name, f"""# GSM8K, {DECODER_METHODS[method]}, {DECODERS[size]}.
#
# The papers report no number for it. The recipe is that of the group behind
# arXiv 2410.18588: AdamW at 2e-5, 3 epochs.
#
{_PAIR if size in PAIRED_STUDENTS and method != "finetune" else ""}\
#   stepdistill checkpoint import-hf HF_FOLDER --output={size}
#   t5x train --gin_file={file} \\
#     --gin_file={size}/student.gin --gin.MODEL_DIR=\\"/path/to/run\\"
#
# Records: stepdistill teacher import --format=cache --outputs=DIR, and
# --gin.TEACHER=\\"NAME\\" of the teacher; by default the data set's own
# solutions, of `stepdistill teacher import --format=rows --dataset=gsm8k`.
#
# Commonly overridden options: CHAT (prompts by the checkpoint's template),
# LEARNING_RATE, EPOCHS, BATCH_SIZE, PACK.
{imports}include 'gin/models/decoder.gin'
include 'gin/models/{size}.gin'
include 'gin/runs/synthetic.gin'
include 'gin/datasets/gsm8k.gin'
include 'gin/methods/{method}.gin'
{sharding}"""


# Data set -> the kinds of synthetic data that the second paper's group makes of
# its task, and what it is.
SYNTHETIC = {
    **{f"azureml_{task}": (title, ("vanilla", "cot_answer", "cot_reason"))
       for task, title in (("nli", "NLI"), ("qa", "question answering"),
                           ("math", "math"))},
    "azureml_conversation": ("conversation", ("vanilla",)),
    **{name: ("summarization", ("vanilla", "chain_of_density"))
       for name in ("azureml_summarization", "dialogsum")}}
KINDS = {
    "vanilla": ("the teacher's plain answers", "vanilla"),
    "cot_answer": ("answers that the teacher reasoned for", "json_cot"),
    "cot_reason": ("the teacher's reasoning and answer in one target",
                   "json_cot"),
    "chain_of_density": ("the last of the teacher's denser summaries",
                         "chain_of_density")}
SYNTHETIC_STUDENTS = {
    "t5_1_1_base": "T5 v1.1 base", "smollm2_135m": DECODERS["smollm2_135m"],
    "llama3_1_8b": DECODERS["llama3_1_8b"]}


def synthetic_recipe(dataset: str, kind: str, student: str) -> tuple[str, str]:
  """A student of the second paper's tasks; `student` is empty for a tiny T5."""
  task, _ = SYNTHETIC[dataset]
  what, prompt = KINDS[kind]
  if dataset == "azureml_conversation":
    prompt = "conversation"
  name = "_".join(filter(None, (dataset, "synthetic", kind, student)))
  file = f"gin/recipes/second_paper/{name}.gin"
  sharded = student in SHARDED_DECODERS
  title = SYNTHETIC_STUDENTS.get(student, "a tiny T5 for a CPU")
  start = f"""\
#   stepdistill checkpoint import-hf HF_FOLDER --output={student}
#   t5x train --gin_file={file} \\
#     --gin_file={student}/student.gin --gin.TEACHER=\\"NAME\\" \\
#     --gin.MODEL_DIR=\\"/path/to/run\\"
""" if student else f"""\
#   t5x train --gin_file={file} \\
#     --gin.TEACHER=\\"NAME\\" --gin.MODEL_DIR=\\"/path/to/run\\"
"""
  family = "decoder" if student in DECODERS else "t5_1_1"
  model = "\n".join(f"include 'gin/models/{part}.gin'" for part in (
      family, student or "t5_1_1_tiny"))
  settings = "EPOCHS = 5\nBATCH_SIZE = 8  # theirs is 2\n" if student else """\
INITIAL_CHECKPOINT_PATH = None  # random parameters
LEARNING_RATE = 1e-3  # from scratch; 2e-5 is for a pretrained student
BATCH_SIZE = 8
TRAIN_STEPS = 100
EVAL_PERIOD = 50
EVAL_STEPS = 2
CHECKPOINT_PERIOD = 50
"""
  if dataset == "azureml_summarization":
    settings += "EVAL_LABELS = 'teacher'  # There are no human summaries.\n"
  return name, _comment(
      f"{task.capitalize() if task != 'NLI' else task}, {what}, {title}.",
      "The paper's own figures are not public; one is not expected here. The "
      "recipe is that of its group's examples, 5 epochs at 2e-5."
      if student else
      "It shows that everything works, not what a student can learn.",
  ) + "#\n" + start + f"""#
# Records: stepdistill teacher collect --dataset={dataset} --prompt={prompt} \\
#   --rows=FILE --output=CACHE --teacher=NAME --model=MODEL
{_SHARDING_IMPORT if sharded else ""}{model}
include 'gin/runs/synthetic.gin'
include 'gin/datasets/{dataset}.gin'
include 'gin/methods/synthetic_{kind}.gin'

{settings}{_SHARDING if sharded else ""}"""


def all_files() -> dict[pathlib.Path, str]:
  """Every recipe, path -> text."""
  files = {}
  for dataset in DATASETS:
    for method in ("finetune", "distill", "step_by_step"):
      name, text = quick_recipe(dataset, method)
      files[RECIPES / f"{name}.gin"] = text
    for method in METHODS:
      for size in ("base",) if method in _BASE_ONLY else SIZES:
        name, text = recipe(dataset, method, size)
        files[RECIPES / f"{name}.gin"] = text
        if method != _NOT_PACKED:
          files[RECIPES / "t5x_habit" / f"{name}.gin"] = t5x_variant(name)
  for method in DECODER_METHODS:
    for size in DECODERS:
      name, text = decoder_recipe(method, size)
      files[RECIPES / "decoder" / f"{name}.gin"] = text
  for dataset, (_, kinds) in SYNTHETIC.items():
    for kind in kinds:
      for student in ("", *SYNTHETIC_STUDENTS):
        name, text = synthetic_recipe(dataset, kind, student)
        files[RECIPES / "second_paper" / f"{name}.gin"] = text
  return files


def main() -> int:
  parser = argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
      "--check", action="store_true", help="write nothing, compare")
  check = parser.parse_args().check
  files = all_files()
  stale = [path for path, text in files.items()
           if not path.is_file() or path.read_text("utf-8") != text]
  for path in stale:
    print(("differs: " if check else "wrote ") + str(path.relative_to(ROOT)))
    if not check:
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(files[path], "utf-8")
  print(f"{len(files)} recipes, {len(stale)} "
        f"{'differ' if check else 'written'}")
  return int(check and bool(stale))


if __name__ == "__main__":
  sys.exit(main())
