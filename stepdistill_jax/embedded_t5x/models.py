"""Models, under the module name that T5X gives them."""

import jax

from stepdistill_jax.embedded_t5x.base_models import *  # noqa: F403
from stepdistill_jax.embedded_t5x.decoder_only import *  # noqa: F403
from stepdistill_jax.embedded_t5x.encoder_decoder import *  # noqa: F403
from stepdistill_jax.embedded_t5x.model_metrics import *  # noqa: F403

PyTreeDef = jax.tree_util.PyTreeDef
