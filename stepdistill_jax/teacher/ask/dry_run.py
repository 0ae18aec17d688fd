"""What a collection would cost, without asking anything."""

from __future__ import annotations

import dataclasses

from stepdistill_jax.teacher.ask import job as job_lib


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Of the requests that are missing.

  Attributes:
    requests: their number; identical ones count once.
    present: completions that are there already.
    prompt_tokens: of all of them.
    most_completion_tokens: if every completion is as long as may be.
    likely_completion_tokens: if they are as long as the prompt's exemplars,
      or as those that are there already; None where neither is known.
    most_usd: dollars for the most tokens; None without prices.
    likely_usd: dollars for the likely tokens; None if not known.
    counted_by: the tokenizer, or the rule of thumb.
  """

  requests: int
  present: int
  prompt_tokens: int
  most_completion_tokens: int
  likely_completion_tokens: int | None
  most_usd: float | None
  likely_usd: float | None
  counted_by: str


def estimate(spec: job_lib.Spec) -> Estimate:
  """Renders every missing request, and counts.

  Raises:
    errors.UserError: a mistake in the spec, or another process collects.
  """
  with job_lib.open_job(spec, asks=False) as job:
    count = prompt_tokens = most = samples = 0
    for request in job.missing_requests():
      count += 1
      samples += len(request.samples)
      prompt_tokens += job.estimator.prompt_tokens(request)
      most += request.max_tokens * len(request.samples)
    likely = _likely_length(job)
    likely_tokens = None if likely is None else min(
        most, round(likely * samples))
    prices, known = job.estimator.prices, _has_prices(spec)
    return Estimate(
        requests=count, present=job.present, prompt_tokens=prompt_tokens,
        most_completion_tokens=most, likely_completion_tokens=likely_tokens,
        most_usd=prices.cost(prompt_tokens, most) if known else None,
        likely_usd=prices.cost(prompt_tokens, likely_tokens)
        if known and likely_tokens is not None else None,
        counted_by=spec.tokenizer or "a rule of thumb (4 characters a token)")


def lines(found: Estimate) -> list[str]:
  """The estimate for a person."""
  shown = [f"{found.requests:,} requests are missing, {found.present:,} "
           "completions are there; nothing was asked",
           f"  prompts: {found.prompt_tokens:,} tokens, by {found.counted_by}"]
  likely = "" if found.likely_completion_tokens is None else (
      f", likely {found.likely_completion_tokens:,}")
  shown.append(f"  completions: at most {found.most_completion_tokens:,} tokens"
               + likely)
  if found.most_usd is None:
    shown.append("  dollars: give --usd_per_million_prompt and "
                 "--usd_per_million_completion")
  else:
    likely = "" if found.likely_usd is None else (
        f", likely ${found.likely_usd:,.4f}")
    shown.append(f"  dollars: at most ${found.most_usd:,.4f}{likely}")
  return shown


def _likely_length(job: job_lib.Job) -> float | None:
  """Mean tokens of a completion, by those of before or by the exemplars."""
  usage, endings = job.store.usage(), job.store.counts()
  if usage["completion_tokens"]:
    return usage["completion_tokens"] / max(1, sum(endings.values()))
  outputs = [exemplar["output"] for exemplar in job.prompt.exemplars]
  if not outputs:
    return None
  return sum(map(job.estimator.text_tokens, outputs)) / len(outputs)


def _has_prices(spec: job_lib.Spec) -> bool:
  return (spec.usd_per_million_prompt is not None
          or spec.usd_per_million_completion is not None)
