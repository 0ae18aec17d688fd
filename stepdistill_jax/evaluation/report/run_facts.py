"""What a run trained: data set, method, size, share of the data, seed.

Read from the run's `config.gin` as text: nothing of it is executed, so that
runs whose records or code are gone can still be reported.
"""

from collections.abc import Mapping
import dataclasses
import math
import pathlib
from typing import Any

from stepdistill_jax.interop import architecture, gin_decoder, run_folder
from stepdistill_jax.util import errors, locations

# What a reader of any table must know of a method.
LABELS = {"pinto": "pinto (reads the teacher's rationale, at test too)"}
METHOD_NAMES = {
    # (kind of task, whose labels): method.
    ("label", "gold"): "finetune",
    ("label", "teacher"): "distill",
    ("step", "gold"): "step_by_step",
    ("step", "teacher"): "step_by_step, teacher labels",
    ("mix", "gold"): "step_by_step mixture",
    ("mix", "teacher"): "step_by_step mixture, teacher labels",
    ("pinto", "gold"): LABELS["pinto"],
    ("single", "gold"): "single_task",
    ("single", "teacher"): "single_task, teacher labels",
}
# Widths of T5 v1.1; a width of another depth or vocabulary has no name.
_T5_SIZES = {(512, 8): "small", (768, 12): "base", (1024, 24): "large",
             (2048, 24): "xl", (4096, 24): "xxl", (64, 2): "tiny"}
