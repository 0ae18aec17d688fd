"""What a collection would cost, without asking anything."""

from collections.abc import Mapping
import json
from typing import Any

from stepdistill_jax.teacher.ask import job as job_lib, spec as spec_lib


def estimate(spec: spec_lib.Spec) -> dict[str, Any]:
  """Renders every missing request, and counts.

  Returns:
    Of the requests that are missing
      requests: their number; identical ones count once;
      present: completions that are there already;
      prompt_tokens: of all of them;
      most_completion_tokens: if every completion is as long as may be;
      likely_completion_tokens: if they are as long as the prompt's exemplars,
        or as those that are there already; None where neither is known;
      most_usd: dollars for the most tokens; None without prices;
      likely_usd: dollars for the likely tokens; None if not known;
      counted_by: the tokenizer, or the rule of thumb.

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
    length = _likely_length(job)
    likely = None if length is None else min(most, round(length * samples))
    prices = job.estimator.prices
    known = (spec.usd_per_million_prompt, spec.usd_per_million_completion) != (
        None, None)
    return {
        "requests": count, "present": job.present,
        "prompt_tokens": prompt_tokens, "most_completion_tokens": most,
        "likely_completion_tokens": likely,
        "most_usd": prices.cost(prompt_tokens, most) if known else None,
        "likely_usd": prices.cost(prompt_tokens, likely)
                      if known and likely is not None else None,
        "counted_by": (
            spec.tokenizer or "a rule of thumb (4 characters a token)")}


def show(spec: spec_lib.Spec, as_json: bool) -> None:
  """Prints the estimate, for a program or a person."""
  found = estimate(spec)
  print(json.dumps(found) if as_json else "\n".join(lines(found)))


def lines(found: Mapping[str, Any]) -> list[str]:
  """The estimate for a person."""
  tokens, usd = found["likely_completion_tokens"], found["likely_usd"]
  return [
      f"{found['requests']:,} requests are missing, {found['present']:,} "
      "completions are there; nothing was asked",
      f"  prompts: {found['prompt_tokens']:,} tokens, by {found['counted_by']}",
      f"  completions: at most {found['most_completion_tokens']:,} tokens"
      + ("" if tokens is None else f", likely {tokens:,}"),
      "  dollars: give --usd_per_million_prompt and "
      "--usd_per_million_completion" if found["most_usd"] is None else
      f"  dollars: at most ${found['most_usd']:,.4f}"
      + ("" if usd is None else f", likely ${usd:,.4f}")]


def _likely_length(job: job_lib.Job) -> float | None:
  """Mean tokens of a completion, by those of before or by the exemplars."""
  usage, endings = job.store.usage(), job.store.counts()
  if usage["completion_tokens"]:
    return usage["completion_tokens"] / max(1, sum(endings.values()))
  outputs = [exemplar["output"] for exemplar in job.prompt.exemplars]
  return sum(map(job.estimator.text_tokens, outputs)) / len(
      outputs) if outputs else None
