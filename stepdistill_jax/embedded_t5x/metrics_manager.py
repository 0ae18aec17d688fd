"""Metrics to TensorBoard, from a thread that waits for the devices."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from typing import Mapping, Optional

from clu import metric_writers
import clu.values
import jax
import numpy as np

from stepdistill_jax.embedded_t5x import metrics as metrics_lib


class MetricsManager:
  """Writes one collection of metrics (`train`, `training_eval/TASK`).

  Only host 0 writes. One background thread waits until metrics are computed,
  so the train loop runs ahead, and writes stay in order. Call `close`.
  """

  def __init__(self, name: str, summary_dir: Optional[str] = None):
    """Initializes.

    Args:
      name: of the collection.
      summary_dir: event files go to its subfolder `name`; None writes none.
    """
    self._name = name
    self.summary_dir = summary_dir and os.path.join(summary_dir, name)
    self._writer = self._create_writer(name, summary_dir)
    self._writer_lock = threading.Lock()
    self._thread = concurrent.futures.ThreadPoolExecutor(
        1, thread_name_prefix="MetricsManager")
    self._period_start = time.time()
    self._previous_period_end = 0.0

  def _create_writer(self, name: str, summary_dir: Optional[str]):
    if jax.process_index() != 0 or summary_dir is None:
      return metric_writers.MultiWriter([])
    return metric_writers.AsyncMultiWriter([
        metric_writers.SummaryWriter(os.path.join(summary_dir, name))])

  @property
  def summary_writer(self) -> metric_writers.MetricWriter:
    return self._writer

  def write_scalar(self, key: str, val, step: int) -> None:
    self.write_scalars(step, {key: val})

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    with self._writer_lock:
      self._writer.write_scalars(int(jax.device_get(step)), scalars)

  def start_duration_timer(self, block_on=()) -> None:
    """Marks the begin of a period.

    The period that a later `write_metrics_summary` reports begins here, or
    when the devices finished the previous period if that is later.

    Args:
      block_on: for T5X's interface.
    """
    del block_on
    self._period_start = time.time()

  def write_metrics_summary(
      self, metrics: Mapping[str, clu.metrics.Metric], step: int,
      num_steps: int) -> concurrent.futures.Future:
    """Writes metrics once they are computed.

    Args:
      metrics: merged over the period.
      step: the last step of the period.
      num_steps: of the period.

    Returns:
      A future of name -> `clu.values.Value`.
    """
    start = self._period_start

    def summarize():
      fetched = jax.device_get(metrics)  # Waits for the devices.
      end = time.time()
      duration = end - max(start, self._previous_period_end)
      self._previous_period_end = end
      final = metrics_lib.set_time_metrics_duration(fetched, duration)
      final = metrics_lib.set_step_metrics_num_steps(final, num_steps)
      # Off the devices, so that nothing is compiled for a division.
      final = jax.tree.map(np.asarray, final)
      values = {name: m.compute_value() for name, m in final.items()}
      with self._writer_lock:
        metric_writers.write_values(
            self._writer, int(jax.device_get(step)), values)
      return values

    return self._thread.submit(summarize)

  def flush(self) -> None:
    self._thread.submit(lambda: None).result()
    self._writer.flush()

  def close(self) -> None:
    """Waits for what is being written; safe to call twice."""
    self._thread.shutdown(wait=True)
    if self._writer is not None:
      self._writer.close()
      self._writer = None
