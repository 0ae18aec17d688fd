"""The `config.json` of a decoder: Llama's, Qwen 2's or Qwen 3's."""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

from stepdistill_jax.interop import architecture
from stepdistill_jax.util import errors

MODEL_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM",
                 "qwen3": "Qwen3ForCausalLM"}
# What else they are called, for people.
NAMES = "'llama' (Llama 2 and 3, SmolLM2), 'qwen2' (Qwen 2.5) or 'qwen3'"
# Near relatives, refused with the reason.
RELATIVES = {
    **dict.fromkeys(
        ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe",
         "deepseek_v3", "llama4", "gpt_oss"),
        "its MLPs are mixtures of experts (MoE)"),
    **dict.fromkeys(
        ("mistral", "cohere2"), "its attention looks through sliding windows"),
    **dict.fromkeys(
        ("gemma2", "gemma3", "gemma3_text"),
        "most of its layers look through sliding windows, and its norms and "
        "embeddings are scaled in Gemma's way"),
    **dict.fromkeys(
        ("mllama", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava"),
        "it reads images"),
    "gemma": "its norms and embeddings are scaled in Gemma's way",
    "phi3": "its projections are fused",
    "gpt2": "its positions are learned",
    "smollm3": "some of its layers have no positions",
}
# Entries that change the network, and what they must be.
_FIXED = {"mlp_bias": False, "partial_rotary_factor": 1.0,
          "use_sliding_window": False, "hidden_act": "silu"}
_WHY = {"use_sliding_window": ": its sliding window is in use"}
_ROPE_TYPES = {"default": "none", "linear": "linear", "llama3": "llama3"}
# Type of rotary positions -> entries of the file -> fields of the dimensions.
_ROPE_FIELDS = {
    "default": {}, "linear": {"factor": "rope_factor"},
    "llama3": {"factor": "rope_factor",
               "low_freq_factor": "rope_low_freq_factor",
               "high_freq_factor": "rope_high_freq_factor",
               "original_max_position_embeddings": "rope_original_length"}}
# Whole numbers of the file -> fields of the dimensions.
_SIZES = {"num_attention_heads": "num_heads", "hidden_size": "emb_dim",
          "vocab_size": "vocab_size", "num_key_value_heads": "num_kv_heads",
          "head_dim": "head_dim", "intermediate_size": "mlp_dim",
          "num_hidden_layers": "num_layers"}


def number(
    config: Mapping[str, Any], key: str, kind: type, file,
    default: Any = None) -> Any:
  """A positive number of the file; raises UserError for another value."""
  value = config.get(key, default)
  if isinstance(value, bool) or not isinstance(value, (kind, int)) or (
      not 0 < value < math.inf):
    raise errors.UserError(
        f"{file}: `{key}` is {value!r}, expected a positive {kind.__name__}")
  return value


def _rotary(config: Mapping[str, Any], file) -> dict[str, Any]:
  """What the file says of positions: of transformers 5, or as before it."""
  given = config.get("rope_parameters") or config.get("rope_scaling") or {}
  if not isinstance(given, dict):
    raise errors.UserError(
        f"{file}: `rope_scaling` is {given!r}, expected an object")
  kind = given.get("rope_type", given.get("type", "default"))
  if kind not in _ROPE_TYPES:
    raise errors.UserError(
        f"{file}: rotary positions are scaled by {kind!r}, which is not "
        f"supported; expected {', '.join(_ROPE_TYPES)}")
  theta = given.get("rope_theta", config.get("rope_theta", 10000.0))
  values: dict[str, Any] = {
      "rope_theta": float(number({"rope_theta": theta}, "rope_theta", float,
                                  file)),
      "rope_scaling": _ROPE_TYPES[kind]}
  for key, name in _ROPE_FIELDS[kind].items():
    as_stated = int if name == "rope_original_length" else float
    values[name] = as_stated(number(given, key, as_stated, file))
  if kind == "llama3" and not (
      values["rope_low_freq_factor"] < values["rope_high_freq_factor"]):
    raise errors.UserError(
        f"{file}: `low_freq_factor` is {values['rope_low_freq_factor']:g}, "
        "expected less than `high_freq_factor`, "
        f"{values['rope_high_freq_factor']:g}")
  if given.get("partial_rotary_factor", 1.0) != 1.0:
    raise errors.UserError(
        f"{file}: `partial_rotary_factor` is {given['partial_rotary_factor']}, "
        "but the network turns whole heads")
  return values


