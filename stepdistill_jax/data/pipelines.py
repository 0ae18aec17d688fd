"""Building tf.data pipelines fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


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
