"""The shape of a model: what a gin file, a config.json and a tree state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import re

from stepdistill_jax.config import decoder_dimensions
from stepdistill_jax.util import errors

# Both are fixed in T5X's network and in all published checkpoints.
NUM_BUCKETS = 32
MAX_DISTANCE = 128
LAYER_NORM_EPSILON = 1e-6

_LAYER = re.compile(r"(encoder|decoder)/layers_(\d+)/(.+)")


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A T5's dimensions, under the names of T5X's `T5Config`.

  Attributes:
    vocab_size: rows of the embedding, with those that pad it.
    emb_dim: width of the residual stream (`d_model`).
    num_heads: of each attention.
    head_dim: width of a head (`d_kv`).
    mlp_dim: hidden width of an MLP (`d_ff`).
    num_encoder_layers: blocks of the encoder.
    num_decoder_layers: blocks of the decoder.
    mlp_activations: one for a plain MLP, such as `("relu",)`; two for a gated
      one, such as `("gelu", "linear")`, where gelu is the tanh approximation.
    logits_via_embedding: whether the embedding is the head too. T5X then
      divides the logits by the square root of `emb_dim`, as T5 v1.0 does.
    dropout_rate: while training.
  """

  vocab_size: int
  emb_dim: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  num_encoder_layers: int
  num_decoder_layers: int
  mlp_activations: tuple[str, ...]
  logits_via_embedding: bool
  dropout_rate: float = 0.1

  kind = "T5"

  def in_words(self) -> str:
    return (f"{self.num_encoder_layers} encoder and {self.num_decoder_layers} "
            f"decoder blocks, width {self.emb_dim}, {self.num_heads} heads of "
            f"{self.head_dim}, MLP {self.mlp_dim} "
            f"({', '.join(self.mlp_activations)})")


class DecoderArchitecture(decoder_dimensions.DecoderDimensions):
  """A decoder's dimensions, with its names for people."""

  kind = "decoder"

  def in_words(self) -> str:
    return (f"{self.num_layers} blocks, width {self.emb_dim}, "
            f"{self.num_heads} heads and {self.num_kv_heads} key-value heads "
            f"of {self.head_dim}, MLP {self.mlp_dim} "
            f"({', '.join(self.mlp_activations)})")


# Hugging Face's `model_type` of decoders.
DECODER_FAMILIES = ("llama", "qwen2", "qwen3")
AnyArchitecture = Architecture | DecoderArchitecture


# Attentions of a block with the norms before them, in the order of
# computation; a decoder alone has the first of a decoder's.
_ATTENTIONS = {
    "encoder": {"attention": "pre_attention_layer_norm"},
    "decoder": {"self_attention": "pre_self_attention_layer_norm",
                "encoder_decoder_attention": "pre_cross_attention_layer_norm"}}


def _block_shapes(
    arch: AnyArchitecture, side: str) -> dict[str, tuple[int, ...]]:
  """Shapes of one block, by name below `layers_N`."""
  embed, inner = arch.emb_dim, arch.num_heads * arch.head_dim
  attentions, kv = list(_ATTENTIONS[side].items()), inner
  if isinstance(arch, DecoderArchitecture):
    attentions, kv = attentions[:1], arch.num_kv_heads * arch.head_dim
  shapes: dict[str, tuple[int, ...]] = {}
  for attention, norm in attentions:
    shapes[f"{norm}/scale"] = (embed,)
    for name, size in (("query", inner), ("key", kv), ("value", kv)):
      shapes[f"{attention}/{name}/kernel"] = (embed, size)
      if isinstance(arch, DecoderArchitecture) and arch.qkv_bias:
        shapes[f"{attention}/{name}/bias"] = (size,)
    if isinstance(arch, DecoderArchitecture) and arch.qk_norm:
      for name in ("query_norm", "key_norm"):
        shapes[f"{attention}/{name}/scale"] = (arch.head_dim,)
    shapes[f"{attention}/out/kernel"] = (inner, embed)
  shapes["pre_mlp_layer_norm/scale"] = (embed,)
  for name in ("wi_0", "wi_1") if len(arch.mlp_activations) > 1 else ("wi",):
    shapes[f"mlp/{name}/kernel"] = (embed, arch.mlp_dim)
  return {**shapes, "mlp/wo/kernel": (arch.mlp_dim, embed)}


