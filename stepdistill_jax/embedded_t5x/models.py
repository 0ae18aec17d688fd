"""Models, under the module name that T5X gives them."""

from stepdistill_jax.embedded_t5x.base_models import (  # noqa: F401
    BaseModel,
    BaseTransformerModel,
    DecodeFnCallable,
    get_input_vocabulary,
    get_output_vocabulary,
    TokensIdsToLogitsCallable,
)
from stepdistill_jax.embedded_t5x.decoder_only import (  # noqa: F401
    DecoderOnlyModel,
    remove_prefix,
)
from stepdistill_jax.embedded_t5x.encoder_decoder import (  # noqa: F401
    DecoderParams,
    EncoderDecoderModel,
)
from stepdistill_jax.embedded_t5x.metrics import MetricsMap  # noqa: F401
from stepdistill_jax.embedded_t5x.model_metrics import (  # noqa: F401
    compute_base_metrics,
    compute_metrics,
    compute_weighted_accuracy,
    count_packed_examples,
)
