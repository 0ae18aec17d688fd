"""A run of the collector, from its plain description to its outcome."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import pathlib
import tempfile
from typing import Any

from stepdistill_jax.answers import answer_forms
from stepdistill_jax.teacher import completions, prompts
from stepdistill_jax.teacher.ask import (
  client as client_lib,
  cost,
  locking,
  plan,
  requests,
  retries,
  rows,
  spec as spec_lib,
  store,
)
from stepdistill_jax.teacher.importing import counts, table_files
from stepdistill_jax.util import errors

_PROMPT_FILE = "prompt.toml"


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a run did, and what the cache holds now.

  Attributes:
    folder: the cache.
    total: samples that the cache shall have.
    usable: samples that ended with `stop`.
    missing: samples that are not there, or ended with an error.
    endings: how the samples ended, reason -> number.
    dropped: rows that cannot be asked about, reason -> count and examples.
    usage: tokens of all runs.
    usd: dollars of all runs.
    progress: counts of this run.
  """

  folder: str
  total: int
  usable: int
  missing: int
  endings: Mapping[str, int]
  dropped: Mapping[str, Any]
  usage: Mapping[str, int]
  usd: float
  progress: retries.Progress

  @property
  def success_ratio(self) -> float | None:
    """None where no row could be asked about."""
    return self.usable / self.total if self.total else None


class Job:
  """An opened cache, and all that is needed to complete it.

  Attributes:
    total: samples that the cache shall have; an estimate until all rows were
      read, as only then those that cannot be asked about are known.
    present: samples that it had when it was opened.
  """

  def __init__(self, spec: spec_lib.Spec, *, waiting: Callable[[str], None]):
    self.spec = spec
    self.prompt, self.settings, self.source = prepare(spec)
    self.estimator = cost.Estimator(
        spec.prices(),
        cost.load_tokenizer(spec.tokenizer) if spec.tokenizer else None)
    self.dropped = counts.Reasons()
    # A worker whose command was killed needs at most one request's time.
    self.store = locking.wait_for_lock(
        self._open_store, longest_s=spec.timeout_s + 10, waiting=waiting)
    try:
      self.plan = plan.Plan(
          self.settings, self.prompt, self.store, spec.history)
      self.present = _present(self.store.counts())
      self.total = (
          sum(map(self.plan.expected, self.source.read(self.prompt)))
          if self.prompt.reads == answer_forms.TURNS
          else self.source.count() * self.settings.samples)
    except BaseException:
      self.store.abandon()
      raise

  def client(self) -> client_lib.Client:
    """The client of the server; an async context manager."""
    return client_lib.Client(
        base_url=self.spec.base_url, api_key=spec_lib.api_key(self.spec),
        timeout_s=self.spec.timeout_s)

  def collector(self, asker: retries.Asker,
                report: Callable[[retries.Progress], None]
                 ) -> retries.Collector:
    """The collector, with the spec's limits."""
    collector = retries.Collector(
        self.plan, asker, self.spec, self.estimator, report)
    if isinstance(asker, client_lib.Client):
      collector.progress.notes = asker.notes
    return collector

  def items(self) -> Iterator[plan.Item | None]:
    """What is missing.

    Raises:
      errors.UserError: no row can be asked about.
    """
    yield from self.plan.missing(self._rows())

  def missing_requests(self) -> Iterator[requests.Request]:
    """Yields what is missing as requests, of identical ones the first."""
    seen: set[bytes] = set()
    for item in filter(None, self.items()):
      request = self.plan.request(item)
      key = bytes.fromhex(request.key)
      if key not in seen:
        seen.add(key)
        yield request

  def collect(self, asker: retries.Asker, *, concurrency: int,
              wanted: Callable[[plan.Item], bool] = lambda item: True
              ) -> Outcome:
    """Collects in this process, by an asker that needs no limits."""
    self.spec = dataclasses.replace(
        self.spec, concurrency=concurrency, attempts=1, budget_usd=None,
        requests_per_minute=None, tokens_per_minute=None)
    collector = self.collector(asker, lambda progress: None)
    asyncio.run(collector.run(
        item for item in self.items() if item is None or wanted(item)))
    return self.close(collector.progress)

  def _rows(self) -> Iterator[rows.AskedRow]:
    total = 0
    for row in self.source.read(self.prompt, self.dropped):
      total += self.plan.expected(row)
      yield row
    self.total = total
    if not total:
      reasons = "".join(counts.with_places(": ", self.dropped.as_json()))
      raise errors.UserError(
          f"{self.source.path} has no row that can be asked about{reasons}")

  def close(self, progress: retries.Progress) -> Outcome:
    """Closes the cache; returns what was done."""
    endings, usage = self.store.counts(), self.store.usage()
    present = _present(endings)
    # A cache may have more than the rows of this run, as with --limit.
    total = max(self.total, present)
    outcome = Outcome(
        str(self.store.folder), total=total,
        usable=endings.get(completions.STOP, 0), missing=total - present,
        endings=endings, dropped=self.dropped.as_json(), usage=usage,
        usd=self.estimator.prices.of_usage(usage), progress=progress)
    self.store.close(
        complete=not outcome.missing, rows=self.source.count(), total=total,
        endings=endings,
        dropped=outcome.dropped, usage=usage, usd=outcome.usd,
        asked_again=self.store.asked_again_before + progress.asked_again,
        notes=progress.notes)
    return outcome

  def _open_store(self) -> store.Store:
    prompt, spec = self.prompt, self.spec
    identity = {
        "teacher": spec.teacher_name,
        "dataset": self.source.dataset.name,
        "split": spec.split,
        "prompt_id": prompt.id,
        "prompt_sha256": prompt.sha256,
        "prompt_kind": prompt.kind,
        "reads": prompt.reads,
        "gold_given": prompt.gold_given,
        "sampling": self.settings.as_json(),
        "base_url": spec.base_url or "default",
    }
    if prompt.reads == answer_forms.TURNS:
      identity["history"] = spec.history
    return store.Store(
        spec.output, identity, files={_PROMPT_FILE: prompt.source})


def prepare(spec: spec_lib.Spec) -> tuple[
    prompts.Prompt, requests.Settings, rows.Source]:
  """A run's prompt, settings and rows.

  Raises:
    errors.UserError: a mistake in the spec.
  """
  prompt = prompts.find(spec.prompt, spec.dataset)
  return prompt, spec_lib.make_settings(spec, prompt), rows.find(
      spec.dataset, spec.rows, spec.split,
      table_files.parse_columns(spec.columns), spec.limit)


def _present(endings: Mapping[str, int]) -> int:
  return sum(count for reason, count in endings.items()
             if not reason.startswith(store.ERROR))


def refuse_to_wait(who: str) -> None:
  """For `waiting`, where an answer is expected at once."""
  raise errors.UserError(f"{who}; wait for it to end")


@contextlib.contextmanager
def open_job(
    spec: spec_lib.Spec, *, waiting: Callable[[str], None] = refuse_to_wait,
    asks: bool = True) -> Iterator[Job]:
  """Opens the job of a spec; leaves the cache unlocked.

  Args:
    spec: the run.
    waiting: called once if another process has the cache, with which.
    asks: False if nothing will be added, so that no folder need be made.
  """
  with tempfile.TemporaryDirectory() as stand_in:
    if not asks and not (
        pathlib.Path(spec.output) / completions.MANIFEST).exists():
      spec = dataclasses.replace(spec, output=stand_in)
    job = Job(spec, waiting=waiting)
    try:
      yield job
    finally:
      job.store.abandon()
