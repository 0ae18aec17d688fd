"""When a run pauses its steps: at which of them, and by the clock.

Periods are in absolute steps: a run that was interrupted evaluates and saves
at the same steps as one that was not.
"""

from collections.abc import Callable, Sequence
import dataclasses
import time

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp

from stepdistill_jax.util import errors

# Metrics are written at least so often, in steps, unless the config says
# otherwise: an evaluation period is long to wait for a first sign of life.
_DEFAULT_STATS_PERIOD = 100


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The steps at which something other than training happens.

  Attributes:
    stats: period of metrics; None takes the default, or a shorter period.
    evaluation: period; 0 for the last step only.
    checkpoint: period; 0 for none.
    collection: period of Python's garbage collection; 0 leaves it to Python.
  """

  last: int
  stats: int | None
  evaluation: int
  checkpoint: int
  checkpoint_steps: Sequence[int]
  collection: int

  def next_stop(self, step: int) -> int:
    """The next step at which anything happens."""
    periods = [p for p in (self.evaluation, self.checkpoint) if p]
    stats = self.stats
    if stats is None:
      stats = min([_DEFAULT_STATS_PERIOD, *periods])
    periods += [p for p in (stats, self.collection) if p]
    return min([self.last, *(step - step % p + p for p in periods),
                *(s for s in self.checkpoint_steps if s > step)])


class TimedSaving:
  """Says when so many minutes have passed since the last save."""

  def __init__(
      self, minutes: float | None,
      now: Callable[[], float] = time.monotonic):
    """Initializes.

    Args:
      minutes: between saves; None never asks for one.
      now: the clock, in seconds.
    """
    if minutes is not None and minutes <= 0:
      raise errors.UserError(
          f"SaveCheckpointConfig.period_minutes = {minutes}, expected above 0")
    self._minutes = minutes
    self._now = now
    self._last = now()

  def is_due(self, last: bool = False) -> bool:
    """Whether to save; by host 0's clock on all hosts.

    Args:
      last: it is the last step, which is saved whatever the clock says.
    """
    if self._minutes is None or last:
      return self._minutes is not None
    due = self._now() - self._last >= 60 * self._minutes
    if jax.process_count() == 1:
      return due
    return bool(multihost_utils.broadcast_one_to_all(jnp.array(due)))

  def saved(self) -> None:
    self._last = self._now()
