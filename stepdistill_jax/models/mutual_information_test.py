"""Tests of the mutual-information term."""

import jax
import numpy as np
import pytest

from stepdistill_jax.models import mutual_information, weights as weights_lib
from tests.support import exactness, student_fixtures as fixtures

BETA = 0.1


def published_term(label_logits, rationale_logits):
  """Their formula for one record, in float64 numpy, without padding."""
  softmax = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
  highest = lambda x: softmax(np.asarray(x, np.float64)).max(axis=0)
  label, rationale = highest(label_logits), highest(rationale_logits)
  return -np.sum(label * np.log(softmax(rationale)))


def test_equals_the_published_formula():
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 2, (3, 9, 7)).astype(np.float32)
  ids = np.array([[1, 1, 2, 2, 2, 0, 0, 0, 0],
                  [1, 0, 0, 0, 2, 2, 2, 2, 2],
                  [1, 1, 1, 0, 0, 0, 0, 0, 0]])
  got = mutual_information.record_losses(logits, ids)
  for row in range(2):
    np.testing.assert_allclose(
        got[row],
        published_term(logits[row][ids[row] == 1], logits[row][ids[row] == 2]),
        rtol=1e-6)  # Float32 against float64.
  assert got[2] == 0  # No rationale.


def test_no_gradient_through_the_label():
  rng = np.random.default_rng(1)
  logits = rng.normal(0, 2, (1, 4, 7)).astype(np.float32)
  ids = np.array([[1, 2, 2, 0]])
  gradient = jax.grad(
      lambda x: mutual_information.record_losses(x, ids)[0])(logits)
  assert not np.any(gradient[0, ids[0] != 2])
  assert np.any(gradient[0, ids[0] == 2])


@pytest.fixture(scope="module")
def setting():
  model = fixtures.tiny_student(mutual_information=BETA)
  plain = fixtures.tiny_student()
  examples = fixtures.random_pairs(3, 8)
  params = fixtures.init_params(plain, fixtures.paired_batch(examples))
  return model, plain, examples, params


def test_added_to_the_loss_of_either_layout(setting):
  model, plain, examples, params = setting
  paired = fixtures.paired_batch(examples)
  loss, metrics, gradient = fixtures.value_and_grad(model)(params, paired)
  joined = fixtures.value_and_grad(model)(
      params, fixtures.joined_batch(examples))
  # Float32, as in the tests of the loss itself.
  np.testing.assert_allclose(joined[0], loss, rtol=1e-6)
  assert exactness.relative_difference(joined[2], gradient) < 1e-6
  without, _, _ = fixtures.value_and_grad(plain)(params, paired)
  np.testing.assert_allclose(
      loss - without, BETA * metrics["loss/mutual_information"], rtol=1e-5)
  assert metrics["loss_weight/mutual_information"] == np.float32(BETA)


def test_needs_a_rationale():
  with pytest.raises(ValueError, match="weighs label alone"):
    fixtures.tiny_student(
        weights_lib.single_task(), mutual_information=BETA)


def test_its_weight_is_not_negative():
  with pytest.raises(ValueError, match="BETA. must not be negative, got -0.1"):
    fixtures.tiny_student(mutual_information=-0.1)
