"""The loop of a run: steps, and between them metrics, checkpoints, evaluations.

`runs.schedule` says at which steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import concurrent.futures
import dataclasses
import functools
import gc
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from stepdistill_jax.embedded_t5x import trainer as trainer_lib, utils
from stepdistill_jax.runs import (
  fault_points,
  guards,
  run_record,
  schedule as schedule_lib,
  signals as signals_lib,
)
from stepdistill_jax.util import progress as progress_lib


def run_actions(
    mode: trainer_lib.ActionMode, actions: trainer_lib.ActionMapType,
    train_state, metrics_by_task: Mapping[str, Mapping[str, Any]]) -> bool:
  """Runs a mode's actions on host 0; True, on all hosts, to end training."""
  stop = False
  if jax.process_index() == 0:
    for action in actions.get(mode, ()):
      stop |= bool(action.run(train_state, metrics_by_task=metrics_by_task))
  return bool(multihost_utils.broadcast_one_to_all(np.array(stop)))


@dataclasses.dataclass
class Evaluations:
  """A run's evaluations: with teacher forcing, then by decoding.

  Their data is read when first needed: the first step need not wait for it.

  Attributes:
    trainer: computes the losses; its train state is evaluated.
    act: called with the name of an ActionMode and the metrics by task.
    make_datasets: gives the data for losses by name; None for none.
    make_evaluator: gives an `eval.InferenceEvaluator`; None for none.
  """

  trainer: trainer_lib.BaseTrainer
  train_state_axes: Any
  act: Callable[[str, Mapping[str, Any]], None]
  make_datasets: Callable[[], Mapping[str, Any]] | None
  make_evaluator: Callable[[], Any] | None

  @functools.cached_property
  def _datasets(self) -> Mapping[str, Any]:
    return self.make_datasets() if self.make_datasets else {}

  @functools.cached_property
  def _evaluator(self):
    evaluator = self.make_evaluator and self.make_evaluator()
    return evaluator if evaluator and evaluator.eval_tasks else None

  def run(self, step: int, wait: bool) -> concurrent.futures.Future | None:
    """Evaluates; gives a future of the decoded answers' metrics by task."""
    if self._datasets:
      self.trainer.compile_eval({
          name: utils.get_zeros_batch_like_dataset(ds)
          for name, ds in self._datasets.items()})
      metrics = self.trainer.eval(utils.numpy_iterators(self._datasets))
      progress_lib.say_metrics("train-eval", step, metrics)
      self.act("TRAIN_EVAL", metrics)
    if self._evaluator is None:
      return None
    future = self._evaluator.evaluate(
        self.trainer.train_state, self.train_state_axes)
    if wait:
      self.act("INFER_EVAL", future.result() or {})
    return future

  def close(self) -> None:
    evaluator = self.__dict__.get("_evaluator")
    if evaluator is not None:
      evaluator.close()


