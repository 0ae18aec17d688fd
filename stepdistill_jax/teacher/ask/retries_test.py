"""The collector against a loopback teacher, in one process."""

import asyncio
import dataclasses
import json
import time

import pytest

from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.ask import (
  client,
  failures,
  job as job_lib,
  outcomes,
  responses,
  retries,
  spec as spec_lib,
)
from stepdistill_jax.util import errors
from tests.support import asking as testing, fault_server

pytest.importorskip("openai")


def spec_of(tmp_path, rows=20, **more):
  path = tmp_path / "rows.csv"
  if isinstance(rows, int):
    testing.write_rows(path, rows)
  else:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  values = dict(
      dataset="sums", rows=str(path), output=str(tmp_path / "cache"),
      model="loopback", prompt="zero_shot_cot", concurrency=8, backoff_s=0.01,
      columns="inputs=question,label=answer", timeout_s=5.0)
  return spec_lib.Spec(**values | more)


async def collect_async(spec, asker, watch=None, then=lambda collector: None):
  with job_lib.open_job(spec) as job:
    collector = job.collector(asker, watch or (lambda progress: None))
    then(collector)
    await collector.run(job.items())
    return job.close(collector.progress)


def collect(spec, teacher=None, **more):
  """Collects from a loopback teacher by HTTP."""
  async def run():
    server = await fault_server.serve(teacher or fault_server.Teacher())
    port = server.sockets[0].getsockname()[1]
    async with server, client.Client(
        base_url=f"http://127.0.0.1:{port}/v1", api_key=None,
        timeout_s=spec.timeout_s) as asker:
      return await collect_async(spec, asker, **more)

  return asyncio.run(run())


def ask_by(spec, answer, **more):
  """Collects from a function (request) -> Answer, or raising."""
  class Asker:
    async def ask(self, request):
      await asyncio.sleep(0.001)
      return answer(request)

  return asyncio.run(collect_async(spec, Asker(), **more))


def answer_with(*outputs, finish_reason="stop", usage=(10, 5)):
  return responses.Answer(
      tuple(responses.Choice(output, finish_reason) for output in outputs),
      dict(zip(("prompt_tokens", "completion_tokens"), usage)))


def lines(spec):
  from pathlib import Path
  return [e.value for e in completions.read_completions(Path(spec.output))]


def test_every_fault_and_every_row_once(tmp_path):
  spec = spec_of(tmp_path, 60, attempts=20, concurrency=20, timeout_s=2)
  teacher = fault_server.Teacher(faults=0.5, seed=3)
  outcome = collect(spec, teacher)
  stats = teacher.stats()
  assert set(stats["faults"]) == set(fault_server.FAULTS)
  assert stats["paid"] == stats["paid_rows"] == 60
  assert stats["early_retries"] == 0  # Retry-After was honoured.
  assert stats["most_under_way"] <= 20
  assert outcome.usable == outcome.total == 60 and not outcome.missing
  assert outcome.progress.durable == 60
  assert outcome.progress.retries == stats["requests"] - 60
  assert sum(outcome.progress.failures.values()) == sum(
      stats["faults"].values())
  assert sorted(line["position"] for line in lines(spec)) == list(range(60))
  for line in lines(spec):
    first, second = line["position"], line["position"] % 7
    assert f"({first} + {second})" in line["output"]
  # A rerun asks nothing; nor does another address of the same server.
  assert collect(spec, teacher).progress.requests == 0
  assert teacher.stats()["requests"] == stats["requests"]


def test_identical_requests_are_asked_once(tmp_path):
  rows = [{"question": f"{n % 5} and 1", "answer": str(n)} for n in range(40)]
  teacher = fault_server.Teacher(latency_s=0.01)
  spec = spec_of(tmp_path, rows)
  outcome = collect(spec, teacher)
  assert teacher.stats()["paid"] == 5
  assert outcome.usable == 40 and outcome.progress.copied == 35
  found = lines(spec)
  # Every row is there, with its own label, and the tokens were paid once.
  assert sorted(int(line["input"]["label"]) for line in found) == list(
      range(40))
  assert len({line["id"] for line in found}) == 40
  assert sum(bool(line["usage"]) for line in found) == 5
  assert all(line["output"].startswith(
      f"The numbers are {line['input']['inputs'][0]}, 1.") for line in found)


