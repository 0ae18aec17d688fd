"""A run of the collector, from its plain description to its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import os
import pathlib
import re
import tempfile
from typing import Any

from stepdistill_jax.answers import answer_forms
from stepdistill_jax.records import records
from stepdistill_jax.teacher import completions, prompts
from stepdistill_jax.teacher.ask import (
  client as client_lib,
  cost,
  limits,
  locking,
  plan as plan_lib,
  requests,
  retries,
  rows as rows_lib,
  store as store_lib,
)
from stepdistill_jax.teacher.importing import (
  counts as import_counts,
  table_files,
)
from stepdistill_jax.util import errors

_OPENAI_KEY = "OPENAI_API_KEY"
_PROMPT_FILE = "prompt.toml"


@dataclasses.dataclass(kw_only=True)
class Spec:
  """All that decides a run, as plain values; never a key.

  The fields are the options of `stepdistill teacher collect`; see its help.
  """

  dataset: str
  rows: str
  output: str
  model: str = ""
  prompt: str = "few_shot_cot"
  split: str = "train"
  columns: str = ""
  limit: int | None = None
  teacher: str = ""
  base_url: str | None = None
  api_key_env: str = _OPENAI_KEY
  endpoint: str = requests.CHAT
  temperature: float | None = 0.2
  top_p: float | None = 0.1
  seed: int | None = None
  stop: tuple[str, ...] = ()
  max_tokens: int | None = None
  samples: int = 1
  samples_per_request: int = 1
  json_schema: bool = False
  extra_body: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  merge_system: bool = False
  history: str = plan_lib.REGENERATED
  concurrency: int = 16
  requests_per_minute: float | None = None
  tokens_per_minute: float | None = None
  timeout_s: float = 120.0
  attempts: int = 8
  backoff_s: float = 0.5
  give_up_s: float = 900.0
  in_doubt: str = retries.ASK
  tokenizer: str | None = None
  usd_per_million_prompt: float | None = None
  usd_per_million_completion: float | None = None
  budget_usd: float | None = None

  @property
  def teacher_name(self) -> str:
    """The teacher's name in task names; by default made from the model's."""
    if self.teacher:
      return records.check_name("teacher", self.teacher)
    last = self.model.rstrip("/").rpartition("/")[2]
    return re.sub("[^a-z0-9]+", "_", last.lower()).strip("_") or "teacher"

  def prices(self) -> cost.Prices:
    return cost.Prices(self.usd_per_million_prompt or 0.0,
                       self.usd_per_million_completion or 0.0)


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

  def __init__(self, spec: Spec, *, waiting: Callable[[str], None]):
    self.spec = spec
    self.prompt = prompts.find(spec.prompt, spec.dataset)
    self.settings = make_settings(spec, self.prompt)
    self.source = rows_lib.find(
        spec.dataset, spec.rows, spec.split,
        table_files.parse_columns(spec.columns), spec.limit)
    self.estimator = cost.Estimator(
        spec.prices(),
        cost.load_tokenizer(spec.tokenizer) if spec.tokenizer else None)
    self.dropped = import_counts.Reasons()
    # A worker whose command was killed needs at most one request's time.
    self.store = locking.wait_for_lock(
        self._open_store, longest_s=spec.timeout_s + 10, waiting=waiting)
    try:
      self.plan = plan_lib.Plan(
          self.settings, self.prompt, self.store, spec.history)
      self.present = _present(self.store.counts())
      self.total = self._estimate_total()
    except BaseException:
      self.store.abandon()
      raise

  def client(self) -> client_lib.Client:
    """The client of the server; an async context manager."""
    return client_lib.Client(
        base_url=self.spec.base_url, api_key=api_key(self.spec),
        timeout_s=self.spec.timeout_s)

  def collector(self, asker: retries.Asker,
                report: Callable[[retries.Progress], None]
                 ) -> retries.Collector:
    """The collector, with the spec's limits."""
    spec = self.spec
    bounds = retries.Limits(
        concurrency=spec.concurrency,
        requests_per_minute=spec.requests_per_minute,
        tokens_per_minute=spec.tokens_per_minute,
        backoff=limits.Backoff(attempts=spec.attempts, first_s=spec.backoff_s),
        breaker=limits.CircuitBreaker(give_up_s=spec.give_up_s),
        budget=limits.Budget(spec.budget_usd, spent=self._spent_usd()),
        in_doubt=spec.in_doubt)
    collector = retries.Collector(
        self.plan, asker, bounds, self.estimator, report)
    if isinstance(asker, client_lib.Client):
      collector.progress.notes = asker.notes
    return collector

  def items(self) -> Iterator[plan_lib.Item | None]:
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
              wanted: Callable[[plan_lib.Item], bool] = lambda item: True
              ) -> Outcome:
    """Collects in this process, by an asker that needs no limits."""
    self.spec = dataclasses.replace(
        self.spec, concurrency=concurrency, attempts=1, budget_usd=None,
        requests_per_minute=None, tokens_per_minute=None)
    collector = self.collector(asker, lambda progress: None)
    asyncio.run(collector.run(
        item for item in self.items() if item is None or wanted(item)))
    return self.close(collector.progress)

  def _rows(self) -> Iterator[rows_lib.AskedRow]:
    total = 0
    for row in self.source.read(self.prompt, self.dropped):
      total += self.plan.expected(row)
      yield row
    self.total = total
    if not total:
      reasons = "".join(
          import_counts.with_places(": ", self.dropped.as_json()))
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

  def _estimate_total(self) -> int:
    if self.prompt.reads == answer_forms.TURNS:
      return sum(map(self.plan.expected, self.source.read(self.prompt)))
    return self.source.count() * self.settings.samples

  def _spent_usd(self) -> float:
    return self.estimator.prices.of_usage(self.store.usage())

  def _open_store(self) -> store_lib.Store:
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
    return store_lib.Store(
        spec.output, identity, files={_PROMPT_FILE: prompt.source})


