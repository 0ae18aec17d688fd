"""Small Hugging Face checkpoints of every decoder family, for tests.

Random weights under the names of published checkpoints, and a byte-level
tokenizer whose id 0 is a token, as theirs are.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from stepdistill_jax.interop import architecture
from stepdistill_jax.interop.hf import decoder_config, names as hf_names
from tests.support import hf_fixtures

TEXTS = (
    "Natalia sold 48 clips in April, and half as many in May! How many?",
    "She sold 48 / 2 = 24 clips in May. The answer is 72.",
    "Stop! Who has 3 apples, and who has 4 more? Wow!!! 1 2 5 6 7 8 9 0")
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
           "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
# How Qwen cuts texts; transformers does so whatever its files say.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# The formats of the families' chats, written with what their templates use.
CHATML_TEMPLATE = """\
{% for message in messages %}
{%- if loop.first and message['role'] != 'system' -%}
<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message.content + '<|im_end|>' }}
{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
LLAMA_TEMPLATE = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role not in ('user', 'assistant') %}
        {{- raise_exception("unknown role") }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'
        + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


@dataclasses.dataclass(frozen=True)
class Family:
  """A family's configuration, scaled down.

  Attributes:
    config: entries of `config.json` beside the dimensions.
    special: tokens of the tokenizer, the end token first.
    special_first: whether they have the first ids; else "!" is id 0.
    bos: put before every text by the tokenizer.
    more_rows: of the embedding than the tokenizer has ids.
  """

  config: Mapping[str, Any]
  special: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
  special_first: bool = False
  bos: str | None = None
  more_rows: int = 0


_LLAMA_TOKENS = dict(
    special=("<|end_of_text|>", "<|begin_of_text|>", "<|eot_id|>"),
    bos="<|begin_of_text|>")
FAMILIES = {
    "llama3_1": Family({
        "model_type": "llama", "rope_theta": 500.0, "rope_scaling": _LLAMA3,
        "tie_word_embeddings": False}, **_LLAMA_TOKENS),
    # As transformers 5 writes it.
    "llama3_2": Family({
        "model_type": "llama", "tie_word_embeddings": True,
        "rope_parameters": {**_LLAMA3, "factor": 32.0, "rope_theta": 500.0}},
                       **_LLAMA_TOKENS),
    "linear": Family({
        "model_type": "llama", "tie_word_embeddings": False,
        "rope_scaling": {"type": "linear", "factor": 2.0}}, **_LLAMA_TOKENS),
    "smollm2": Family({
        "model_type": "llama", "tie_word_embeddings": True,
        "rope_theta": 100.0, "rope_scaling": None}, special_first=True),
    "qwen2_5": Family({
        "model_type": "qwen2", "tie_word_embeddings": True,
        "rms_norm_eps": 1e-6, "use_sliding_window": False,
        "sliding_window": 32768, "max_window_layers": 2,
        "rope_theta": 1000.0}, more_rows=11),
    "qwen3": Family({
        "model_type": "qwen3", "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6, "head_dim": 16, "rope_theta": 1000.0,
        "attention_bias": False}, more_rows=3),
}
_DIMENSIONS = {
    "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_hidden_layers": 2, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "max_position_embeddings": 512}


def write_tokenizer(folder: pathlib.Path, family: Family) -> int:
  """Writes `tokenizer.json` and its config; returns its number of ids."""
  import tokenizers
  from tokenizers import (
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
  )
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.normalizer = normalizers.NFC()
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
      pre_tokenizers.Split(tokenizers.Regex(_WORDS), "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(
      vocab_size=300, show_progress=False,
      special_tokens=list(family.special) if family.special_first else [],
      initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
  tokenizer.add_special_tokens(list(family.special))
  if family.bos:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{family.bos} $A",
        special_tokens=[(family.bos, tokenizer.token_to_id(family.bos))])
  tokenizer.save(str(folder / "tokenizer.json"))
  (folder / "tokenizer_config.json").write_text(json.dumps({
      "tokenizer_class": "PreTrainedTokenizerFast",
      "eos_token": family.special[0], "clean_up_tokenization_spaces": False,
      **({"bos_token": family.bos} if family.bos else {}),
      "chat_template": LLAMA_TEMPLATE if family.bos else CHATML_TEMPLATE}))
  return tokenizer.get_vocab_size()


def config_of(family: Family, vocab_size: int) -> dict[str, Any]:
  return {
      "architectures": [
          decoder_config.MODEL_CLASSES[family.config["model_type"]]],
      "vocab_size": vocab_size, **_DIMENSIONS, "eos_token_id": (
          0 if family.special_first else vocab_size - family.more_rows - 3),
      **family.config}


def tensors_of(
    config: Mapping[str, Any], seed: int = 0,
    dtype: Any = np.float32) -> dict[str, np.ndarray]:
  """Random weights, of a size for which logits are around one."""
  arch = decoder_config.to_architecture(
      {k: v for k, v in config.items() if v is not None},
      config["tie_word_embeddings"])
  rng = np.random.default_rng(seed)
  tensors = {}
  for name, shape in architecture.parameter_shapes(arch).items():
    counterpart = hf_names.hf_tensor(name, arch.kind)
    values = 0.2 * rng.normal(size=counterpart.shape(shape))
    if name.endswith("scale"):
      values = 1.0 + 0.5 * values
    tensors[counterpart.name] = values.astype(dtype)
  return tensors


def write_folder(
    folder: pathlib.Path, name: str, *, seed: int = 0,
    dtype: Any = np.float32, shards: int = 1,
    **changes: Any) -> dict[str, np.ndarray]:
  """Writes a checkpoint of a family; returns its tensors.

  Args:
    folder: to write.
    name: a key of FAMILIES.
    seed: of the weights.
    dtype: of the weights.
    shards: number of weight files.
    **changes: entries of `config.json`.
  """
  family = FAMILIES[name]
  folder.mkdir(parents=True, exist_ok=True)
  size = write_tokenizer(folder, family) + family.more_rows
  config = config_of(family, size)
  tensors = tensors_of(config, seed, dtype)
  (folder / "config.json").write_text(json.dumps({**config, **changes}))
  (folder / "generation_config.json").write_text(json.dumps({
      "eos_token_id": config["eos_token_id"], "do_sample": True,
      "temperature": 0.6}))
  if shards == 1:
    hf_fixtures.write_safetensors(folder / "model.safetensors", tensors)
  else:
    hf_fixtures.write_sharded(folder, tensors, shards)
  return tensors
