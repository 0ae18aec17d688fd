"""What a run of the collector is asked to do, and what cannot be asked."""

import dataclasses
import os
import re

from stepdistill_jax.answers import answer_forms
from stepdistill_jax.records import records
from stepdistill_jax.teacher import prompts
from stepdistill_jax.teacher.ask import client, cost, plan, requests
from stepdistill_jax.util import errors

_OPENAI_KEY = "OPENAI_API_KEY"
ASK, HOLD = "ask", "hold"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec(requests.Settings):
  """All that decides a run, as plain values; never a key.

  The fields are the options of `stepdistill teacher collect`; see its help.
  Of sampling, `settings` completes what is left to the prompt.
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
  max_tokens: int | None = None
  history: str = plan.REGENERATED
  concurrency: int = 16
  requests_per_minute: float | None = None
  tokens_per_minute: float | None = None
  timeout_s: float = 120.0
  attempts: int = 8
  backoff_s: float = 0.5
  give_up_s: float = 900.0
  in_doubt: str = ASK
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


def make_settings(spec: Spec, prompt: prompts.Prompt) -> requests.Settings:
  """The settings of a run, with the prompt's defaults.

  Raises:
    errors.UserError: values that no server would take.
  """
  _check(spec, prompt)
  values = {field.name: getattr(spec, field.name)
            for field in dataclasses.fields(requests.Settings)}
  # A chat's turn ends by itself, and some servers refuse stop strings there.
  default_stop = prompt.stop if spec.endpoint == requests.COMPLETION else ()
  return requests.Settings(**values | {
      "stop": spec.stop or default_stop,
      "max_tokens": spec.max_tokens or prompt.max_tokens,
      "samples_per_request": min(spec.samples_per_request, spec.samples)})


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
  errors.require_known("history", spec.history, plan.HISTORIES)
  has_turns = prompt.reads == answer_forms.TURNS
  for is_wrong, message in (
      (spec.json_schema and prompt.schema is None,
       f"--json_schema: prompt {prompt.id!r} has no schema; choose a prompt of "
       "kind json_cot"),
      (spec.samples > 1 and has_turns,
       "--samples: a conversation has one continuation; leave it at 1"),
      (spec.samples > 1 and spec.temperature == 0,
       f"--samples={spec.samples} at temperature 0 are all the same; raise "
       "--temperature (0.7 is usual for self-consistency)"),
      (has_turns and spec.endpoint != requests.CHAT,
       f"prompt {prompt.id!r} is of conversations; use --endpoint=chat"),
      (spec.budget_usd is not None and not (
          spec.usd_per_million_prompt and spec.usd_per_million_completion),
       "--budget_usd needs the server's prices: --usd_per_million_prompt and "
       "--usd_per_million_completion")):
    if is_wrong:
      raise errors.UserError(message)
  if spec.base_url is not None:
    client.check_base_url(spec.base_url)
