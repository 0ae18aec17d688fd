"""Tests of models: loss, scores, predictions, metrics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

import stepdistill_jax  # noqa: F401  Makes t5x importable.
from stepdistill_jax.embedded_t5x import test_utils
from stepdistill_jax.embedded_t5x.examples.decoder_only import network
from t5x import decoding
from t5x import models

BATCH = test_utils.make_batch(1)


@functools.cache
def _params():
  return test_utils.initial_variables(test_utils.make_model())["params"]


def _metric(metrics, name):
  return float(metrics[name].compute())


def test_loss_is_minus_the_scores():
  model = test_utils.make_model(z_loss=0.0)
  loss, metrics = jax.jit(model.eval_fn)(_params(), BATCH)
  scores = jax.jit(model.score_batch)(_params(), BATCH)
  np.testing.assert_allclose(loss, -np.sum(scores), rtol=1e-6)
  real = BATCH["decoder_loss_weights"].sum()
  assert _metric(metrics, "loss_per_nonpadding_target_token") == pytest.approx(
      float(loss) / real, rel=1e-6)
  assert _metric(metrics, "effective_batch_size/decoder_target_tokens") == 8
  np.testing.assert_allclose(
      _metric(metrics, "non_padding_fraction/loss_weights"),
      real / BATCH["decoder_target_tokens"].size, rtol=1e-6)


def test_packed_loss_equals_unpacked():
  model = test_utils.make_model(loss_normalizing_factor="AVERAGE_PER_SEQUENCE")
  packed = test_utils.make_batch(2, packed=True)
  eval_fn = jax.jit(model.eval_fn)
  loss, metrics = eval_fn(_params(), packed)
  expected, _ = eval_fn(_params(), test_utils.unpack(packed))
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  assert _metric(metrics, "effective_batch_size/encoder") == 16


def test_metrics_merge_like_one_batch():
  model = test_utils.make_model()
  eval_fn = jax.jit(model.eval_fn)
  halves = [{k: v[i:i + 4] for k, v in BATCH.items()} for i in (0, 4)]
  parts = [eval_fn(_params(), half)[1] for half in halves]
  _, whole = jax.jit(model.eval_fn)(_params(), BATCH)
  for name in ("accuracy", "z_loss", "cross_ent_loss_per_all_target_tokens",
               "loss_per_nonpadding_target_token",
               "non_padding_fraction/overall"):
    merged = parts[0][name].merge(parts[1][name])
    if hasattr(merged, "replace_steps"):
      merged = merged.replace_steps(1)  # Microbatches are one step.
    assert float(merged.compute()) == pytest.approx(
        _metric(whole, name), rel=1e-5), name


def test_padding_counts_nothing():
  model = test_utils.make_model()
  eval_fn = jax.jit(model.eval_fn)
  padded = {k: np.pad(v, ((0, 8), (0, 0))) for k, v in BATCH.items()}
  loss, _ = eval_fn(_params(), BATCH)
  padded_loss, _ = eval_fn(_params(), padded)
  np.testing.assert_allclose(loss, padded_loss, rtol=1e-6)


def test_dropout_is_for_training_only():
  model = test_utils.make_model(config=dict(dropout_rate=0.5))
  loss_fn = jax.jit(lambda key: model.loss_fn(_params(), BATCH, key)[0])
  a, b = (loss_fn(jax.random.PRNGKey(i)) for i in range(2))
  assert a != b
  np.testing.assert_array_equal(
      model.loss_fn(_params(), BATCH, None)[0],
      model.eval_fn(_params(), BATCH)[0])


def test_scores_with_intermediates():
  model = test_utils.make_model()
  scores, intermediates = model.score_batch(
      _params(), BATCH, return_intermediates=True)
  token_scores, = intermediates["decoder"]["token_scores"]
  np.testing.assert_allclose(token_scores.sum(-1), scores, rtol=1e-6)
  np.testing.assert_array_equal(
      intermediates["decoder"]["target_tokens"][0],
      BATCH["decoder_target_tokens"])


@pytest.mark.parametrize("num_decodes", [1, 4])
def test_scores_of_decodes_are_their_log_probabilities(num_decodes):
  """What beam search says of a sequence is what `score_batch` says."""
  model = test_utils.make_model()
  tokens, aux = jax.jit(lambda p: model.predict_batch_with_aux(
      p, BATCH, num_decodes=num_decodes, decoder_params={"alpha": 0.0}))(
          _params())
  tokens = np.asarray(tokens)
  decoded = dict(
      BATCH, decoder_target_tokens=tokens,
      decoder_input_tokens=np.pad(tokens, ((0, 0), (1, 0)))[:, :-1],
      decoder_loss_weights=(tokens > 0).astype(np.float32))
  scores = jax.jit(model.score_batch)(_params(), decoded)
  np.testing.assert_allclose(aux["scores"], scores, atol=1e-4)


def test_best_is_last_and_defaults_are_taken():
  model = test_utils.make_model(default_decoder_params=models.DecoderParams(
      num_decodes=3, return_all_decodes=True))
  predict = jax.jit(model.predict_batch_with_aux)
  tokens, aux = predict(_params(), BATCH)
  assert tokens.shape == (8, 3, test_utils.DECODER_LENGTH)
  assert (np.diff(aux["scores"], axis=1) >= 0).all()
  best = jax.jit(functools.partial(
      model.predict_batch_with_aux, return_all_decodes=False))
  np.testing.assert_array_equal(best(_params(), BATCH)[0], tokens[:, -1])


def test_prompts_of_targets():
  model = test_utils.make_model()
  batch = dict(BATCH, decoder_input_tokens=np.where(
      np.arange(test_utils.DECODER_LENGTH) < 3,
      BATCH["decoder_input_tokens"], 0))
  tokens, _ = jax.jit(functools.partial(
      model.predict_batch_with_aux, prompt_with_targets=True))(
          _params(), batch)
  np.testing.assert_array_equal(
      tokens[:, :2], batch["decoder_input_tokens"][:, 1:3])


def test_one_compilation_a_shape():
  model = test_utils.make_model(decode_fn=decoding.temperature_sample)
  predict = jax.jit(model.predict_batch)
  for seed in range(3):
    predict(_params(), test_utils.make_batch(seed), jax.random.PRNGKey(seed))
  assert predict._cache_size() == 1


def test_a_key_is_given_once():
  model = test_utils.make_model()
  key = jax.random.PRNGKey(0)
  with pytest.raises(ValueError, match="twice"):
    model.predict_batch_with_aux(
        _params(), BATCH, key, decoder_params={"decode_rng": key})


def test_feature_converter_can_be_replaced():
  model = test_utils.make_model(
      feature_converter_cls=seqio.PrePackedEncDecFeatureConverter)
  assert model.FEATURE_CONVERTER_CLS is seqio.PrePackedEncDecFeatureConverter
  assert (models.EncoderDecoderModel.FEATURE_CONVERTER_CLS
          is seqio.EncDecFeatureConverter)
  assert models.get_output_vocabulary(model).eos_id == 1


def test_count_packed_examples():
  segments = jnp.array([[1, 1, 3, 3, 0, 0], [2] * 6, [2, 7, 7, 7, 7, 0]])
  assert models.count_packed_examples(segments) == 5


def _decoder_only(**arguments):
  module = network.DecoderWrapper(network.TransformerConfig(
      vocab_size=test_utils.VOCAB_SIZE, emb_dim=16, num_heads=2, num_layers=2,
      head_dim=6, mlp_dim=32, mlp_activations=("gelu", "linear")))
  return models.DecoderOnlyModel(
      module, test_utils.make_vocabulary(), None, **arguments)


def _prefix_batch():
  """Inputs of 2 to 5 tokens, then targets, in one sequence."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(2, test_utils.VOCAB_SIZE, (4, 9)).astype(np.int32)
  lengths = np.array([[2], [3], [4], [5]])
  return {
      "decoder_target_tokens": tokens,
      "decoder_input_tokens": np.pad(tokens, ((0, 0), (1, 0)))[:, :-1],
      "decoder_causal_attention": (
          np.arange(9) <= lengths).astype(np.int32),
      "decoder_loss_weights": (np.arange(9) >= lengths).astype(np.float32),
  }


