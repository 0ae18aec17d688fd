"""The layers of the T5 network, under the module name that T5X gives them."""

from stepdistill_jax.embedded_t5x.examples.t5.attention import *  # noqa: F403
from stepdistill_jax.embedded_t5x.examples.t5.linear import *  # noqa: F403
from stepdistill_jax.embedded_t5x.examples.t5.masks import *  # noqa: F403
from stepdistill_jax.embedded_t5x.examples.t5.position_bias import *  # noqa: F403
