"""Saving by the clock."""

from collections.abc import Callable
import time

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp

from stepdistill_jax.util import errors


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
