"""The lines of a cache's shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.ask import failures, plan, responses

Line = dict[str, Any]


def of_answer(item: plan.Item, key: str, answer: responses.Answer
              ) -> list[Line]:
  """A line for each choice; a request's tokens are paid once."""
  made = []
  for number, (sample, choice) in enumerate(
      zip(item.samples, answer.choices)):
    line = _line(item, sample, key)
    line.update(
        output=choice.output, finish_reason=choice.finish_reason,
        usage=dict(answer.usage) if number == 0 else {}, error=None)
    if choice.thinking:
      line["thinking"] = choice.thinking
    if number == 0 and answer.paid_in_vain:
      line["paid_in_vain"] = dict(answer.paid_in_vain)
    made.append(line)
  return made


def copies(item: plan.Item, known: Sequence[Line]) -> list[Line]:
  """Lines for a row whose request is identical to one that was answered."""
  made = []
  for sample, original in zip(item.samples, known):
    line = _line(item, sample, original["request"])
    line.update(output=original["output"],
                finish_reason=original["finish_reason"])
    if thinking := completions.thinking_of(original):
      line["thinking"] = thinking
    line.update(usage={}, error=None, copy_of=original["id"])
    made.append(line)
  return made


def of_failure(item: plan.Item, key: str, failure: failures.Failure
               ) -> list[Line]:
  """A line for each sample that there is no completion of."""
  made = []
  for number, sample in enumerate(item.samples):
    line = _line(item, sample, key)
    line.update(output=None, finish_reason=None,
                usage=dict(failure.usage) if number == 0 else {},
                error=f"{failure.reason}: {failure}")
    if failure.thinking:
      line["thinking"] = failure.thinking
    made.append(line)
  return made


def _line(item: plan.Item, sample: int, key: str) -> Line:
  """What a line has, whatever came back."""
  return {"id": item.id, "sample": sample, "position": item.position,
          "input": item.input, "request": key}
