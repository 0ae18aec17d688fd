"""Small Hugging Face checkpoints of every T5 family, for tests.

Made here, with random weights, the tensors under the names that published
checkpoints have them under; no library of Hugging Face is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from stepdistill_jax.interop import architecture
from stepdistill_jax.interop.hf import names as hf_names, safetensors_files
from tests.support import real_data as testing


@dataclasses.dataclass(frozen=True)
class Family:
  """A family's configuration, scaled down, and how its files differ.

  Attributes:
    config: entries of `config.json` beside the dimensions.
    vocab_size: rows of the embedding.
    byte_tokens: no SentencePiece model.
    copies: whether the embedding is stored under the stacks' names too, as
      checkpoints made from torch's older files have it.
    extra_ids: sentinels of the tokenizer.
  """

  config: Mapping[str, Any]
  vocab_size: int = 384
  byte_tokens: bool = False
  copies: bool = False
  extra_ids: int = 100


_GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
FAMILIES = {
    # As published in 2020: no mention of projection, gates or tying.
    "t5_v1_0": Family({"model_type": "t5",
                       "architectures": ["T5WithLMHeadModel"]}, copies=True),
    "t5_v1_1": Family({"model_type": "t5", **_GATED}),
    "lm_adapted": Family({"model_type": "t5", **_GATED, "vocab_size": 384}),
    "flan_t5": Family({"model_type": "t5", **_GATED, "n_positions": 512,
                       "task_specific_params": {}}, copies=True),
    "mt5": Family({"model_type": "mt5", **_GATED,
                   "tokenizer_class": "T5Tokenizer"}, extra_ids=0),
    "byt5": Family({"model_type": "t5", **_GATED, "num_decoder_layers": 1,
                    "num_layers": 3, "tokenizer_class": "ByT5Tokenizer"},
                   byte_tokens=True, extra_ids=125),
    # Not padded to a multiple of 128, as some fine-tuned ones.
    "unpadded": Family({"model_type": "t5", **_GATED}, vocab_size=341),
}
_DIMENSIONS = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2,
               "num_layers": 2}


def config_of(family: Family) -> dict[str, Any]:
  """The whole `config.json`."""
  return {"architectures": ["T5ForConditionalGeneration"
                            if family.config["model_type"] == "t5"
                            else "MT5ForConditionalGeneration"],
          "vocab_size": family.vocab_size, **_DIMENSIONS,
          "relative_attention_num_buckets": 32, "dropout_rate": 0.1,
          "layer_norm_epsilon": 1e-06, "decoder_start_token_id": 0,
          "eos_token_id": 1, "pad_token_id": 0, "is_encoder_decoder": True,
          **family.config}


def tensors_of(family: Family, seed: int = 0,
               dtype: Any = np.float32) -> dict[str, np.ndarray]:
  """Random weights, of a size for which logits are around one."""
  config = config_of(family)
  tied = config.get("tie_word_embeddings", True)
  gated = config.get("feed_forward_proj", "relu").startswith("gated")
  arch = architecture.Architecture(
      vocab_size=config["vocab_size"], emb_dim=config["d_model"],
      num_heads=config["num_heads"], head_dim=config["d_kv"],
      mlp_dim=config["d_ff"], num_encoder_layers=config["num_layers"],
      num_decoder_layers=config.get("num_decoder_layers",
                                    config["num_layers"]),
      mlp_activations=("gelu", "linear") if gated else ("relu",),
      logits_via_embedding=tied)
  rng = np.random.default_rng(seed)
  tensors = {}
  for name, shape in architecture.parameter_shapes(arch).items():
    counterpart = hf_names.hf_tensor(name)
    values = rng.normal(size=counterpart.shape(shape)) * (
        1.0 if "embedding" in name else 0.2)
    if name.endswith("scale"):
      values = 1.0 + 0.1 * values
    tensors[counterpart.name] = values.astype(dtype)
  if family.copies:
    for name in hf_names.EMBEDDING_COPIES:
      tensors[name] = tensors[hf_names.EMBEDDING]
    tensors[hf_names.UNUSED[0]] = np.zeros(
        (32, config["num_heads"]), dtype)
    if tied:
      tensors[hf_names.HEAD] = tensors[hf_names.EMBEDDING]
  return tensors


def write_safetensors(
    file: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
  writer = safetensors_files.Writer(
      file, {name: (t.shape, t.dtype) for name, t in tensors.items()})
  for name, tensor in tensors.items():
    writer.write_rows(name, 0, tensor)
  writer.close()


def write_sharded(
    folder: pathlib.Path, tensors: Mapping[str, np.ndarray],
    shards: int) -> None:
  """Writes weights as several files with their index."""
  names = list(tensors)
  weight_map = {}
  for i in range(shards):
    file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
    part = names[i::shards]
    write_safetensors(folder / file, {n: tensors[n] for n in part})
    weight_map.update(dict.fromkeys(part, file))
  (folder / "model.safetensors.index.json").write_text(
      json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_folder(
    folder: pathlib.Path, name: str, *, seed: int = 0, dtype: Any = np.float32,
    shards: int = 1) -> dict[str, np.ndarray]:
  """Writes a checkpoint of a family.

  Args:
    folder: to write.
    name: a key of FAMILIES.
    seed: of the weights.
    dtype: of the weights.
    shards: number of weight files.

  Returns:
    Its tensors.
  """
  family = FAMILIES[name]
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(config_of(family)))
  tensors = tensors_of(family, seed, dtype)
  if shards == 1:
    write_safetensors(folder / "model.safetensors", tensors)
  else:
    write_sharded(folder, tensors, shards)
  tokenizer = {"tokenizer_class": "T5Tokenizer", "extra_ids": family.extra_ids,
               "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
  if family.byte_tokens:
    tokenizer["tokenizer_class"] = "ByT5Tokenizer"
  else:
    testing.write_tiny_vocabulary(folder / "spiece.model")
  (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
  return tensors
