"""The train step, and the loop of steps between two looks at the metrics.

`train_with_lr` is the step: gradients (over microbatches if asked for), then
the optimizer. It is pure; `Trainer` compiles it for a partitioner and drives
it. A subclass may override `_partitioned_train_step` and compute on the whole
global batch before it calls `train_with_lr`, which splits it.
"""

from __future__ import annotations

import abc
import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import concurrent.futures
import contextlib
import functools
import time
from typing import Any

from absl import logging
import clu.metrics
import clu.values
from flax import traverse_util
import flax.core
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from stepdistill_jax.embedded_t5x import metrics as metrics_lib, partitioning
from stepdistill_jax.embedded_t5x.actions import *  # noqa: F403
from stepdistill_jax.embedded_t5x.metrics_manager import MetricsManager
from stepdistill_jax.runs import (
  fault_points,
  guards as guards_lib,
  unfinished_period,
  watchdog as watchdog_lib,
)
from stepdistill_jax.util import errors

Array = np.ndarray | jax.Array
BatchSpec = MetricMapSpec = Mapping[str, jax.ShapeDtypeStruct]
BatchType = Mapping[str, jax.Array]
FlaxMutables = flax.core.FrozenDict
MetricMapType = Mapping[str, clu.metrics.Metric]
MetricValueMapType = Mapping[str, clu.values.Value]
MutableMetricMapType = dict[str, clu.metrics.Metric]
ModelWeights = PyTree = Any
Rng = jax.Array
ArrayMapFuture = MetricValueMapFuture = TimeFuture = concurrent.futures.Future
LearningRateCallable = Callable[[jax.Array], jax.Array]
SummarizeMetricsCallable = Callable[..., Mapping[str, jax.Array]]
PartitionedTrainCallable = Callable[..., tuple[Any, MetricMapType]]
PartitionedEvalCallable = Callable[..., MetricMapType]
# The host may run ahead of the devices by so many steps: enough to hide its
# own work, few enough that batches do not pile up in device memory.
_MAX_STEPS_AHEAD = 2
_time = time.time  # T5X's name: tests of its users set the clock by it.


class PreemptionError(Exception):
  """Training was asked to end."""


def merge_metrics(a: MetricMapType, b: MetricMapType) -> MetricMapType:
  """Merges two dicts of metrics, name by name."""
  return jax.tree.map(
      lambda x, y: x.merge(y), a, b, is_leaf=metrics_lib.is_metric_obj)


class WeightMetricsComputer:
  """Sizes of parameters, gradients and updates, per parameter."""

  def compute_metrics(self, gradients, old_train_state, new_train_state):
    """Returns `AveragePerStep` metrics named `metric/parameter`."""
    new = new_train_state.params
    update = jax.tree.map(jnp.subtract, new, old_train_state.params)
    relative = jax.tree.map(jnp.divide, update, old_train_state.params)
    rms = lambda x: jnp.sqrt(jnp.mean(jnp.square(x)))
    values = {}
    for name, statistic, tree in [
        ("weight_rms", rms, new),
        ("weight_gradient_rms", rms, gradients),
        ("weight_update_rms", rms, update),
        ("weight_update_divided_by_weight_rms", rms, relative),
        ("weight_max", lambda x: jnp.max(jnp.abs(x)), new)]:
      flat = traverse_util.flatten_dict(flax.core.unfreeze(tree), sep="/")
      values.update({f"{name}/{k}": statistic(v) for k, v in flat.items()})
    values["weight_gradient_norm"] = jnp.sqrt(sum(
        jnp.vdot(g, g) for g in jax.tree.leaves(gradients)))
    return {k: metrics_lib.AveragePerStep.from_model_output(v)
            for k, v in values.items()}


def _check_microbatches(batch_size: int, num_microbatches: int | None) -> None:
  if num_microbatches and batch_size % num_microbatches:
    raise errors.InvalidValue(
        f"batch size {batch_size} is not divisible by "
        f"Trainer.num_microbatches={num_microbatches}")


