"""The layers of the T5 network, under the module name that T5X gives them."""

from stepdistill_jax.embedded_t5x.examples.t5.attention import (  # noqa: F401
    dot_product_attention,
    MultiHeadDotProductAttention,
)
from stepdistill_jax.embedded_t5x.examples.t5.linear import (  # noqa: F401
    DenseGeneral,
    Embed,
    LayerNorm,
    MlpBlock,
)
from stepdistill_jax.embedded_t5x.examples.t5.masks import (  # noqa: F401
    combine_biases,
    combine_masks,
    make_attention_mask,
    make_causal_mask,
    make_decoder_mask,
)
from stepdistill_jax.embedded_t5x.examples.t5.position_bias import (  # noqa: F401
    relative_position_bucket,
    RelativePositionBiases,
)
