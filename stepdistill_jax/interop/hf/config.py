"""A Hugging Face folder's `config.json`: read, checked; a T5's written."""

from __future__ import annotations

from collections.abc import Mapping
import enum
import numbers
import pathlib
import re
from typing import Any

from stepdistill_jax.data import tokenizer_files
from stepdistill_jax.interop import architecture
from stepdistill_jax.interop.hf import decoder_config, names as hf_names
from stepdistill_jax.util import errors, locations

CONFIG_FILE = "config.json"
MODEL_CLASSES = {"t5": "T5ForConditionalGeneration",
                 "mt5": "MT5ForConditionalGeneration",
                 **decoder_config.MODEL_CLASSES}
# Near relatives, refused with the reason.
_RELATIVES = {
    **decoder_config.RELATIVES,
    "umt5": "its position biases differ by layer",
    "longt5": "its attention is local",
    "switch_transformers": "its MLPs are mixtures of experts",
    "pix2struct": "its encoder reads images",
    "udop": "its encoder reads images",
    "t5gemma": "its blocks are Gemma's",
}
# Hugging Face's name of an activation -> flax's. `gelu_new` is the tanh
# approximation, which is flax's default; the exact `gelu` has no counterpart.
_ACTIVATIONS = {"relu": "relu", "gelu_new": "gelu", "silu": "silu",
                "swish": "silu"}
# Whole numbers of the file -> fields of `Architecture`.
_SIZES = {"num_layers": "num_encoder_layers",
          "num_decoder_layers": "num_decoder_layers",
          "vocab_size": "vocab_size", "d_model": "emb_dim",
          "num_heads": "num_heads", "d_kv": "head_dim", "d_ff": "mlp_dim"}
# What is the same in T5X's network for all.
_FIXED = {"relative_attention_num_buckets": architecture.NUM_BUCKETS,
          "relative_attention_max_distance": architecture.MAX_DISTANCE,
          "layer_norm_epsilon": architecture.LAYER_NORM_EPSILON}
# Entries that are texts and the like; numbers are checked where they are used.
_KINDS = {"model_type": str, "architectures": list, "feed_forward_proj": str,
          "quantization_config": dict, "transformers_version": str,
          "tokenizer_class": str, "tie_word_embeddings": bool,
          "layer_types": list, "attention_bias": bool,
          "scale_decoder_outputs": bool, "dropout_rate": numbers.Real}
_WORDS = {str: "a text", list: "a list", dict: "an object", bool: "true or "
          "false", numbers.Real: "a number"}
_MOST_LAYERS = 1000  # Names of more would fill the memory.


class Head(enum.Enum):
  """Where a model's output layer comes from."""

  TIED = "tied"  # The embedding, its logits divided by sqrt(d_model).
  OWN = "own"  # `lm_head.weight`.
  COPIED = "copied"  # The embedding as it is: copied into a head of its own.


def read(folder: pathlib.Path) -> dict[str, Any]:
  """Reads `config.json`.

  Raises:
    errors.UserError: it is missing, damaged, or not of a known family.
  """
  file = folder / CONFIG_FILE
  if not folder.is_dir():
    raise errors.UserError(f"{locations.not_a_folder(folder)}; a Hugging Face "
                           "checkpoint is a folder with a config.json")
  if not file.is_file():
    raise errors.UserError(
        f"{folder} has no {CONFIG_FILE}, so it is no Hugging Face checkpoint"
        + ("; it looks like a T5X checkpoint: see `stepdistill checkpoint "
           "import-t5x`" if (folder / "checkpoint").exists()
           or (folder / "state").is_dir() else ""))
  config = {key: value for key, value in tokenizer_files.read_json(file).items()
            if value is not None}
  for key, kind in _KINDS.items():
    if key in config and not isinstance(config[key], kind):
      raise errors.UserError(
          f"{file}: `{key}` is {config[key]!r}, expected "
          f"{_WORDS[kind]}")
  _check_family(config, file)
  return config


def _check_family(config: Mapping[str, Any], file: pathlib.Path) -> None:
  family = config.get("model_type")
  if family not in MODEL_CLASSES:
    reason = _RELATIVES.get(str(family), "it is another architecture")
    raise errors.UserError(
        f"{file}: model_type {family!r} is not supported, for {reason}; "
        "expected 't5' (T5, T5 v1.1, Flan-T5, ByT5), 'mt5', "
        f"{decoder_config.NAMES}")
  classes = config.get("architectures") or []
  expected = MODEL_CLASSES[family]
  # Checkpoints of 2020 name the class by what it was called then.
  if classes and not set(map(str, classes)) & {
      expected, "T5WithLMHeadModel", "T5ForConditionalGeneration"}:
    raise errors.UserError(
        f"{file}: architectures {classes} is not {family}'s with an output "
        f"layer for text; expected {expected}")
  quantization = config.get("quantization_config")
  if quantization:
    method = (quantization.get("quant_method") or next(
        (k for k in quantization if k.startswith("load_in_")), "unknown"))
    raise errors.UserError(
        f"{file}: the checkpoint is quantized (quantization_config, method "
        f"{method}); expected float32, bfloat16 or float16 weights: take the "
        "checkpoint that it was made from")