def accumulate_grads_microbatched(
    model, train_state, batch: BatchType, dropout_rng: Rng,
    num_microbatches: int | None,
    data_partition_spec: PartitionSpec = PartitionSpec("data")):
  """Gradients of the summed loss of a batch.

  Args:
    model: has `loss_fn(params, batch, dropout_rng[, flax_mutables])`, which
      returns (loss, metrics), or with mutables (loss, (metrics, mutables)).
    train_state: of which only `params` and `flax_mutables` are read.
    batch: feature -> [batch, ...].
    dropout_rng: of the step. As in T5X, all its microbatches drop out the
      same positions; other keys would give other losses than T5X's.
    num_microbatches: the batch is cut into so many runs of examples, whose
      gradients are added one after the other in float32; None or 1 does not
      cut.
    data_partition_spec: how each microbatch is sharded.

  Returns:
    (gradients, metrics, flax_mutables or None).
  """
  grad_fn = jax.value_and_grad(model.loss_fn, has_aux=True)

  def grads_and_metrics(microbatch, rng, mutables):
    if mutables is None:
      (_, metrics), grads = grad_fn(train_state.params, microbatch, rng)
    else:
      (_, (metrics, mutables)), grads = grad_fn(
          train_state.params, microbatch, rng, mutables)
    return grads, metrics, mutables

  mutables = train_state.flax_mutables or None
  if num_microbatches is None or num_microbatches <= 1:
    return grads_and_metrics(batch, dropout_rng, mutables)

  batch_size = next(iter(batch.values())).shape[0]
  _check_microbatches(batch_size, num_microbatches)
  # [batch, ...] -> [num_microbatches, batch / num_microbatches, ...]
  microbatches = jax.tree.map(
      lambda x: x.reshape(num_microbatches, -1, *x.shape[1:]), dict(batch))
  microbatch_rng = jax.random.split(dropout_rng)[1]

  def add_microbatch(carry, microbatch):
    total, mutables = carry
    microbatch = jax.tree.map(
        lambda x: partitioning.with_sharding_constraint(
            x, data_partition_spec), microbatch)
    grads, metrics, mutables = grads_and_metrics(
        microbatch, microbatch_rng, mutables)
    return (jax.tree.map(jnp.add, total, grads), mutables), metrics

  zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, jnp.float32), train_state.params)
  (grads, mutables), stacked = jax.lax.scan(
      add_microbatch, (zeros, mutables), microbatches)
  # [num_microbatches, ...] -> [...]: merged in the order of microbatches.
  metrics = functools.reduce(merge_metrics, [
      jax.tree.map(lambda x, i=i: x[i], stacked)
      for i in range(num_microbatches)])
  return grads, metrics, mutables


def apply_grads(
    train_state, grad_accum, metrics, learning_rate: jax.Array,
    weight_metrics_computer: WeightMetricsComputer | None = None,
    other_state_variables: Mapping[str, Any] | None = None):
  """Updates the train state; returns (new state, metrics with more)."""
  new_train_state = train_state.apply_gradient(
      grad_accum, learning_rate=learning_rate, **(other_state_variables or {}))
  rate = jnp.asarray([learning_rate])
  metrics = {
      **metrics,
      "learning_rate": clu.metrics.Average.from_model_output(rate),
      "learning_rate/current": clu.metrics.LastValue.from_model_output(rate)}
  if weight_metrics_computer is not None:
    metrics.update(weight_metrics_computer.compute_metrics(
        grad_accum, train_state, new_train_state))
  return new_train_state, metrics


def train_with_lr(
    train_state, batch: BatchType, learning_rate: jax.Array, dropout_rng: Rng,
    model, num_microbatches: int | None,
    weight_metrics_computer: WeightMetricsComputer | None = None,
    data_partition_spec: PartitionSpec = PartitionSpec("data")):
  """One train step; returns (new train state, metrics)."""
  grads, metrics, mutables = accumulate_grads_microbatched(
      model, train_state, batch, dropout_rng, num_microbatches,
      data_partition_spec)
  new_state, metrics = apply_grads(
      train_state, grads, metrics, learning_rate, weight_metrics_computer,
      {"flax_mutables": mutables} if mutables else None)
  return guards_lib.guard_step(
      guards_lib.Guards(), train_state, new_state, grads, metrics)


def eval_step(model, train_state, batch: BatchType) -> MetricMapType:
  """The metrics of the train loss, without dropout."""
  mutables = (train_state.flax_mutables,) if train_state.flax_mutables else ()
  return model.eval_fn(train_state.params, batch, *mutables)[1]


def _specs(batch) -> Any:
  """Shapes and dtypes of a batch, hashable."""
  return tuple(sorted(
      (k, tuple(v.shape), str(v.dtype)) for k, v in batch.items()))


