"""The model of a run, from the configuration that it wrote."""

from __future__ import annotations

import copy
import pathlib

import flax
from flax import traverse_util
import gin
import jax

from stepdistill_jax.config import data_folder, gin_config
from stepdistill_jax.util import errors, locations


def rebuild_model(config_path: pathlib.Path, records_dir: pathlib.Path):
  """Rebuilds the model that a configuration describes.

  Args:
    config_path: the `config.gin` that a run wrote.
    records_dir: where tasks look for records and vocabularies.

  Returns:
    The model, and the name of the SeqIO task or mixture it was trained on.

  Raises:
    errors.UserError: the configuration does not parse or names no MODEL.
  """
  from t5x import train as train_script

  try:
    with gin_config.main_module(train=train_script.train), (
        data_folder.tfds_data_dir(
            records_dir if records_dir.is_dir() else None)):
      gin_config.parse([locations.absolute(config_path)], [])
      model = _macro("MODEL", config_path)
      task_name = _macro("MIXTURE_OR_TASK_NAME", config_path)
      # Vocabularies look for their files when they are first used.
      for vocabulary in (model.input_vocabulary, model.output_vocabulary):
        vocabulary.decode(vocabulary.encode(""))
  except errors.UserError as error:
    raise errors.UserError(
        f"{config_path}: the model cannot be rebuilt: {error}") from error
  finally:
    gin.clear_config()
  return model, str(task_name)


def _macro(name: str, config_path: pathlib.Path):
  macro = gin.config.ConfigurableReference(f"{name}/gin.macro", True)
  with errors.reported((ValueError, TypeError, RuntimeError), lambda error: (
      f"{name} of {config_path.name}: {str(error).strip().splitlines()[0]}")):
    return copy.deepcopy(macro)  # Calls what it refers to.


def parameter_shapes(model) -> dict[str, tuple[int, ...]]:
  """Parameter name (`encoder/encoder_norm/scale`) to shape."""
  shapes = {name: (1, 16) for name in (
      "encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")}
  variables = jax.eval_shape(
      lambda: model.get_initial_variables(jax.random.PRNGKey(0), shapes))
  flat = traverse_util.flatten_dict(
      flax.core.unfreeze(variables["params"]), sep="/")
  return {name: tuple(leaf.shape) for name, leaf in flat.items()}