@pytest.mark.parametrize("both_ways", [False, True])
def test_decoder_only_continues_its_prompts(both_ways):
  """Decoding with a prefilled cache equals looking at all tokens anew."""
  model = _decoder_only(inputs_bidirectional_attention=both_ways)
  batch = _prefix_batch()
  params = jax.jit(lambda key: model.get_initial_variables(
      key, {k: v.shape for k, v in batch.items()}))(
          jax.random.PRNGKey(0))["params"]
  decoded = np.asarray(jax.jit(model.predict_batch)(params, batch))
  logits_of = jax.jit(model._compute_logits)
  lengths = batch["decoder_causal_attention"].sum(1) - 1
  sequences = np.zeros((4, 9), np.int32)
  for row, n in enumerate(lengths):
    sequences[row, :n] = batch["decoder_target_tokens"][row, :n]
  for place in range(9):  # Greedy, one position after the other.
    logits = logits_of(params, dict(
        batch, decoder_target_tokens=np.where(sequences == 0, 2, sequences),
        decoder_input_tokens=np.pad(sequences, ((0, 0), (1, 0)))[:, :-1]))
    new = np.argmax(logits[:, place], -1)
    sequences[:, place] = np.where(place < lengths, sequences[:, place], new)
  for row, n in enumerate(lengths):
    expected = sequences[row, n:]
    end = np.flatnonzero(expected == 1)
    expected = expected[:end[0] + 1] if end.size else expected
    assert decoded[row, :len(expected)].tolist() == expected.tolist()
    assert not decoded[row, len(expected):].any()


def test_decoder_only_needs_to_know_its_inputs():
  model = _decoder_only(inputs_bidirectional_attention=True)
  batch = _prefix_batch()
  del batch["decoder_causal_attention"]
  for call in (model.score_batch, model.predict_batch):
    with pytest.raises(ValueError, match="both inputs and targets"):
      call({}, batch)


def test_remove_prefix():
  sequences = jnp.arange(1, 13).reshape(2, 2, 3)
  np.testing.assert_array_equal(
      models.remove_prefix(sequences, jnp.array([1, 0])),
      [[[2, 3, 0], [5, 6, 0]], [[7, 8, 9], [10, 11, 12]]])
