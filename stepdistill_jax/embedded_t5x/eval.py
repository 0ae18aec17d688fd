"""Evaluation of checkpoints with SeqIO metrics."""

from __future__ import annotations

from collections.abc import Callable
import functools
import os
from typing import Any

from etils import epath
import jax
import seqio

from stepdistill_jax.data import dataset_providers, pipelines, truncation
from stepdistill_jax.embedded_t5x import gin_utils, utils
from stepdistill_jax.runs import checkpoint_paths
from stepdistill_jax.util import errors, progress

SummarizeConfigFn = Callable[..., None]


class InferenceEvaluator:
  """Decodes and scores a data set with a `seqio.Evaluator`."""

  def __init__(
      self, infer_eval_dataset_cfg: utils.DatasetConfig,
      inference_evaluator_cls: Callable[..., seqio.Evaluator], model,
      partitioner, log_dir: str | None = None,
      verify_matching_vocabs_fn: Callable[..., None] | None = (
          utils.verify_matching_vocabs)):
    """Initializes; reads the data.

    Args:
      log_dir: results go to its subfolder `inference_eval`; None logs none.
    """
    cfg = infer_eval_dataset_cfg
    if verify_matching_vocabs_fn and hasattr(model, "output_vocabulary"):
      # A model may know more of what its data must have.
      getattr(model, "verify_data_fn", verify_matching_vocabs_fn)(cfg, model)
    loggers = ({"log_dir": os.path.join(log_dir, "inference_eval")}
               if log_dir else {"logger_cls": ()})
    self._cfg, self._model, self._partitioner = cfg, model, partitioner
    self._evaluator = pipelines.build(functools.partial(
        inference_evaluator_cls,
        mixture_or_task_name=cfg.mixture_or_task_name,
        feature_converter=model.FEATURE_CONVERTER_CLS(pack=False),
        eval_split=cfg.split, use_cached=cfg.use_cached, seed=cfg.seed,
        sequence_length=cfg.task_feature_lengths,
        use_memory_cache=cfg.use_memory_cache, **loggers))
    self.eval_tasks = self._evaluator.eval_tasks
    for task in self.eval_tasks:
      if not int(self._evaluator.cached_task_datasets[task.name].cardinality()):
        raise errors.InvalidValue(
            f"task {task.name} has no example in split {cfg.split!r}: there "
            "is nothing to score")
    self.close = self._evaluator.close
    self._infer_fns = {}

  @property
  def model_feature_shapes(self):
    """feature -> shape of one example."""
    return self._evaluator.model_feature_shapes

  def _infer_fn(self, step_name: str, train_state_axes):
    if step_name not in self._infer_fns:
      self._infer_fns[step_name] = utils.get_infer_fn(
          infer_step=getattr(self._model, step_name),
          batch_size=self._cfg.batch_size, train_state_axes=train_state_axes,
          partitioner=self._partitioner)
    return self._infer_fns[step_name]

  def evaluate(self, train_state, train_state_axes):
    """Evaluates; returns a future of task -> metric -> value."""
    infer_fn = lambda name, **kwargs: functools.partial(
        self._infer_fn(name, train_state_axes), train_state=train_state,
        **kwargs)
    rng = jax.random.PRNGKey(0)
    metrics, _ = self._evaluator.evaluate(
        compute_metrics=jax.process_index() == 0,
        step=int(jax.device_get(train_state.step)),
        predict_fn=infer_fn("predict_batch", rng=rng),
        score_fn=infer_fn("score_batch"),
        predict_with_aux_fn=infer_fn("predict_batch_with_aux", rng=rng))
    return metrics


def _evaluated_paths(record: epath.Path) -> set[str]:
  return set(record.read_text().split()) if record.exists() else set()


def evaluate(
    *, model, dataset_cfg: utils.DatasetConfig,
    restore_checkpoint_cfg: utils.RestoreCheckpointConfig, partitioner,
    output_dir: str,
    inference_evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator,
    training_evaluator_cls: Callable[..., Any] | None = None,
    summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
    train_state_initializer_cls: type[utils.TrainStateInitializer] = (
        utils.TrainStateInitializer),
    train_eval_get_dataset_fn: Callable[..., Any] = (
        utils.get_training_eval_datasets),
    fallback_init_rng: int | None = None, use_orbax: bool = True) -> None:
  """Evaluates one, the latest or all checkpoints of a run.

  Args:
    restore_checkpoint_cfg: which checkpoints. With mode `all`, those that an
      earlier call evaluated into `output_dir` are skipped.
    training_evaluator_cls: a `Trainer`; if given, the training loss is
      computed too.
    fallback_init_rng: seed for what a checkpoint lacks.
  """
  del use_orbax
  truncation.look_at(
      dataset_providers.check(dataset_cfg, partitioner), dataset_cfg,
      refuses=False)
  cfg, paths = utils.get_first_valid_restore_config_and_paths(
      [restore_checkpoint_cfg])
  if not paths:
    raise errors.InvalidValue(
        f"no checkpoint below {restore_checkpoint_cfg.path}")
  record = epath.Path(output_dir) / (
      f"eval.{dataset_cfg.mixture_or_task_name}.ckpt")
  if restore_checkpoint_cfg.mode == "all":
    paths = [p for p in paths if p not in _evaluated_paths(record)]
  summarize_config_fn(model_dir=output_dir, summary_writer=None, step=0)

  evaluator = InferenceEvaluator(
      dataset_cfg, inference_evaluator_cls, model, partitioner,
      log_dir=output_dir)
  if not evaluator.eval_tasks:
    raise errors.InvalidValue(
        f"task {dataset_cfg.mixture_or_task_name} has no metric_fns, or no "
        f"split {dataset_cfg.split!r}: there is nothing to evaluate")
  initializer = train_state_initializer_cls(
      optimizer_def=None,  # Only parameters are restored.
      init_fn=model.get_initial_variables,
      input_shapes={k: (dataset_cfg.batch_size, *shape) for k, shape
                    in evaluator.model_feature_shapes.items()},
      partitioner=partitioner)
  utils.log_model_info(
      os.path.join(output_dir, "model-info.txt"),
      initializer.global_train_state_shape, partitioner)

  train_evaluator, train_eval_datasets = None, {}
  if training_evaluator_cls:
    layout = partitioner.get_data_layout(dataset_cfg.batch_size)
    train_eval_datasets = train_eval_get_dataset_fn(
        dataset_cfg, layout.shard_id, layout.num_shards,
        feature_converter_cls=model.FEATURE_CONVERTER_CLS)
    train_evaluator = training_evaluator_cls(
        model=model, train_state=None, partitioner=partitioner,
        train_state_axes=initializer.train_state_axes,
        eval_names=list(train_eval_datasets), summary_dir=output_dir,
        rng=jax.random.PRNGKey(0), learning_rate_fn=None,
        num_microbatches=None)

  for path in paths:
    train_state = initializer.restore(
        cfg, path, init_rng=utils.key_of_seed(fallback_init_rng))
    if train_evaluator is not None:
      train_evaluator.train_state = train_state
      train_evaluator.eval(utils.numpy_iterators(train_eval_datasets))
    metrics = evaluator.evaluate(
        train_state, initializer.train_state_axes).result() or {}
    utils.sync_global_devices(f"evaluated {path}")
    if jax.process_index() == 0:
      progress.say_metrics(
          "infer-eval", int(jax.device_get(train_state.step)), metrics)
      done = _evaluated_paths(record) | {path}
      record.write_text("\n".join(sorted(
          done, key=checkpoint_paths.get_step_from_checkpoint_dir)))
  evaluator.close()
