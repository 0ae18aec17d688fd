"""The formulas against the matrix products of an unrolled program."""

import re

import jax
import jax.numpy as jnp
import pytest
from t5x.examples.t5 import network

from stepdistill_jax.plan import flops
from tests.support import tiny_models

_BATCH = tiny_models.make_batch(0)
ROWS = len(_BATCH["encoder_input_tokens"])
INPUTS, TARGETS = tiny_models.ENCODER_LENGTH, tiny_models.DECODER_LENGTH


def _program_flops(config, backward: bool) -> tuple[int, network.T5Config]:
  model = tiny_models.make_model(network, config)
  variables = jax.eval_shape(
      lambda rng: model.get_initial_variables(
          rng, {k: v.shape for k, v in _BATCH.items()}), jax.random.PRNGKey(0))
  loss = lambda p, batch: model.loss_fn(p, batch, None)[0]
  program = jax.grad(loss) if backward else loss
  jaxpr = jax.make_jaxpr(program)(variables["params"], _BATCH)
  assert not re.search(r"\b(scan|while)\[", str(jaxpr)), "not unrolled"
  return flops.program_flops(jaxpr), model.module.config


@pytest.mark.parametrize("config", [
    {}, {"mlp_activations": ("relu",)},
    {"num_encoder_layers": 3, "num_decoder_layers": 1, "head_dim": 5}])
def test_formulas_are_exact_for_an_unrolled_program(config):
  counted, built = _program_flops(config, backward=False)
  # Position biases multiply a one-hot matrix: they are not the formulas'.
  biases = 2 * 32 * built.num_heads * (INPUTS**2 + TARGETS**2)
  forward = flops.forward(built, ROWS, INPUTS, TARGETS)
  assert counted in (forward, forward + biases)
  extra = counted - forward
  counted, _ = _program_flops(config, backward=True)
  # Going backward the one-hot matrix has no gradient: one product more. And
  # a TPU's gradient of the embeddings is a product.
  embeddings = 2 * ROWS * (INPUTS + TARGETS) * (
      built.vocab_size * built.emb_dim)
  assert counted - flops.train(
      built, ROWS, INPUTS, TARGETS) == 2 * extra + embeddings


def test_decoding_is_a_forward_pass_whose_steps_see_the_whole_cache():
  config = network.T5Config(
      vocab_size=64, emb_dim=16, num_heads=2, head_dim=6, mlp_dim=32,
      mlp_activations=("gelu", "linear"), num_encoder_layers=2,
      num_decoder_layers=2)
  one = flops.decode(config, 1, INPUTS, 1)
  assert one == flops.forward(config, 1, INPUTS, 1)
  assert flops.decode(config, 3, INPUTS, 5, beams=2) < 6 * flops.forward(
      config, 1, INPUTS, 5)


def test_turns_of_loops_and_what_is_computed_again_count():
  w = jnp.ones([3, 4, 4])

  def loss(w, policy):
    def layer(x, w):
      return jnp.tanh(x @ w), None
    if policy:
      layer = jax.checkpoint(layer, policy=policy)
    return jax.lax.scan(layer, jnp.ones([2, 4]), w)[0].sum()

  def counted(policy):
    return flops.program_flops(
        jax.make_jaxpr(jax.grad(lambda w: loss(w, policy)))(w))

  product = 3 * 2 * 2 * 4 * 4
  assert counted(None) == 3 * product
  assert counted(jax.checkpoint_policies.everything_saveable) == 3 * product
  assert counted(jax.checkpoint_policies.nothing_saveable) == 4 * product
