"""The dimensions of a decoder, as network, gin files and imports state them."""

from collections.abc import Sequence
import dataclasses


@dataclasses.dataclass(frozen=True)
class DecoderDimensions:
  """What makes one decoder of the Llama family differ from another.

  Attributes:
    vocab_size: rows of the embedding.
    emb_dim: width of the residual stream.
    num_heads: of queries.
    num_kv_heads: key-value heads; each serves num_heads / num_kv_heads query
      heads.
    head_dim: width of a head.
    mlp_dim: hidden width of an MLP.
    num_layers: blocks.
    mlp_activations: of the two matrices whose products are multiplied.
    num_tokens: the last id that is a token; None is all but id 0.
    rms_norm_epsilon: added to the mean of squares.
    rope_theta: base of the rotary positions' frequencies.
    rope_scaling: 'none', 'linear' or 'llama3', see
      `models.llama.rotary.frequencies`, also for the values of `rope_...` that
      belong to it.
    logits_via_embedding: whether the embedding is the head too.
    qkv_bias: biases of query, key and value, as in Qwen 2.5.
    qk_norm: norms of queries and keys, as in Qwen 3.
  """

  vocab_size: int
  emb_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  num_layers: int
  mlp_activations: Sequence[str] = ("silu", "linear")
  num_tokens: int | None = None
  rms_norm_epsilon: float = 1e-5
  rope_theta: float = 10000.0
  rope_scaling: str = "none"
  rope_factor: float = 1.0
  rope_low_freq_factor: float = 1.0
  rope_high_freq_factor: float = 4.0
  rope_original_length: int = 8192
  logits_via_embedding: bool = False
  qkv_bias: bool = False
  qk_norm: bool = False

  @property
  def last_token(self) -> int:
    return (self.vocab_size - 1 if self.num_tokens is None
            else self.num_tokens)
