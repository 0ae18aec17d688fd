"""Hugging Face's names for a T5's parameters.

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

A kernel is `[in, out]` in T5X and `[out, in]` in torch; heads are laid out
alike, so that transposing is all there is to it. Neither scales attention
logits.
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


def hf_tensor(t5x_name: str) -> HfTensor:
  """The counterpart of a parameter of `architecture.parameter_shapes`.

  >>> hf_tensor("decoder/layers_2/mlp/wi_0/kernel").name
  'decoder.block.2.layer.2.DenseReluDense.wi_0.weight'
  """
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
