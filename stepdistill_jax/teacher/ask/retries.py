"""Many requests at once: each is asked until it is answered or hopeless.

Reads top to bottom in the order in which a completion goes: from the missing
items, past the limits, to the server, into the cache, onto the disk.
"""

import asyncio
import collections
from collections.abc import Callable, Coroutine, Iterator, Mapping
import dataclasses
from typing import Any, Protocol

from stepdistill_jax.teacher.ask import (
  cost as cost_lib,
  failures,
  limits,
  lines,
  plan as plan_lib,
  requests,
  responses,
  spec as spec_lib,
)

# How long a completion may wait for its sync: short enough for nobody to
# notice, long enough to sync many at once.
_SYNC_EVERY_S = 0.02
_REPORT_EVERY_S = 0.25
_BUDGET_WAIT_S = 0.05
# So many requests refused one after the other, and none answered: it is not
# the rows, it is the settings. At the start of a run that is soon clear.
_HOPELESS, _HOPELESS_AT_START = 50, 5
# After so many failures and no answer the server's own words are shown.
_SHOWN_AFTER = 3
# What is paid for each time is not tried as often as what costs nothing.
_PAID_ATTEMPTS = 2

# Why a run ended before everything was asked.
INTERRUPTED = "interrupted"
BUDGET = "budget"
SERVER_DOWN = "server_down"
FAILED = "failed"


class Asker(Protocol):
  """Something that answers requests; `client.Client` is one."""

  async def ask(self, request: requests.Request) -> responses.Answer:
    """Returns the answer, or raises failures.Failure."""


@dataclasses.dataclass
class Progress:
  """What a run has done so far; all counts are of this run alone.

  Attributes:
    durable: samples that are on the disk.
    copied: of them, those that cost nothing: an identical request's.
    failed: samples that ended with an error.
    held: requests not asked because they are in doubt.
    asked_again: requests asked although they are in doubt.
    requests: sent, retries included.
    retries: sent again after a passing failure.
    failures: named reason -> failed attempts.
    last_failure: what the server said at the last of them.
    prompt_tokens: as the server reports.
    completion_tokens: as the server reports.
    usd: dollars for these tokens.
    under_way: requests that wait for their answer.
    stopped: why the run ended early; empty if it did not.
    message: what the server said to that.
    notes: what a person should know, each once.
  """

  durable: int = 0
  copied: int = 0
  failed: int = 0
  held: int = 0
  asked_again: int = 0
  requests: int = 0
  retries: int = 0
  failures: dict[str, int] = dataclasses.field(default_factory=dict)
  last_failure: str = ""
  prompt_tokens: int = 0
  completion_tokens: int = 0
  usd: float = 0.0
  under_way: int = 0
  stopped: str = ""
  message: str = ""
  notes: list[str] = dataclasses.field(default_factory=list)


