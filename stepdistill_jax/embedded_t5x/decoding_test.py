"""Tests of decoding on networks that are tables of probabilities."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from t5x import decoding

import stepdistill_jax  # noqa: F401  Makes t5x importable.
from stepdistill_jax.embedded_t5x import decoding_state

EOS = 1


def _bigram(seed=0, vocab=5, rows=2):
  """A model whose next token depends on the last one and on the row."""
  rng = np.random.default_rng(seed)
  table = rng.normal(size=(rows, vocab, vocab)).astype(np.float32) * 2
  table[:, :, 0] = -1e9  # Padding is never sampled.
  return table


def _tokens_to_logits(table, decodes=1):
  """Flat rows are batch * decodes; the cache counts calls."""
  rows = jnp.repeat(jnp.arange(table.shape[0]), decodes)

  def call(state):
    logits = jnp.asarray(table)[rows, state.cur_token[:, 0]]
    return logits, {"cache_index": state.cache["cache_index"] + 1}

  return call


def _cache():
  return {"cache_index": jnp.zeros((), jnp.int32)}


def _log_prob(table, sequence):
  total, last = 0.0, 0
  log_probs = jax.nn.log_softmax(table)
  for token in sequence:
    total += float(log_probs[last, token])
    last = token
    if token == EOS:
      break
  return total


def _all_sequences(vocab, length):
  """All that end with EOS, padded."""
  for n in range(1, length + 1):
    for middle in itertools.product(range(2, vocab), repeat=n - 1):
      yield list(middle) + [EOS] + [0] * (length - n)


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_wide_beam_search_is_exhaustive_search(alpha):
  table, length, beams = _bigram(), 4, 40
  seqs, scores = decoding.beam_search(
      jnp.zeros((2, length), jnp.int32), _cache(),
      _tokens_to_logits(table, beams), EOS, num_decodes=beams, alpha=alpha)
  for row in range(2):
    ranked = sorted(
        (_log_prob(table[row], s) / ((5 + s.index(EOS) + 1) / 6) ** alpha, s)
        for s in _all_sequences(5, length))
    for place in range(1, 6):
      score, sequence = ranked[-place]
      assert seqs[row, -place].tolist() == sequence
      np.testing.assert_allclose(scores[row, -place], score, rtol=1e-5)


def test_one_beam_without_penalty_that_finishes_is_greedy():
  table = _bigram(3)
  inputs = jnp.zeros((2, 6), jnp.int32)
  greedy, greedy_scores = decoding.temperature_sample(
      inputs, _cache(), _tokens_to_logits(table), EOS,
      rescale_log_probs=False)
  table[:, :, EOS] += np.where(table.argmax(-1) == EOS, 50, -50)
  sharp, _ = decoding.temperature_sample(
      inputs, _cache(), _tokens_to_logits(table), EOS)
  np.testing.assert_array_equal(greedy, sharp)
  beam, _ = decoding.beam_search(
      inputs, _cache(), _tokens_to_logits(table), EOS, num_decodes=1)
  np.testing.assert_array_equal(beam, greedy)
  for row in range(2):
    np.testing.assert_allclose(
        greedy_scores[row, 0], _log_prob(_bigram(3)[row], greedy[row, 0]),
        rtol=1e-5)


def test_prompts_are_kept_and_continued():
  table = _bigram(1)
  inputs = jnp.array([[0, 3, 2, 0, 0, 0], [0, 4, 0, 0, 0, 0]])
  out, _ = decoding.temperature_sample(
      inputs, _cache(), _tokens_to_logits(table), EOS)
  assert out[0, 0, :2].tolist() == [3, 2] and out[1, 0, 0] == 4
  best_after = int(table[0, 2].argmax())
  assert out[0, 0, 2] == best_after
  beams, _ = decoding.beam_search(
      inputs, _cache(), _tokens_to_logits(table, 3), EOS, num_decodes=3)
  assert (np.asarray(beams[0, :, :2]) == [3, 2]).all()


def test_loop_stops_when_every_row_has_ended():
  table = np.full((2, 5, 5), -9.0, np.float32)
  table[:, 0, 3] = table[:, 3, EOS] = 9.0  # 3, then the end.
  steps = []

  def count(state):
    jax.debug.callback(lambda step: steps.append(int(step)), state.step)
    return state

  out, _ = decoding.temperature_sample(
      jnp.zeros((2, 50), jnp.int32), _cache(), _tokens_to_logits(table), EOS,
      state_callback_fn=count)
  jax.effects_barrier()
  assert out[0, 0, :3].tolist() == [3, EOS, 0]
  assert max(steps) == 2  # Two tokens were sampled, not 50.


def test_sampling_follows_the_distribution():
  table = np.zeros((1, 4, 4), np.float32)
  table[0, 0] = np.log([1e-9, 0.5, 0.3, 0.2])
  draw = lambda **kw: np.bincount(np.asarray(decoding.temperature_sample(
      jnp.zeros((1, 1), jnp.int32), _cache(), _tokens_to_logits(table, 4000),
      EOS, num_decodes=4000, decode_rng=jax.random.PRNGKey(3),
      **kw)[0]).ravel(), minlength=4) / 4000
  # 4000 draws: a standard deviation of 0.008.
  np.testing.assert_allclose(draw(topk=0), [0, .5, .3, .2], atol=0.03)
  np.testing.assert_allclose(
      draw(topk=2), [0, .625, .375, 0], atol=0.03)
  np.testing.assert_allclose(
      draw(topk=0, topp=0.6), [0, .625, .375, 0], atol=0.03)
  np.testing.assert_allclose(draw(topk=0, temperature=0.0), [0, 1, 0, 0])
  flat = draw(topk=0, temperature=0.5)
  expected = np.array([0, .25, .09, .04]) / .38
  np.testing.assert_allclose(flat, expected, atol=0.03)


def test_temperature_of_each_row():
  table = np.zeros((2, 4, 4), np.float32)
  table[:, 0] = np.log([1e-9, 0.5, 0.3, 0.2])
  out, log_prob = decoding.temperature_sample(
      jnp.zeros((2, 1), jnp.int32), _cache(), _tokens_to_logits(table, 300),
      EOS, num_decodes=300, topk=0, temperature=jnp.array([0.0, 1.0]),
      rescale_log_probs=False)
  assert set(np.asarray(out[0]).ravel()) == {EOS}
  counts = np.bincount(np.asarray(out[1]).ravel(), minlength=4) / 300
  np.testing.assert_allclose(counts, [0, .5, .3, .2], atol=0.1)
  np.testing.assert_allclose(log_prob[0], np.log(0.5), rtol=1e-5)
  assert (np.diff(log_prob[1]) >= 0).all()  # The most likely comes last.


def test_rescaled_log_probs_of_topk_one_are_zero():
  _, log_prob = decoding.temperature_sample(
      jnp.zeros((2, 4), jnp.int32), _cache(), _tokens_to_logits(_bigram()),
      EOS)
  np.testing.assert_array_equal(log_prob, 0)


def test_max_decode_steps_count_from_the_prompt():
  table = np.full((2, 5, 5), -9.0, np.float32)
  table[:, :, 4] = 9.0  # Never ends by itself.
  inputs = jnp.array([[0, 3, 3, 0, 0, 0, 0], [0, 3, 0, 0, 0, 0, 0]])
  sample = lambda **kw: decoding.temperature_sample(
      inputs, _cache(), _tokens_to_logits(table), EOS, **kw)[0][:, 0].tolist()
  assert sample(max_decode_steps=2) == [
      [3, 3, 4, 4, 0, 0, 0], [3, 4, 4, 0, 0, 0, 0]]
  assert sample(max_decode_steps=5, max_decode_steps_hard_limit=1) == [
      [3, 3, 4, 0, 0, 0, 0], [3, 4, 0, 0, 0, 0, 0]]
  # Also where the cache holds a part of the prompt alone.
  assert sample(max_decode_steps=2, initial_index=jnp.array([0, 1])) == [
      [3, 3, 4, 4, 0, 0, 0], [3, 4, 4, 0, 0, 0, 0]]
  with pytest.raises(ValueError, match="max_decode_steps=9"):
    sample(max_decode_steps=9)


def test_beam_search_takes_numpy_arrays():
  table = _bigram()
  inputs = np.array([[0, 3, 0, 0], [0, 2, 4, 0]], np.int32)
  search = lambda inputs: decoding.beam_search(
      inputs, {"cache_index": np.zeros(2, np.int32)},
      _tokens_to_logits(table, 2), EOS, num_decodes=2,
      initial_index=np.array([1, 2]))
  np.testing.assert_array_equal(search(inputs)[0],
                                search(jnp.asarray(inputs))[0])


def test_topk_and_topp_exclude_each_other():
  with pytest.raises(ValueError, match="topk=2, topp=0.5"):
    decoding.temperature_sample(
        jnp.zeros((2, 4), jnp.int32), _cache(),
        _tokens_to_logits(_bigram()), EOS, topk=2, topp=0.5)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_topk_mask_equals_sorting(k):
  x = np.random.default_rng(k).normal(size=(4, 7)).astype(np.float32) * 100
  expected = np.where(x >= np.sort(x)[:, -k, None], x, -7.0)
  np.testing.assert_array_equal(decoding.topk_mask(x, k, -7.0), expected)
  # k may be known at run time only.
  np.testing.assert_array_equal(
      jax.jit(decoding.topk_mask)(x, k, -7.0), expected)


def test_topp_mask_equals_sorting():
  x = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)
  masked = np.asarray(decoding.topp_mask(x, 0.7, -99.0))
  probs = np.asarray(jax.nn.softmax(x))
  for row in range(6):
    order = np.argsort(-probs[row])
    kept = np.searchsorted(np.cumsum(probs[row][order]), 0.7) + 1
    assert set(np.flatnonzero(masked[row] != -99.0)) == set(order[:kept])


def test_beams_beside_each_other():
  x = jnp.arange(6.0).reshape(2, 3)
  expanded = decoding.flat_batch_beam_expand(x, 2)
  np.testing.assert_array_equal(
      expanded, [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]])
  np.testing.assert_array_equal(
      decoding.unflatten_beam_dim(expanded, 2, 2)[:, 1], x)
  stacked = jnp.stack([x, x + 10])  # [layers, batch, ...]
  np.testing.assert_array_equal(
      decoding.flat_batch_beam_expand(stacked, 2, 1)[1], expanded + 10)
  picked = decoding.gather_beams(
      decoding.unflatten_beam_dim(expanded, 2, 2) + jnp.array([0, 100])[
          :, None], jnp.array([[1, 1], [0, 1]]))
  np.testing.assert_array_equal(picked[:, :, 0], [[100, 100], [3, 103]])


def test_min_log_prob_ends_a_hopeless_search():
  table = np.zeros((1, 50, 50), np.float32)  # Each token costs log 50.
  table[:, :, EOS] = -30.0
  run = lambda limit: decoding.beam_search(
      jnp.zeros((1, 12), jnp.int32), _cache(), _tokens_to_logits(table, 2),
      EOS, num_decodes=2, min_log_prob=limit)[0]
  assert (np.asarray(run(-1e7)) != 0).sum(-1).max() == 12
  assert (np.asarray(run(-10.0)) != 0).sum(-1).max() == 3
  steps = decoding.beam_search(
      jnp.zeros((1, 12), jnp.int32), _cache(), _tokens_to_logits(table, 2),
      EOS, num_decodes=2, max_decode_step=4)[0]
  assert (np.asarray(steps) != 0).sum(-1).max() == 4


@pytest.mark.parametrize("size", [5, 128, 256, 1024, 1000])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_is_that_of_lax(size, k):
  """Of few different numbers: most of the largest have equals."""
  rng = np.random.default_rng(size + k)
  for most in (3, 50, 10 ** 6):
    x = jnp.asarray(rng.integers(0, most, (40, size)), jnp.float32)
    x = x.at[0].set(-jnp.inf)
    for got, expected in zip(decoding_state.top_k(x, k), jax.lax.top_k(x, k)):
      np.testing.assert_array_equal(got, expected)
