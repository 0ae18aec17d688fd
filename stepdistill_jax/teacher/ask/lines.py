"""The lines of a cache's shards."""

from collections.abc import Sequence
from typing import Any

from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.ask import failures, plan, responses

Line = dict[str, Any]


def of_answer(item: plan.Item, key: str, answer: responses.Answer
              ) -> list[Line]:
  """A line for each choice; a request's tokens are paid once."""
  made = [_line(item, sample, key, choice.thinking, output=choice.output,
                finish_reason=choice.finish_reason, usage={}, error=None)
          for sample, choice in zip(item.samples, answer.choices)]
  made[0]["usage"] = dict(answer.usage)
  if answer.paid_in_vain:
    made[0]["paid_in_vain"] = dict(answer.paid_in_vain)
  return made


def copies(item: plan.Item, known: Sequence[Line]) -> list[Line]:
  """Lines for a row whose request is identical to one that was answered."""
  return [_line(item, sample, original["request"],
                completions.thinking_of(original), output=original["output"],
                finish_reason=original["finish_reason"], usage={}, error=None,
                copy_of=original["id"])
          for sample, original in zip(item.samples, known)]


def of_failure(item: plan.Item, key: str, failure: failures.Failure
               ) -> list[Line]:
  """A line for each sample without a completion."""
  made = [_line(item, sample, key, failure.thinking, output=None,
                finish_reason=None, usage={},
                error=f"{failure.reason}: {failure}")
          for sample in item.samples]
  made[0]["usage"] = dict(failure.usage)
  return made


def _line(item: plan.Item, sample: int, key: str, thinking: str,
          **values: Any) -> Line:
  return {"id": item.id, "sample": sample, "position": item.position,
          "input": item.input, "request": key, **values,
          **({"thinking": thinking} if thinking else {})}
