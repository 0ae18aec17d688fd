"""Guards against losses and gradients that are not finite, and against spikes.

In a gin file:

    from stepdistill_jax.runs import guards
    guards.Guards.nonfinite = 'skip'  # 'stop' (default), 'skip' or 'ignore'
    guards.Guards.spike = 'stop'      # 'warn' (default), 'stop' or 'ignore'

Metrics are written before a run is stopped, and no checkpoint is: the last one
is from before. `guard/nonfinite_steps` counts the steps of a period whose loss
or gradient was not finite.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import math
import statistics
from typing import Any

import clu.metrics
import flax.struct
import gin
import jax
import jax.numpy as jnp

from stepdistill_jax.config import setting_checks
from stepdistill_jax.distributed import device_mesh
from stepdistill_jax.util import errors, progress

METRIC = "guard/nonfinite_steps"
_STACKED = 48  # Arrays; XLA fuses no kernel of 100 operands or more.
_SPIKE_HISTORY = 20  # Periods.
_SPIKE_LEAST_HISTORY = 8
# The median absolute deviation of a normal distribution, in its sigmas.
_SIGMAS_PER_MAD = 1.4826


@flax.struct.dataclass
class Count(clu.metrics.Metric):
  """A number of steps."""

  count: Any = 0

  def merge(self, other: Count) -> Count:
    return Count(self.count + other.count)

  def compute(self):
    return self.count


@gin.configurable(module="stepdistill_jax.runs.guards")
@dataclasses.dataclass(frozen=True)
class Guards:
  """What happens when training goes wrong.

  Attributes:
    nonfinite: on a loss or gradient that is not finite: `stop` the run, `skip`
      the step (parameters and optimizer stay as they were), or `ignore` it.
    max_skipped_steps: with `skip`, the run stops when more steps than this
      were skipped without a period free of them in between.
    spike: on a period whose loss is far above those before it: `warn`, `stop`
      or `ignore`.
    spike_sigmas: how far, in standard deviations of the last periods.
  """

  nonfinite: str = "stop"
  max_skipped_steps: int = 20
  spike: str = "warn"
  spike_sigmas: float = 8.0

  def __post_init__(self):
    for name, choices in (("nonfinite", ("stop", "skip", "ignore")),
                          ("spike", ("warn", "stop", "ignore"))):
      setting_checks.require_choice(
          f"guards.Guards.{name}", getattr(self, name), choices)


def guard_step(guards: Guards, old_state, new_state, grads, metrics):
  """Applies the policy to one step, in the compiled program.

  Args:
    guards: the policy.
    old_state: before the step.
    new_state: after it.
    grads: of the step.
    metrics: of the step; `loss`, if it is there, must be finite too.

  Returns:
    (the state to go on with, metrics with `METRIC`).
  """
  values = jax.tree.leaves((grads, metrics.get("loss")))
  checked = _stacked([x for x in values if jnp.issubdtype(
      jnp.result_type(x), jnp.inexact)])
  if guards.nonfinite == "ignore" or not checked:  # A model may have no weight.
    return new_state, metrics
  finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in checked]))
  metrics = {**metrics, METRIC: Count((~finite).astype(jnp.int32))}
  if guards.nonfinite == "skip":
    # The step counts all the same: the data goes on.
    kept = old_state.replace_step(new_state.step)
    new_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), new_state, kept)
  return new_state, metrics


def sum_of_squares(tree: Any) -> jax.Array:
  """Σ x² over all numbers of a tree of arrays, a float32 scalar."""
  return jnp.asarray(sum(
      jnp.sum(jnp.square(x)) for x in _stacked(jax.tree.leaves(tree))),
                     jnp.float32)


def _stacked(arrays: Sequence[Any]) -> Sequence[Any]:
  """On one accelerator arrays of one shape as one; elsewhere as they are.

  A sum is two kernels on a GPU, however few numbers it is of, and a network
  has hundreds of arrays. XLA reads them where they are; those that several
  devices share, each in a way of its own, it would bring together.
  """
  if not device_mesh.on_one_accelerator():
    return arrays
  alike = collections.defaultdict(list)
  for x in arrays:
    alike[jnp.shape(x), jnp.result_type(x)].append(x)
  return [jnp.stack(group[i:i + _STACKED]) for group in alike.values()
          for i in range(0, len(group), _STACKED)]


def count_nonfinite(metrics: Mapping[str, Any]) -> int:
  """How many of the steps that metrics are merged over were not finite."""
  counted = metrics.get(METRIC)
  return 0 if counted is None else int(jax.device_get(counted.count))


def require_finite(path: str, params: Any) -> None:
  """Raises errors.UserError if a restored parameter has a value like NaN.

  Args:
    path: of the checkpoint, for the error.
    params: as they were restored.
  """
  count = jax.jit(lambda x: jnp.sum(~jnp.isfinite(x)))
  for key, value in jax.tree_util.tree_leaves_with_path(params):
    if bad := int(jax.device_get(count(value))):
      name = "/".join(str(getattr(part, "key", part)) for part in key)
      raise errors.UserError(
          f"{path}: {name} has {bad:,} of {value.size:,} values that are not "
          "finite; the checkpoint is broken: begin from another one")


class Monitor:
  """Looks at the metrics of each period and stops or warns by policy.

  Attributes:
    losses: of the last periods, without spikes.
    skipped: steps since a period free of skipped ones.
  """

  def __init__(self, guards: Guards, losses: Sequence[float] = (),
               skipped: int = 0):
    self._guards = guards
    self.losses = list(losses)
    self.skipped = skipped

  @property
  def state(self) -> Mapping[str, Any]:
    """The arguments with which a resumed run goes on; for JSON."""
    return {"losses": self.losses, "skipped": self.skipped}

  def check(self, step: int, metrics: Mapping[str, float]) -> None:
    """Takes a period's metrics, which have been written.

    Args:
      step: the period's last.
      metrics: name -> value.

    Raises:
      errors.UserError: the policy says that the run stops.
    """
    bad = int(metrics.get(METRIC, 0))
    self.check_nonfinite(step, bad, metrics.get("loss"))
    self.skipped = self.skipped + bad if bad else 0
    if bad:
      progress.say(
          f"warning: {bad} of the steps up to {step} were skipped: their loss "
          "or gradient was not finite")
    if self.skipped > self._guards.max_skipped_steps:
      raise errors.UserError(
          f"{self.skipped} steps up to {step} were skipped, more than "
          f"guards.Guards.max_skipped_steps = "
          f"{self._guards.max_skipped_steps}: the run does not recover")
    self._check_spike(step, metrics.get("loss"))

  def check_nonfinite(
      self, step: int, count: int, loss: float | None = None) -> None:
    """Raises UserError if so many steps that were not finite stop the run."""
    if count and self._guards.nonfinite == "stop":
      raise errors.UserError(
          f"the loss or a gradient was not finite in {count} of the steps up "
          f"to {step}{'' if loss is None else f' (loss {loss})'}; nothing was "
          "saved since. Try a lower learning rate or float32 activations, or "
          "skip such steps with guards.Guards.nonfinite = 'skip'")

  def _check_spike(self, step: int, loss: float | None) -> None:
    if loss is None or not math.isfinite(loss) or (
        self._guards.spike == "ignore"):
      return
    if len(self.losses) >= _SPIKE_LEAST_HISTORY:
      middle = statistics.median(self.losses)
      sigma = _SIGMAS_PER_MAD * statistics.median(
          abs(x - middle) for x in self.losses)
      # A loss that hardly moves has next to no deviation.
      limit = middle + self._guards.spike_sigmas * max(
          sigma, 0.01 * abs(middle))
      if loss > limit:
        line = (f"the loss up to step {step} is {loss:.4g}, a spike above the "
                f"{middle:.4g} of the periods before (limit {limit:.4g})")
        if self._guards.spike == "stop":
          raise errors.UserError(
              f"{line}; nothing was saved since. Try a lower learning rate, "
              "or go on with guards.Guards.spike = 'warn'")
        progress.say(f"warning: {line}")
        return
    self.losses = [*self.losses, float(loss)][-_SPIKE_HISTORY:]
