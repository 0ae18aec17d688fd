"""A model in a notebook: train a step, predict, score, evaluate on lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import enum
import functools
import inspect
import os
from typing import Any

from etils import epath
from flax import traverse_util
import jax

from stepdistill_jax.util import devices

# A notebook has no command that does it; later is too late for a GPU.
devices.start()
import seqio
import tensorflow as tf

from stepdistill_jax.embedded_t5x import infer, trainer as trainer_lib, utils
from stepdistill_jax.util import errors

# A text, which is input and target, or {"input": ..., "target": ...} (or with
# the names of the features).
Example = str | Mapping[str, str]
BatchesType = Sequence[Mapping[str, str]] | Sequence[
    Sequence[Mapping[str, str]]]


class InferenceType(enum.Enum):
  """What to infer."""

  PREDICT_WITH_AUX = 1
  SCORE = 2


_STEPS = {InferenceType.PREDICT_WITH_AUX: "predict_batch_with_aux",
          InferenceType.SCORE: "score_batch"}


class T5XScriptType(enum.Enum):
  """Which script a gin file is for."""

  FINETUNING = 1
  INFERENCE = 2
  EVALUATION = 3
  PRETRAINING = 4


def get_dataset_from_natural_text_examples(
    examples: Sequence[Example],
    preprocessors: Sequence[Callable[..., tf.data.Dataset]],
    task_feature_lengths: Mapping[str, int] | None,
    features: Mapping[str, Any]) -> tf.data.Dataset:
  """Examples as a data set, preprocessed and cut to length.

  Args:
    preprocessors: may take `sequence_length` and `output_features`.
    task_feature_lengths: in tokens, by feature; None does not cut.
    features: `seqio.Feature`s that the examples then must have.

  Raises:
    ValueError: a feature is missing, or of another dtype or rank.
  """
  ds = tf.data.Dataset.from_tensor_slices({
      name: [_text(example, name) for example in examples]
      for name in ("inputs", "targets")})
  given = {"sequence_length": task_feature_lengths,
           "output_features": features}
  for preprocess in preprocessors:
    takes = inspect.signature(preprocess).parameters
    ds = preprocess(ds, **{k: v for k, v in given.items() if k in takes})
  for name, feature in features.items():
    spec = ds.element_spec.get(name)
    if spec is None and feature.required or spec is not None and (
        (spec.dtype, spec.shape.rank) != (feature.dtype, feature.rank)):
      raise errors.InvalidValue(
          f"after the preprocessors the feature {name!r} is {spec}; expected "
          f"{feature.dtype.name} of rank {feature.rank}")
  return seqio.utils.trim_dataset(ds, task_feature_lengths, features)


def _text(example: Example, name: str) -> str:
  if isinstance(example, str):
    return example
  return example.get(name, example.get(name.removesuffix("s"), ""))


class InteractiveModel:
  """A model with its train state, for examples in memory."""

  def __init__(
      self, batch_size: int, task_feature_lengths: Mapping[str, int],
      output_dir: str, partitioner, model, dtype: str | None,
      restore_mode: str, checkpoint_path: str,
      input_shapes: Mapping[str, Sequence[int]],
      input_types: Mapping[str, Any] | None = None,
      init_random_seed: int = 42, add_eos: bool = True,
      eval_names: Sequence[str] | None = None,
      learning_rate_fn: Callable[..., Any] | None = None):
    """Restores or initializes.

    Args:
      output_dir: for checkpoints.
      dtype: of restored and saved parameters.
      checkpoint_path: what to begin from; empty goes on from the latest in
        `output_dir`, or begins from scratch.
      learning_rate_fn: by default that of `create_learning_rate_scheduler`.
    """
    self._batch_size = batch_size
    self._output_dir, self._dtype = output_dir, dtype
    self._checkpoint = (checkpoint_path, restore_mode)
    self._task_feature_lengths = task_feature_lengths
    self._converter = model.FEATURE_CONVERTER_CLS(pack=False)
    self._features = {
        "inputs": seqio.Feature(model.input_vocabulary, add_eos=add_eos),
        "targets": seqio.Feature(model.output_vocabulary, add_eos=add_eos)}
    self.model, self.partitioner = model, partitioner
    epath.Path(output_dir).mkdir(parents=True, exist_ok=True)
    init_rng, trainer_rng = jax.random.split(
        jax.random.PRNGKey(init_random_seed))
    initializer = utils.TrainStateInitializer(
        model.optimizer_def, model.get_initial_variables, input_shapes,
        partitioner, input_types)
    latest = utils.RestoreCheckpointConfig(output_dir, "latest", dtype=dtype)
    initial = utils.RestoreCheckpointConfig(
        checkpoint_path or (), restore_mode, dtype=dtype)
    state = initializer.from_checkpoint_or_scratch(
        [initial, latest], init_rng=init_rng)
    self._manager = latest.checkpoint_manager_cls(
        output_dir, initializer.global_train_state_shape, partitioner,
        save_dtype=dtype, keep=5)
    self.train_state_axes = initializer.train_state_axes
    self.train_summary = None
    self.trainer = trainer_lib.Trainer(
        model=model, train_state=state, partitioner=partitioner,
        eval_names=eval_names or (), summary_dir=os.fspath(output_dir),
        train_state_axes=self.train_state_axes, rng=trainer_rng,
        learning_rate_fn=(
            learning_rate_fn or utils.create_learning_rate_scheduler()),
        num_microbatches=None)

  @property
  def train_state(self):
    return self.trainer.train_state

  @property
  def step(self) -> int:
    return int(jax.device_get(self.train_state.step))

  def _task_dataset(self, examples, preprocessors=None) -> tf.data.Dataset:
    if preprocessors is None:
      preprocessors = [
          seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    return get_dataset_from_natural_text_examples(
        examples, preprocessors, self._task_feature_lengths, self._features)

  def _model_dataset(self, task_ds: tf.data.Dataset) -> tf.data.Dataset:
    kept = task_ds.map(lambda x: {k: x[k] for k in self._features})
    return self._converter(
        kept, task_feature_lengths=self._task_feature_lengths)

  def train_step(self, examples: Sequence[Example], preprocessors=None):
    """One step on as many examples as a batch has, and a checkpoint."""
    if len(examples) < self._batch_size:
      raise errors.InvalidValue(
          f"a step takes a batch of {self._batch_size} examples; got "
          f"{len(examples)}")
    if self.trainer.stop_training:
      return
    batch = self._model_dataset(
        self._task_dataset(examples, preprocessors)).batch(
            self._batch_size, drop_remainder=True)
    self.train_step_from_batch_iterator(batch.as_numpy_iterator())
    self.save_checkpoint()

  train_step_with_preprocessors = train_step

  def train_step_from_batch_iterator(self, iterator) -> None:
    self.train_summary = self.trainer.train(iterator, 1, self.step).result()

  def save_checkpoint(self) -> None:
    self._manager.save(self.train_state)
    self._manager.wait_until_finished()

  @functools.cache  # noqa: B019, a notebook has one model.
  def _infer_fn(self, step_name: str, options: frozenset[tuple[Any, Any]]):
    step = functools.partial(
        getattr(self.model, step_name),
        **traverse_util.unflatten_dict(dict(options)))
    return utils.get_infer_fn(
        step, self._batch_size, self.train_state_axes, self.partitioner)

  def infer_with_preprocessors(
      self, mode: InferenceType, examples: Sequence[Example],
      preprocessors=None, **inference_kwargs):
    """Predictions as (example, bytes), or scores as (example, number).

    Args:
      preprocessors: by default, tokenize and append EOS.
      **inference_kwargs: of the model's `predict_batch_with_aux` or
        `score_batch`.

    Returns:
      The pairs, and auxiliary values by name.
    """
    if not isinstance(mode, InferenceType):
      raise errors.InvalidValue(
          f"mode is to be one of {list(InferenceType)}; got {mode!r}")
    task_ds = self._task_dataset(examples, preprocessors)
    infer_fn = self._infer_fn(_STEPS[mode], frozenset(
        traverse_util.flatten_dict(inference_kwargs).items()))
    outputs, aux = infer.extract_tokens_and_aux_values(infer_fn(
        self._model_dataset(task_ds).enumerate(), self.train_state,
        rng=jax.random.PRNGKey(0)))
    if mode is InferenceType.PREDICT_WITH_AUX:
      decode = self._features["targets"].vocabulary.decode_tf
      outputs = [decode(tf.constant(o)).numpy() for o in outputs]
    return list(zip(task_ds.as_numpy_iterator(), outputs)), aux

  def predict_with_aux(self, examples: Sequence[Example]):
    """Predictions as (example, bytes), and `scores`."""
    return self.infer_with_preprocessors(
        InferenceType.PREDICT_WITH_AUX, examples)

  def score(self, examples: Sequence[Example]):
    """Scores of the targets as (example, number)."""
    return self.infer_with_preprocessors(InferenceType.SCORE, examples)[0]

  def predict(self, examples: Sequence[Example]):
    """Predictions as (example, text)."""
    return [(example, text.decode())
            for example, text in self.predict_with_aux(examples)[0]]

  def evaluate(
      self, examples: Sequence[Mapping[str, str]],
      metric_fns: Sequence[Callable[..., Mapping[str, Any]]],
      postprocessor: Callable[..., Any] | None = None, preprocessors=None):
    """Metrics of the model's answers against the examples' targets.

    Args:
      metric_fns: of `(targets, predictions)`, of these and `aux_values`, or
        of `(targets, scores)`, as SeqIO's tasks have them.
      postprocessor: of texts, called with `example` and `is_target`.
    """
    postprocess = postprocessor or (lambda text, **_: text)
    takes = [inspect.signature(fn).parameters for fn in metric_fns]
    infers = functools.partial(
        self.infer_with_preprocessors, examples=examples,
        preprocessors=preprocessors)
    targets = [
        postprocess(
            e["targets_pretokenized"].decode(), example=e, is_target=True)
        for e in self._task_dataset(
            examples, preprocessors).as_numpy_iterator()]
    given = {}
    if any("scores" in names for names in takes):
      given["scores"] = [
          score for _, score in infers(InferenceType.SCORE)[0]]
    if any("predictions" in names for names in takes):
      pairs, given["aux_values"] = infers(InferenceType.PREDICT_WITH_AUX)
      given["predictions"] = [
          postprocess(text.decode(), example=example, is_target=False)
          for example, text in pairs]
    metrics = {}
    for metric_fn, names in zip(metric_fns, takes):
      metrics.update(metric_fn(
          targets, **{k: given[k] for k in names if k in given}))
    return metrics

  def evaluate_with_preprocessors(
      self, examples, preprocessors, metric_fns, postprocessor=None):
    return self.evaluate(examples, metric_fns, postprocessor, preprocessors)

  def train_loop(
      self, num_steps: int, eval_period: int = 1, train_batches=None,
      predict_batches=None, score_batches=None, eval_batches=None,
      metrics_fns=None):
    """Trains on the batches in turn, and each `eval_period` asks the others.

    Args:
      train_batches: one batch, or several.

    Returns:
      The last predictions, scores and metrics; None for what was not asked.
    """
    predictions = scores = metrics = None
    if train_batches and isinstance(train_batches[0], Mapping):
      train_batches = [train_batches]
    for step in range(num_steps):
      if train_batches:
        self.train_step(train_batches[step % len(train_batches)])
      if step % eval_period:
        continue
      for batch in predict_batches or ():
        predictions, _ = self.predict_with_aux(batch)
      for batch in score_batches or ():
        scores = self.score(batch)
      for batch in eval_batches or ():
        metrics = self.evaluate(batch, metrics_fns)
    return predictions, scores, metrics


def get_batches_from_seqio(
    task_or_mixture_name: str, split: str, batch_size: int, num_batches: int,
    get_pretokenized_examples: bool = True,
    sequence_length: Mapping[str, int] | None = None, **get_dataset_kwargs
) -> Sequence[Sequence[Mapping[str, Any]]]:
  """Batches of `{"input": ..., "target": ...}` from a SeqIO task.

  Args:
    get_pretokenized_examples: texts; False gives lists of token ids.

  Raises:
    ValueError: the task has fewer examples.
  """
  ds = seqio.get_mixture_or_task(task_or_mixture_name).get_dataset(
      sequence_length=sequence_length, split=split, **get_dataset_kwargs)
  suffix = "_pretokenized" if get_pretokenized_examples else ""
  value = lambda x: x if get_pretokenized_examples else x.tolist()
  examples = [
      {name: value(e[f"{name}s{suffix}"]) for name in ("input", "target")}
      for e in ds.take(batch_size * num_batches).as_numpy_iterator()]
  if len(examples) < batch_size * num_batches:
    raise errors.InvalidValue(
        f"{num_batches} batches of {batch_size} examples were asked for; "
        f"{task_or_mixture_name} has {len(examples)} in {split!r}")
  return [examples[i:i + batch_size]
          for i in range(0, len(examples), batch_size)]


def get_seqio_task_from_examples(
    task_name: str, interactive_model: InteractiveModel,
    examples: Sequence[Example],
    preprocessors: Sequence[Callable[..., tf.data.Dataset]],
    metric_fns: Sequence[Callable[..., Any]] | None = None,
    add_to_registry: bool = True) -> seqio.Task | seqio.Mixture:
  """A SeqIO task of examples, with the splits `train` and `validation`.

  Args:
    add_to_registry: False gives the task that has the name already.
  """
  if add_to_registry:
    seqio.TaskRegistry.add(
        task_name, source=seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None:
            get_dataset_from_natural_text_examples(examples, (), None, {}),
            splits=["train", "validation"]),
        preprocessors=list(preprocessors),
        output_features=interactive_model._features,
        metric_fns=list(metric_fns or ()))
  return seqio.get_mixture_or_task(task_name)


def get_gin_config_from_interactive_model(
    interactive_model: InteractiveModel, script_type: T5XScriptType,
    task_name: str, partitioner_config_str: str, model_config_str: str,
    train_steps: int = 1, imports_str: str = "") -> str:
  """A gin file with which a script goes on where a notebook is.

  Args:
    task_name: the SeqIO task, see `get_seqio_task_from_examples`.
    partitioner_config_str: gin text that binds the partitioner.
    model_config_str: gin text that binds MODEL.
    train_steps: the step to train to.
    imports_str: gin text of the imports that those two need.
  """
  path, mode = interactive_model._checkpoint
  lengths = dict(interactive_model._task_feature_lengths)
  infers = script_type is T5XScriptType.INFERENCE
  if infers and not path:
    raise errors.InvalidValue("inference needs a checkpoint to restore")
  lines = [
      "from __gin__ import dynamic_registration",
      "from t5x import utils",
      *([] if infers else ["import __main__ as train_script"]), imports_str,
      f"include 't5x/configs/runs/{'infer' if infers else 'pretrain'}.gin'",
      f"MODEL_DIR = {interactive_model._output_dir!r}",
      f"MIXTURE_OR_TASK_NAME = {task_name!r}",
      f"TASK_FEATURE_LENGTHS = {lengths!r}",
      "USE_CACHED_TASKS = False",
      f"BATCH_SIZE = {interactive_model._batch_size}",
      model_config_str, partitioner_config_str]
  if path:
    lines += [f"CHECKPOINT_PATH = {path!r}",
              "utils.RestoreCheckpointConfig:", "  path = %CHECKPOINT_PATH",
              f"  mode = {mode!r}", f"  dtype = {interactive_model._dtype!r}"]
  if infers:
    lines += ["INFER_OUTPUT_DIR = %MODEL_DIR"]
  else:
    lines += [f"TRAIN_STEPS = {train_steps}", "DROPOUT_RATE = 0.0",
              "SHUFFLE_TRAIN_EXAMPLES = False",
              "train/utils.DatasetConfig.pack = False",
              "train_eval/utils.DatasetConfig.pack = False"]
  if script_type is T5XScriptType.EVALUATION:
    lines += ["train_script.train:", "  run_eval_before_training = True",
              "  eval_period = 0", "  total_steps = 0"]
  return "\n".join(lines) + "\n"
