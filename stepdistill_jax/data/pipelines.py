"""Building tf.data pipelines fast, and what a seed does not determine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Operations that draw random numbers, by the seeds of their own attributes.
_RANDOM = frozenset((
    "Multinomial", "ParameterizedTruncatedNormal", "RandomGamma",
    "RandomPoissonV2", "RandomShuffle", "RandomStandardNormal",
    "RandomUniform", "RandomUniformInt", "TruncatedNormal"))
# Data sets that do: the first of the two inputs that are their seeds.
_SEEDED_BY_INPUTS = {
    "RandomDataset": 0, "RandomDatasetV2": 0, "SamplingDataset": 2,
    "ShuffleAndRepeatDataset": 2, "ShuffleAndRepeatDatasetV2": 2,
    "ShuffleDataset": 2, "ShuffleDatasetV3": 2}


def build(make: Callable[[], Any]) -> Any:
  """Builds a pipeline without AutoGraph if that can be, else with it.

  AutoGraph rewrites every function that a pipeline maps, for seconds, while
  only those that branch or loop on tensors need it. Without it these raise,
  so that a pipeline built without it means the same.
  """
  try:
    from tensorflow.python.autograph.core import ag_ctx
    disabled = ag_ctx.ControlStatusCtx(status=ag_ctx.Status.DISABLED)
  except (ImportError, AttributeError):  # It is not TensorFlow's public API.
    return make()
  try:
    with disabled:
      return make()
  except Exception:  #  # Whatever `make` raises.
    return make()


def unseeded(dataset: tf.data.Dataset) -> list[str]:
  """Names of operations of a pipeline that draw other numbers each time.

  Those of Python code are not seen. Empty where the pipeline has no graph.
  """
  try:
    graph = tf.compat.v1.GraphDef.FromString(tf.raw_ops.DatasetToGraphV2(
        input_dataset=tf.data.experimental.to_variant(dataset),
        external_state_policy=1).numpy())  # 1: as it is at its beginning.
  except (tf.errors.OpError, ValueError):
    return []
  found = set()
  for nodes in (graph.node, *(f.node_def for f in graph.library.function)):
    zeros = {node.name for node in nodes if node.op == "Const"
             and node.attr["dtype"].type == tf.int64.as_datatype_enum
             and not tf.make_ndarray(node.attr["value"].tensor).any()}
    for node in nodes:
      first = _SEEDED_BY_INPUTS.get(node.op)
      if first is not None and all(
          name.split(":")[0] in zeros for name in node.input[first:first + 2]
      ) or node.op in _RANDOM and not (
          node.attr["seed"].i or node.attr["seed2"].i):
        found.add(node.op)
  return sorted(found)