# Macros of gin/runs and gin/methods that users change from run to run.
SETTINGS = ("TRAIN_STEPS", "BATCH_SIZE", "LEARNING_RATE",
            "LEARNING_RATE_SCHEDULE", "WARMUP_STEPS", "PACK", "BETA")


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads a run's folder.

  Returns:
    What distinguishes the run from others:
      path: the run's folder;
      dataset: such as `svamp`;
      method: such as `step_by_step`, with what is not the default after it;
      teacher: whose rationales or labels; None where all labels are gold;
      size: name of the size, such as `base`, or the dimensions;
      parameters: of the student, about (from the dimensions), or None;
      share: of the train split, in (0, 1];
      seed: None if unknown;
      optimizer: `Adafactor`, or another's name; empty for the papers' AdamW
        and where unknown;
      settings: values of SETTINGS as the configuration has them, for runs
        that differ in nothing else.

  Raises:
    errors.UserError: no `config.gin` there, or not one of a training run.
  """
  if not path.is_dir():
    raise errors.UserError(locations.not_a_folder(path))
  config_path = path / run_folder.CONFIG_FILE
  if not config_path.is_file():
    raise errors.UserError(
        f"{path} has no {run_folder.CONFIG_FILE}: not a run's folder")
  config = bindings(config_path)
  task = run_folder.parse_task_name(_task_name(config, config_path))
  optimizer = str(lookup(config, "OPTIMIZER", ""))
  if "afactor" in optimizer:
    optimizer = "Adafactor"
  elif optimizer.startswith("@") or optimizer == "adamw":
    optimizer = ""
  # What runs had before there were macros for it.
  before = {"LEARNING_RATE_SCHEDULE": "constant" if optimizer else "linear",
            "WARMUP_STEPS": 0}
  return {
      "path": path, "dataset": task.dataset, "method": _method(task, config),
      "teacher": task.teacher, **size_of(config), "share": _share(config),
      "seed": _seed(path, config),
      "optimizer": optimizer,
      "settings": {**{name: lookup(config, name, before.get(name))
                      for name in SETTINGS},
                   # Its other values are of rows alone: batches are the same.
                   "PACK": lookup(config, "PACK") is True}}


def bindings(path: pathlib.Path) -> dict[str, Any]:
  """The bindings of a gin file: `scope/selector.argument` to value.

  Macros have their name alone. References are strings, `@name` and `%name`.

  Raises:
    errors.UserError: the file is not gin.
  """
  from gin import config_parser

  class AsText(config_parser.ParserDelegate):

    def configurable_reference(self, scoped_name, evaluate):
      return f"@{scoped_name}{'()' if evaluate else ''}"

    def macro(self, scoped_name):
      return f"%{scoped_name}"

  found = {}
  with errors.reported((SyntaxError, ValueError), lambda error: (
      f"{path} is not valid gin: {error}")):
    parser = config_parser.ConfigParser(
        path.read_text(encoding="utf-8"), AsText())
    for statement in parser:
      if isinstance(statement, config_parser.BindingStatement):
        name = "/".join(filter(None, (statement.scope, statement.selector)))
        if statement.arg_name:
          name += f".{statement.arg_name}"
        found[name] = statement.value
  return found


def lookup(config: Mapping[str, Any], name: str, default: Any = None) -> Any:
  """The value of a binding by the end of its name, macros followed."""
  found = [value for key, value in config.items()
           if key == name or key.endswith((f".{name}", f"/{name}"))]
  value = found[0] if found else default
  while isinstance(value, str) and value.startswith("%"):
    value = config.get(value[1:])
  return value


def _task_name(config: Mapping[str, Any], path: pathlib.Path) -> str:
  name = lookup(config, "MIXTURE_OR_TASK_NAME")
  if isinstance(name, str) and not name.startswith("@"):
    return name
  value = lambda argument: lookup(
      config, f"train_task/task_names.task_name.{argument}",
      lookup(config, f"task_names.task_name.{argument}"))
  kind, dataset = value("kind"), value("dataset")
  if not (kind and dataset):
    raise errors.UserError(
        f"{path} does not say what the run was trained on: "
        f"MIXTURE_OR_TASK_NAME is {name!r}")
  from stepdistill_jax.data import task_names

  return task_names.task_name(
      kind, dataset, value("labels") or "gold", value("teacher"))


def method_of(path: pathlib.Path) -> str:
  """The method of a `config.gin`, as in `read`."""
  config = bindings(path)
  return _method(run_folder.parse_task_name(_task_name(config, path)), config)


def _method(task: run_folder.TrainedOn, config: Mapping[str, Any]) -> str:
  labels = lookup(config, "LABELS")
  if labels not in ("gold", "teacher"):
    name = str(lookup(config, "MIXTURE_OR_TASK_NAME"))
    # `{dataset}_{kind}_gold…`, or a teacher's name in that place.
    rest = name[len(f"{task.dataset}_{task.kind}_"):]
    labels = "gold" if rest.split("_")[0] == "gold" else "teacher"
  method = METHOD_NAMES.get((task.kind, labels), task.kind or task.dataset)
  # Not of a run whose method file came after a recipe of synthetic data.
  kind = lookup(config, "SYNTHETIC_KIND")
  if kind and labels == "teacher" and (task.kind == "single") == (
      kind == "cot_reason"):
    method = f"synthetic_{kind}"
  extras = []
  of_student = lambda name: lookup(
      config, f"StepDistillModel.{name}",
      lookup(config, f"StepDistillDecoder.{name}"))
  if of_student("mutual_information"):
    method = method.replace("step_by_step", "mutual_information")
  alpha = lookup(config, "ALPHA", 0.5)
  if task.kind in ("step", "mix"):
    if lookup(config, "PARAMETRIZATION") == "lambda":
      extras.append(f"λ={lookup(config, 'LAMBDA')}")
    elif alpha != 0.5:
      extras.append(f"α={alpha}")
  if of_student("aggregation") == "token_sum":
    extras.append("token sum")
  if rank := lookup(config, "LlamaConfig.lora_rank"):
    extras.append(f"LoRA {rank}")
  return ", ".join([method, *extras])


def _share(config: Mapping[str, Any]) -> float:
  share = lookup(config, "choose_train_share.share", 1.0)
  return float(share) if isinstance(share, (int, float)) else 1.0


def _seed(path: pathlib.Path, config: Mapping[str, Any]) -> int | None:
  for name in ("RANDOM_SEED", "train.random_seed"):
    seed = lookup(config, name)
    if isinstance(seed, int):
      return seed
  return run_folder.seed_of(path)


def size_of(config: Mapping[str, Any]) -> dict[str, Any]:
  """`size` and `parameters` from the network's dimensions."""
  decoder_fields = {
      field.name: lookup(config, f"LlamaConfig.{field.name}")
      for field in dataclasses.fields(architecture.DecoderArchitecture)}
  if isinstance(decoder_fields["num_kv_heads"], int):
    return _decoder_size({
        name: value for name, value in decoder_fields.items()
        if value is not None})
  value = lambda name: lookup(config, f"T5Config.{name}")
  names = ("emb_dim", "num_heads", "head_dim", "mlp_dim",
           "num_encoder_layers", "num_decoder_layers", "vocab_size")
  dimensions = [value(name) for name in names]
  if not all(isinstance(d, int) for d in dimensions):
    return {"size": "unknown", "parameters": None}
  embed, heads, head, mlp, encoder, decoder, vocabulary = dimensions
  attention = 4 * embed * heads * head
  feed_forward = embed * mlp * (1 + len(value("mlp_activations") or "1"))
  parameters = (
      vocabulary * embed * (1 if value("logits_via_embedding") else 2)
      + encoder * (attention + feed_forward)
      + decoder * (2 * attention + feed_forward))
  named = _T5_SIZES.get((embed, decoder))
  size = named or f"{embed}×{encoder}+{decoder}"
  return {"size": size, "parameters": float(parameters)}


def _decoder_size(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Likewise, of a decoder; the parameters without adapters."""
  named = gin_decoder.known_file(fields)
  try:
    arch = architecture.DecoderArchitecture(**fields)
  except TypeError:  # A dimension is missing.
    return {"size": "unknown", "parameters": None}
  parameters = sum(map(math.prod, architecture.parameter_shapes(arch).values()))
  size = pathlib.PurePath(named).stem if named else (
      f"{arch.emb_dim}×{arch.num_layers}")
  return {"size": size, "parameters": float(parameters)}