def test_a_failure_is_shared_by_identical_requests_and_asked_again(tmp_path):
  rows = [{"question": "same", "answer": str(n)} for n in range(6)]
  spec = spec_of(tmp_path, rows, attempts=2)
  asked = []

  def fail(request):
    asked.append(request)
    raise failures.Failure(failures.SERVER_ERROR, "HTTP 500")

  outcome = ask_by(spec, fail)
  assert outcome.endings == {"error:server_error": 6} and outcome.missing == 6
  assert not completions.read_manifest(
      tmp_path / "cache")["complete"] and len(asked) <= 12
  outcome = ask_by(spec, lambda request: answer_with("The answer is 1."))
  assert outcome.endings == {"stop": 6} and len(lines(spec)) == 6
  assert outcome.progress.requests == 1


@pytest.mark.parametrize("at_once, requests", [(1, 60), (3, 20), (2, 40)])
def test_several_samples(tmp_path, at_once, requests):
  spec = spec_of(tmp_path, samples=3, samples_per_request=at_once, seed=7,
                 temperature=0.7)
  bodies = []

  def answer(request):
    bodies.append(request.body)
    return answer_with(*[
        f"{request.body['seed']}/{n}" for n in range(len(request.samples))])

  outcome = ask_by(spec, answer)
  assert outcome.progress.requests == requests
  assert outcome.usable == outcome.total == 60
  found = {(line["id"], line["sample"]): line["output"]
           for line in lines(spec)}
  assert len(found) == 60
  for (_, sample), output in found.items():
    start = sample - sample % at_once
    assert output == f"{7 + start}/{sample - start}"
  assert {body.get("n", 1) for body in bodies} <= {1, at_once}
  assert outcome.usage == {
      "prompt_tokens": 10 * requests, "completion_tokens": 5 * requests}
  # More samples later: only those that are missing.
  more = dataclasses.replace(spec, samples=4, samples_per_request=1)
  outcome = ask_by(more, answer)
  assert outcome.progress.requests == 20 and outcome.usable == 80


def test_a_server_that_ignores_n_is_asked_for_the_rest(tmp_path):
  spec = spec_of(tmp_path, 4, samples=3, samples_per_request=3,
                 temperature=0.7)
  outcome = ask_by(spec, lambda request: answer_with("one"))
  assert outcome.progress.requests == 12 and outcome.usable == 12


def test_other_endings_are_counted_and_not_asked_again(tmp_path):
  endings = ["stop", "length", "content_filter", failures.REFUSAL, "tool_calls"]
  spec = spec_of(tmp_path, 5)
  rows = iter(range(5))

  def answer(request):
    return answer_with("text", finish_reason=endings[next(rows)])

  outcome = ask_by(spec, answer)
  assert outcome.endings == {ending: 1 for ending in endings}
  assert outcome.success_ratio == 0.2 and not outcome.missing
  assert ask_by(spec, answer).progress.requests == 0


def test_an_empty_text_is_no_success(tmp_path):
  spec = spec_of(tmp_path, 2)
  outcome = ask_by(spec, lambda request: answer_with(" \n"))
  assert outcome.endings == {failures.EMPTY: 2}


@pytest.mark.parametrize("reason", sorted(failures.ENDING))
def test_what_ends_the_run(tmp_path, reason):
  spec = spec_of(tmp_path, 50)
  asked = []

  def refuse(request):
    asked.append(request)
    raise failures.Failure(reason, "go away")

  outcome = ask_by(spec, refuse)
  assert outcome.progress.stopped == reason
  assert outcome.progress.message == "go away"
  assert len(asked) <= spec.concurrency and outcome.missing == 50
  assert outcome.endings == {}  # They were not the rows' fault.


def test_settings_that_no_request_survives_end_the_run(tmp_path):
  spec = spec_of(tmp_path, 500)

  def refuse(request):
    raise failures.Failure(failures.BAD_REQUEST, "no such option")

  outcome = ask_by(spec, refuse)
  assert outcome.progress.stopped == failures.BAD_REQUEST
  assert outcome.progress.requests < 100


@pytest.mark.parametrize("paid", [False, True])
def test_the_servers_words_come_after_a_few_requests(tmp_path, paid):
  spec = spec_of(tmp_path, 100, concurrency=1)

  def refuse(request):
    if paid:
      raise failures.Failure(failures.MALFORMED, "a picture", paid=True)
    raise failures.Failure(failures.BAD_REQUEST, "no such option")

  outcome = ask_by(spec, refuse)
  assert outcome.progress.requests == 5
  assert outcome.progress.message == ("a picture" if paid else
                                      "no such option")
  assert outcome.progress.notes == [
      "no completion yet; " + ("malformed: a picture" if paid
                               else "bad_request: no such option")]