class Collector:
  """Asks for all that a plan misses."""

  def __init__(self, plan: plan_lib.Plan, asker: Asker, spec: spec_lib.Spec,
               estimator: cost_lib.Estimator,
               report: Callable[[Progress], None] = lambda progress: None):
    self._plan, self._asker, self._spec = plan, asker, spec
    self._store, self._estimator, self._report = plan.store, estimator, report
    self.progress = Progress()
    self._request_rate, self._token_rate = (
        rate and limits.TokenBucket(rate)
        for rate in (spec.requests_per_minute, spec.tokens_per_minute))
    self._backoff = limits.Backoff(spec.attempts, spec.backoff_s)
    self._breaker = limits.CircuitBreaker(give_up_s=spec.give_up_s)
    self._budget = limits.Budget(
        spec.budget_usd, estimator.prices.of_usage(plan.store.usage()))
    self._stopping = asyncio.Event()
    # Key -> ends when the request's completion is in the cache, or failed.
    self._asked: dict[str, asyncio.Future] = {}
    self._unsynced = 0
    self._refused_in_a_row = self._failed_at_start = 0
    self._any_answer = False
    self._appended = asyncio.Event()

  def stop(self, reason: str, message: str = "") -> None:
    """Asks for nothing new; what is under way is waited for."""
    if not self._stopping.is_set():
      self.progress.stopped, self.progress.message = reason, message
      self._stopping.set()

  async def run(self, items: Iterator[plan_lib.Item | None]) -> Progress:
    """Asks for all items; returns when the last completion is on the disk.

    Raises:
      errors.UserError: rows cannot be read, or the cache cannot be written.
    """
    helpers = [asyncio.create_task(self._sync_often()),
               asyncio.create_task(self._report_often())]
    workers = [asyncio.create_task(self._work(items))
               for _ in range(self._spec.concurrency)]
    try:
      # All of them, also if one fails: what is under way is paid for.
      ended = await asyncio.gather(*workers, return_exceptions=True)
    finally:
      for task in (*workers, *helpers):
        task.cancel()
      await asyncio.gather(*workers, *helpers, return_exceptions=True)
      self._store.sync()
      self.progress.durable += self._unsynced
      self._unsynced = 0
      self._report(self.progress)
    for error in ended:
      if error is not None:
        raise error
    return self.progress

  # --- From the items to the requests.

  async def _work(self, items: Iterator[plan_lib.Item | None]) -> None:
    """One of the workers; they share the iterator."""
    try:
      for item in items:
        if item is None:  # Nothing was missing for a while.
          await asyncio.sleep(0)
        while item is not None and not self._stopping.is_set():
          item = await self._complete(item)
        if self._stopping.is_set():
          return
    except Exception as error:
      self.stop(FAILED, str(error))
      raise

  async def _complete(self, item: plan_lib.Item) -> plan_lib.Item | None:
    """Brings an item into the cache; returns what can be asked next."""
    request = self._plan.request(item)
    while (other := self._asked.get(request.key)) is not None:
      failure = await asyncio.shield(other)
      if failure is not None:  # Its tokens are in the other's line.
        self._append_failure(
            item, request, failures.Failure(failure.reason, str(failure)))
        return None
    known = self._store.lines_of(request.key)
    if known:
      copies = lines.copies(item, known)
      self._append(copies)
      self.progress.copied += len(copies)
      return self._next(item, len(known))
    if self._store.is_in_doubt(request.key):
      if self._spec.in_doubt == spec_lib.HOLD:
        self.progress.held += 1
        return None
      self.progress.asked_again += 1
    mine = asyncio.get_running_loop().create_future()
    self._asked[request.key] = mine
    failure = None
    try:
      answer = await self._ask(request)
      if answer is not None:
        self._append(lines.of_answer(item, request.key, answer))
        return self._next(item, len(answer.choices))
    except failures.Failure as error:
      failure = error
      self._append_failure(item, request, failure)
    finally:
      del self._asked[request.key]
      mine.set_result(failure)
    return None

  def _next(self, item: plan_lib.Item, answered: int) -> plan_lib.Item | None:
    return self._plan.rest(item, answered) or self._plan.after(item)

  # --- Past the limits, to the server.

  async def _ask(self, request: requests.Request) -> responses.Answer | None:
    """Asks until there is an answer; None if the run stopped before.

    Raises:
      failures.Failure: another attempt would be of no use.
    """
    budget, backoff = self._budget, self._backoff
    most_usd = (self._estimator.most_usd(request) if budget.is_limited else 0.0)
    paid: collections.Counter[str] = collections.Counter()
    paid_attempts, dearest = 0, 0.0
    failure: failures.Failure | None = None
    for attempt in range(backoff.attempts):
      if failure is not None:
        await self._unless_stopping(asyncio.sleep(
            backoff.wait_s(attempt - 1, failure.retry_after)))
      reserved, cost = max(most_usd, dearest), 0.0
      if not await self._reserve(reserved):
        break
      try:
        if not await self._may_send(request):
          break
        self.progress.retries += attempt > 0
        answer = await self._send(request)
        cost = self._cost(answer.usage, most_usd)
        return dataclasses.replace(answer, paid_in_vain=paid)
      except failures.Failure as error:
        failure = error
        if failure.paid:
          cost = self._cost(failure.usage, most_usd)
          paid_attempts += 1
          paid.update(failure.usage)
          failure.usage = dict(paid)
        if failure.ends_run:
          self.stop(failure.reason, str(failure))
          break
        if not failure.passing or attempt + 1 == backoff.attempts or (
            paid_attempts == _PAID_ATTEMPTS):
          failure.usage = dict(paid)
          raise
      finally:
        budget.settle(reserved, cost)
        self.progress.usd = budget.spent
        dearest = max(dearest, cost)
    if paid_attempts:  # Else what was paid would be known to nobody.
      failure.usage = dict(paid)
      raise failure
    return None

  async def _reserve(self, most_usd: float) -> bool:
    """Waits until the budget has room; False if the run is stopping."""
    budget = self._budget
    while not budget.reserve(most_usd):
      if not budget.reservations:
        self.stop(BUDGET)
      if self._stopping.is_set():
        return False
      # Others may cost less than reserved.
      await self._unless_stopping(asyncio.sleep(_BUDGET_WAIT_S))
    return True

  def _cost(self, usage: Mapping[str, int], most_usd: float) -> float:
    """Dollars; the most that it can be where the server does not say."""
    return self._estimator.prices.of_usage(usage) if usage else most_usd

  async def _may_send(self, request: requests.Request) -> bool:
    """Waits for breaker and rates; False if the run is stopping."""
    try:
      if self._breaker.is_open:
        await self._unless_stopping(self._breaker.ready())
    except limits.BreakerGaveUp as error:
      self.stop(SERVER_DOWN, f"{error}; the last: {self.progress.last_failure}")
    if self._request_rate is not None:
      await self._unless_stopping(self._request_rate.acquire())
    if self._token_rate is not None:
      await self._unless_stopping(
          self._token_rate.acquire(self._estimator.most_tokens(request)))
    return not self._stopping.is_set()

  async def _send(self, request: requests.Request) -> responses.Answer:
    """One attempt."""
    progress = self.progress
    self._store.sent(request.key)
    progress.requests += 1
    progress.under_way += 1
    try:
      answer = await self._asker.ask(request)
    except failures.Failure as failure:
      self._store.answered(request.key)
      self._count(request, failure.usage, paid=failure.paid)
      self._note_failure(failure)
      raise
    finally:
      progress.under_way -= 1
    self._breaker.succeeded()
    self._any_answer = True
    self._refused_in_a_row = 0
    self._count(request, answer.usage, paid=True)
    return answer

  def _note_failure(self, failure: failures.Failure) -> None:
    """Counts a failure; stops the run where nothing else can be expected."""
    progress, breaker = self.progress, self._breaker
    progress.last_failure = str(failure)
    progress.failures[failure.reason] = (
        progress.failures.get(failure.reason, 0) + 1)
    self._failed_at_start += not (self._any_answer or failure.ends_run)
    if self._failed_at_start == _SHOWN_AFTER:
      progress.notes.append(f"no completion yet; {failure.reason}: {failure}")
    if failure.passing and not failure.paid:
      breaker.failed()
      return
    # A refusal of one request shows that the server is there.
    breaker.succeeded()
    self._refused_in_a_row += 1
    at_start = not self._any_answer and failure.reason not in failures.OF_ROW
    if self._refused_in_a_row >= (
        _HOPELESS_AT_START if at_start else _HOPELESS):
      self.stop(failure.reason, str(failure))

  def _count(self, request: requests.Request, usage: Mapping[str, int], *,
             paid: bool) -> None:
    """Counts the tokens of an attempt."""
    progress = self.progress
    progress.prompt_tokens += usage.get("prompt_tokens", 0)
    progress.completion_tokens += usage.get("completion_tokens", 0)
    # A server that does not report its usage is believed to use the most.
    if self._token_rate is not None and (usage or not paid):
      self._token_rate.give_back(
          self._estimator.most_tokens(request) - sum(usage.values()))

  async def _unless_stopping(self, waiting: Coroutine) -> None:
    """Waits for something, but not longer than the run goes on."""
    wait = asyncio.ensure_future(waiting)
    stop = asyncio.ensure_future(self._stopping.wait())
    try:
      await asyncio.wait({wait, stop}, return_when=asyncio.FIRST_COMPLETED)
      if wait.done():
        wait.result()
    finally:
      wait.cancel()
      stop.cancel()

  # --- Into the cache, onto the disk.

  def _append_failure(self, item: plan_lib.Item, request: requests.Request,
                      failure: failures.Failure) -> None:
    failed = lines.of_failure(item, request.key, failure)
    self._append(failed)
    self.progress.failed += len(failed)

  def _append(self, new_lines: list[dict[str, Any]]) -> None:
    self._store.append(new_lines)
    self._unsynced += len(new_lines)
    self._appended.set()

  async def _sync_often(self) -> None:
    """Makes what was appended durable; only then does it count."""
    while True:
      await self._appended.wait()
      await asyncio.sleep(_SYNC_EVERY_S)
      self._appended.clear()
      count, self._unsynced = self._unsynced, 0
      try:
        await asyncio.to_thread(self._store.syncer())
      except asyncio.CancelledError:
        self._unsynced += count
        raise
      self.progress.durable += count

  async def _report_often(self) -> None:
    while True:
      self._report(self.progress)
      await asyncio.sleep(_REPORT_EVERY_S)
