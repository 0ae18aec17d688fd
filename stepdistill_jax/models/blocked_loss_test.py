"""What logits in blocks are: the same loss, of networks that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from t5x.examples.t5 import network as t5_network

from stepdistill_jax.distributed import device_mesh
from stepdistill_jax.models import blocked_loss, losses
from tests.support import exactness, student_fixtures as fixtures


class _Capped(t5_network.Transformer):
  """A network whose logits are something else than its head's."""

  def decode(self, *arguments, **options):
    return jnp.tanh(super().decode(*arguments, **options))


@pytest.mark.parametrize("label_smoothing, z_loss", [(0.0, 0.0), (0.1, 0.01)])
@pytest.mark.parametrize("block", [1, 7, 64, None])
def test_equals_the_loss_of_all_logits(label_smoothing, z_loss, block):
  rng = np.random.default_rng(0)
  rows, length, embed, vocab = 3, 11, 5, 13
  hidden = jnp.asarray(rng.normal(size=(rows, length, embed)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(embed, vocab)), jnp.float32)
  targets = jnp.asarray(rng.integers(0, vocab, (rows, length)))
  counts = jnp.asarray(rng.normal(size=(rows, length)), jnp.float32)
  has_weight = jnp.asarray(rng.random((rows, length)) < 0.4)
  is_token = np.arange(vocab) > 1
  options = dict(label_smoothing=label_smoothing, z_loss=z_loss)

  def plain(hidden, kernel):
    logits = jnp.where(is_token, hidden @ kernel, blocked_loss.NO_TOKEN)
    tokens = losses.token_loss(logits, targets, **options)
    loss = jnp.sum(jnp.where(has_weight, counts, 0) * sum(tokens))
    return loss, blocked_loss.Result(
        loss, losses.TokenLoss(*(
            jnp.where(has_weight, x, 0) for x in tokens)),
        (jnp.argmax(logits, axis=-1) == targets) & has_weight)

  def in_blocks(hidden, kernel, trained=True):
    result = blocked_loss.weighted_loss(
        hidden, blocked_loss.Head(kernel, is_token), targets, counts,
        has_weight, block=block, head_is_trained=trained, **options)
    return result.loss, result

  expected, got = (
      jax.jit(jax.value_and_grad(function, (0, 1), has_aux=True))(
          hidden, kernel) for function in (plain, in_blocks))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(
      x, y, rtol=1e-5, atol=1e-6), got, expected)
  jax.tree.map(  # As an evaluation has it, without a gradient.
      np.testing.assert_array_equal, jax.jit(in_blocks)(hidden, kernel),
      got[0])
  frozen = jax.jit(jax.grad(
      lambda h, k: in_blocks(h, k, trained=False)[0], (0, 1)))(hidden, kernel)
  np.testing.assert_array_equal(frozen[0], got[1][0])
  assert not np.any(frozen[1])


def test_no_array_of_all_logits_is_in_the_program(monkeypatch):
  monkeypatch.setattr(blocked_loss, "BLOCK_LOGITS", 16 * fixtures.VOCAB)
  batch = fixtures.paired_batch(fixtures.random_pairs(0, 16))
  count = batch["decoder_target_tokens"].size
  largest = {}
  for in_blocks in (False, True):
    model = fixtures.tiny_student(logits_in_blocks=in_blocks)
    params = fixtures.init_params(model, batch)
    # But for the embeddings: on TPUs their gradient is a product of this size.
    program = jax.make_jaxpr(jax.grad(
        lambda p, m=model, rest=params: m.loss_fn(
            {**rest, "decoder": p}, batch, None)[0]))(params["decoder"])
    largest[in_blocks] = max(_sizes_of_logits(program.jaxpr))
  assert largest == {False: count, True: 16}


def _sizes_of_logits(jaxpr):
  """Rows of all arrays of a program whose last axis is the vocabulary."""
  for equation in jaxpr.eqns:
    for variable in equation.outvars:
      *rows, last = (0, *variable.aval.shape)
      if last == fixtures.VOCAB and len(rows) > 2:
        yield int(np.prod(rows[1:]))
    for value in jax.tree.leaves(list(equation.params.values())):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        yield from _sizes_of_logits(inner)


@pytest.mark.parametrize("tied", [False, True])
def test_a_network_that_does_more_keeps_its_logits(tied):
  config = fixtures.tiny_module(logits_via_embedding=tied).config
  batch = fixtures.joined_batch(fixtures.random_pairs(0, 4))
  plain, in_blocks = (
      fixtures.tiny_student(module=_Capped(config), logits_in_blocks=value)
      for value in (False, True))
  params = fixtures.init_params(plain, batch)
  jax.tree.map(
      np.testing.assert_array_equal,
      fixtures.value_and_grad(plain)(params, batch)[::2],
      fixtures.value_and_grad(in_blocks)(params, batch)[::2])


@pytest.mark.parametrize("make, module", [
    (fixtures.tiny_student, fixtures.tiny_module()),
    (fixtures.tiny_student, fixtures.tiny_module(logits_via_embedding=True)),
    (fixtures.tiny_decoder, fixtures.tiny_decoder_module())],
    ids=["untied", "tied", "decoder"])
def test_students_have_the_same_loss_in_blocks(monkeypatch, make, module):
  monkeypatch.setattr(blocked_loss, "BLOCK_LOGITS", 16 * fixtures.VOCAB)
  batch = fixtures.joined_batch(fixtures.random_pairs(0, 16))
  plain, in_blocks = (make(module=module, logits_in_blocks=value)
                      for value in (False, True))
  params = fixtures.init_params(plain, batch)
  expected, got = (fixtures.value_and_grad(model)(params, batch)
                   for model in (plain, in_blocks))
  np.testing.assert_allclose(got[0], expected[0], rtol=1e-6)
  assert exactness.relative_difference(got[2], expected[2]) < 1e-6
  for name, value in expected[1].items():
    if not name.startswith("timing/"):
      np.testing.assert_allclose(
          got[1][name], value, rtol=1e-6, err_msg=name)


def test_blocks_are_for_accelerators(monkeypatch):
  assert not blocked_loss.pay_here()
  monkeypatch.setattr(device_mesh, "on_accelerators", lambda: True)
  assert blocked_loss.pay_here()
  monkeypatch.setattr(device_mesh, "devices_here", lambda: [None] * 2)
  assert not blocked_loss.pay_here()