def test_what_failed_attempts_cost_counts_now_and_after_a_rerun(tmp_path):
  prices = dict(usd_per_million_prompt=1000.0,
                usd_per_million_completion=1000.0)
  spec = spec_of(tmp_path, 3, concurrency=1, **prices)
  usage = {"prompt_tokens": 1000, "completion_tokens": 500}
  bad = [True, True, True]  # One row twice, another one once.

  def answer(request):
    if bad:
      bad.pop()
      raise failures.Failure(failures.ONLY_THINKING, "null", usage=usage,
                             paid=True, thinking="lent")
    return answer_with("x", usage=(10, 5))

  outcome = ask_by(spec, answer)
  assert outcome.endings == {"error:only_thinking": 1, "stop": 2}
  assert outcome.progress.requests == 5
  assert outcome.usage == {"prompt_tokens": 3020, "completion_tokens": 1510}
  assert outcome.progress.prompt_tokens == 3020
  assert outcome.usd == pytest.approx(4.53)
  (failed,) = [line for line in lines(spec) if line["error"]]
  assert failed["thinking"] == "lent"
  assert failed["usage"]["prompt_tokens"] == 2000
  assert "  failed attempts: 3 only_thinking; the last: null" in (
      outcomes.lines(outcome, None))
  # Superseded, its cost stays; for the budget too.
  outcome = ask_by(spec, answer)
  assert outcome.usable == 3 and outcome.progress.requests == 1
  assert outcome.usage == {"prompt_tokens": 3030, "completion_tokens": 1515}
  assert ask_by(spec, answer).usage == outcome.usage


def test_the_budget_counts_what_brought_nothing(tmp_path):
  spec = spec_of(tmp_path, 1, budget_usd=2.0, max_tokens=500,
                 usd_per_million_prompt=1000.0,
                 usd_per_million_completion=1000.0)
  asked = []

  def answer(request):
    asked.append(request)
    raise failures.Failure(
        failures.ONLY_THINKING, "null", paid=True,
        usage={"prompt_tokens": 1000, "completion_tokens": 500})

  outcome = ask_by(spec, answer)
  assert len(asked) == 1 and outcome.progress.stopped == retries.BUDGET
  assert outcome.usd == outcome.progress.usd == pytest.approx(1.5)
  # It is known to the next run, which does not ask.
  assert ask_by(spec, answer).progress.requests == 0


def test_identical_rows_share_a_failure_and_its_cost(tmp_path):
  rows = [{"question": "1 and 1", "answer": "2"}] * 4
  spec = spec_of(tmp_path, rows, attempts=1)

  def answer(request):
    raise failures.Failure(failures.MALFORMED, "x", paid=True,
                           usage={"prompt_tokens": 9})

  outcome = ask_by(spec, answer)
  asked = outcome.progress.requests
  assert outcome.endings == {"error:malformed": 4}
  assert outcome.usage["prompt_tokens"] == 9 * asked


def test_a_row_that_is_refused_does_not_end_the_run(tmp_path):
  spec = spec_of(tmp_path, 300)

  def answer(request):
    text = request.body["messages"][-1]["content"]
    if " plus 3?" in text:
      raise failures.Failure(failures.CONTEXT_LENGTH, "too long")
    return answer_with("fine")

  outcome = ask_by(spec, answer)
  refused = len([n for n in range(300) if n % 7 == 3])
  assert outcome.endings == {
      "error:context_length": refused, "stop": 300 - refused}
  assert outcome.progress.requests == 300  # Not tried twice.


def test_a_server_that_is_down_is_left_alone(tmp_path, monkeypatch):
  spec = spec_of(tmp_path, 200, give_up_s=0.5, attempts=1000)
  asked = []

  def refuse(request):
    asked.append(request)
    raise failures.Failure(failures.CONNECTION, "refused")

  start = time.monotonic()
  outcome = ask_by(spec, refuse)
  assert outcome.progress.stopped == retries.SERVER_DOWN
  assert outcome.progress.message.endswith("; the last: refused")
  assert time.monotonic() - start < 10
  assert len(asked) < 100  # Not hundreds a second.


def test_stopping_finishes_what_is_under_way(tmp_path):
  spec = spec_of(tmp_path, 200)
  teacher = fault_server.Teacher(latency_s=0.1)

  def watch(progress):
    if progress.requests > 20:
      collectors[0].stop(retries.INTERRUPTED)

  collectors = []
  outcome = collect(spec, teacher, watch=watch, then=collectors.append)
  stats = teacher.stats()
  assert 20 < stats["requests"] < 200
  # All that was paid is kept, and nothing is in doubt.
  assert outcome.usable == stats["paid"] == stats["requests"]
  assert not (tmp_path / "cache" / completions.GROWING).exists()
  outcome = collect(spec, teacher)
  assert teacher.stats()["paid"] == teacher.stats()["paid_rows"] == 200


