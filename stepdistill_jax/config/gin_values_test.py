"""Values that cannot work are reported before anything is compiled."""

import pytest

from stepdistill_jax.config import gin_values
from stepdistill_jax.util import errors


@pytest.mark.parametrize("name, value", [
    ("TRAIN_STEPS", "-1"), ("TRAIN_STEPS", "4.5"), ("TRAIN_STEPS", "True"),
    ("TRAIN_STEPS", "'abc'"), ("LEARNING_RATE", "-1"),
    ("LEARNING_RATE", "'abc'"), ("LEARNING_RATE", "1e999"),
    ("EVAL_PERIOD", "-1"), ("EVAL_STEPS", "0"), ("CHECKPOINT_PERIOD", "1.5"),
    ("MAX_INPUTS", "0"), ("TRAIN_SHARE", "0"), ("TRAIN_SHARE", "1.5"),
    ("RANDOM_SEED", "'a'"), ("DROPOUT_RATE", "1.5"), ("DROPOUT_RATE", "1.0"),
    ("ALPHA", "'0.5'"), ("ALPHA", "1.01"), ("MODEL_DIR", "''"),
    ("MODEL_DIR", "None"), ("MODEL_DIR", "7"),
    ("INITIAL_CHECKPOINT_PATH", "''"), ("CHECKPOINT_PATH", "3"),
    ("LEARNING_RATE_SCHEDULE", "'cosin'"), ("OPTIMIZER", "'lionn'"),
    ("WARMUP_STEPS", "-1"), ("BATCH_SIZE", "0"), ("BATCH_SIZE", "8.0"),
    ("PACK", "'yes'"), ("PACK", "1"), ("LABELS", "'humans'"),
    ("EVAL_LABELS", "None"),
])
def test_bad_values_are_refused(name, value):
  with pytest.raises(errors.UserError) as refused:
    gin_values.check({name: value})
  message = str(refused.value)
  assert message.startswith(f"{name} must be ")
  assert f"--gin.{name}=" in message and "\n" not in message


@pytest.mark.parametrize("name, value", [
    ("TRAIN_STEPS", "@students.steps_of_epochs()"), ("TRAIN_STEPS", "%STEPS"),
    ("ALPHA", "@students.linear()"), ("ALPHA", "1"), ("LEARNING_RATE", "0.0"),
    ("EVAL_STEPS", "None"), ("CHECKPOINT_PERIOD", "None"),
    ("EVAL_PERIOD", "0"), ("CHECKPOINT_PERIOD", "0"),  # As in T5X: never.
    ("RANDOM_SEED", "None"), ("INITIAL_CHECKPOINT_PATH", "None"),
    ("OPTIMIZER", "@adafactor.Adafactor()"), ("WARMUP_STEPS", "0"),
    ("PACK", "False"), ("LABELS", "'gold'"), ("BATCH_SIZE", "%TRAIN_BATCH"),
    ("CHECKPOINT_PATH", "['/a', '/b']"), ("ANYTHING_ELSE", "-1"),
])
def test_what_can_work_passes(name, value):
  gin_values.check({name: value})


def test_every_example_is_a_value_that_passes():
  for name in gin_values.RULES:
    gin_values.check({name: gin_values.RULES[name].example.strip("'")})


@pytest.mark.parametrize("name, value", [
    ("ALPHA", "'@students.linear()'"), ("ANY", "'@train/utils.Config'"),
    ("students.label_and_rationale.alpha", "'%ALPHA'"),
    ("LIST", "['x', '@optax.adamw()']"), ("DICT", "{'label': '%ALPHA'}")])
def test_references_in_quotes_are_refused_with_what_works(name, value):
  with pytest.raises(errors.UserError) as refused:
    gin_values.check({name: value})
  message = str(refused.value)
  given = message.partition("pass ")[2].partition(",")[0]
  assert given.startswith(f"--gin.{name}=") and "'" not in given
  gin_values.check({name: given.partition("=")[2]})  # As it says.


def test_texts_that_only_begin_like_references_pass():
  gin_values.check({"TEXT": "'@ home'", "OTHER": "'50%'", "MAIL": "'a@b.c'"})
