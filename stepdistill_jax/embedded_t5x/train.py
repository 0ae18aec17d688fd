"""Training: from configuration to the last checkpoint, top to bottom.

The order of the sections is the order of a run. What each does in detail is
in the module it calls.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import gc
import os
import time
from typing import Any, Callable, Mapping, Optional, Sequence, Tuple, Type

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import seqio
import tensorflow as tf

from stepdistill_jax import errors
from stepdistill_jax import gin_config
from stepdistill_jax import progress as progress_lib
from stepdistill_jax import run_record
from stepdistill_jax.embedded_t5x import checkpoint_manager as checkpoint_manager_lib
from stepdistill_jax.embedded_t5x import checkpoint_paths
from stepdistill_jax.embedded_t5x import datasets
from stepdistill_jax.embedded_t5x import eval as eval_lib
from stepdistill_jax.embedded_t5x import models
from stepdistill_jax.embedded_t5x import partitioning
from stepdistill_jax.embedded_t5x import preflight
from stepdistill_jax.embedded_t5x import state_initializer
from stepdistill_jax.embedded_t5x import trainer as trainer_lib
from stepdistill_jax.embedded_t5x import utils
from stepdistill_jax.resilience import fault_points
from stepdistill_jax.resilience import guards as guards_lib
from stepdistill_jax.resilience import run_lock
from stepdistill_jax.resilience import save_policy
from stepdistill_jax.resilience import signals as signals_lib
from stepdistill_jax.scale import data_shards as data_shards_lib
from stepdistill_jax.scale import processes

_TRAIN_METRIC_KEY = "train"
# Metrics are written at least so often, in steps, unless the config says
# otherwise: an evaluation period is long to wait for a first sign of life.
_DEFAULT_STATS_PERIOD = 100


def run_actions(
    mode: trainer_lib.ActionMode,
    actions: trainer_lib.ActionMapType,
    train_state,
    metrics_by_task: Mapping[str, Mapping[str, Any]]) -> bool:
  """Runs a mode's actions on host 0; True, on all hosts, to end training."""
  stop = False
  if jax.process_index() == 0:
    for action in actions.get(mode, ()):
      stop |= bool(action.run(train_state, metrics_by_task=metrics_by_task))
  if jax.process_count() == 1:
    return stop
  return bool(multihost_utils.broadcast_one_to_all(jnp.array(stop)))


def _next_stop(
    step: int, last: int, periods: Sequence[int], steps: Sequence[int]) -> int:
  """The next step at which something other than training happens."""
  stops = [step - step % period + period for period in periods if period]
  return min([last, *stops, *(s for s in steps if s > step)])


def _resolve_seeds(
    model_dir: str, random_seed: Optional[int], data_seed: Optional[int],
) -> Mapping[str, int]:
  """Fixed seeds, or those that the folder's run began with, or new ones."""
  recorded = (run_record.read(model_dir) or {}).get("seeds", {})

  def resolve(name: str, configured: Optional[int]) -> int:
    if configured is not None:
      return int(configured)
    return int(recorded.get(name, datasets.shared_time_seed()))

  return {"model": resolve("model", random_seed),
          "data": resolve("data", data_seed)}