def test_what_is_in_doubt_is_asked_again_or_held(tmp_path):
  spec = spec_of(tmp_path, 10)
  teacher = fault_server.Teacher(latency_s=0.05, idempotent=True)

  class Killed(BaseException):
    pass

  async def die_while_waiting():
    server = await fault_server.serve(teacher)
    port = server.sockets[0].getsockname()[1]
    async with server, client.Client(
        base_url=f"http://127.0.0.1:{port}/v1", api_key=None,
        timeout_s=5) as asker:
      task = asyncio.create_task(collect_async(spec, asker))
      await asyncio.sleep(0.04)
      task.cancel()
      with pytest.raises(asyncio.CancelledError):
        await task

  asyncio.run(die_while_waiting())
  held = collect(dataclasses.replace(spec, in_doubt="hold"), teacher)
  assert held.progress.held == held.missing == 8
  again = collect(spec, teacher)
  assert again.progress.asked_again == 8 and not again.missing
  assert completions.read_manifest(tmp_path / "cache")["asked_again"] == 8
  assert teacher.stats()["paid_twice"] == 0


@pytest.mark.parametrize("limit", [
    {"requests_per_minute": 1200}, {"tokens_per_minute": 120_000}])
def test_rates(tmp_path, limit):
  spec = spec_of(tmp_path, 50, max_tokens=50, **limit)
  start = time.monotonic()
  outcome = ask_by(spec, lambda request: answer_with("x", usage=(40, 60)))
  seconds = time.monotonic() - start
  assert outcome.usable == 50
  # 20 requests a second, of which the first second's pass at once; or 2,000
  # tokens a second at 100 a request.
  assert 1.2 < seconds < 6


def test_the_budget_stops_in_time_and_goes_on(tmp_path):
  prices = dict(usd_per_million_prompt=1000.0,
                usd_per_million_completion=1000.0)
  spec = spec_of(tmp_path, 100, max_tokens=20, budget_usd=1.0, **prices)
  reply = lambda request: answer_with("x", usage=(30, 10))  # $0.04.
  outcome = ask_by(spec, reply)
  assert outcome.progress.stopped == retries.BUDGET
  assert 0.7 < outcome.usd <= 1.0
  assert outcome.usd == pytest.approx(0.04 * outcome.usable)
  # The budget is the cache's, not the run's.
  assert ask_by(spec, reply).progress.requests <= 1
  more = dataclasses.replace(spec, budget_usd=100.0)
  assert ask_by(more, reply).usable == 100


def test_a_server_that_hides_its_usage_counts_as_dear(tmp_path):
  spec = spec_of(tmp_path, 100, max_tokens=100, budget_usd=1.0,
                 usd_per_million_prompt=1.0, usd_per_million_completion=1000.0)
  outcome = ask_by(spec, lambda request: responses.Answer(
      (responses.Choice("x", "stop"),), {}))
  assert outcome.progress.stopped == retries.BUDGET
  assert 5 <= outcome.usable <= 10


def test_json_schema_is_the_rows_own(tmp_path):
  rows = [{"question": f"q{n}", "choices": ["a", f"b{n}"], "answer": "a"}
          for n in range(3)]
  spec = spec_of(tmp_path, rows, dataset="cqa", columns="", json_schema=True,
                 prompt="json_cot")
  seen = []

  def answer(request):
    schema = request.body["response_format"]["json_schema"]["schema"]
    seen.append(schema["properties"]["answer_choice"]["enum"])
    return answer_with('{"reason": "r", "answer_choice": "a"}')

  assert ask_by(spec, answer).usable == 3
  assert sorted(seen) == [["a", f"b{n}"] for n in range(3)]


CONVERSATIONS = [{"messages": [
    {"role": "system", "content": f"You are number {n}."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "gold 1"},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "gold 2"}]} for n in range(3)]


@pytest.mark.parametrize("history, first", [
    ("regenerated", "reply to Hello"), ("gold", "gold 1")])