def _activations(config, file) -> tuple[str, ...]:
  """T5X's activations of `feed_forward_proj`."""
  projection = config.get("feed_forward_proj", "relu")
  gated = projection.startswith("gated-")
  # What "gated-gelu" means is written in the transformers library.
  name = projection.removeprefix("gated-")
  name = "gelu_new" if projection == "gated-gelu" else name
  if name not in _ACTIVATIONS:
    known = sorted({*_ACTIVATIONS, *(f"gated-{a}" for a in _ACTIVATIONS),
                    "gated-gelu"})
    raise errors.UserError(errors.unknown_name_message(
        "feed_forward_proj", projection, known, f"(in {file})"))
  return (_ACTIVATIONS[name], "linear") if gated else (_ACTIVATIONS[name],)


def head(config: Mapping[str, Any], has_head: bool,
         head_is_embedding: bool, file="config.json") -> Head:
  """Decides what the output layer is.

  Versions of transformers disagree on what the file says. Up to 4,
  `tie_word_embeddings` also scales the logits. Version 5 always writes
  `tie_word_embeddings: true`, looks at the weights to see whether they are
  tied, and says in `scale_decoder_outputs` whether a T5 scales; its mT5 never
  does.

  Args:
    config: of the checkpoint.
    has_head: whether the weights have `lm_head.weight`.
    head_is_embedding: whether that equals the embedding, bit for bit.
    file: names the config in errors.

  Raises:
    errors.UserError: a head is missing, or is one that T5X cannot have.
  """
  tied = config.get("tie_word_embeddings", config["model_type"] == "t5")
  if not tied and not has_head:
    raise errors.UserError(
        f"the checkpoint lacks the tensor lm_head.weight, which {file} "
        "expects (tie_word_embeddings: false)")
  if is_decoder(config):
    if tied and has_head and not head_is_embedding:
      raise errors.UserError(
          f"lm_head.weight differs from {hf_names.DECODER_EMBEDDING}, but "
          f"{file} says that they are one (tie_word_embeddings: true); set it "
          "to false there if the head was trained by itself")
    return Head.TIED if tied else Head.OWN
  version = re.match(r"\d+", config.get("transformers_version", ""))
  scaled = config.get("scale_decoder_outputs")
  if scaled is None:
    modern_mt5 = (config["model_type"] == "mt5"
                  and version is not None and int(version[0]) >= 5)
    scaled = tied is not False and not modern_mt5
  if not has_head:
    return Head.TIED if scaled else Head.COPIED
  if not scaled:
    return Head.OWN
  if head_is_embedding:
    return Head.TIED
  raise errors.UserError(
      "lm_head.weight differs from shared.weight, but "
      f"{file} says that they are one (tie_word_embeddings: true); T5X scales "
      "the logits of a tied head only. If the head was trained by itself, set "
      "tie_word_embeddings to false there")


def is_decoder(config: Mapping[str, Any]) -> bool:
  return config.get("model_type") in decoder_config.MODEL_CLASSES


def to_architecture(
    config: Mapping[str, Any], output_head: Head,
    file="config.json") -> architecture.AnyArchitecture:
  """Returns the model's dimensions.

  Raises:
    errors.UserError: a value is missing, wrong, or one that T5X has not.
  """
  if is_decoder(config):
    return decoder_config.to_architecture(
        config, output_head is Head.TIED, file)
  for key, expected in _FIXED.items():
    if config.get(key, expected) != expected:
      raise errors.UserError(
          f"{file}: `{key}` is {config[key]}, but T5X's network has "
          f"{expected}")

  if config.get("num_decoder_layers") is None:
    config = {**config, "num_decoder_layers": config.get("num_layers")}
  sizes = {field: decoder_config.number(config, key, int, file)
           for key, field in _SIZES.items()}
  for key in ("num_layers", "num_decoder_layers"):
    if config[key] > _MOST_LAYERS:
      raise errors.UserError(
          f"{file}: `{key}` is {config[key]}, expected at most {_MOST_LAYERS}")
  return architecture.Architecture(
      **sizes, mlp_activations=_activations(config, file),
      logits_via_embedding=output_head is Head.TIED,
      dropout_rate=float(config.get("dropout_rate", 0.1)))


def from_architecture(
    arch: architecture.Architecture, family: str = "t5",
    dtype: str = "float32",
    base: Mapping[str, Any] | None = None) -> dict[str, Any]:
  """Makes a `config.json` for an architecture.

  Args:
    arch: the model's.
    family: `t5` or `mt5`.
    dtype: of the weights that go with it.
    base: a config whose other entries are kept.

  Raises:
    errors.UserError: transformers has no such model.
  """
  names = {flax: hf for hf, flax in reversed(_ACTIVATIONS.items())}
  first, *gate = arch.mlp_activations
  if first not in names or gate not in ([], ["linear"]):
    raise errors.UserError(
        f"transformers has no T5 with mlp_activations {arch.mlp_activations}; "
        f"it has {sorted(names)}, each alone or with 'linear'")
  if family == "mt5" and arch.logits_via_embedding:
    raise errors.UserError(
        "transformers has no mT5 whose head is the embedding; use --family=t5")
  projection = f"gated-{first}" if gate else names[first]
  config = {
      **decoder_config.common_entries(
          arch, family, MODEL_CLASSES[family], dtype, base or {}),
      **{key: getattr(arch, field) for key, field in _SIZES.items()}, **_FIXED,
      "feed_forward_proj": projection, "dropout_rate": arch.dropout_rate,
      "is_encoder_decoder": True, "pad_token_id": 0, "eos_token_id": 1,
      "decoder_start_token_id": 0}
  if family == "t5":
    config["scale_decoder_outputs"] = arch.logits_via_embedding
  return config