class BaseTrainer(abc.ABC):
  """Drives compiled steps and reports their metrics.

  A subclass gives the steps, `_partitioned_train_step` and
  `_partitioned_eval_step`.

  Use as a context manager, or call `close`: it ends background threads.

  Attributes:
    on_step: called with the number of finished steps, for a progress bar.
    should_stop: asked after each step; True ends `train` there.
    period_so_far: the metrics merged since the last that were written, and of
      how many steps, where `should_stop` cut a period (`unfinished_period`).
    nonfinite_so_far: how many of those steps were not finite.
    watchdog: gets what the trainer is waiting for.
  """

  def __init__(
      self, model, train_state, partitioner, eval_names: Sequence[str],
      summary_dir: str | None, train_state_axes, rng: Rng):
    """Initializes.

    Args:
      train_state: the initial one.
      partitioner: compiles and shards.
      eval_names: data sets that `eval` will be given; others may come.
      summary_dir: for event files; None writes none.
      rng: folded with the step, so that any step can be replayed alone.
    """
    self._model = model
    self.train_state = train_state
    self._partitioner = partitioner
    self._train_state_axes = train_state_axes
    self._base_rng = rng
    self._compiled_train_step = None
    self._compilation_seconds: float | None = None
    self._compiled_eval_steps = {}
    self._created = _time()
    self.stop_training = False
    self.on_step: Callable[[int], None] = lambda step: None
    self.should_stop: Callable[[int], bool] = lambda step: False
    self.period_so_far: Mapping[str, Any] | None = None
    self.nonfinite_so_far = 0
    self.watchdog = watchdog_lib.Watchdog()
    self.train_metrics_manager = MetricsManager("train", summary_dir)
    self._summary_dir = summary_dir
    self.eval_metrics_managers = {}
    for name in eval_names:
      self._eval_metrics_manager(name)

  def __enter__(self):
    return self

  def __exit__(self, *unused_exception):
    self.close()

  def close(self) -> None:
    self.train_metrics_manager.close()
    for manager in self.eval_metrics_managers.values():
      manager.close()

  def _eval_metrics_manager(self, name: str) -> MetricsManager:
    if name not in self.eval_metrics_managers:
      # 113: with its folder's name, a file name stays below 128 characters.
      self.eval_metrics_managers[name] = MetricsManager(
          f"training_eval/{name[:113]}", self._summary_dir)
    return self.eval_metrics_managers[name]

  def _get_step_rng(self, step) -> Rng:
    return jax.random.fold_in(self._base_rng, step)

  @functools.cached_property
  def _jitted_merge(self):
    return self._partitioner.partition(merge_metrics, (None, None), None)

  def _merge(self, metrics: MetricMapType | None, update: MetricMapType):
    return update if metrics is None else self._jitted_merge(metrics, update)

  def check_batch_size(self, batch_size: int) -> None:  # noqa: B027
    """Raises UserError if the step cannot work on batches of this size."""

  def _on_devices(self, batch):
    if all(isinstance(x, jax.Array) for x in jax.tree.leaves(batch)):
      return batch
    return self._partitioner.shard_batch(batch)

  def train(self, batch_iter: Iterator[BatchType], num_steps: int,
            start_step: int | None = None):
    """Runs steps and writes their metrics.

    Args:
      batch_iter: gives a batch for each step.
      num_steps: at most; `should_stop` may end it sooner.
      start_step: the step before the first; None asks the train state.

    Returns:
      A future of the metrics merged over the steps; None if `should_stop` cut
      them short: then they are in `period_so_far`.
    """
    if start_step is None:
      start_step = int(jax.device_get(self.train_state.step))
    end_step = start_step + num_steps
    if self._compilation_seconds is not None:
      self.train_metrics_manager.write_scalar(
          "timing/compilation_seconds", self._compilation_seconds, start_step)
      self._compilation_seconds = None
    carried, self.period_so_far = self.period_so_far, None
    self.train_metrics_manager.start_duration_timer()
    metrics, step, data_wait = self._run_steps(
        batch_iter, start_step, end_step, carried)
    done = step - start_step + (carried["num_steps"] if carried else 0)
    if step < end_step:
      self.period_so_far = unfinished_period.to_json(metrics, done)
      self.nonfinite_so_far = guards_lib.count_nonfinite(metrics)
      return None
    metrics = {
        **(metrics or {}),
        "timing/data_wait_fraction":
            metrics_lib.TimeRate.from_model_output(data_wait),
        "timing/uptime": clu.metrics.LastValue(
            total=_time() - self._created, count=1)}
    return self.train_metrics_manager.write_metrics_summary(
        metrics, end_step, done)

  def _run_steps(self, batch_iter, start_step, end_step, carried):
    """The loop; returns (merged metrics, step reached, seconds of waiting)."""
    train_step = self._compiled_train_step or self._partitioned_train_step
    # A compiled loop moves nothing between host and devices unasked.
    guard = (jax.transfer_guard("disallow") if self._compiled_train_step
             else contextlib.nullcontext())
    metrics, in_flight, data_wait = None, collections.deque(), 0.0
    train_state, watchdog, step = self.train_state, self.watchdog, start_step
    with guard:
      while step < end_step:
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
          waiting_since = time.time()
          watchdog.enter(watchdog.BATCH, step)
          batch = self._on_devices(next(batch_iter))
          data_wait += time.time() - waiting_since
          watchdog.enter(watchdog.STEP, step)
          train_state, update = train_step(train_state, batch)
          if metrics is None and carried is not None:
            metrics = unfinished_period.from_json(carried, update)
          metrics = self._merge(metrics, update)
        step += 1
        in_flight.append(update)
        if len(in_flight) > _MAX_STEPS_AHEAD:
          jax.block_until_ready(in_flight.popleft())
        self.on_step(step - len(in_flight))
        fault_points.reach("step")
        if self.should_stop(step):
          break
    watchdog.enter(None)
    self.train_state = train_state
    return metrics, step, data_wait

  def compile_train(self, batch: BatchType) -> None:
    """Compiles the train step ahead of time, for batches like this one."""
    start = _time()
    self._compiled_train_step = self._partitioner.compile(
        self._partitioned_train_step, self.train_state, batch)
    # Written by `train`: the step may be known only then, where this ran on
    # shapes while the state was being read.
    self._compilation_seconds = _time() - start

  def eval(self, batch_iters: Mapping[str, Iterator[BatchType]]):
    """Evaluates with teacher forcing.

    Returns:
      By name of data set, name -> `clu.values.Value`.
    """
    summaries = {}
    for name, batches in batch_iters.items():
      manager = self._eval_metrics_manager(name)
      manager.start_duration_timer()
      metrics, num_steps = None, 0
      for batch in map(self._on_devices, batches):
        step = self._compiled_eval_steps.get(
            _specs(batch), self._partitioned_eval_step)
        metrics = self._merge(metrics, step(self.train_state, batch))
        num_steps += 1
      if metrics is None:
        logging.warning("%s has no batch to evaluate", name)
      summaries[name] = manager.write_metrics_summary(
          metrics or {}, self.train_state.step, num_steps)
    return {name: summary.result() for name, summary in summaries.items()}

  def compile_eval(self, batches: Mapping[str, BatchType]) -> None:
    """Compiles the eval step for each different shape of batch."""
    for name, batch in batches.items():
      start = _time()
      batch = self._on_devices(batch)
      specs = _specs(batch)
      if specs not in self._compiled_eval_steps:
        self._compiled_eval_steps[specs] = self._partitioner.compile(
            self._partitioned_eval_step, self.train_state, batch)
      self._eval_metrics_manager(name).write_scalar(
          "timing/compilation_seconds", _time() - start,
          self.train_state.step)

  @property
  @abc.abstractmethod
  def _partitioned_train_step(self) -> PartitionedTrainCallable:
    """`(train state, batch) -> (train state, metrics)`, compiled."""

  @property
  @abc.abstractmethod
  def _partitioned_eval_step(self) -> PartitionedEvalCallable:
    """`(train state, batch) -> metrics`, compiled."""


