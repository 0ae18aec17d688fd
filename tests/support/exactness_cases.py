"""Runs the loss in every layout, microbatching and sharding; prints JSON lines.

  XLA_FLAGS=--xla_force_host_platform_device_count=8 \\
    python -m tests.support.exactness_cases [t5] [decoder]

Each line is a case with its relative differences from the plain formula: of
the loss, of each task's loss, and of the gradient (in norm). A process of its
own, as the number of virtual devices is fixed when JAX starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import sys
from typing import Any

import jax
import numpy as np
from t5x import (
  metrics as t5x_metrics,
  partitioning,
  trainer as t5x_trainer,
  utils,
)

import stepdistill_jax  # noqa: F401
from stepdistill_jax.models import weights as weights_lib
from tests.support import exactness, student_fixtures as fixtures

WEIGHTS = {"label": 0.3, "rationale": 0.7}
PAIRS = 64  # 8 microbatches of 8 devices' rows
LONGEST = 6
# Name -> (size of the model axis, partitioning dims of the parameters).
MESHES = {"data": (1, 1), "model": (2, 1), "sharded": (1, 2),
          "sharded_model": (2, 2)}


@dataclasses.dataclass(frozen=True)
class Case:
  """One way of computing the loss.

  Attributes:
    layout: `paired`, `joined`, `packed` or `pairs`.
    microbatches: that the batch is cut into.
    mesh: of `MESHES`; None for one device.
    scanned: whether the layers are one scanned layer.
    family: `t5` or `decoder`.
  """

  layout: str
  microbatches: int = 1
  mesh: str | None = None
  scanned: bool = False
  family: str = "t5"


CASES = (
    *(Case(layout, n) for layout in ("paired", "packed") for n in (1, 2, 4, 8)),
    Case("joined"), Case("joined", 4),
    Case("paired", 1, "data"), Case("packed", 8, "data"),
    Case("packed", 1, "model"), Case("paired", 2, "model"),
    Case("packed", 1, "sharded"), Case("paired", 4, "sharded"),
    Case("joined", 2, "sharded_model"),
    Case("pairs"), Case("pairs", 4), Case("pairs", 1, "data"),
    Case("pairs", 2, "sharded_model"),
    Case("packed", 1, scanned=True), Case("paired", 4, scanned=True),
    Case("packed", 2, "sharded_model", scanned=True),
    *(dataclasses.replace(case, family="decoder") for case in (
        Case("paired"), Case("packed", 4), Case("joined", 2),
        Case("packed", 8, "data"), Case("paired", 2, "model"),
        Case("pairs", 2, "sharded"), Case("joined", 2, "sharded_model"),
        Case("packed", 2, "sharded_model", scanned=True))),
)


def make_batch(case: Case, examples) -> Mapping[str, np.ndarray]:
  layout = case.layout
  if layout == "pairs":
    return fixtures.pairs_batch(
        examples, LONGEST, LONGEST,
        case.microbatches * (8 if case.mesh else 1))
  if layout == "packed":
    return fixtures.packed_batch(examples, 24, 20, rows=PAIRS)
  return getattr(fixtures, f"{layout}_batch")(examples, LONGEST, LONGEST)


def make_student(case: Case):
  if case.family == "decoder":
    return fixtures.tiny_decoder(
        weights_lib.TaskWeights(WEIGHTS), module=fixtures.tiny_decoder_module(
            num_layers=_layers(case.scanned), loop_layers=case.scanned))
  return fixtures.tiny_student(
      weights_lib.TaskWeights(WEIGHTS), module=make_module(case.scanned))


def _layers(scanned: bool) -> int:
  """Two, so that scanning has something to scan; else there is less to compile.
  """
  return 2 if scanned else 1


def make_module(scanned: bool):
  if not scanned:
    return fixtures.tiny_module()
  from t5x.examples.scalable_t5 import network

  return fixtures.tiny_module(
      network=network, remat_policy="minimal",
      num_encoder_layers=_layers(True), num_decoder_layers=_layers(True))


def make_state(model, mesh: str, batch):
  """(partitioner, initializer, train state), which all cases of a mesh share.
  """
  partitions, dims = MESHES[mesh]
  partitioner = partitioning.PjitPartitioner(
      num_partitions=partitions,
      logical_axis_rules=partitioning.standard_logical_axis_rules(
          parameter_partitioning_dims=dims))
  initializer = utils.TrainStateInitializer(
      model.optimizer_def, model.get_initial_variables,
      {k: v.shape for k, v in batch.items()}, partitioner,
      {k: v.dtype for k, v in batch.items()})
  return partitioner, initializer, initializer.from_scratch(
      jax.random.PRNGKey(0))


def make_step(model, case: Case, partitioner, initializer, state):
  """A compiled `(train state, batch) -> gradients, metrics`, and its state."""

  def step(train_state, batch):
    gradients, metrics, _ = t5x_trainer.accumulate_grads_microbatched(
        model, train_state, model.prepare_batch(batch, train_state.step),
        jax.random.PRNGKey(0), case.microbatches,
        partitioner.data_partition_spec)
    return gradients, {name: metric for name, metric in metrics.items()
                       if name.startswith("loss")}

  if case.mesh is None:
    return jax.jit(step), jax.device_put(
        jax.device_get(state), jax.devices()[0])
  return partitioner.partition(
      step, in_axis_resources=(initializer.train_state_axes,
                               partitioner.data_partition_spec),
      out_axis_resources=None), state


def run(families: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
  """Yields each case with its differences from the plain formula.

  Args:
    families: whose cases; empty for all.
  """
  examples = fixtures.random_pairs(0, PAIRS, LONGEST)
  expected, states = {}, {}
  for case in CASES:
    if families and case.family not in families:
      continue
    network = case.family, case.scanned
    if network not in expected:
      model = make_student(case)
    batch = make_batch(case, examples)
    key = *network, case.mesh or "data"  # One device has a copy of it.
    if key not in states:
      states[key] = make_state(model, key[-1], batch)
    step, state = make_step(model, case, *states[key])
    params = jax.device_get(state.params)
    if network not in expected:
      expected[network] = params, exactness.plain_loss(
          model.module, params, examples, WEIGHTS)
    reference_params, reference = expected[network]
    jax.tree.map(np.testing.assert_array_equal, params, reference_params)
    gradients, metrics = jax.device_get(step(state, batch))
    metrics = t5x_metrics.set_step_metrics_num_steps(metrics, 1)
    differ = lambda got, want: abs(float(got) - want) / abs(want)
    yield {
        **dataclasses.asdict(case),
        "loss": differ(metrics["loss"].compute(), reference.loss),
        **{f"loss/{name}": differ(metrics[f"loss/{name}"].compute(), value)
           for name, value in reference.task_losses.items()},
        "gradient": exactness.relative_difference(
            gradients, reference.gradient)}


if __name__ == "__main__":
  if len(jax.devices()) != 8:
    sys.exit(f"needs 8 devices, has {len(jax.devices())}; see the docstring")
  for line in run(sys.argv[1:]):
    print(json.dumps(line), flush=True)
