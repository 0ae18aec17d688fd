"""Hugging Face's names for parameters: a table for each family.

| T5X | Hugging Face | |
|---|---|---|
| `token_embedder/embedding` | `shared.weight` | as it is |
| `encoder/layers_3/attention/query/kernel` |
  `encoder.block.3.layer.0.SelfAttention.q.weight` | transposed |
| `decoder/layers_3/mlp/wo/kernel` |
  `decoder.block.3.layer.2.DenseReluDense.wo.weight` | transposed |
| `encoder/relpos_bias/rel_embedding` |
  `encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight` |
  transposed |
| `decoder/logits_dense/kernel` | `lm_head.weight` | transposed |

and of a decoder

| T5X | Hugging Face | |
|---|---|---|
| `token_embedder/embedding` | `model.embed_tokens.weight` | as it is |
| `decoder/layers_3/self_attention/query/kernel` |
  `model.layers.3.self_attn.q_proj.weight` | transposed |
| `decoder/layers_3/mlp/wi_0/kernel` | `model.layers.3.mlp.gate_proj.weight` |
  transposed |

A kernel is `[in, out]` in T5X and `[out, in]` in torch; heads are laid out
alike, so that transposing is all there is to it.
"""

from __future__ import annotations

import dataclasses
import re

EMBEDDING = "shared.weight"
HEAD = "lm_head.weight"
# The embedding under the names of the two stacks; copies where they exist.
EMBEDDING_COPIES = ("encoder.embed_tokens.weight",
                    "decoder.embed_tokens.weight")
# Old checkpoints have it; no version of the network ever read it.
UNUSED = (
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)

_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "o"}
# sublayer in T5X -> (index of the layer within a block, module's name)
_SUBLAYERS = {
    "encoder": {"attention": (0, "SelfAttention"),
                "mlp": (1, "DenseReluDense")},
    "decoder": {"self_attention": (0, "SelfAttention"),
                "encoder_decoder_attention": (1, "EncDecAttention"),
                "mlp": (2, "DenseReluDense")},
}
_NORMS = {
    "encoder": {"pre_attention_layer_norm": 0, "pre_mlp_layer_norm": 1},
    "decoder": {"pre_self_attention_layer_norm": 0,
                "pre_cross_attention_layer_norm": 1, "pre_mlp_layer_norm": 2},
}
_IN_LAYER = re.compile(
    r"(encoder|decoder)/layers_(\d+)/([a-z_]+)(?:/([a-z_0-9]+))?/"
    r"(scale|kernel)")


_IN_DECODER_LAYER = re.compile(r"decoder/layers_(\d+)/(.+)/([a-z]+)")
_DECODER_MODULES = {
    "pre_self_attention_layer_norm": "input_layernorm",
    "self_attention/query": "self_attn.q_proj",
    "self_attention/key": "self_attn.k_proj",
    "self_attention/value": "self_attn.v_proj",
    "self_attention/out": "self_attn.o_proj",
    "self_attention/query_norm": "self_attn.q_norm",
    "self_attention/key_norm": "self_attn.k_norm",
    "pre_mlp_layer_norm": "post_attention_layernorm",
    "mlp/wi_0": "mlp.gate_proj", "mlp/wi_1": "mlp.up_proj",
    "mlp/wo": "mlp.down_proj",
}
# The other way around, for matrices alone.
MODULES_OF_DECODER = {theirs: ours for ours, theirs in _DECODER_MODULES.items()
                      if not ours.endswith("norm")}
DECODER_EMBEDDING = "model.embed_tokens.weight"
# What `models.lora` has beside a kernel, for whom transformers has no names.
ADAPTERS = ("lora_a", "lora_b")
# Frequencies of rotary positions, which old files keep.
DECODER_UNUSED = re.compile(
    r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


@dataclasses.dataclass(frozen=True)
class HfTensor:
  """A tensor of a Hugging Face checkpoint.

  Attributes:
    name: such as `lm_head.weight`.
    transposed: whether it is the transpose of T5X's.
  """

  name: str
  transposed: bool

  def shape(self, t5x_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Its shape, given T5X's."""
    return t5x_shape[::-1] if self.transposed else t5x_shape


def hf_tensor(t5x_name: str, kind: str = "T5") -> HfTensor:
  """The counterpart of a parameter of `architecture.parameter_shapes`.

  >>> hf_tensor("decoder/layers_2/mlp/wi_0/kernel").name
  'decoder.block.2.layer.2.DenseReluDense.wi_0.weight'
  >>> hf_tensor("decoder/layers_2/mlp/wi_0/kernel", "decoder").name
  'model.layers.2.mlp.gate_proj.weight'

  Args:
    t5x_name: the parameter's.
    kind: of the architecture.
  """
  if kind == "decoder":
    return _of_decoder(t5x_name)
  if t5x_name == "token_embedder/embedding":
    return HfTensor(EMBEDDING, False)
  if t5x_name == "decoder/logits_dense/kernel":
    return HfTensor(HEAD, True)
  side = t5x_name.split("/")[0]
  if t5x_name == f"{side}/relpos_bias/rel_embedding":
    return HfTensor(f"{side}.block.0.layer.0.SelfAttention."
                    "relative_attention_bias.weight", True)
  if t5x_name == f"{side}/{side}_norm/scale":
    return HfTensor(f"{side}.final_layer_norm.weight", False)
  match = _IN_LAYER.fullmatch(t5x_name)
  if not match:
    raise ValueError(f"{t5x_name!r} is no parameter of a T5")
  _, layer, sublayer, module, kind = match.groups()
  block = f"{side}.block.{layer}.layer"
  if kind == "scale":
    return HfTensor(
        f"{block}.{_NORMS[side][sublayer]}.layer_norm.weight", False)
  index, name = _SUBLAYERS[side][sublayer]
  return HfTensor(
      f"{block}.{index}.{name}.{_PROJECTIONS.get(module, module)}.weight", True)


def _of_decoder(t5x_name: str) -> HfTensor:
  if t5x_name == "token_embedder/embedding":
    return HfTensor(DECODER_EMBEDDING, False)
  if t5x_name == "decoder/logits_dense/kernel":
    return HfTensor(HEAD, True)
  if t5x_name == "decoder/decoder_norm/scale":
    return HfTensor("model.norm.weight", False)
  match = _IN_DECODER_LAYER.fullmatch(t5x_name)
  if not match or match[2] not in _DECODER_MODULES:
    raise ValueError(f"{t5x_name!r} is no parameter of a decoder")
  kind = "bias" if match[3] == "bias" else "weight"
  return HfTensor(
      f"model.layers.{match[1]}.{_DECODER_MODULES[match[2]]}.{kind}",
      match[3] == "kernel")
