"""A row, a prompt and sampling settings as one request to a teacher."""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
from typing import Any

from stepdistill_jax.teacher import prompts
from stepdistill_jax.teacher.ask import adaptations

CHAT, COMPLETION = "chat", "completion"
ENDPOINTS = (CHAT, COMPLETION)
PATHS = {CHAT: "/chat/completions", COMPLETION: "/completions"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What is asked besides the prompt; part of a cache's identity.

  Attributes:
    model: the server's name of the model.
    endpoint: `chat` or `completion` (a plain continuation of a text).
    temperature: None leaves it to the server; so do top_p and seed.
    top_p: probability mass to sample from.
    seed: of a row's first sample; the others count up from it.
    stop: stop strings, at most four as servers commonly allow.
    max_tokens: the length limit of a completion.
    samples: completions of each row.
    samples_per_request: how many of them one request asks for (`n`). Above 1
      the prompt is paid once, where the server can do it.
    json_schema: True to send the prompt's JSON schema.
    extra_body: further keys of the request, such as `top_k`. With
      `max_completion_tokens` among them `max_tokens` is not sent.
    merge_system: True to put a system message's text before the user's.
  """

  model: str
  endpoint: str = CHAT
  temperature: float | None = 0.2
  top_p: float | None = 0.1
  seed: int | None = None
  stop: tuple[str, ...] = ()
  max_tokens: int = 256
  samples: int = 1
  samples_per_request: int = 1
  json_schema: bool = False
  extra_body: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  merge_system: bool = False

  def as_json(self) -> dict[str, Any]:
    """For the manifest; equal settings give equal JSON."""
    settings = dataclasses.asdict(self)
    settings["stop"] = list(self.stop)
    if not self.merge_system:  # As it is in manifests written before.
      del settings["merge_system"]
    return settings


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
  """One request and its identity.

  Attributes:
    key: sha256 of all that decides the answer: the address's last part, the
      body, and the samples' numbers. Equal requests have equal keys; the
      server's address is not part of it.
    path: below the base URL.
    body: JSON object, `n` included.
    samples: numbers of the samples that the answer's choices are.
  """

  key: str
  path: str
  body: Mapping[str, Any]
  samples: tuple[int, ...]

  @property
  def max_tokens(self) -> int:
    """The length limit of one completion."""
    return self.body.get("max_completion_tokens", self.body.get("max_tokens"))


def build(settings: Settings, prompt: prompts.Prompt,
          fields: Mapping[str, Any], samples: Sequence[int]) -> Request:
  """Returns the request for some samples of a row.

  Args:
    settings: model and sampling.
    prompt: the prompt.
    fields: the row's fields that the prompt shows.
    samples: which of the row's samples to ask for; at least one.
  """
  body: dict[str, Any] = {"model": settings.model}
  if settings.endpoint == CHAT:
    messages = prompt.chat(fields)
    body["messages"] = (adaptations.merge_system(messages)
                        if settings.merge_system else messages)
  else:
    body["prompt"] = prompt.text(fields)
  if "max_completion_tokens" not in settings.extra_body:
    body["max_tokens"] = settings.max_tokens
  for key in ("temperature", "top_p"):
    if getattr(settings, key) is not None:
      body[key] = getattr(settings, key)
  if settings.seed is not None:
    body["seed"] = settings.seed + samples[0]
  if settings.stop:
    body["stop"] = list(settings.stop)
  if len(samples) > 1:
    body["n"] = len(samples)
  if settings.json_schema and prompt.schema is not None:
    body["response_format"] = {
        "type": "json_schema",
        "json_schema": {"name": "completion", "strict": True,
                        "schema": prompt.row_schema(fields)},
    }
  body.update(settings.extra_body)
  path = PATHS[settings.endpoint]
  identity = json.dumps(
      [path, body, list(samples)], sort_keys=True, separators=(",", ":"))
  key = hashlib.sha256(identity.encode("utf-8")).hexdigest()
  return Request(key, path, body, tuple(samples))
