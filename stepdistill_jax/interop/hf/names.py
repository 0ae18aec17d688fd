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
| `decoder/layers_3/self_attention/query/kernel` of a decoder alone |
  `model.layers.3.self_attn.q_proj.weight` | transposed |

A kernel is `[in, out]` in T5X and `[out, in]` in torch; heads are laid out
alike, so that transposing is all there is to it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

EMBEDDING = "shared.weight"
HEAD = "lm_head.weight"
# The embedding under the names of the two stacks; copies where they exist.
EMBEDDING_COPIES = ("encoder.embed_tokens.weight",
                    "decoder.embed_tokens.weight")
# Old checkpoints have it; no version of the network ever read it.
UNUSED = (
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)


DECODER_EMBEDDING = "model.embed_tokens.weight"


def _attention(ours: str, theirs: str, suffix: str = "") -> dict[str, str]:
  return {f"{ours}/{name}": f"{theirs}.{name[0]}{suffix}"
          for name in ("query", "key", "value", "out")}


def _mlp(ours: str, theirs: str) -> dict[str, str]:
  return {f"{ours}/{name}": f"{theirs}.{name}"
          for name in ("wi", "wi_0", "wi_1", "wo")}


_ENCODER, _DECODER = "encoder.block.*.layer", "decoder.block.*.layer"
# Kind -> modules of ours -> of theirs; * is the number of a block.
_MODULES = {
    "T5": {
        "token_embedder": "shared", "decoder/logits_dense": "lm_head",
        **{f"{side}/relpos_bias": f"{side}.block.0.layer.0.SelfAttention."
           "relative_attention_bias" for side in ("encoder", "decoder")},
        **{f"{side}/{side}_norm": f"{side}.final_layer_norm"
           for side in ("encoder", "decoder")},
        "encoder/*/pre_attention_layer_norm": f"{_ENCODER}.0.layer_norm",
        **_attention("encoder/*/attention", f"{_ENCODER}.0.SelfAttention"),
        "encoder/*/pre_mlp_layer_norm": f"{_ENCODER}.1.layer_norm",
        **_mlp("encoder/*/mlp", f"{_ENCODER}.1.DenseReluDense"),
        "decoder/*/pre_self_attention_layer_norm": f"{_DECODER}.0.layer_norm",
        **_attention("decoder/*/self_attention", f"{_DECODER}.0.SelfAttention"),
        "decoder/*/pre_cross_attention_layer_norm": f"{_DECODER}.1.layer_norm",
        **_attention("decoder/*/encoder_decoder_attention",
                     f"{_DECODER}.1.EncDecAttention"),
        "decoder/*/pre_mlp_layer_norm": f"{_DECODER}.2.layer_norm",
        **_mlp("decoder/*/mlp", f"{_DECODER}.2.DenseReluDense")},
    "decoder": {
        "token_embedder": "model.embed_tokens",
        "decoder/logits_dense": "lm_head", "decoder/decoder_norm": "model.norm",
        **{f"decoder/*/{ours}": f"model.layers.*.{theirs}"
           for ours, theirs in {
               "pre_self_attention_layer_norm": "input_layernorm",
               **_attention("self_attention", "self_attn", "_proj"),
               "self_attention/query_norm": "self_attn.q_norm",
               "self_attention/key_norm": "self_attn.k_norm",
               "pre_mlp_layer_norm": "post_attention_layernorm",
               "mlp/wi_0": "mlp.gate_proj", "mlp/wi_1": "mlp.up_proj",
               "mlp/wo": "mlp.down_proj"}.items()}},
}
_BLOCK = re.compile(r"layers_(\d+)")
_OURS = {theirs: ours for modules in _MODULES.values()
         for ours, theirs in modules.items()}
_THEIR_BLOCK = re.compile(r"(?<=\.block\.)\d+|(?<=\.layers\.)\d+")
# What `models.lora` has beside a kernel, for whom transformers has no names.
ADAPTERS = ("lora_a", "lora_b")
# Frequencies of rotary positions, which old files keep.
DECODER_UNUSED = re.compile(
    r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


class HfTensor(NamedTuple):
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
  module, _, parameter = t5x_name.rpartition("/")
  block = _BLOCK.search(module)
  theirs = _MODULES[kind].get(_BLOCK.sub("*", module))
  if not theirs:
    raise ValueError(f"{t5x_name!r} is no parameter of a {kind}")
  if block:
    theirs = theirs.replace("*", block[1])
  return HfTensor(
      f"{theirs}.{'bias' if parameter == 'bias' else 'weight'}",
      parameter in ("kernel", "rel_embedding"))


def t5x_kernel(
    hf_name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
  """Name and shape in T5X of a matrix, also of the embedding.

  >>> t5x_kernel("model.layers.3.mlp.down_proj.weight", (8, 16))
  ('decoder/layers_3/mlp/wo/kernel', (16, 8))

  Args:
    hf_name: of a tensor of any model; if it is none that T5X's has, or no
      matrix, it is returned as it is.
    shape: the tensor's.
  """
  block = _THEIR_BLOCK.search(hf_name)
  ours = _OURS.get(_THEIR_BLOCK.sub("*", hf_name).removesuffix(".weight"))
  if ours is None or len(shape) != 2:
    return hf_name, shape
  if ours == "token_embedder":
    return f"{ours}/embedding", shape
  if block:
    ours = ours.replace("*", f"layers_{block[0]}")
  return f"{ours}/kernel", shape[::-1]
