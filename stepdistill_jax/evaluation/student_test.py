"""Tests of students: the same answers in any batch, scores that add up."""

import functools

import jax
import numpy as np
import pytest
import seqio
from t5x import models, partitioning
from t5x.examples.t5 import network

from stepdistill_jax.data import batching
from stepdistill_jax.evaluation import cost, student as student_lib
from stepdistill_jax.interop import rebuilding

LENGTH = 12


@pytest.fixture(name="model", scope="module")
def _model():
  config = network.T5Config(
      vocab_size=128, emb_dim=16, num_heads=2, num_encoder_layers=1,
      num_decoder_layers=1, head_dim=8, mlp_dim=32,
      mlp_activations=("gelu", "linear"), dropout_rate=0.0)
  vocabulary = seqio.ByteVocabulary()
  return models.EncoderDecoderModel(
      network.Transformer(config), vocabulary, vocabulary, optimizer_def=None)


@pytest.fixture(name="params", scope="module")
def _params(model):
  shapes = {"encoder_input_tokens": (8, 16), "decoder_input_tokens": (8, 16)}
  params = jax.jit(lambda rng: model.get_initial_variables(
      rng, shapes)["params"])(jax.random.PRNGKey(3))
  # Random outputs rarely end; a larger logit of EOS makes lengths differ.
  kernel = params["decoder"]["logits_dense"]["kernel"]
  kernel = kernel.at[:, 1].multiply(3.0)
  params = jax.tree.map(lambda x: x, params)
  if hasattr(params, "unfreeze"):
    params = params.unfreeze()
  params["decoder"]["logits_dense"]["kernel"] = kernel * 3.0
  return params


@pytest.fixture(name="student", scope="module")
def _cached_student(model, params):
  """Students by batch size, each compiled once for all tests."""
  return functools.cache(functools.partial(_student, model, params))


def _student(model, params, batch_size="auto"):
  partitioner = partitioning.PjitPartitioner(
      num_partitions=1,
      logical_axis_rules=partitioning.standard_logical_axis_rules())
  return student_lib.Student(model, params, None, partitioner, batch_size)


def _inputs(n=21, seed=0):
  rng = np.random.default_rng(seed)
  return [[*rng.integers(3, 100, size=rng.integers(3, 22)).tolist(), 1]
          for _ in range(n)]


def _generate(student, inputs, beam):
  found = {}
  for indices, decoded in student.generate(inputs, LENGTH, beam):
    found.update(zip(indices, decoded, strict=True))
  return [found[i] for i in range(len(inputs))]


@pytest.fixture(name="one_by_one", scope="module")
def _one_by_one(student):
  """Each input alone, in its own bucket: what all batches must give."""
  return {beam: _generate(student(1), _inputs(), beam) for beam in (1, 4)}


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("batch_size", ["auto", 5])
def test_same_answers_at_any_batch_size_and_order(
    student, one_by_one, beam, batch_size):
  inputs = _inputs()
  order = np.random.default_rng(batch_size == 5).permutation(len(inputs))
  shuffled = _generate(student(batch_size), [inputs[i] for i in order], beam)
  expected = [one_by_one[beam][i] for i in order]
  assert [d.tokens for d in shuffled] == [d.tokens for d in expected]
  # Sums of products in another order: float32, a dozen tokens.
  np.testing.assert_allclose([d.log_prob for d in shuffled],
                             [d.log_prob for d in expected], atol=2e-4)


def test_same_answers_at_any_padding(model, params, one_by_one, monkeypatch):
  monkeypatch.setattr(batching, "LADDER", (104,))
  decoded = _generate(_student(model, params, 8), _inputs(), 1)
  assert [d.tokens for d in decoded] == [d.tokens for d in one_by_one[1]]


def test_answers_end_and_differ(one_by_one):
  """The tests above would be empty if all answers were alike."""
  tokens = [d.tokens for d in one_by_one[1]]
  assert len({len(t) for t in tokens}) > 2 and len(set(tokens)) > 5
  assert all(1 not in t[:-1] for t in tokens)


@pytest.mark.parametrize("beam", [1, 4])
def test_log_prob_is_the_likelihood_of_the_answer(
    student, one_by_one, beam):
  inputs, decoded = _inputs(), one_by_one[beam]
  found = {}
  for indices, scores in student(5).log_likelihoods(
      inputs, [d.tokens for d in decoded]):
    found.update(zip(indices, scores))
  # Decoding and scoring sum the same products in other orders.
  np.testing.assert_allclose([found[i] for i in range(len(inputs))],
                             [d.log_prob for d in decoded], atol=2e-4)


def test_beam_finds_likelier_answers(one_by_one):
  """By what T5X's beam search goes: log-probability with a length penalty."""
  total = {
      beam: sum(d.log_prob / ((5 + len(d.tokens)) / 6) ** 0.6 for d in decoded)
      for beam, decoded in one_by_one.items()}
  assert total[4] > total[1]


def test_one_program_a_shape(student):
  timing = student_lib.Timing()
  for _ in range(2):
    for _ in student(5).generate(_inputs(), LENGTH, 1, timing):
      pass
  assert timing.examples == 2 * 21
  shapes = {(b.rows, b.length) for b in batching.plan(
      [len(i) for i in _inputs()], 5)}
  greedy = [key for key in student(5)._programs if key[0] == ("generate", 1)]
  assert len(greedy) == len(shapes)


def test_flops_are_those_that_xla_counts(model, params):
  """A forward pass of known lengths, unpadded, against the compiler's count.

  XLA also counts norms, softmax and masks: some percent on top, and all pairs
  of positions in the decoder where decoding needs half of them. It counts the
  buckets of position pairs, too, once for all rows: hence a batch of many.
  """
  shapes = rebuilding.parameter_shapes(model)
  batch, length = 32, 96
  tokens = np.ones((batch, length), np.int32)
  compiled = jax.jit(lambda p: model._compute_logits(p, {
      "encoder_input_tokens": tokens, "decoder_input_tokens": tokens,
      "decoder_target_tokens": tokens})).lower(params).compile()
  analysis = compiled.cost_analysis()
  counted = (analysis[0] if isinstance(analysis, list) else analysis)["flops"]
  width = 2 * 8  # heads * head_dim
  unused = 2 * 4 * width * (length * length - length * (length + 1) / 2)
  ours = cost.flops_per_example(shapes, length, length) + unused
  assert 0.8 * counted < batch * ours <= counted
