"""Says which phase of a run takes too long: the data, the step, the disk."""

from collections.abc import Callable
import threading
import time

import gin

from stepdistill_jax.util import progress

_LOOK_SECONDS = 5.0


@gin.configurable(module="stepdistill_jax.runs.watchdog")
class Watchdog:
  """Watches the phase that a run is in. Use as a context manager.

  Limits are in seconds; None does not watch a phase. In a gin file:

      from stepdistill_jax.runs import watchdog
      watchdog.Watchdog.step_seconds = 60
  """

  def __init__(
      self, step_seconds: float | None = 600.0,
      batch_seconds: float | None = 120.0,
      checkpoint_seconds: float | None = 1800.0,
      evaluation_seconds: float | None = 3600.0,
      now: Callable[[], float] = time.monotonic,
      say: Callable[[str], None] = progress.say):
    """Initializes.

    Args:
      step_seconds: for a training step, also the first.
      batch_seconds: for a batch of data.
      checkpoint_seconds: for a checkpoint to be copied and the one before it
        to be written.
      evaluation_seconds: for an evaluation.
      now: the clock.
      say: takes the line.
    """
    self._limits = {
        self.BATCH: batch_seconds, self.STEP: step_seconds,
        self.CHECKPOINT: checkpoint_seconds,
        self.EVALUATION: evaluation_seconds}
    self._now = now
    self._say = say
    self._current: tuple[str | None, float, int] = (None, now(), 0)
    self._reported_at = 0.0
    self._done = threading.Event()
    self._thread = threading.Thread(target=self._look_often, daemon=True)

  BATCH = "waiting for a batch of data"
  STEP = "running a training step"
  CHECKPOINT = "saving a checkpoint"
  EVALUATION = "evaluating"

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *unused_exception):
    self._done.set()
    self._thread.join()

  def enter(self, phase: str | None, step: int = 0) -> None:
    """Says what the run does from now on; None: nothing that is watched."""
    self._current = (phase, self._now(), step)

  def look(self) -> None:
    """Says a line if the current phase is late; again when twice as late."""
    phase, since, step = self._current
    limit = self._limits.get(phase)
    if limit is None:
      return
    waited = self._now() - since
    if waited < limit:
      self._reported_at = 0.0
    elif waited >= 2 * self._reported_at:
      self._reported_at = waited
      self._say(
          f"warning: {phase} (after step {step}) takes {waited:.0f} s so far, "
          f"longer than the {limit:g} s that the watchdog allows")

  def _look_often(self) -> None:
    limits = [limit for limit in self._limits.values() if limit is not None]
    while not self._done.wait(min([_LOOK_SECONDS, *(x / 2 for x in limits)])):
      self.look()
