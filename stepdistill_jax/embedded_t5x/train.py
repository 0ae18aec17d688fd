"""Training: from configuration to the last checkpoint, top to bottom.

The order of the sections is the order of a run. What each does in detail is
in the module it calls; the steps themselves are in `train_loop`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import concurrent.futures
import contextlib
import dataclasses
import functools
import gc
import os
import time
from typing import Any

import jax
import seqio

from stepdistill_jax.config import gin_config, setting_checks
from stepdistill_jax.data import dataset_providers, pair_rows
from stepdistill_jax.distributed import (
  data_shards as data_shards_lib,
  device_mesh,
  processes,
)
from stepdistill_jax.embedded_t5x import (
  checkpoint_config,
  datasets,
  eval as eval_lib,
  models,
  partitioning,
  state_initializer,
  train_loop,
  trainer as trainer_lib,
  utils,
)
from stepdistill_jax.embedded_t5x.train_loop import run_actions
from stepdistill_jax.runs import (
  checkpoint_reading,
  checkpoint_writing,
  disk_errors,
  guards,
  run_lock,
  run_record,
  schedule as schedule_lib,
  signals as signals_lib,
)
from stepdistill_jax.util import errors, locations, progress


def _resolve_seeds(
    model_dir: str, random_seed: int | None, data_seed: int | None
) -> Mapping[str, int]:
  """Fixed seeds, or those that the folder's run began with, or new ones."""
  recorded = (run_record.read(model_dir) or {}).get("seeds", {})
  return {
      name: int(recorded.get(name, datasets.shared_time_seed())
                if configured is None else configured)
      for name, configured in (("model", random_seed), ("data", data_seed))}


def _by_mode(actions: Mapping[str, Sequence[trainer_lib.BaseAction]] | None
             ) -> trainer_lib.ActionMapType:
  """Actions by mode; raises UserError where a mode's name is unknown."""
  modes = trainer_lib.ActionMode.__members__
  for name in actions or {}:
    errors.require_known("action mode", name, modes)
  return {modes[name]: what for name, what in (actions or {}).items()}