def train(
    *,
    model: models.BaseModel,
    train_dataset_cfg: utils.DatasetConfig,
    train_eval_dataset_cfg: Optional[utils.DatasetConfig],
    infer_eval_dataset_cfg: Optional[utils.DatasetConfig],
    checkpoint_cfg: utils.CheckpointConfig,
    partitioner: partitioning.BasePartitioner,
    trainer_cls: Callable[..., trainer_lib.BaseTrainer],
    model_dir: str,
    total_steps: int,
    eval_steps: int,
    eval_period: int,
    relative_steps: Optional[int] = None,
    stats_period: Optional[int] = None,
    random_seed: Optional[int],
    use_hardware_rng: bool = False,
    summarize_config_fn: Callable[[str, Any, int], None],
    inference_evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator,
    get_dataset_fn: Callable[..., Any] = utils.get_dataset,
    concurrent_metrics: bool = True,
    actions: Optional[
        Mapping[str, Sequence[trainer_lib.BaseAction]]] = None,
    train_eval_get_dataset_fn: Callable[
        ..., Any] = utils.get_training_eval_datasets,
    run_eval_before_training: bool = False,
    train_state_initializer_cls: Type[
        utils.TrainStateInitializer] = utils.TrainStateInitializer,
    use_orbax: bool = True,
    verify_matching_vocabs_fn: Optional[
        Callable[..., None]] = utils.verify_matching_vocabs,
    gc_period: int = 0) -> Tuple[int, Any]:
  """Trains a model, going on from the last checkpoint of `model_dir`.

  Periods are in absolute steps: a run that was interrupted evaluates and
  saves at the same steps as one that was not.

  Args:
    model: what to train.
    train_dataset_cfg: the training data.
    train_eval_dataset_cfg: data to compute the training loss on; or None.
    infer_eval_dataset_cfg: data to decode and score; or None.
    checkpoint_cfg: when to save, and what to begin from.
    partitioner: spreads the computation over devices.
    trainer_cls: a `Trainer`, maybe with arguments bound.
    model_dir: the run folder.
    total_steps: the step to end at, those of the initial checkpoint included.
    eval_steps: number of batches of a training evaluation.
    eval_period: in steps; 0 evaluates at the end only.
    relative_steps: steps after those of the initial checkpoint; if set,
      `total_steps` is ignored.
    stats_period: number of steps that metrics are merged over.
    random_seed: of initialization and dropout. None takes a new one, and
      random bits that are fast but differ between shardings.
    use_hardware_rng: take such random bits with a fixed seed too.
    summarize_config_fn: writes the configuration to the run folder.
    inference_evaluator_cls: a `seqio.Evaluator`, maybe with arguments bound.
    get_dataset_fn: gives the training data.
    concurrent_metrics: let evaluation metrics be computed while training goes
      on; actions on them then do not run.
    actions: by name of `ActionMode`, what may end training.
    train_eval_get_dataset_fn: gives the training-evaluation data.
    run_eval_before_training: evaluate before the first step too.
    train_state_initializer_cls: makes train states.
    use_orbax: for T5X's interface.
    verify_matching_vocabs_fn: raises if task and model differ; or None.
    gc_period: if set, Python collects garbage only every so many steps.

  Returns:
    (last step, last train state).
  """
  del use_orbax
  with contextlib.ExitStack() as stack:
    # ------------------------------------------------------------------------
    # Checks: a user's mistake must not wait for a compilation
    # ------------------------------------------------------------------------
    signals = stack.enter_context(signals_lib.SignalWatch())
    config = gin_config.bindings()
    eval_cfgs = [c for c in (train_eval_dataset_cfg, infer_eval_dataset_cfg)
                 if c is not None]
    for cfg in (train_dataset_cfg, *eval_cfgs):
      preflight.check_data(cfg, partitioner)
      if verify_matching_vocabs_fn and isinstance(
          model, models.BaseTransformerModel):
        verify_matching_vocabs_fn(cfg, model)
    data = preflight.describe_data(train_dataset_cfg)
    run_record.check_same_run(model_dir, config, data)
    if jax.process_index() == 0:
      preflight.make_folder(model_dir)
      stack.enter_context(run_lock.held(model_dir))
    save_cfg, restore_cfg = checkpoint_cfg.save, checkpoint_cfg.restore
    restore_cfg, restore_path = preflight.find_checkpoint(
        model_dir, save_cfg, restore_cfg)
    processes.agree(
        "restore path", str(restore_path),
        "the hosts see different checkpoints to begin from; MODEL_DIR must be "
        "in storage that all of them share")
    resuming = restore_path is not None and (
        os.path.dirname(restore_path.rstrip("/")) == model_dir.rstrip("/"))
    action_modes = trainer_lib.ActionMode.__members__
    for name in actions or {}:
      if name not in action_modes:
        raise errors.UserError(errors.unknown_name_message(
            "action mode", name, action_modes))
    actions = {action_modes[k]: v for k, v in (actions or {}).items()}

    # ------------------------------------------------------------------------
    # Seeds
    # ------------------------------------------------------------------------
    seeds = _resolve_seeds(model_dir, random_seed, train_dataset_cfg.seed)
    if use_hardware_rng or random_seed is None:
      stack.enter_context(jax.default_prng_impl("unsafe_rbg"))
    init_rng, trainer_rng = jax.random.split(
        jax.random.PRNGKey(seeds["model"]))

    # ------------------------------------------------------------------------
    # Data
    # ------------------------------------------------------------------------
    train_dataset_cfg = dataclasses.replace(
        train_dataset_cfg, seed=seeds["data"])
    layout = partitioner.get_data_layout(train_dataset_cfg.batch_size)
    data_shards = data_shards_lib.choose(
        train_dataset_cfg, layout, run_record.data_shards(model_dir))
    train_iter = utils.prepare_train_iter(
        data_shards_lib.get_dataset(
            get_dataset_fn, train_dataset_cfg, layout, data_shards,
            model.FEATURE_CONVERTER_CLS),
        partitioner=partitioner, checkpoint_cfg=checkpoint_cfg,
        data_layout=layout)
    batch_spec = {
        name: jax.ShapeDtypeStruct((layout.batch_size, *x.shape[1:]), x.dtype)
        for name, x in train_iter.element_spec.items()}

    # ------------------------------------------------------------------------
    # Trainer: its step compiles in the background from here on
    # ------------------------------------------------------------------------
    initializer = train_state_initializer_cls(
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes={k: s.shape for k, s in batch_spec.items()},
        input_types={k: s.dtype for k, s in batch_spec.items()},
        partitioner=partitioner)
    state_shape = initializer.global_train_state_shape
    trainer = stack.enter_context(trainer_cls(
        model=model, train_state=state_shape, partitioner=partitioner,
        train_state_axes=initializer.train_state_axes,
        eval_names=(), summary_dir=model_dir, rng=trainer_rng))
    trainer.check_batch_size(layout.batch_size)
    background = stack.enter_context(
        concurrent.futures.ThreadPoolExecutor(1))
    compiling = background.submit(trainer.compile_train, batch_spec)

    init_start = time.time()

    # ------------------------------------------------------------------------
    # Initial state: from model_dir, else from the checkpoint that the config
    # names, else from scratch
    # ------------------------------------------------------------------------
    train_state, checkpoint_manager = (
        state_initializer.create_checkpoint_manager_and_restore(
            initializer, partitioner, restore_cfg, restore_path, init_rng,
            save_checkpoint_cfg=save_cfg, model_dir=model_dir,
            ds_iter=train_iter))
    train_metrics = trainer.train_metrics_manager
    if checkpoint_manager is not None:
      stack.callback(checkpoint_manager.close)  # Waits for what is written.
      # What has been saved has been logged: a killed run lacks no metrics.
      checkpoint_manager.before_commit = train_metrics.flush
    if train_state is None:
      train_state = initializer.from_scratch(init_rng)
    trainer.train_state = train_state
    first_step = step = int(jax.device_get(train_state.step))
    del train_state  # The trainer's is donated at the first step.
    if relative_steps:
      total_steps = first_step + relative_steps
    if resuming and not (restore_cfg and restore_cfg.restore_dataset):
      # The batches of the steps behind us, whatever they began from.
      train_iter.skip(step - _first_step_of_run(model_dir, step))
    utils.log_model_info(
        os.path.join(model_dir, "model-info.txt"), state_shape, partitioner)
    train_metrics.write_scalar(
        "timing/init_or_restore_seconds", time.time() - init_start, step)
    summarize_config_fn(model_dir, train_metrics.summary_writer, step)
    if jax.process_index() == 0:
      run_record.start(
          model_dir, engine="embedded", config=config, step=step, seeds=seeds,
          data={**data, "shards": data_shards},
          devices=f"{jax.device_count()} x {jax.devices()[0].device_kind}")
    if total_steps < step:
      raise errors.UserError(
          f"TRAIN_STEPS={total_steps} is less than the checkpoint's step, "
          f"{step}; TRAIN_STEPS counts those steps too")

    run_state = resuming and checkpoint_manager_lib.read_run_state(
        restore_path) or {}
    trainer.period_so_far = run_state.get("period")
    monitor = guards_lib.Monitor(
        guards_lib.Guards(), run_state.get("losses", ()))

    # ------------------------------------------------------------------------
    # Evaluations
    # ------------------------------------------------------------------------
    # Built when first used, so that the first step need not wait for them.
    @functools.cache
    def train_eval_datasets() -> Mapping[str, Any]:
      if train_eval_dataset_cfg is None:
        return {}
      return train_eval_get_dataset_fn(
          train_eval_dataset_cfg, layout.shard_id, layout.num_shards,
          eval_steps, model.FEATURE_CONVERTER_CLS)

    @functools.cache
    def evaluator() -> Optional[eval_lib.InferenceEvaluator]:
      if infer_eval_dataset_cfg is None:
        return None
      made = eval_lib.InferenceEvaluator(
          infer_eval_dataset_cfg, inference_evaluator_cls, model, partitioner,
          log_dir=model_dir, verify_matching_vocabs_fn=None)
      stack.callback(made.close)
      return made if made.eval_tasks else None

    def evaluate() -> None:
      """Both evaluations of the current state."""
      start = time.time()
      trainer.watchdog.enter(trainer.watchdog.EVALUATION, step)
      fault_points.reach("evaluation")
      if train_eval_datasets():
        trainer.compile_eval({
            name: utils.get_zeros_batch_like_dataset(ds)
            for name, ds in train_eval_datasets().items()})
        metrics = trainer.eval({
            name: ds.as_numpy_iterator() if isinstance(
                ds, tf.data.Dataset) else ds
            for name, ds in train_eval_datasets().items()})
        progress_lib.say_metrics("train-eval", step, metrics)
        trainer.stop_training |= run_actions(
            trainer_lib.ActionMode.TRAIN_EVAL, actions, trainer.train_state,
            metrics)
      future = None
      if evaluator() is not None:
        future = evaluator().evaluate(
            trainer.train_state, initializer.train_state_axes)
        if not concurrent_metrics:
          trainer.stop_training |= run_actions(
              trainer_lib.ActionMode.INFER_EVAL, actions, trainer.train_state,
              future.result() or {})
      train_metrics.write_scalar(
          "timing/evaluate_seconds", time.time() - start, step)
      trainer.watchdog.enter(None)
      background.submit(finish_evaluation, step, future)

    def finish_evaluation(at: int, future) -> None:
      """Tells the results; once they are written, a resumed run knows."""
      try:
        metrics = (future.result() or {}) if future is not None else {}
      except Exception as error:  # pylint: disable=broad-exception-caught
        # Training goes on; a run that starts again makes up for it.
        progress_lib.say(
            f"warning: the evaluation at step {at} failed: {error}")
        return
      progress_lib.say_metrics("infer-eval", at, metrics)
      for manager in list(trainer.eval_metrics_managers.values()):
        manager.flush()
      if jax.process_index() == 0:
        run_record.evaluated(model_dir, at)

    def check_metrics() -> None:
      """Waits for the metrics of all periods so far, and looks at them."""
      while unchecked:
        at, summary = unchecked.pop(0)
        monitor.check(at, progress_lib.floats(summary.result()))

    def save() -> None:
      """Starts to write a checkpoint; returns when the state is copied."""
      if checkpoint_manager is None:
        return
      check_metrics()  # What went wrong is not saved.
      preflight.check_folder_is_there(model_dir)
      start = time.time()
      trainer.watchdog.enter(trainer.watchdog.CHECKPOINT, step)
      checkpoint_manager.save(
          trainer.train_state, save_cfg.state_transformation_fns,
          run_state={"losses": monitor.losses, **(
              {"period": trainer.period_so_far}
              if trainer.period_so_far else {})})
      trainer.watchdog.enter(None)
      train_metrics.write_scalar(
          "timing/checkpoint_seconds", time.time() - start, step)

    unchecked = []  # (step, future of a period's metrics)
    if run_eval_before_training:
      evaluate()
    checkpoint_period = (save_cfg and save_cfg.period) or 0
    checkpoint_steps = sorted((save_cfg and save_cfg.checkpoint_steps) or ())
    eval_period = eval_period if eval_cfgs else 0
    # An evaluation that was cut off when the run was.
    must_evaluate = bool(
        resuming and eval_cfgs
        and (step == total_steps or eval_period and step % eval_period == 0)
        and run_record.last_evaluation(model_dir) < step)
    if step == total_steps and not must_evaluate:
      progress_lib.say(f"step {step} is TRAIN_STEPS already: nothing to train")
      return step, trainer.train_state
    if checkpoint_period and not resuming:
      save()

    # ------------------------------------------------------------------------
    # Train loop
    # ------------------------------------------------------------------------
    if stats_period is None:
      stats_period = min([
          _DEFAULT_STATS_PERIOD,
          *(p for p in (eval_period, checkpoint_period) if p)])
    periods = [stats_period, eval_period, checkpoint_period, gc_period]
    train_iter.peek_async()  # The pipeline warms up while XLA compiles.
    if jax.process_count() > 1:
      data_shards_lib.check_first_batch(train_iter, layout)
    compiling.result()
    if gc_period:
      gc.disable()
      stack.callback(gc.enable)
    stack.enter_context(trainer.watchdog)
    signals.saves_from_here()
    trainer.should_stop = signals.should_stop
    try:
      if must_evaluate:
        with signals.breaking_off():
          evaluate()
      progress = stack.enter_context(
          progress_lib.Progress(total_steps, first_step))
      trainer.on_step = progress.at_step
      saving = save_policy.TimedSaving(save_cfg and save_cfg.period_minutes)
      while step < total_steps and not trainer.stop_training:
        stop = _next_stop(step, total_steps, periods, checkpoint_steps)
        summary = trainer.train(train_iter, stop - step, start_step=step)
        if summary is None:  # A signal came within the period.
          step = int(jax.device_get(trainer.train_state.step))
          monitor.check_nonfinite(step, trainer.nonfinite_so_far)
          break
        step = stop
        summary.add_done_callback(
            lambda done, at=step: progress.report(
                at, progress_lib.floats(done.result())))
        unchecked.append((step, summary))
        if not concurrent_metrics:
          trainer.stop_training |= run_actions(
              trainer_lib.ActionMode.TRAIN, actions, trainer.train_state,
              {_TRAIN_METRIC_KEY: summary.result()})
        while len(unchecked) > 1:  # The devices are past that one.
          at, summary = unchecked.pop(0)
          monitor.check(at, progress_lib.floats(summary.result()))
        last = step == total_steps or trainer.stop_training
        if gc_period and (last or step % gc_period == 0):
          gc.collect()
        if saving.is_due() or step in checkpoint_steps or (
            checkpoint_period and (last or step % checkpoint_period == 0)):
          save()
          saving.saved()
        if signals.received is not None:
          break
        if eval_cfgs and (last or eval_period and step % eval_period == 0):
          check_metrics()
          with signals.breaking_off():
            evaluate()
    except signals_lib.Interrupted:
      pass
    if signals.received is not None:
      save()
      if checkpoint_manager is not None:
        checkpoint_manager.wait_until_finished()
      utils.sync_global_devices("stopped")
      signals.stop(
          f"step {step} is saved; the same command goes on from there"
          if checkpoint_manager else f"step {step} is reached, nothing is "
          "saved: no SaveCheckpointConfig")
    check_metrics()

    # ------------------------------------------------------------------------
    # The end
    # ------------------------------------------------------------------------
    signals.ends_from_here()
    if checkpoint_manager is not None:
      checkpoint_manager.wait_until_finished()
    utils.sync_global_devices("trained")
    if jax.process_index() == 0:
      run_record.finish(model_dir, step)
    return step, trainer.train_state


def _first_step_of_run(model_dir: str, step: int) -> int:
  """The step that the folder's run began at: 0, or the initial checkpoint's."""
  starts = (run_record.read(model_dir) or {}).get("starts", [])
  return min([step, *checkpoint_paths.all_steps(model_dir),
              *(start["step"] for start in starts)])
