"""Checks of values that come from flags and gin files."""

from collections.abc import Sequence
from typing import Any, TypeGuard

from stepdistill_jax.util import errors

# Ends an error of data that a run would be scored on.
NO_EVALUATION = (
    "; to train without evaluations pass "
    "--gin.train_script.train.train_eval_dataset_cfg=None "
    "--gin.train_script.train.infer_eval_dataset_cfg=None")


def is_whole_number(value: Any, least: int = 1) -> TypeGuard[int]:
  """Of at least `least`: gin's True is an int, and its 2.5 would be cut off."""
  return (isinstance(value, int) and not isinstance(value, bool)
          and value >= least)


def whole_number(name: str, value: Any, least: int = 1) -> int:
  """Returns `value` if it is a whole number of at least `least`.

  Raises:
    errors.UserError: it is not.
  """
  if not is_whole_number(value, least):
    raise errors.UserError(
        f"{name} must be a whole number of at least {least}, got {value!r}")
  return value


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
  """Returns `value` if it is one of `choices`, else raises UserError."""
  errors.require_known(name, str(value), choices)
  return str(value)


def require_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
  """Raises InvalidValue, with all choices, unless `value` is one of a few."""
  if value not in choices:
    raise errors.InvalidValue(
        f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def periods(eval_period: int | None, save_period: int | None) -> None:
  """Raises InvalidValue unless one period divides the other, as T5X asks.

  Args:
    eval_period: steps; None or 0 for no evaluations.
    save_period: the same of checkpoints.
  """
  if eval_period and save_period and (
      eval_period % save_period and save_period % eval_period):
    near = max(1, round(save_period / eval_period)) * eval_period
    raise errors.InvalidValue(
        f"EVAL_PERIOD = {eval_period} and CHECKPOINT_PERIOD = {save_period}: "
        "one must divide the other, so that checkpoints are of steps with an "
        "evaluation or evaluations of steps with a checkpoint; take "
        f"{eval_period} and {near}, for example")


def text(name: str, value: Any) -> str:
  """Returns `value` if it is a text, else raises UserError."""
  if not isinstance(value, str):
    raise errors.UserError(f"{name} must be a text, got {value!r}")
  return value


def vocabulary_fits(model: Any, task: str) -> None:
  """Raises UserError if a model has fewer embeddings than there are tokens.

  A token without a row of its own would be read as another, in silence.

  Args:
    model: a `t5x.models.BaseTransformerModel`; one whose module does not say
      its `config.vocab_size` is not checked.
    task: whose vocabularies the model has.
  """
  config = getattr(getattr(model, "module", None), "config", None)
  rows = getattr(config, "vocab_size", None)
  needed = max(model.input_vocabulary.vocab_size,
               model.output_vocabulary.vocab_size)
  if rows is None or rows >= needed:
    return
  name = f"network.{type(config).__name__}.vocab_size"
  raise errors.UserError(
      f"{name} = {rows} is less than the {needed} tokens of the vocabulary of "
      f"task {task}; set {name} = {-(-needed // 128) * 128} (the next multiple "
      "of 128), or, for a checkpoint with fewer rows, VOCABULARY to its own")
