"""From a run's folder to a model with parameters, on either engine."""

from __future__ import annotations

import pathlib

import flax
from flax import traverse_util
import gin
import jax
from jax import numpy as jnp
from t5x import partitioning
from t5x import utils

from stepdistill_jax.config import data_folder
from stepdistill_jax.util import errors
from stepdistill_jax.config import gin_config
from stepdistill_jax.util import locations
from stepdistill_jax.runs import run_record
from stepdistill_jax.embedded_t5x.checkpointing import reading as checkpoint_reading
from stepdistill_jax.evaluation import model_config as model_config_lib
from stepdistill_jax.interop import run_folder as run_folder_lib
from stepdistill_jax.evaluation import student as student_lib


@gin.configurable("stepdistill_eval_value")
def _value(value=gin.REQUIRED):
  return value


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
  with gin.unlock_config():
    gin.bind_parameter("stepdistill_eval_value.value",
                       gin.config.ConfigurableReference(
                           f"{name}/gin.macro", True))
  try:
    return _value()
  except (ValueError, TypeError, RuntimeError) as error:
    first = str(error).strip().splitlines()[0]
    raise errors.UserError(f"{name} of {config_path.name}: {first}") from error


def load_student(
    model, run: run_folder_lib.RunFolder,
    config: model_config_lib.ModelConfig,
) -> student_lib.Student:
  """Restores a checkpoint's parameters onto the devices.

  Raises:
    errors.UserError: the parameters are not those of the model.
  """
  _check_shapes(model, run)
  _set_compute_dtype(model, config.compute_dtype)
  partitioner = partitioning.PjitPartitioner(
      num_partitions=config.num_partitions,
      logical_axis_rules=partitioning.standard_logical_axis_rules())
  rows = int(partitioner.mesh.devices.size)
  shapes = {name: (rows, 16) for name in (
      "encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens",
      "decoder_loss_weights")}
  initializer = utils.TrainStateInitializer(
      optimizer_def=None, init_fn=model.get_initial_variables,
      input_shapes=shapes, partitioner=partitioner)
  restore = utils.RestoreCheckpointConfig(
      path=str(run.checkpoint), mode="specific", dtype=config.parameter_dtype,
      strict=False)
  try:
    state, _ = utils.create_checkpoint_manager_and_restore(
        initializer, partitioner, restore, str(run.checkpoint), None,
        use_orbax=True)
  except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
    first = str(error).strip().splitlines()[0]
    raise errors.UserError(
        f"{run.checkpoint} does not hold the parameters of the model in "
        f"{run.config_path}: {first[:300]}") from error
  _check_vocabulary(model, state.params, run)
  return student_lib.Student(
      model, state.params, initializer.train_state_axes.params, partitioner,
      batch_size=config.batch_size)


def _check_shapes(model, run: run_folder_lib.RunFolder) -> None:
  """Refuses a checkpoint whose parameters have other shapes or names.

  Orbax would cut or fill up arrays of another shape without a word.
  """
  try:
    entries = checkpoint_reading.open_checkpoint(run.checkpoint).entries()
  except (ValueError, KeyError, FileNotFoundError) as error:
    first = str(error).strip().splitlines()[0]
    raise errors.UserError(
        f"{run.checkpoint} cannot be read: {first[:300]}") from error
  found = {name.removeprefix("target/"): entry.shape
           for name, entry in entries.items() if name.startswith("target/")}
  wanted = parameter_shapes(model)
  missing = sorted(set(wanted) - set(found))
  wrong = [f"{name} is {tuple(found[name])}, the model's {wanted[name]}"
           for name in wanted if name in found
           and tuple(found[name]) != wanted[name]]
  if missing or wrong:
    what = wrong + [f"{name} is missing" for name in missing]
    raise errors.UserError(
        f"{run.checkpoint} is of another model than {run.config_path}: "
        f"{'; '.join(what[:3])}")


def _set_compute_dtype(model, dtype: str) -> None:
  """Computes in `dtype`: a student trained in bfloat16 decodes in float32.

  In bfloat16 the sums of a matrix product round differently for different
  batch sizes, enough to change a token now and then.
  """
  network_config = getattr(model.module, "config", None)
  if network_config is not None and hasattr(network_config, "dtype"):
    model.module = model.module.clone(
        config=network_config.replace(dtype=jnp.dtype(dtype)))


def _check_vocabulary(model, params, run) -> None:
  """Refuses a vocabulary with ids beyond the embedding, or another's."""
  rows = params["token_embedder"]["embedding"].shape[0]
  needed = model.input_vocabulary.vocab_size
  if needed > rows:
    raise errors.UserError(
        f"{run.checkpoint}: the embedding has {rows} rows, but the vocabulary "
        f"of {run.config_path} has {needed} pieces; the run was trained with "
        "another vocabulary file")
  run_record.check_vocabulary(run.path, getattr(
      model.input_vocabulary, "sentencepiece_model_file", ""))


def parameter_shapes(model) -> dict[str, tuple[int, ...]]:
  """Parameter name (`encoder/encoder_norm/scale`) to shape."""
  shapes = {name: (1, 16) for name in (
      "encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")}
  variables = jax.eval_shape(
      lambda: model.get_initial_variables(jax.random.PRNGKey(0), shapes))
  flat = traverse_util.flatten_dict(
      flax.core.unfreeze(variables["params"]), sep="/")
  return {name: tuple(leaf.shape) for name, leaf in flat.items()}


def device_description() -> str:
  """The devices that models run on, in words."""
  devices = jax.devices()
  return f"{len(devices)} × {devices[0].device_kind}"