def parameter_shapes(arch: AnyArchitecture) -> dict[str, tuple[int, ...]]:
  """All parameters of a model in T5X's names, in the order of computation.

  >>> arch = Architecture(vocab_size=128, emb_dim=8, num_heads=2, head_dim=4,
  ...                     mlp_dim=16, num_encoder_layers=1,
  ...                     num_decoder_layers=1, mlp_activations=("relu",),
  ...                     logits_via_embedding=True)
  >>> parameter_shapes(arch)["encoder/layers_0/mlp/wi/kernel"]
  (8, 16)
  """
  t5 = isinstance(arch, Architecture)
  stacks = {"encoder": arch.num_encoder_layers,
            "decoder": arch.num_decoder_layers} if t5 else {
                "decoder": arch.num_layers}
  shapes = {"token_embedder/embedding": (arch.vocab_size, arch.emb_dim)}
  for side, layers in stacks.items():
    if t5:
      shapes[f"{side}/relpos_bias/rel_embedding"] = (
          arch.num_heads, NUM_BUCKETS)
    block = _block_shapes(arch, side)
    for layer in range(layers):
      shapes |= {f"{side}/layers_{layer}/{name}": shape
                 for name, shape in block.items()}
    shapes[f"{side}/{side}_norm/scale"] = (arch.emb_dim,)
  if not arch.logits_via_embedding:
    shapes["decoder/logits_dense/kernel"] = (arch.emb_dim, arch.vocab_size)
  return shapes


def _number_of_layers(names, side: str) -> int:
  matches = (_LAYER.fullmatch(name) for name in names)
  return 1 + max((int(m[2]) for m in matches if m and m[1] == side),
                 default=-1)


def infer(
    shapes: Mapping[str, tuple[int, ...]],
    mlp_activations: tuple[str, ...] | None = None,
    dropout_rate: float = 0.1,
    where: str = "the checkpoint") -> Architecture:
  """Reads the architecture off a parameter tree.

  Args:
    shapes: T5X's names -> shapes.
    mlp_activations: if known; else T5's: gelu if gated, relu if plain.
    dropout_rate: cannot be seen in a tree.
    where: names the checkpoint in errors.

  Raises:
    errors.UserError: the tree is not that of a T5 as T5X's `network` has it.
  """
  def shape(name: str) -> tuple[int, ...]:
    if name not in shapes:
      hint = ""
      if any("/layers/" in n or n.startswith("encoder/encoder/")
             for n in shapes):
        hint = " (its layers are stacked: a scalable T5, not supported)"
      elif not any(n.startswith("encoder/") for n in shapes):
        hint = " (of a decoder alone? `t5x` restores it as it is)"
      raise errors.UserError(
          f"{where} is not a T5 of T5X's `network`: it has no {name}{hint}")
    return tuple(shapes[name])

  vocab_size, emb_dim = shape("token_embedder/embedding")
  num_heads, _ = shape("encoder/relpos_bias/rel_embedding")
  _, inner = shape("encoder/layers_0/attention/query/kernel")
  gated = "encoder/layers_0/mlp/wi_0/kernel" in shapes
  wi = "wi_0" if gated else "wi"
  if mlp_activations is not None and (len(mlp_activations) > 1) != gated:
    raise errors.UserError(
        f"{where} has a {'gated' if gated else 'plain'} MLP, but its "
        f"configuration says mlp_activations = {mlp_activations}")
  arch = Architecture(
      vocab_size=vocab_size, emb_dim=emb_dim, num_heads=num_heads,
      head_dim=inner // num_heads,
      mlp_dim=shape(f"encoder/layers_0/mlp/{wi}/kernel")[1],
      num_encoder_layers=_number_of_layers(shapes, "encoder"),
      num_decoder_layers=_number_of_layers(shapes, "decoder"),
      mlp_activations=mlp_activations or (
          ("gelu", "linear") if gated else ("relu",)),
      logits_via_embedding="decoder/logits_dense/kernel" not in shapes,
      dropout_rate=dropout_rate)
  check_tree(arch, shapes, where)
  return arch


def is_decoder(shapes: Iterable[str]) -> bool:
  """Whether a tree's names are those of a decoder alone."""
  names = set(shapes)
  return "decoder/layers_0/self_attention/query/kernel" in names and not any(
      name.startswith("encoder/") or "relpos_bias" in name
      or "encoder_decoder" in name for name in names)


def check_tree(
    arch: AnyArchitecture, shapes: Mapping[str, tuple[int, ...]],
    where: str) -> None:
  """Raises UserError unless the tree is the architecture's, naming arrays."""
  expected = parameter_shapes(arch)
  for name, shape in expected.items():
    if name not in shapes:
      raise errors.UserError(
          f"{where} lacks the parameter {name}, expected of shape {shape}")
    if tuple(shapes[name]) != shape:
      raise errors.UserError(
          f"{where}: the parameter {name} is of shape {tuple(shapes[name])}, "
          f"expected {shape}")
  unknown = sorted(set(shapes) - set(expected))
  if unknown:
    raise errors.UserError(
        f"{where} has parameters that a {arch.kind} has not: "
        f"{', '.join(unknown[:3])}"
        + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""))
