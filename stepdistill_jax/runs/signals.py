"""SIGTERM and Ctrl-C: the run saves and ends; a second signal ends it at once.

Before and after the train loop there is nothing to save: the first signal
ends the run there. On several hosts JAX's preemption service takes SIGTERM,
so that all hosts save at the same step, whichever of them got the signal;
Ctrl-C ends them at once, as they do not end the same step.
"""

from collections.abc import Iterator
import contextlib
import os
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

from stepdistill_jax.util import errors, progress


class Interrupted(Exception):
  """A signal came where work may be broken off: see `SignalWatch`."""


class SignalWatch:
  """Takes the process's signals. Use as a context manager.

  A first signal ends the run at once until `saves_from_here`. Then it is kept
  for `should_stop`, or raised as `Interrupted` inside `breaking_off`.

  Attributes:
    received: the first signal, or None.
  """

  def __init__(self):
    self.received: int | None = None
    self._can_save = False
    self._breaks_off = False
    self._before = {}
    self._several_hosts = jax.process_count() > 1

  def __enter__(self):
    # On several hosts JAX's own handler must stay: it informs the others.
    if not self._several_hosts and (
        threading.current_thread() is threading.main_thread()):
      for number in (signal.SIGTERM, signal.SIGINT):
        self._take(number)
    return self

  def __exit__(self, *unused_exception):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _take(self, number: int) -> None:
    if signal.getsignal(number) == signal.SIG_IGN:
      return  # Whoever started the process deals with it.
    handler = signal.signal(number, self._handle)
    # None: set by other code than Python's; it cannot be put back.
    self._before.setdefault(
        number, signal.SIG_DFL if handler is None else handler)

  def _handle(self, number: int, unused_frame: FrameType | None) -> None:
    if self.received is not None:
      os._exit(128 + number)  # The user, or the machine, will not wait.
    self.received = number
    if not self._can_save:
      self.stop("nothing was trained that is not saved")
    if not progress.is_watched():
      os.write(2, f"{signal.Signals(number).name}: saving; a second signal "
               "ends the run at once\n".encode())
    if self._breaks_off:
      raise Interrupted()

  def saves_from_here(self) -> None:
    """From here on the run saves before it ends."""
    self._can_save = True

  def ends_from_here(self) -> None:
    """From here on there is nothing to save."""
    self._can_save = False

  @contextlib.contextmanager
  def breaking_off(self) -> Iterator[None]:
    """A signal inside raises `Interrupted`: for what can be done again."""
    self._breaks_off = True
    try:
      yield
    finally:
      self._breaks_off = False

  def should_stop(self, step: int) -> bool:
    """Whether to save after this step and end; the same on all hosts."""
    if not self._several_hosts:
      return self.received is not None
    if not self._has_preemption_service():
      return False
    if multihost_utils.reached_preemption_sync_point(step):
      self.received = signal.SIGTERM
      if threading.current_thread() is threading.main_thread():
        self._take(signal.SIGTERM)  # The next one ends the process.
      return True
    return False

  def _has_preemption_service(self) -> bool:
    from jax._src import distributed
    return distributed.global_state.preemption_sync_manager is not None

  def stop(self, what: str) -> None:
    """Ends the run.

    Args:
      what: what was done first, for people.

    Raises:
      errors.Preempted: on SIGTERM.
      KeyboardInterrupt: on Ctrl-C.
    """
    if self.received == signal.SIGINT:
      raise KeyboardInterrupt(f"interrupted: {what}")
    raise errors.Preempted(
        f"SIGTERM: {what} (exit code {errors.PREEMPTED_EXIT_CODE})")
