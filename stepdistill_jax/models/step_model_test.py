"""Tests of the student's loss: equal to the plain formula, however computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepdistill_jax.models import batches, schedules, weights as weights_lib
from tests.support import exactness, student_fixtures as fixtures

# Float32 rounds sums of some hundred tokens to about 2e-7, relative.
TOLERANCE = 1e-6
ALPHA = 0.3


STUDENTS = {"t5": fixtures.tiny_student, "decoder": fixtures.tiny_decoder}


@pytest.fixture(scope="module", params=STUDENTS)
def make_student(request):
  return STUDENTS[request.param]


@pytest.fixture(scope="module")
def setting(make_student):
  """A student, its parameters, 16 pairs and the plain formula's result."""
  model = make_student(weights_lib.label_and_rationale(alpha=ALPHA))
  examples = fixtures.random_pairs(0, 16)
  params = fixtures.init_params(model, fixtures.paired_batch(examples))
  expected = exactness.plain_loss(
      model.module, params, examples, {"label": ALPHA, "rationale": 1 - ALPHA})
  return model, params, examples, expected


def value_and_grad(model, params, batch):
  return fixtures.value_and_grad(model)(params, batch)


def assert_plain(got, expected, tolerance=TOLERANCE):
  loss, metrics, gradient = got
  np.testing.assert_allclose(loss, expected.loss, rtol=tolerance)
  for name, value in expected.task_losses.items():
    np.testing.assert_allclose(
        metrics[f"loss/{name}"], value, rtol=tolerance, err_msg=name)
  assert exactness.relative_difference(
      gradient, expected.gradient) < tolerance


@pytest.mark.parametrize("layout", ["paired", "packed", "joined"])
def test_equals_the_plain_formula(setting, layout):
  model, params, examples, expected = setting
  batch = getattr(fixtures, f"{layout}_batch")(examples)
  assert_plain(value_and_grad(model, params, batch), expected)


def test_three_targets_of_a_record(make_student):
  prefixes = ("", "rationale_", "question_")
  weights = {"label": 1.0, "rationale": 0.5, "question": 0.1}
  examples = [
      {**e, "question_inputs": e["rationale_inputs"][::-1],
       "question_targets": e["inputs"]}
      for e in fixtures.random_pairs(seed=3, count=4)]
  batch = fixtures.convert(
      examples, 40, 40, pack=True, target_prefixes=prefixes)
  model = make_student(weights_lib.TaskWeights(weights))
  params = fixtures.init_params(model, batch)
  assert_plain(value_and_grad(model, params, batch), exactness.plain_loss(
      model.module, params, examples, weights, prefixes))


@pytest.mark.parametrize("pack", [False, True])
def test_record_weights_weigh_within_each_task(setting, pack):
  model, params, examples, _ = setting
  rng = np.random.default_rng(5)
  examples = [
      {**e, "record_weights": rng.uniform(0, 1, 1).astype(np.float32)}
      for e in examples]
  expected = exactness.plain_loss(
      model.module, params, examples, {"label": ALPHA, "rationale": 1 - ALPHA})
  batch = (fixtures.packed_batch if pack else fixtures.paired_batch)(examples)
  assert_plain(value_and_grad(model, params, batch), expected)


@pytest.mark.parametrize("alpha,idle", [(1.0, "rationale"), (0.0, "label")])
def test_gradient_of_a_task_without_weight_is_zero(setting, alpha, idle):
  model, params, examples, expected = setting
  def run(examples):
    batch = model.prepare_batch(fixtures.paired_batch(examples), 0)
    batch[batches.WEIGHTS] = np.broadcast_to(
        np.float32([alpha, 1 - alpha]), batch[batches.WEIGHTS].shape)
    return value_and_grad(model, params, batch)
  loss, metrics, gradient = run(examples)
  weighed = {"label": "rationale", "rationale": "label"}[idle]
  np.testing.assert_allclose(
      loss, expected.task_losses[weighed], rtol=TOLERANCE)
  np.testing.assert_allclose(  # Measured all the same.
      metrics[f"loss/{idle}"], expected.task_losses[idle], rtol=TOLERANCE)
  # Exactly zero: other tokens of the idle task change no bit.
  others = [{**e, **{
      k: np.full_like(v, 7) for k, v in e.items()
      if k.startswith("rationale_") == (idle == "rationale")}}
            for e in examples]
  jax.tree.map(np.testing.assert_array_equal, gradient, run(others)[2])


def test_idle_tasks_logits_get_no_gradient(setting, make_student):
  _, params, examples, _ = setting
  model = make_student(weights_lib.label_and_rationale(alpha=1.0))
  batch = batches.flatten_pairs(fixtures.paired_batch(examples))

  def loss_of(logits):
    model._compute_logits = lambda *args: logits
    return model.loss_fn(params, batch, None)[0]

  shape = (*batch["decoder_target_tokens"].shape, fixtures.VOCAB)
  gradient = jax.grad(loss_of)(jnp.ones(shape))
  idle = batch["decoder_task_ids"] != 1
  assert not np.any(gradient[idle])
  assert np.all(np.any(gradient[~idle], axis=-1))


