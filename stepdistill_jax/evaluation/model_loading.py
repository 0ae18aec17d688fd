"""From a run's folder to a model with parameters, on either engine."""

from jax import numpy as jnp
from t5x import partitioning, utils

from stepdistill_jax.evaluation import model_config, student
from stepdistill_jax.interop import rebuilding, run_folder
from stepdistill_jax.runs import array_reader, run_record
from stepdistill_jax.util import errors


def load_student(
    model, run: run_folder.RunFolder,
    config: model_config.ModelConfig,
) -> student.Student:
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
  with errors.reported(
      (ValueError, KeyError, TypeError, FileNotFoundError), lambda error: (
          f"{run.checkpoint} does not hold the parameters of the model in "
          f"{run.config_path}: {errors.first_line(error)}")):
    state, _ = utils.create_checkpoint_manager_and_restore(
        initializer, partitioner, restore, str(run.checkpoint), None,
        use_orbax=True)
  _check_vocabulary(model, state.params, run)
  return student.Student(
      model, state.params, initializer.train_state_axes.params, partitioner,
      batch_size=config.batch_size)


def _check_shapes(model, run: run_folder.RunFolder) -> None:
  """Refuses a checkpoint whose parameters have other shapes or names.

  An array of another shape would be cut or filled up without a word.
  """
  with errors.reported(
      (ValueError, KeyError, FileNotFoundError), lambda error: (
          f"{run.checkpoint} cannot be read: {errors.first_line(error)}")):
    stored = array_reader.open_checkpoint(run.checkpoint).parameters
  found = {name: array.shape for name, array in stored.items()}
  wanted = rebuilding.parameter_shapes(model)
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
  vocabulary = model.input_vocabulary
  run_record.check_vocabulary(
      run.path, getattr(vocabulary, "tokenizer_file", None) or getattr(
          vocabulary, "sentencepiece_model_file", ""))
