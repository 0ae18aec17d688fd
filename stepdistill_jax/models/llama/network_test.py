"""The decoder against itself: packed, looped, cached, all the same values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from t5x import decoding, models as t5x_models

from stepdistill_jax.models import decoder_model
from stepdistill_jax.models.llama import network, rotary
from stepdistill_jax.util import errors
from tests.support import student_fixtures as fixtures

SIZES = dict(num_layers=2, emb_dim=24, head_dim=8, qkv_bias=True)
LENGTH = 12


@pytest.fixture(name="setting", scope="module")
def _setting():
  module = fixtures.tiny_decoder_module(**SIZES)
  model = fixtures.tiny_decoder(module=module)
  params = jax.tree.map(
      # Norms and biases begin at 1 and 0, which would hide them.
      lambda x: x + 0.1 * np.random.default_rng(x.size).normal(size=x.shape),
      fixtures.init_params(model, {}))
  rows = [np.random.default_rng(i).integers(2, fixtures.VOCAB, n)
          for i, n in enumerate((5, 4, 3))]
  return model, params, rows


def _logits(module, params, *arguments, **features):
  return jax.jit(lambda p: module.apply(
      {"params": p}, *arguments, **features))(params)


def test_packed_examples_have_the_logits_that_they_have_alone(setting):
  model, params, rows = setting
  packed = np.concatenate(rows)[None].astype(np.int32)
  segments = np.repeat([1, 2, 3], [len(r) for r in rows])[None]
  positions = np.concatenate([np.arange(len(r)) for r in rows])[None]
  together = _logits(
      model.module, params, packed, packed, decoder_segment_ids=segments,
      decoder_positions=positions)
  alone = [_logits(model.module, params, r[None], r[None])[0] for r in rows]
  np.testing.assert_allclose(
      together[0], np.concatenate(alone), rtol=1e-5, atol=1e-5)
  # Where in the row a token is does not matter, only its position.
  order = np.random.default_rng(0).permutation(packed.shape[1])
  mixed = _logits(
      model.module, params, packed[:, order], packed[:, order],
      decoder_segment_ids=segments[:, order],
      decoder_positions=positions[:, order])
  np.testing.assert_allclose(
      mixed[0], together[0, order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["none", "minimal", "full"])
def test_looped_layers_have_the_same_parameters_and_gradient(setting, policy):
  model, params, rows = setting
  looped = network.Transformer(model.module.config.replace(
      loop_layers=True, remat_policy=policy))
  tree = lambda module: jax.eval_shape(
      module.init, jax.random.PRNGKey(0), rows[0][None], rows[0][None])
  assert jax.tree.map(lambda x: x.shape, tree(looped)["params"]) == (
      jax.tree.map(lambda x: x.shape, tree(model.module)["params"]))
  gradients = [
      jax.jit(jax.grad(lambda p, m=module: jnp.mean(m.apply(
          {"params": p}, rows[0][None], rows[0][None])[..., 1:] ** 2)))(params)
      for module in (model.module, looped)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      b, a, rtol=1e-4, atol=1e-5), *gradients)


def _greedy(model, params, prompt, steps):
  """Tokens after a prompt, each by a forward pass over everything."""
  tokens = list(prompt)
  apply = jax.jit(
      lambda t, real: model.module.apply({"params": params}, t, real))
  while len(tokens) < len(prompt) + steps and tokens[-1] != 1:
    row = np.pad(tokens, (0, LENGTH + steps - len(tokens)))[None]
    tokens.append(int(jnp.argmax(apply(row, row)[0, len(tokens) - 1])))
  return tokens[len(prompt):]


def test_decoding_is_greedy_by_whole_forward_passes(setting):
  model, params, rows = setting
  rows = [*rows, rows[0][:1]]  # A prompt of one token, too.
  prompts = np.stack([np.pad(r, (0, LENGTH - len(r))) for r in rows])
  batch = {"encoder_input_tokens": prompts.astype(np.int32),
           "decoder_target_tokens": np.zeros((len(rows), 7), np.int32)}
  got = jax.jit(model.predict_batch)(params, batch)
  assert got.shape == (len(rows), 7)
  for row, tokens in zip(rows, np.asarray(got)):
    expected = _greedy(model, params, row, 7)
    assert tokens.tolist() == [*expected, *[0] * (7 - len(expected))]
  # A batch's other rows change nothing.
  alone = jax.jit(model.predict_batch)(
      params, {name: value[1:2] for name, value in batch.items()})
  np.testing.assert_array_equal(alone, got[1:2])


def test_beam_search_returns_continuations_of_the_highest_likelihood(setting):
  model, params, rows = setting
  model = fixtures.tiny_decoder(
      module=model.module,
      decode_fn=functools.partial(decoding.beam_search, alpha=0.0))
  prompts = np.stack([np.pad(r, (0, LENGTH - len(r))) for r in rows])
  batch = {"encoder_input_tokens": prompts.astype(np.int32),
           "decoder_target_tokens": np.zeros((len(rows), 4), np.int32)}
  tokens, aux = jax.jit(lambda p, b: model.predict_batch_with_aux(
      p, b, num_decodes=3, return_all_decodes=True))(params, batch)
  for i in range(3):
    targets = tokens[:, i]
    scores = jax.jit(model.score_batch)(params, {
        "encoder_input_tokens": batch["encoder_input_tokens"],
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": (targets > 0).astype(np.float32)})
    found = aux["scores"][:, i] > decoding.NEG_INF  # Else there is none yet.
    assert found.all() or i < 2  # The best is last.
    np.testing.assert_allclose(
        scores[found], aux["scores"][:, i][found], atol=1e-4)


def test_t5xs_own_decoder_only_model_takes_the_network(setting):
  model, params, rows = setting
  plain = t5x_models.DecoderOnlyModel(
      module=model.module, vocabulary=model.output_vocabulary,
      optimizer_def=None)
  tokens = rows[0][None].astype(np.int32)
  batch = {"decoder_input_tokens": tokens, "decoder_target_tokens": tokens,
           "decoder_loss_weights": np.ones(tokens.shape, np.float32)}
  loss, _ = jax.jit(lambda p: plain.loss_fn(p, batch, None))(params)
  logits = _logits(model.module, params, tokens, tokens)
  expected = -jnp.sum(jnp.take_along_axis(
      jax.nn.log_softmax(logits), tokens[..., None], axis=-1))
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_ids_that_are_no_tokens_have_no_probability_and_no_gradient(setting):
  model, params, rows = setting
  module = network.Transformer(
      model.module.config.replace(num_tokens=fixtures.VOCAB - 3))
  tokens = np.minimum(rows[0], fixtures.VOCAB - 3)[None].astype(np.int32)
  probabilities = jax.nn.softmax(_logits(module, params, tokens, tokens))
  assert not np.any(probabilities[..., [0, -2, -1]])
  gradient = jax.jit(jax.grad(lambda p: jnp.sum(jax.nn.log_softmax(
      module.apply({"params": p}, tokens, tokens))[..., 5])))(params)
  head = gradient["decoder"]["logits_dense"]["kernel"]
  assert not np.any(head[:, [0, -2, -1]]) and np.any(head[:, 5])


def test_sequences_are_the_docstrings():
  batch = {"encoder_input_tokens": jnp.array([[7, 8, 9, 0]]),
           "decoder_target_tokens": jnp.array([[4, 5, 0]]),
           "decoder_input_tokens": jnp.array([[0, 4, 5]])}
  got = decoder_model.sequences(batch)
  assert got["decoder_input_tokens"].tolist() == [[7, 8, 9, 0, 9, 4, 5]]
  assert got["decoder_segment_ids"].tolist() == [[1, 1, 0, 0, 1, 1, 0]]
  assert got["decoder_positions"].tolist() == [[0, 1, 2, 3, 2, 3, 1]]


def test_llama3_scaling_keeps_high_frequencies_and_divides_low_ones():
  # Llama 3.1's values.
  common = dict(head_dim=128, theta=500000.0)
  plain = rotary.frequencies(**common)
  scaled = rotary.frequencies(
      **common, scaling="llama3", factor=8.0, low_freq_factor=1.0,
      high_freq_factor=4.0, original_length=8192)
  wavelengths = 2 * np.pi / plain
  np.testing.assert_array_equal(
      scaled[wavelengths < 2048], plain[wavelengths < 2048])
  np.testing.assert_allclose(
      scaled[wavelengths > 8192], plain[wavelengths > 8192] / 8, rtol=1e-6)
  between = (wavelengths > 2048) & (wavelengths < 8192)
  assert np.all((scaled < plain)[between] & (scaled > plain / 8)[between])


@pytest.mark.parametrize("change,expected", [
    (dict(num_kv_heads=3), "must be a multiple of num_kv_heads = 3"),
    (dict(rope_scaling="yarn"), "'yarn' is unknown; known: none, linear"),
    (dict(num_tokens=fixtures.VOCAB), "from 1 to vocab_size - 1 = 63"),
    (dict(dtype="float33"), "dtype 'float33' is none")])
def test_wrong_values_are_refused(change, expected):
  with pytest.raises(errors.UserError, match=expected):
    fixtures.tiny_decoder_module(**change)