@pytest.mark.parametrize("missing", [1, 2])
def test_task_without_tokens_gives_zero_not_nan(setting, missing):
  model, params, examples, expected = setting
  batch = dict(fixtures.paired_batch(examples))
  gone = batch["decoder_task_ids"] == missing
  batch["decoder_loss_weights"] = np.where(
      gone, 0, batch["decoder_loss_weights"]).astype(np.float32)
  batch["decoder_task_ids"] = np.where(gone, 0, batch["decoder_task_ids"])
  loss, metrics, gradient = value_and_grad(model, params, batch)
  present = {1: ("rationale", 1 - ALPHA), 2: ("label", ALPHA)}[missing]
  np.testing.assert_allclose(
      loss, present[1] * expected.task_losses[present[0]], rtol=TOLERANCE)
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradient))
  assert metrics[f"loss/{model.task_names[missing - 1]}"] == 0


def test_token_sum_logs_the_label_weight_that_it_gives(setting, make_student):
  _, params, examples, _ = setting
  model = make_student(
      weights_lib.TaskWeights({"label": 1.0, "rationale": 1.0}),
      aggregation="token_sum")
  loss, metrics, _ = value_and_grad(
      model, params, fixtures.paired_batch(examples))
  labels = sum(len(e["targets"]) for e in examples)
  rationales = sum(len(e["rationale_targets"]) for e in examples)
  plain = exactness.plain_loss(
      model.module, params, examples,
      {"label": labels, "rationale": rationales})
  np.testing.assert_allclose(loss, plain.loss, rtol=TOLERANCE)
  np.testing.assert_allclose(
      metrics["effective_loss_weight/label"],
      labels / (labels + rationales), rtol=TOLERANCE)


def test_mixture_has_the_same_means_as_pairs(setting):
  model, params, examples, expected = setting
  singles = [
      {"inputs": e[p + "inputs"], "targets": e[p + "targets"],
       "task_ids": np.array([task], np.int32)}
      for e in examples for task, p in ((1, ""), (2, "rationale_"))]
  for pack in (False, True):
    batch = (fixtures.packed_batch(singles) if pack
             else fixtures.convert(singles, 10, 10, pack=False))
    assert_plain(value_and_grad(model, params, batch), expected)


def test_paired_predictions_and_scores_are_the_labels(setting):
  model, params, examples, _ = setting
  paired = fixtures.paired_batch(examples)
  labels = {name: value[:, 0] for name, value in paired.items()}
  joined = fixtures.joined_batch(examples)
  for method in (model.predict_batch, model.score_batch):
    compiled = jax.jit(method)
    expected = compiled(params, labels)
    np.testing.assert_array_equal(compiled(params, paired), expected)
    got = compiled(params, joined)
    if got.ndim == 2:  # A joined row leaves room for longer answers.
      got = got[:, :expected.shape[1]]
    np.testing.assert_allclose(got, expected, rtol=TOLERANCE)


def test_eval_does_not_depend_on_the_batches(setting):
  model, params, examples, expected = setting
  evaluate = jax.jit(model.eval_fn)
  merged = None
  whole = fixtures.packed_batch(examples)
  real_rows = int(np.sum(np.any(whole["encoder_input_tokens"], axis=1)))
  for i in range(0, real_rows, 2):  # Rows differ in tokens of each task.
    part = {name: value[i:i + 2] for name, value in whole.items()}
    _, metrics = evaluate(params, part)
    merged = metrics if merged is None else {
        k: merged[k].merge(m) for k, m in metrics.items()}
  np.testing.assert_allclose(
      merged["loss"].compute(), expected.loss, rtol=TOLERANCE)
  for name, value in expected.task_losses.items():
    np.testing.assert_allclose(
        merged[f"loss/{name}"].compute(), value, rtol=TOLERANCE)


def test_schedule_needs_the_step(setting, make_student):
  _, params, examples, _ = setting
  model = make_student(weights_lib.label_and_rationale(
      alpha=schedules.linear(1.0, 0.0, num_steps=10)))
  batch = fixtures.paired_batch(examples)
  with pytest.raises(ValueError, match="StepDistillTrainer"):
    model.loss_fn(params, batch, None)
  prepared = model.prepare_batch(batch, 4)
  np.testing.assert_allclose(
      prepared[batches.WEIGHTS][0], [0.6, 0.4], rtol=TOLERANCE)


def test_targets_that_do_not_fit_the_weights_are_refused(setting, make_student):
  _, params, examples, _ = setting
  model = make_student(weights_lib.single_task())
  with pytest.raises(ValueError, match="pairs 2 targets a record"):
    model.loss_fn(params, fixtures.paired_batch(examples), None)
