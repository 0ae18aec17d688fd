"""Metrics to TensorBoard, from a thread that waits for the devices."""

from __future__ import annotations

from collections.abc import Mapping
import concurrent.futures
import functools
import os
import threading
import time
from typing import Any

import jax
import numpy as np

from stepdistill_jax.embedded_t5x import metrics as metrics_lib


class MetricsManager:
  """Writes one collection of metrics (`train`, `training_eval/TASK`).

  Only host 0 writes. One background thread waits until metrics are computed,
  so the train loop runs ahead, and writes stay in order. Call `close`.
  """

  def __init__(self, name: str, summary_dir: str | None = None):
    """Event files go to `summary_dir/name`; None writes none."""
    self.summary_dir = summary_dir and os.path.join(summary_dir, name)
    self._writer_lock = threading.Lock()
    self._thread = concurrent.futures.ThreadPoolExecutor(
        1, thread_name_prefix="MetricsManager")
    self._period_start = time.time()
    self._previous_period_end = 0.0

  @functools.cached_property
  def summary_writer(self):
    """The `clu.metric_writers.MetricWriter`, made when first used."""
    # Imported here: it takes a while, and there is time for it later.
    from clu import metric_writers
    if jax.process_index() != 0 or self.summary_dir is None:
      return metric_writers.MultiWriter([])
    return metric_writers.AsyncMultiWriter([
        metric_writers.SummaryWriter(self.summary_dir)])

  def write_scalar(self, key: str, val, step: int) -> None:
    self.write_scalars(step, {key: val})

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    with self._writer_lock:
      self.summary_writer.write_scalars(int(jax.device_get(step)), scalars)

  def start_duration_timer(self, block_on=()) -> None:
    """Begins the period that the next `write_metrics_summary` reports.

    It begins when the devices finish the period before, if that is later:
    there is nothing to `block_on`, which is T5X's.
    """
    del block_on
    self._period_start = time.time()

  def write_metrics_summary(
      self, metrics: Mapping[str, Any], step: int, num_steps: int
  ) -> concurrent.futures.Future:
    """Writes metrics once they are computed.

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
      values = {name: m.compute_value() for name, m in final.items()
                if not getattr(m, "is_empty", False)}  # Not measured, not 0.
      from clu import metric_writers
      with self._writer_lock:
        metric_writers.write_values(
            self.summary_writer, int(jax.device_get(step)), values)
      return values

    return self._thread.submit(summarize)

  def flush(self) -> None:
    """Waits until what was given so far is in the files."""
    self._thread.submit(lambda: None).result()
    with self._writer_lock:
      self.summary_writer.flush()

  def close(self) -> None:
    """Waits for what is being written; safe to call twice."""
    self._thread.shutdown(wait=True)
    writer = self.__dict__.pop("summary_writer", None)
    if writer is not None:
      writer.close()
