"""Bindings of T5X's classes and methods count for ours that replace them."""

import inspect

import gin
import numpy as np
import pytest
from t5x import models as t5x_models, trainer as t5x_trainer, utils as t5x_utils

from stepdistill_jax import models as students
from stepdistill_jax.config import inherited_bindings
from stepdistill_jax.data import exact_order, feature_converter
from stepdistill_jax.models import scanned_network
from stepdistill_jax.util import errors
from tests.support import student_fixtures as fixtures

_IMPORTS = """
from __gin__ import dynamic_registration
import seqio
from stepdistill_jax import models as students
from stepdistill_jax.data import exact_order
from t5x import models
from t5x import trainer
from t5x import utils
from t5x.examples.t5 import network
"""
OURS = (students.StepDistillModel, students.StepDistillTrainer,
        scanned_network.Transformer,
        feature_converter.StepDistillFeatureConverter)


@pytest.fixture(name="bind")
def _bind():
  """Binds lines of gin; nothing is bound afterwards."""

  def bind(*lines):
    gin.parse_config(_IMPORTS + "\n".join(lines))

  with gin.unlock_config():  # Another test may have run a locked config.
    gin.clear_config()
    yield bind
    gin.clear_config()


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_every_method_that_a_base_has_follows_it(cls):
  """Whoever adds a method or argument need not think of this."""
  followed = 0
  for base in cls.__mro__[1:]:
    for name in ("__init__", *vars(base)):
      method = inspect.getattr_static(cls, name, None)
      if base is object or name.startswith("_") and name != "__init__" or (
          not inspect.isfunction(method)):
        continue
      assert method.__qualname__ == f"{cls.__qualname__}.{name}", name
      assert inspect.unwrap(method) is not method, name
      followed += 1
  assert followed


def test_no_other_class_of_ours_replaces_one_of_t5x():
  """Those that do are in OURS."""
  found = {
      cls for module in (
          students.step_model, students.trainer, scanned_network,
          feature_converter)
      for cls in vars(module).values() if isinstance(cls, type)
      and cls.__module__ == module.__name__}
  assert found - {
      scanned_network.Encoder, scanned_network.Decoder} == set(OURS)


def test_arguments_of_the_base_reach_the_student(bind):
  bind("models.EncoderDecoderModel.z_loss = 0.25",
       "models.BaseTransformerModel.label_smoothing = 0.125",
       "models.BaseTransformerModel.z_loss = 0.5")
  model = fixtures.tiny_student()
  assert (model._z_loss, model._label_smoothing) == (0.25, 0.125)
  assert fixtures.tiny_student(z_loss=0.0)._z_loss == 0.0  # Who calls says so.
  bind("students.StepDistillModel.z_loss = 0.75")
  assert gin.get_configurable(students.StepDistillModel)(
      model.module, model.input_vocabulary, model.output_vocabulary,
      model.optimizer_def)._z_loss == 0.75


def test_arguments_of_the_base_reach_the_trainer_and_the_network(bind):
  bind("trainer.Trainer.num_microbatches = 4",
       "network.Transformer.config = @network.T5Config()",
       "network.T5Config.vocab_size = 96")
  assert inherited_bindings.of(t5x_trainer.Trainer) == {"num_microbatches": 4}
  assert scanned_network.Transformer().config.vocab_size == 96
  gin.clear_config()
  assert inherited_bindings.of(t5x_trainer.Trainer) == {}


def test_num_decodes_of_the_base_reaches_predictions(bind):
  """T5X's own line for beam search."""
  seen = []

  def decode_fn(inputs, num_decodes, **unused):
    seen.append(num_decodes)
    rows = np.repeat(np.asarray(inputs)[:, None], num_decodes, axis=1)
    return rows, np.zeros(rows.shape[:2], np.float32)

  model = fixtures.tiny_student(decode_fn=decode_fn)
  batch = fixtures.paired_batch(fixtures.random_pairs(0, 2))
  params = fixtures.init_params(model, batch)
  model.predict_batch(params, batch)
  bind("models.EncoderDecoderModel.predict_batch_with_aux.num_decodes = 4")
  model.predict_batch(params, batch)
  model.predict_batch_with_aux(params, batch, num_decodes=2)
  bind("students.StepDistillModel.predict_batch_with_aux.num_decodes = 3")
  configured = gin.get_configurable(students.StepDistillModel)(
      model.module, model.input_vocabulary, model.output_vocabulary,
      model.optimizer_def, decode_fn=decode_fn)
  configured.predict_batch(params, batch)
  assert seen == [1, 4, 2, 3]


def test_a_method_that_only_bases_have_follows_too(bind):
  bind("models.BaseModel.predict_batch.rng = 7")
  model = fixtures.tiny_student()
  model.predict_batch_with_aux = lambda params, batch, rng: (rng,)
  assert model.predict_batch(None, None) == 7


def test_what_the_subclass_has_no_argument_for_is_refused(bind):
  @inherited_bindings.followed_by_class
  class Narrow(t5x_models.EncoderDecoderModel):

    def __init__(self, module):
      pass

  bind("models.EncoderDecoderModel.z_loss = 0.1")
  with pytest.raises(errors.UserError, match=(
      r"EncoderDecoderModel\.z_loss is bound, but the run uses .*Narrow, which "
      "has no such argument; it has module")):
    Narrow(None)


def test_a_function_follows_the_one_that_it_replaces(bind):
  bind("utils.get_dataset.num_epochs = 2")
  with pytest.raises(errors.UserError, match="num_epochs"):
    exact_order.get_dataset(None, 0, 1, None)
  assert inherited_bindings.of(t5x_utils.get_dataset) == {"num_epochs": 2}
