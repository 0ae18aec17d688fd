"""How fast and how long to ask: rates, retries, a circuit breaker, a budget.

Time is passed in (`clock`, `sleep`), so tests need no waiting.
"""

import asyncio
from collections.abc import Awaitable, Callable
import dataclasses
import random
import time

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


class TokenBucket:
  """Lets `per_minute` units a minute pass, evenly, in order of arrival.

  Over any span of t seconds at most per_minute·(t + burst_s)/60 units pass.
  """

  def __init__(self, per_minute: float, *, burst_s: float = 1.0,
               clock: Clock = time.monotonic, sleep: Sleep = asyncio.sleep):
    self._rate = per_minute / 60
    self._capacity = max(1.0, self._rate * burst_s)
    self._level = self._capacity  # May fall below 0: units are owed then.
    self._clock, self._sleep = clock, sleep
    self._updated = clock()
    self._turn = asyncio.Lock()  # Waiters go in the order in which they came.

  async def acquire(self, units: float = 1.0) -> None:
    """Waits until `units` may pass."""
    async with self._turn:
      while True:
        self._refill()
        # More than the bucket holds may pass once it is full, and is owed.
        lacking = min(units, self._capacity) - self._level
        if lacking <= 1e-9:
          break
        await self._sleep(lacking / self._rate)
      self._level -= units

  def give_back(self, units: float) -> None:
    """Corrects an estimate; negative where it was too small."""
    self._refill()
    self._level = min(self._capacity, self._level + units)

  def _refill(self) -> None:
    now = self._clock()
    self._level = min(
        self._capacity, self._level + (now - self._updated) * self._rate)
    self._updated = now


@dataclasses.dataclass(frozen=True)
class Backoff:
  """Waits between the attempts of one request.

  Attempt n waits a uniformly random time up to first_s·2^n, at most longest_s
  ("full jitter"), and never less than the server's Retry-After.
  """

  attempts: int = 8
  first_s: float = 0.5
  longest_s: float = 60.0
  # A server that asks for more is broken or means the end of the day's quota.
  longest_retry_after_s: float = 600.0

  def wait_s(self, attempt: int, retry_after: float | None = None,
             uniform: Callable[[float, float], float] = random.uniform
             ) -> float:
    """Seconds to wait after the failure of attempt number `attempt` (0, …)."""
    wait = uniform(0, min(self.longest_s, self.first_s * 2.0**attempt))
    if retry_after is not None:
      # The jitter comes on top: all who were refused at once would else come
      # back at once.
      wait += min(retry_after, self.longest_retry_after_s)
    return wait


class BreakerGaveUp(Exception):
  """The server has not answered for longer than is worth waiting for."""


class CircuitBreaker:
  """Stops asking a server that fails every time.

  After `threshold` failures with no success between, all requests wait for
  `cool_down_s`; then one is let through as a probe. If it fails, the wait
  doubles; if it succeeds, all go on. After `give_up_s` without a success
  `ready` raises.
  """

  def __init__(self, *, threshold: int = 20, cool_down_s: float = 2.0,
               longest_s: float = 60.0, give_up_s: float = 900.0,
               clock: Clock = time.monotonic, sleep: Sleep = asyncio.sleep):
    self._threshold = threshold
    self._first_cool_down, self._longest = cool_down_s, longest_s
    self._give_up_s = give_up_s
    self._clock, self._sleep = clock, sleep
    self._failures = 0
    self._cool_down = cool_down_s
    self._open_until: float | None = None  # None: closed.
    self._failing_since: float | None = None
    self._probing = False
    self.openings = 0

  @property
  def is_open(self) -> bool:
    return self._open_until is not None

  async def ready(self) -> None:
    """Waits until a request may be sent.

    Raises:
      BreakerGaveUp: there was no success for too long.
    """
    while self._open_until is not None:
      now = self._clock()
      if now - self._failing_since >= self._give_up_s:
        raise BreakerGaveUp(
            f"every request has failed for {now - self._failing_since:.0f} s")
      if now >= self._open_until and not self._probing:
        self._probing = True
        return
      await self._sleep(max(0.05, min(1.0, self._open_until - now)))

  def succeeded(self) -> None:
    """Records an answer of the server."""
    self._failures = 0
    self._failing_since = self._open_until = None
    self._probing = False
    self._cool_down = self._first_cool_down

  def failed(self) -> None:
    """Records a failure of the server as a whole (not of one request)."""
    now = self._clock()
    self._failures += 1
    if self._failing_since is None:
      self._failing_since = now
    if self._open_until is not None:
      if self._probing:
        self._probing = False
        self._cool_down = min(self._longest, self._cool_down * 2)
        self._open_until = now + self._cool_down
      return  # Else it was sent before the breaker opened.
    if self._failures >= self._threshold:
      self.openings += 1
      self._open_until = now + self._cool_down


class Budget:
  """Dollars that may be spent; a request is sent only if its worst case fits.

  Attributes:
    spent: dollars by the usage that the server reports.
    reserved: dollars that the requests under way may cost at most.
    reservations: number of these requests.
  """

  def __init__(self, limit_usd: float | None, spent: float = 0.0):
    self._limit = limit_usd
    self.spent = spent
    self.reserved = 0.0
    self.reservations = 0

  @property
  def is_limited(self) -> bool:
    return self._limit is not None

  def reserve(self, most_usd: float) -> bool:
    """True if the request may be sent; then `settle` must follow."""
    if (self._limit is not None
        and self.spent + self.reserved + most_usd > self._limit):
      return False
    self.reserved += most_usd
    self.reservations += 1
    return True

  def settle(self, most_usd: float, cost_usd: float) -> None:
    """Replaces a reservation by what the request did cost."""
    self.reservations -= 1
    # Sums of floats that should be 0 seldom are.
    self.reserved = self.reserved - most_usd if self.reservations else 0.0
    self.spent += cost_usd