@dataclasses.dataclass
class TrainLoop:
  """Trains to the last step, or until an action or a signal ends it.

  Attributes:
    act: called with the name of an ActionMode and metrics by task.
    concurrent_metrics: let metrics be computed while training goes on; no
      action then looks at those of training and decoding.
    monitor: stops the run where losses go wrong.
    signals: knows whether the run is asked to end.
    background: where the results of an evaluation are waited for.
  """

  trainer: trainer_lib.BaseTrainer
  train_iter: Any
  schedule: schedule_lib.Schedule
  step: int
  model_dir: str
  manager: Any
  save_cfg: utils.SaveCheckpointConfig | None
  evaluations: Evaluations | None
  act: Callable[[str, Mapping[str, Any]], None]
  concurrent_metrics: bool
  monitor: guards.Monitor
  signals: signals_lib.SignalWatch
  background: concurrent.futures.Executor

  def __post_init__(self):
    self._unchecked = []  # (step, future of a period's metrics)
    self._finishing = []  # Futures of evaluations.

  def run(self, evaluate_first: bool) -> None:
    """Trains; an interruption has saved, and is raised.

    Args:
      evaluate_first: make up for an evaluation that was cut off.
    """
    try:
      if evaluate_first:
        with self.signals.breaking_off():
          self.evaluate()
      first, last = self.step, self.schedule.last
      with progress_lib.Progress(last, first) as progress:
        self.trainer.on_step = progress.at_step
        saving = schedule_lib.TimedSaving(
            self.save_cfg and self.save_cfg.period_minutes)
        while self.step < last and not self.trainer.stop_training:
          if not self._train_period(progress):
            break
          self._between_periods(saving)
          if self.signals.received is not None:
            break
    except signals_lib.Interrupted:
      pass
    if self.signals.received is not None:
      self._save_and_stop()
    self._check_metrics()

  def _train_period(self, progress: progress_lib.Progress) -> bool:
    """Steps until the next stop; False if a signal came before it."""
    stop = self.schedule.next_stop(self.step)
    summary = self.trainer.train(
        self.train_iter, stop - self.step, start_step=self.step)
    if summary is None:
      self.step = int(jax.device_get(self.trainer.train_state.step))
      self.monitor.check_nonfinite(self.step, self.trainer.nonfinite_so_far)
      return False
    self.step = stop
    summary.add_done_callback(
        lambda done: done.exception() or progress.report(
            stop, progress_lib.floats(done.result())))
    self._unchecked.append((stop, summary))
    if not self.concurrent_metrics:
      self.act("TRAIN", {"train": summary.result()})
    self._check_metrics(all_but=1)  # The devices are past those.
    self.check_threads()
    return True

  def _between_periods(self, saving: schedule_lib.TimedSaving) -> None:
    """What is due at this step: garbage, a checkpoint, an evaluation."""
    schedule, step = self.schedule, self.step
    last = step == schedule.last or self.trainer.stop_training
    due = lambda period: period and (last or step % period == 0)
    if due(schedule.collection):
      gc.collect()
    if saving.is_due(last) or step in schedule.checkpoint_steps or due(
        schedule.checkpoint):
      self.save()
      saving.saved()
    if self.signals.received is None and self.evaluations and (
        last or due(schedule.evaluation)):
      self._check_metrics()
      with self.signals.breaking_off():
        self.evaluate()

  def evaluate(self) -> None:
    """All evaluations of the current state; results are logged behind."""
    start, watchdog = time.time(), self.trainer.watchdog
    watchdog.enter(watchdog.EVALUATION, self.step)
    fault_points.reach("evaluation")
    future = self.evaluations.run(self.step, wait=not self.concurrent_metrics)
    self.trainer.train_metrics_manager.write_scalar(
        "timing/evaluate_seconds", time.time() - start, self.step)
    watchdog.enter(None)
    self._finishing.append(
        self.background.submit(self._finish_evaluation, self.step, future))

  def _finish_evaluation(self, at: int, future) -> None:
    """Tells the results; once they are written, a resumed run knows."""
    metrics = (future.result() or {}) if future is not None else {}
    progress_lib.say_metrics("infer-eval", at, metrics)
    for manager in list(self.trainer.eval_metrics_managers.values()):
      manager.flush()
    if jax.process_index() == 0:
      run_record.evaluated(self.model_dir, at)

  def check_threads(self, wait: bool = False) -> None:
    """Raises what an evaluation or a checkpoint behind the loop has raised."""
    for future in [f for f in self._finishing if wait or f.done()]:
      self._finishing.remove(future)
      future.result()
    if self.manager is not None:
      self.manager.check_for_errors()

  def _check_metrics(self, all_but: int = 0) -> None:
    """Waits for the metrics of periods so far, and looks at them."""
    while len(self._unchecked) > all_but:
      at, summary = self._unchecked.pop(0)
      self.monitor.check(at, progress_lib.floats(summary.result()))

  def save(self) -> None:
    """Starts to write a checkpoint; returns when the state is copied."""
    if self.manager is None:
      return
    self._check_metrics()  # What went wrong is not saved.
    run_record.require_folder(self.model_dir)
    trainer, start = self.trainer, time.time()
    trainer.watchdog.enter(trainer.watchdog.CHECKPOINT, self.step)
    run_state = {"guards": self.monitor.state}
    if trainer.period_so_far:
      run_state["period"] = trainer.period_so_far
    self.manager.save(
        trainer.train_state, self.save_cfg.state_transformation_fns,
        run_state=run_state)
    trainer.watchdog.enter(None)
    trainer.train_metrics_manager.write_scalar(
        "timing/checkpoint_seconds", time.time() - start, self.step)

  def _save_and_stop(self) -> None:
    """Saves where the signal came, and raises what ends the run."""
    self.save()
    what = "reached, nothing is saved: no SaveCheckpointConfig"
    if self.manager is not None:
      self.manager.wait_until_finished()
      what = "saved; the same command goes on from there"
    utils.sync_global_devices("stopped")
    self.signals.stop(f"step {self.step} is {what}")