def test_conversations_turn_by_turn(tmp_path, history, first):
  spec = spec_of(tmp_path, CONVERSATIONS, prompt="conversation", columns="",
                 history=history)
  seen = []

  def answer(request):
    messages = request.body["messages"]
    seen.append(messages)
    if len(seen) == 4:
      raise failures.Failure(failures.BAD_REQUEST, "by chance")
    return answer_with(f"reply to {messages[-1]['content']}")

  outcome = ask_by(spec, answer)
  assert outcome.total == 6 and outcome.missing in (1, 2)
  outcome = ask_by(spec, answer)  # The turn that failed, and those after it.
  assert outcome.usable == 6
  second = [m for m in seen if len(m) == 4]
  assert all(m[2] == {"role": "assistant", "content": first} for m in second)
  by_id = {line["id"]: line for line in lines(spec)}
  assert len(by_id) == 6
  for row_id, line in by_id.items():
    turn = int(row_id.rpartition("-")[2])
    assert line["input"]["label"] == f"gold {turn // 2}"
    assert line["output"] == "reply to " + ("Hello" if turn == 2 else "And?")
    assert (f"assistant: {first}" in line["input"]["inputs"]) == (turn == 4)


def test_rows_that_cannot_be_asked_about_are_counted(tmp_path):
  spec = spec_of(tmp_path, 1)
  path = tmp_path / "rows.csv"
  path.write_bytes(b"question,answer\na,1\n  ,2\nb,3,4\n\xff,5\nc,6\n")
  outcome = ask_by(spec, lambda request: answer_with("x"))
  assert outcome.total == outcome.usable == 2
  assert {reason: entry["count"] for reason, entry in outcome.dropped.items()
          } == {"empty_inputs": 1, "columns_differ": 1, "invalid_utf8": 1}
  assert "line 3" in outcome.dropped["empty_inputs"]["examples"][0]


def test_rows_in_a_folder_of_the_hub(tmp_path):
  folder = tmp_path / "hub" / "data"
  folder.mkdir(parents=True)
  for number in range(2):
    testing.write_rows(folder / f"train-0000{number}-of-00002.csv", 3 + number)
  testing.write_rows(folder / "test-00000-of-00001.csv", 9)
  spec = spec_of(tmp_path, 1)
  spec = dataclasses.replace(spec, rows=str(tmp_path / "hub"))
  outcome = ask_by(spec, lambda request: answer_with("x"))
  # Three rows are in both files, and identical.
  assert outcome.usable == 7 and outcome.progress.copied == 3
  with pytest.raises(errors.UserError, match="no row file .* 'validation'"):
    ask_by(dataclasses.replace(spec, split="validation"), None)


def test_gold_given_prompts_need_a_label(tmp_path):
  rows = [{"question": "q", "answer": "a"}, {"question": "r", "answer": ""}]
  spec = spec_of(tmp_path, rows, prompt="rationalize")
  outcome = ask_by(spec, lambda request: answer_with("because"))
  assert outcome.dropped["row_without_label"]["count"] == 1
  manifest = completions.read_manifest(tmp_path / "cache")
  assert manifest["gold_given"] and manifest["prompt_kind"] == "rationalize"


def test_a_file_without_a_usable_row(tmp_path):
  spec = spec_of(tmp_path, [{"question": " ", "answer": "1"}] * 3)
  with pytest.raises(errors.UserError, match="3 empty_inputs, first at"):
    ask_by(spec, lambda request: answer_with("x"))


@pytest.mark.parametrize("change, message", [
    ({"model": ""}, "--model"), ({"samples": 0}, "--samples=0"),
    ({"timeout_s": 0}, "--timeout_s=0"), ({"endpoint": "chats"}, "chat"),
    ({"json_schema": True}, "has no schema"),
    ({"samples": 3, "temperature": 0}, "temperature 0"),
    ({"budget_usd": 1.0}, "--usd_per_million_prompt"),
    ({"base_url": "host"}, "is not an address"),
    ({"history": "golden"}, "did you mean: gold"),
    ({"split": "dev"}, "validation"),
    ({"rows": "/nowhere"}, "no file or folder"),
    ({"columns": "inputs=qestion"}, "did you mean: question"),
    ({"columns": ""}, "has no column `inputs` but question, answer"),
    ({"columns": "inputs"}, "NAME=COLUMN"), ({"prompt": "few"}, "did you mean"),
    ({"dataset": "A b"}, "a_b"), ({"teacher": "A b"}, "a_b"),
    ({"tokenizer": "/no/where.model"}, "there is no file"),
])
def test_a_users_mistakes_are_one_line(tmp_path, change, message):
  spec = dataclasses.replace(spec_of(tmp_path), **change)
  with pytest.raises(errors.UserError) as caught:
    ask_by(spec, lambda request: answer_with("x"))
  assert message in str(caught.value) and "\n" not in str(caught.value)