def to_architecture(
    config: Mapping[str, Any], tied: bool, file="config.json"
) -> architecture.DecoderArchitecture:
  """Returns the model's dimensions, the vocabulary as the folder has it.

  Raises:
    errors.UserError: a value is missing, wrong, or one that the network has
      not.
  """
  for key, expected in _FIXED.items():
    if config.get(key, expected) != expected:
      raise errors.UserError(
          f"{file}: `{key}` is {config[key]!r}, which is not supported"
          f"{_WHY.get(key, '')}; expected {expected!r}")
  windows = [t for t in config.get("layer_types", ()) if t != "full_attention"]
  if windows:
    raise errors.UserError(
        f"{file}: {len(windows)} layers are of type {windows[0]!r}, which is "
        "not supported (a sliding window in use); expected 'full_attention'")
  family = config["model_type"]
  if family != "qwen2" and config.get("attention_bias"):
    raise errors.UserError(
        f"{file}: `attention_bias` is true, which is not supported for "
        f"{family}: its output projection has a bias too")
  integer = lambda key, default=None: number(config, key, int, file, default)
  heads, width = integer("num_attention_heads"), integer("hidden_size")
  defaults = {"num_key_value_heads": heads,
              "head_dim": 128 if family == "qwen3" else width // heads}
  return architecture.DecoderArchitecture(
      **{field: integer(key, defaults.get(key))
         for key, field in _SIZES.items()},
      rms_norm_epsilon=float(number(
          config, "rms_norm_eps", float, file, 1e-6)),
      logits_via_embedding=tied, qkv_bias=family == "qwen2",
      qk_norm=family == "qwen3", **_rotary(config, file))


def common_entries(
    arch: architecture.AnyArchitecture, family: str, model_class: str,
    dtype: str, base: Mapping[str, Any]) -> dict[str, Any]:
  """Entries of every family's file, with what else `base` has."""
  kept = {k: v for k, v in base.items() if k not in (
      "dense_act_fn", "is_gated_act", "_name_or_path",
      "scale_decoder_outputs")}
  return {
      **kept, "architectures": [model_class], "model_type": family,
      "tie_word_embeddings": arch.logits_via_embedding, "use_cache": True,
      "dtype": dtype, "torch_dtype": dtype}  # What transformers 4 reads.


def from_architecture(
    arch: architecture.DecoderArchitecture, family: str | None, dtype: str,
    base: Mapping[str, Any], eos_id: int | None) -> dict[str, Any]:
  """Makes a `config.json`.

  Args:
    arch: the model's, the vocabulary as it is exported.
    family: of MODEL_CLASSES; None for the one that has such biases and norms.
    dtype: of the weights that go with it.
    base: a config whose other entries are kept.
    eos_id: the end token's id in the exported vocabulary.

  Raises:
    errors.UserError: the family has no such network.
  """
  family = family or ("qwen2" if arch.qkv_bias else
                      "qwen3" if arch.qk_norm else "llama")
  if family not in MODEL_CLASSES:
    raise errors.UserError(
        f"--family={family}: a decoder is one of {', '.join(MODEL_CLASSES)}")
  if (arch.qkv_bias, arch.qk_norm) != (family == "qwen2", family == "qwen3"):
    raise errors.UserError(
        f"transformers has no {family} with qkv_bias = {arch.qkv_bias} and "
        f"qk_norm = {arch.qk_norm}")
  if family == "llama" and arch.emb_dim % arch.num_heads:
    raise errors.UserError(
        f"transformers loads no Llama whose width, {arch.emb_dim}, is not a "
        f"multiple of its {arch.num_heads} heads")
  kind = {v: k for k, v in _ROPE_TYPES.items()}[arch.rope_scaling]
  rope = {"rope_type": kind, **{
      key: getattr(arch, name) for key, name in _ROPE_FIELDS[kind].items()}}
  config = {
      **common_entries(arch, family, MODEL_CLASSES[family], dtype, base),
      **{key: getattr(arch, field) for key, field in _SIZES.items()},
      "hidden_act": "silu", "rms_norm_eps": arch.rms_norm_epsilon,
      "rope_theta": arch.rope_theta,  # What transformers 4 reads, as below.
      "rope_scaling": rope if arch.rope_scaling != "none" else None,
      "rope_parameters": {**rope, "rope_theta": arch.rope_theta}}
  config.setdefault("eos_token_id", eos_id)
  return config