BaseTrainerConstructor = Callable[..., BaseTrainer]


class Trainer(BaseTrainer):
  """Trains by `train_with_lr`."""

  def __init__(
      self, model, train_state, partitioner, eval_names: Sequence[str],
      summary_dir: str | None, train_state_axes, rng: Rng,
      learning_rate_fn: LearningRateCallable, num_microbatches: int | None,
      weight_metrics_computer: WeightMetricsComputer | None = None):
    """Initializes; further arguments as in `BaseTrainer`.

    Args:
      num_microbatches: see `accumulate_grads_microbatched`.
    """
    super().__init__(model, train_state, partitioner, eval_names, summary_dir,
                     train_state_axes, rng)
    self._learning_rate_fn = learning_rate_fn
    self._num_microbatches = num_microbatches
    self._weight_metrics_computer = weight_metrics_computer

  def check_batch_size(self, batch_size: int) -> None:
    _check_microbatches(batch_size, self._num_microbatches)

  @functools.cached_property
  def _partitioned_train_step(self):
    """`(train state, batch) -> (train state, metrics)`, compiled."""

    def train_step(train_state, batch):
      return train_with_lr(
          train_state, batch,
          learning_rate=self._learning_rate_fn(train_state.step),
          dropout_rng=self._get_step_rng(train_state.step),
          model=self._model, num_microbatches=self._num_microbatches,
          weight_metrics_computer=self._weight_metrics_computer,
          data_partition_spec=self._partitioner.data_partition_spec)

    state_axes = self._train_state_axes
    return self._partitioner.partition(
        train_step,
        in_axis_resources=(state_axes, self._partitioner.data_partition_spec),
        out_axis_resources=(state_axes, None), donate_argnums=(0,))

  @functools.cached_property
  def _partitioned_eval_step(self):
    """`(train state, batch) -> metrics`, compiled."""
    return self._partitioner.partition(
        functools.partial(eval_step, self._model),
        in_axis_resources=(self._train_state_axes,
                           self._partitioner.data_partition_spec),
        out_axis_resources=None)
