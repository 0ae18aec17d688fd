"""Rates, retries, breaker, budget: in made-up time."""

import asyncio

import pytest

from stepdistill_jax.teacher.ask import limits


class Time:
  """A clock that sleeping moves on."""

  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now

  async def sleep(self, seconds):
    self.now += seconds
    await asyncio.sleep(0)


@pytest.mark.parametrize("per_minute, units", [
    (60, [1] * 30), (600, [1] * 300), (6000, [700, 1, 3000, 50, 50, 200] * 9)])
def test_no_span_lets_more_pass_than_the_rate(per_minute, units):
  time = Time()
  bucket = limits.TokenBucket(per_minute, clock=time, sleep=time.sleep)
  passed = []

  async def one(number):
    await bucket.acquire(number)
    passed.append((time.now, number))

  async def all_at_once():
    await asyncio.gather(*(one(number) for number in units))

  asyncio.run(all_at_once())
  assert [number for _, number in passed] == units  # In order of arrival.
  rate, capacity = per_minute / 60, max(1, per_minute / 60)
  for i, (start, _) in enumerate(passed):
    total = 0
    for moment, number in passed[i:]:
      # What is let through at a moment was paid for by the time before, but
      # for one that is larger than the bucket: the next ones pay for it.
      assert total <= rate * (moment - start) + 2 * capacity + 1e-6
      total += number
  # And it is no slower than it must be.
  assert passed[-1][0] <= sum(units) / rate + 1e-6


def test_what_was_not_used_is_given_back():
  time = Time()
  bucket = limits.TokenBucket(60, clock=time, sleep=time.sleep)

  async def use():
    await bucket.acquire(100)
    bucket.give_back(99)
    await bucket.acquire(1)

  asyncio.run(use())
  assert time.now <= 1.0


def test_backoff_doubles_and_honours_retry_after():
  backoff = limits.Backoff(first_s=1, longest_s=10)
  longest = lambda low, high: high
  assert [backoff.wait_s(n, None, longest) for n in range(5)] == [
      1, 2, 4, 8, 10]
  assert backoff.wait_s(0, 7, lambda low, high: low) == 7
  assert backoff.wait_s(0, 7, longest) == 8
  assert backoff.wait_s(0, 1e9, longest) == 601
  waits = [backoff.wait_s(3) for _ in range(200)]
  assert 0 <= min(waits) < 2 and 6 < max(waits) <= 8  # Full jitter.


def test_the_breaker_opens_probes_and_closes():
  time = Time()
  breaker = limits.CircuitBreaker(
      threshold=3, cool_down_s=2, clock=time, sleep=time.sleep)
  for _ in range(2):
    breaker.failed()
  assert not breaker.is_open
  breaker.succeeded()
  for _ in range(3):
    breaker.failed()
  assert breaker.is_open and breaker.openings == 1

  async def probe():
    await breaker.ready()
    return time.now

  async def wait_for_all():
    waiting = [asyncio.create_task(probe()) for _ in range(4)]
    done, _ = await asyncio.wait(
        waiting, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1  # One probe; the others wait for its outcome.
    assert done.pop().result() == pytest.approx(2, abs=0.2)
    opened_again = time.now
    breaker.failed()
    done, _ = await asyncio.wait(
        [t for t in waiting if not t.done()],
        return_when=asyncio.FIRST_COMPLETED)
    assert done.pop().result() - opened_again == pytest.approx(4, abs=0.2)
    breaker.succeeded()
    await asyncio.gather(*waiting)

  asyncio.run(wait_for_all())
  assert not breaker.is_open


def test_the_breaker_gives_up():
  time = Time()
  breaker = limits.CircuitBreaker(
      threshold=1, cool_down_s=1, give_up_s=30, clock=time, sleep=time.sleep)

  async def ask_for_ever():
    while True:
      await breaker.ready()
      breaker.failed()

  breaker.failed()
  with pytest.raises(limits.BreakerGaveUp):
    asyncio.run(ask_for_ever())
  assert 30 <= time.now <= 70  # It looks when a wait ends.


def test_the_budget_is_never_exceeded():
  budget = limits.Budget(1.0, spent=0.2)
  reserved = 0
  while budget.reserve(0.3):
    reserved += 1
  assert reserved == 2
  budget.settle(0.3, 0.1)
  assert budget.spent == pytest.approx(0.3) and budget.reserve(0.3)
  assert limits.Budget(None).reserve(1e9)