def train(
    *, model: models.BaseModel, train_dataset_cfg: utils.DatasetConfig,
    train_eval_dataset_cfg: utils.DatasetConfig | None,
    infer_eval_dataset_cfg: utils.DatasetConfig | None,
    checkpoint_cfg: utils.CheckpointConfig,
    partitioner: partitioning.BasePartitioner,
    trainer_cls: Callable[..., trainer_lib.BaseTrainer], model_dir: str,
    total_steps: int, eval_steps: int, eval_period: int,
    relative_steps: int | None = None, stats_period: int | None = None,
    random_seed: int | None, use_hardware_rng: bool | None = False,
    summarize_config_fn: Callable[[str, Any, int], None],
    inference_evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator,
    get_dataset_fn: Callable[..., Any] = utils.get_dataset,
    concurrent_metrics: bool = True,
    actions: Mapping[str, Sequence[trainer_lib.BaseAction]] | None = None,
    train_eval_get_dataset_fn: Callable[..., Any] = (
        utils.get_training_eval_datasets),
    run_eval_before_training: bool = False,
    train_state_initializer_cls: type[utils.TrainStateInitializer] = (
        utils.TrainStateInitializer), use_orbax: bool = True,
    verify_matching_vocabs_fn: Callable[..., None] | None = (
        utils.verify_matching_vocabs), gc_period: int = 0) -> tuple[int, Any]:
  """Trains a model, going on from the last checkpoint of `model_dir`.

  Args:
    total_steps: the step to end at; if the step of the initial checkpoint is
      restored, that is counted too.
    eval_steps: number of batches of a training evaluation.
    eval_period: in steps; 0 evaluates at the end only.
    relative_steps: steps after the run's first, however often it is
      interrupted; if set, `total_steps` is ignored.
    stats_period: number of steps that metrics are merged over.
    random_seed: of initialization and dropout. None takes a new one, and
      random bits that are fast but differ between shardings.
    use_hardware_rng: take such random bits with a fixed seed too; None, see
      `utils.random_bits`.
    concurrent_metrics: let evaluation metrics be computed while training goes
      on; actions on them then do not run.
    actions: by name of `ActionMode`, what may end training.
    gc_period: if set, Python collects garbage only every so many steps.

  Returns:
    (last step, last train state).
  """
  del use_orbax
  model_dir = locations.absolute(model_dir)
  with contextlib.ExitStack() as stack:
    # ------------------------------------------------------------------------
    # Checks: a user's mistake must not wait for a compilation
    # ------------------------------------------------------------------------
    stack.enter_context(disk_errors.reported(model_dir))
    signals = stack.enter_context(signals_lib.SignalWatch())
    config = gin_config.bindings()
    packing, packed_rows = run_record.packing(model_dir)
    in_pairs = pair_rows.wanted(
        train_dataset_cfg, model, get_dataset_fn,
        device_mesh.on_accelerators(), packing)
    train_dataset_cfg, train_eval_dataset_cfg = map(
        pair_rows.with_bool, (train_dataset_cfg, train_eval_dataset_cfg))
    eval_cfgs = [c for c in (train_eval_dataset_cfg, infer_eval_dataset_cfg)
                 if c is not None]
    setting_checks.periods(
        eval_period if eval_cfgs else 0,
        checkpoint_cfg.save.period if checkpoint_cfg.save else 0)
    for cfg in (train_dataset_cfg, *eval_cfgs):
      dataset_providers.check(
          cfg, partitioner, "" if cfg is train_dataset_cfg
          else setting_checks.NO_EVALUATION)
      if verify_matching_vocabs_fn and isinstance(
          model, models.BaseTransformerModel):
        verify_matching_vocabs_fn(cfg, model)
    data = dataset_providers.describe(train_dataset_cfg)
    run_record.check_same_run(model_dir, config, data)
    if jax.process_index() == 0:
      stack.enter_context(run_lock.held(model_dir))
    save_cfg = checkpoint_cfg.save
    restore_cfg, restore_path = checkpoint_config.initial_checkpoint(
        model_dir, save_cfg, checkpoint_cfg.restore)
    processes.agree(
        "restore path", str(restore_path),
        "the hosts see different checkpoints to begin from; MODEL_DIR must be "
        "in storage that all of them share")
    resuming = restore_path is not None and (
        os.path.dirname(restore_path.rstrip("/")) == model_dir.rstrip("/"))
    if resuming and run_record.read(model_dir) is None:
      progress.say(
          f"{model_dir} has checkpoints and no {run_record.FILE_NAME}: whether "
          "configuration, seeds and data are theirs is not known")
    actions_by_mode = _by_mode(actions)

    # ------------------------------------------------------------------------
    # Seeds
    # ------------------------------------------------------------------------
    seeds = _resolve_seeds(model_dir, random_seed, train_dataset_cfg.seed)
    bits = utils.random_bits(
        use_hardware_rng, random_seed, run_record.random_bits(model_dir))
    # A device's own bits are of its steps: a seed's parameters are the same
    # everywhere.
    initial_bits = functools.partial(jax.default_prng_impl, (
        jax.config.jax_default_prng_impl if bits == "rbg" else bits))
    random_bits = functools.partial(jax.default_prng_impl, bits)
    stack.enter_context(random_bits())
    trainer_rng = jax.random.split(jax.random.PRNGKey(seeds["model"]))[1]
    with initial_bits():
      init_rng = jax.random.split(jax.random.PRNGKey(seeds["model"]))[0]

    # ------------------------------------------------------------------------
    # Data
    # ------------------------------------------------------------------------
    train_dataset_cfg = dataclasses.replace(
        train_dataset_cfg, seed=seeds["data"])
    layout = partitioner.get_data_layout(train_dataset_cfg.batch_size)
    if in_pairs:
      get_dataset_fn = pair_rows.fitted(
          get_dataset_fn, relative_steps or total_steps, partitioner,
          trainer_cls, packed_rows)
    train_dataset, data_shards = data_shards_lib.get_dataset(
        get_dataset_fn, train_dataset_cfg, layout,
        run_record.data_shards(model_dir), model.FEATURE_CONVERTER_CLS)
    reading = None
    if hasattr(train_dataset, "cut"):
      reading = stack.enter_context(
          concurrent.futures.ThreadPoolExecutor(1)).submit(train_dataset.cut)
    train_iter = utils.prepare_train_iter(
        train_dataset, partitioner=partitioner, checkpoint_cfg=checkpoint_cfg)
    num_rows = train_dataset.rows.rows if in_pairs else layout.batch_size
    if in_pairs:
      progress.say("PACK = 'pairs': " + train_dataset.batches.rows_in_words()
                   + "; PACK = False gives each a row of its own")
      data = {**data, "pack": pair_rows.PAIRS,
              "packed_rows": list(train_dataset.rows)}
    batch_spec = {
        name: jax.ShapeDtypeStruct((num_rows, *x.shape[1:]), x.dtype)
        for name, x in train_iter.element_spec.items()}

    # ------------------------------------------------------------------------
    # Trainer: its step compiles in the background from here on
    # ------------------------------------------------------------------------
    initializer = state_initializer.initializer_for(
        train_state_initializer_cls, model, partitioner, batch_spec,
        model.optimizer_def)
    state_shape = initializer.global_train_state_shape
    trainer = stack.enter_context(trainer_cls(
        model=model, train_state=state_shape, partitioner=partitioner,
        train_state_axes=initializer.train_state_axes,
        eval_names=(), summary_dir=model_dir, rng=trainer_rng))
    trainer.check_batch_size(num_rows)
    background = concurrent.futures.ThreadPoolExecutor(1)
    # All its work is asked for before the end; an error does not wait for it,
    # as a compilation may take minutes.
    stack.callback(background.shutdown, wait=False, cancel_futures=True)

    def compile_train() -> None:
      with random_bits():  # A thread does not see another's contexts.
        trainer.compile_train(batch_spec)

    compiling = background.submit(compile_train)

    # ------------------------------------------------------------------------
    # Initial state: from model_dir, else from the checkpoint that the config
    # names, else from scratch
    # ------------------------------------------------------------------------
    init_start = time.time()
    with initial_bits():
      train_state, manager = (
          state_initializer.create_checkpoint_manager_and_restore(
              initializer, partitioner, restore_cfg, restore_path, init_rng,
              save_checkpoint_cfg=save_cfg, model_dir=model_dir,
              ds_iter=train_iter))
    train_metrics = trainer.train_metrics_manager
    if manager is not None:
      stack.callback(manager.close)  # Waits for what is written.
      # What has been saved has been logged: a killed run lacks no metrics.
      manager.before_commit = train_metrics.flush
    if train_state is None:
      with initial_bits():
        train_state = initializer.from_scratch(init_rng)
    elif not resuming:
      guards.require_finite(restore_path, train_state.params)
      if jax.process_index() == 0:
        checkpoint_reading.tell_whose_steps(restore_path, train_state)
    trainer.train_state = checkpoint_reading.cast_like(
        state_shape, train_state, restore_path)
    step = int(jax.device_get(train_state.step))
    del train_state  # The trainer's is donated at the first step.
    first_step = run_record.first_step(model_dir, step)
    if relative_steps:
      total_steps = first_step + relative_steps
    if total_steps < step:
      raise errors.InvalidValue(
          f"TRAIN_STEPS={total_steps} is less than the step of {restore_path}, "
          f"{step}, " + (
              "which this run has reached" if resuming else
              "which is counted; to count the run's own steps alone, bind "
              "utils.RestoreCheckpointConfig.assignment_map = "
              "((r'state/.*', None),) and fallback_to_scratch = True"))
    if total_steps == step and not resuming and not (
        run_eval_before_training and eval_cfgs):
      raise errors.InvalidValue(
          f"nothing to train in {model_dir}: TRAIN_STEPS={total_steps} is "
          "reached before the first step; set more, or score a checkpoint "
          "with `stepdistill-eval --checkpoint=...`")
    if resuming and not (restore_cfg and restore_cfg.restore_dataset):
      # The batches of the steps behind us, whatever they began from.
      train_iter.skip(step - first_step)
    utils.log_model_info(
        os.path.join(model_dir, "model-info.txt"), state_shape, partitioner)
    train_metrics.write_scalar(
        "timing/init_or_restore_seconds", time.time() - init_start, step)
    summarize_config_fn(model_dir, train_metrics.summary_writer, step)
    if jax.process_index() == 0:
      run_record.start(
          model_dir, engine="embedded", config=config, step=step,
          begun_from=restore_path, seeds=seeds,
          data={**data, "shards": data_shards,
                "cut": reading and reading.result()},
          devices=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
          random_bits=bits)
    run_state = resuming and checkpoint_writing.read_run_state(
        restore_path) or {}
    trainer.period_so_far = run_state.get("period")

    # ------------------------------------------------------------------------
    # Evaluations
    # ------------------------------------------------------------------------
    def act(mode: str, metrics_by_task: Mapping[str, Any]) -> None:
      trainer.stop_training |= run_actions(
          trainer_lib.ActionMode[mode], actions_by_mode, trainer.train_state,
          metrics_by_task)

    evaluations = None
    if eval_cfgs:
      evaluations = train_loop.Evaluations(
          trainer, initializer.train_state_axes, act,
          make_datasets=train_eval_dataset_cfg and functools.partial(
              train_eval_get_dataset_fn, train_eval_dataset_cfg,
              layout.shard_id, layout.num_shards, eval_steps,
              model.FEATURE_CONVERTER_CLS),
          make_evaluator=infer_eval_dataset_cfg and functools.partial(
              eval_lib.InferenceEvaluator, infer_eval_dataset_cfg,
              inference_evaluator_cls, model, partitioner, log_dir=model_dir,
              verify_matching_vocabs_fn=None))
      stack.callback(evaluations.close)

    # ------------------------------------------------------------------------
    # Train loop
    # ------------------------------------------------------------------------
    schedule = schedule_lib.Schedule(
        last=total_steps, stats=stats_period,
        evaluation=eval_period if eval_cfgs else 0,
        checkpoint=(save_cfg and save_cfg.period) or 0,
        checkpoint_steps=(save_cfg and save_cfg.checkpoint_steps) or (),
        collection=gc_period)
    loop = train_loop.TrainLoop(
        trainer=trainer, train_iter=train_iter, schedule=schedule, step=step,
        model_dir=model_dir, manager=manager, save_cfg=save_cfg,
        evaluations=evaluations, act=act, concurrent_metrics=concurrent_metrics,
        monitor=guards.Monitor(guards.Guards(), **run_state.get("guards", {})),
        signals=signals, background=background)
    at_start = step == first_step
    not_evaluated = run_record.last_evaluation(model_dir) < step
    if run_eval_before_training and evaluations and at_start and not_evaluated:
      loop.evaluate()
    # An evaluation that was cut off when the run was.
    evaluate_first = bool(
        resuming and evaluations and not at_start and not_evaluated
        and (step == total_steps
             or schedule.evaluation and step % schedule.evaluation == 0))
    if step == total_steps and not evaluate_first:
      loop.check_threads(wait=True)
      concurrent.futures.wait([compiling])
      progress.say(f"step {step} is TRAIN_STEPS already: nothing to train")
      return step, trainer.train_state
    if schedule.checkpoint and not resuming:
      loop.save()
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
    loop.run(evaluate_first)

    # ------------------------------------------------------------------------
    # The end
    # ------------------------------------------------------------------------
    signals.ends_from_here()
    loop.check_threads(wait=True)
    if manager is not None:
      manager.wait_until_finished()
    utils.sync_global_devices("trained")
    if jax.process_index() == 0:
      run_record.finish(model_dir, loop.step)
    return loop.step, trainer.train_state