def _present(endings: Mapping[str, int]) -> int:
  return sum(count for reason, count in endings.items()
             if not reason.startswith(store_lib.ERROR))


def refuse_to_wait(who: str) -> None:
  """For `waiting`, where an answer is expected at once."""
  raise errors.UserError(f"{who}; wait for it to end")


@contextlib.contextmanager
def open_job(
    spec: Spec, *, waiting: Callable[[str], None] = refuse_to_wait,
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


def make_settings(spec: Spec, prompt: prompts.Prompt) -> requests.Settings:
  """The settings of a run, with the prompt's defaults.

  Raises:
    errors.UserError: values that no server would take.
  """
  _check(spec, prompt)
  # A chat's turn ends by itself, and some servers refuse stop strings there.
  default_stop = prompt.stop if spec.endpoint == requests.COMPLETION else ()
  return requests.Settings(
      model=spec.model, endpoint=spec.endpoint, temperature=spec.temperature,
      top_p=spec.top_p, seed=spec.seed, stop=spec.stop or default_stop,
      max_tokens=spec.max_tokens or prompt.max_tokens, samples=spec.samples,
      samples_per_request=min(spec.samples_per_request, spec.samples),
      json_schema=spec.json_schema, extra_body=dict(spec.extra_body),
      merge_system=spec.merge_system)


def api_key(spec: Spec) -> str | None:
  """The key, from the environment; None for a server that needs none.

  Raises:
    errors.UserError: the server needs one, and the variable is not set.
  """
  key = os.environ.get(spec.api_key_env, "").strip()
  if not key and (spec.base_url is None or spec.api_key_env != _OPENAI_KEY):
    raise errors.UserError(
        f"the environment variable {spec.api_key_env} is not set; put the "
        "server's key there, or name another variable with --api_key_env")
  return key or None


def _check(spec: Spec, prompt: prompts.Prompt) -> None:
  if not spec.model:
    raise errors.UserError(
        "--model is missing; give the server's name of the model")
  for name in ("samples", "samples_per_request", "concurrency", "attempts"):
    if getattr(spec, name) < 1:
      raise errors.UserError(
          f"--{name}={getattr(spec, name)}; it must be 1 or more")
  for name in ("timeout_s", "requests_per_minute", "tokens_per_minute",
               "max_tokens", "limit"):
    value = getattr(spec, name)
    if value is not None and not value > 0:
      raise errors.UserError(f"--{name}={value}; it must be more than 0")
  errors.require_known("endpoint", spec.endpoint, requests.ENDPOINTS)
  errors.require_known("history", spec.history, plan_lib.HISTORIES)
  if spec.json_schema and prompt.schema is None:
    raise errors.UserError(
        f"--json_schema: prompt {prompt.id!r} has no schema; choose a prompt "
        "of kind json_cot")
  if spec.samples > 1 and prompt.reads == answer_forms.TURNS:
    raise errors.UserError(
        "--samples: a conversation has one continuation; leave it at 1")
  if spec.samples > 1 and spec.temperature == 0:
    raise errors.UserError(
        f"--samples={spec.samples} at temperature 0 are all the same; raise "
        "--temperature (0.7 is usual for self-consistency)")
  if prompt.reads == answer_forms.TURNS and spec.endpoint != requests.CHAT:
    raise errors.UserError(
        f"prompt {prompt.id!r} is of conversations; use --endpoint=chat")
  if spec.budget_usd is not None and not (
      spec.usd_per_million_prompt and spec.usd_per_million_completion):
    raise errors.UserError(
        "--budget_usd needs the server's prices: --usd_per_million_prompt and "
        "--usd_per_million_completion")
  if spec.base_url is not None:
    client_lib.check_base_url(spec.base_url)
