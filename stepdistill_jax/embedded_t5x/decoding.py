"""Decoding, under the module name that T5X gives it."""

from stepdistill_jax.embedded_t5x.beam_search import (  # noqa: F401
    beam_search,
    BeamState,
    brevity_penalty,
    NEG_INF,
    NEG_INF_VALUE,
)
from stepdistill_jax.embedded_t5x.decoding_state import (  # noqa: F401
    add_beam_dim,
    cache_map,
    DecodingState,
    flat_batch_beam_expand,
    flatten_beam_dim,
    gather_beams,
    TokensToLogits,
    unflatten_beam_dim,
)
from stepdistill_jax.embedded_t5x.sampling import (  # noqa: F401
    LogitCallbackFn,
    MIN_TEMPERATURE,
    SamplingLoopState,
    StateCallbackFn,
    temperature_sample,
    topk_mask,
    topp_mask,
)
