"""Metrics of a period that a save cuts in two, in a checkpoint.

Metrics are merged over the steps of a period. A run that is asked to end saves
within a period: what was merged so far goes with the checkpoint, bit for bit,
so that the resumed run writes the metrics that it would have written.
"""

import base64
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def to_json(metrics: Any, num_steps: int) -> Mapping[str, Any] | None:
  """Merged metrics of `num_steps` steps, for JSON; None if there are none."""
  if not num_steps:
    return None
  leaves = [np.asarray(x) for x in jax.device_get(jax.tree.leaves(metrics))]
  return {"num_steps": num_steps, "leaves": [
      {"dtype": str(x.dtype), "shape": list(x.shape),
       "data": base64.b64encode(x.tobytes()).decode()} for x in leaves]}


def from_json(saved: Mapping[str, Any], like: Any) -> Any:
  """The metrics, with the structure and shardings of a step's; None if other.

  Args:
    saved: what `to_json` made.
    like: the metrics of one step.
  """
  leaves, structure = jax.tree.flatten(like)
  if len(leaves) != len(saved["leaves"]):
    return None  # Another version's metrics, or another model's.
  values = []
  for leaf, entry in zip(leaves, saved["leaves"]):
    value = np.frombuffer(
        base64.b64decode(entry["data"]), np.dtype(entry["dtype"])
    ).reshape(entry["shape"])
    if value.shape != np.shape(leaf) or value.dtype != leaf.dtype:
      return None
    values.append(jax.device_put(value, leaf.sharding))
  return jax.tree.unflatten(structure, values)
