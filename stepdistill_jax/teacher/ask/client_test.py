"""Answers and failures of a server, as named."""

import asyncio
import time

import pytest

from stepdistill_jax.teacher.ask import client, failures, requests
from stepdistill_jax.util import errors
from tests.support import fault_server

pytest.importorskip("openai")


def request(path="/chat/completions", samples=(0,), **more):
  body = {"model": "m", "max_tokens": 9, **more}
  if path == "/completions":
    body["prompt"] = "Q: 1 and 2\nA:"
  else:
    body["messages"] = [{"role": "user", "content": "1 and 2"}]
  return requests.Request("ab" * 32, path, body, tuple(samples))


async def ask(teacher, one, *, timeout_s=5.0, key=None, count=1):
  server = await fault_server.serve(teacher)
  port = server.sockets[0].getsockname()[1]
  async with server, client.Client(
      base_url=f"http://127.0.0.1:{port}/v1", api_key=key,
      timeout_s=timeout_s) as asker:
    return [await asker.ask(one) for _ in range(count)][-1]


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
def test_an_answer(path):
  answer = asyncio.run(ask(fault_server.Teacher(), request(path)))
  assert [(c.output.strip(), c.finish_reason) for c in answer.choices] == [
      ("The numbers are 1, 2. The answer is (1 + 2).", "stop")]
  assert answer.usage["completion_tokens"] > 0


def test_several_samples_and_keys_that_the_package_does_not_know():
  one = request(samples=(0, 1, 2), n=3, top_k=5)
  answer = asyncio.run(ask(fault_server.Teacher(), one, count=2))
  assert len(answer.choices) == 3


@pytest.mark.parametrize("kind, reason", [
    ("429_retry_after", failures.RATE_LIMITED),
    ("429", failures.RATE_LIMITED),
    ("500", failures.SERVER_ERROR),
    ("cut_before", failures.CONNECTION),
    ("cut_inside", failures.CONNECTION),
    ("time_out", failures.TIMEOUT),
    ("slow_drip", failures.TIMEOUT),
    ("malformed", failures.MALFORMED),
    ("no_choices", failures.MALFORMED),
])
def test_every_fault_has_its_name(kind, reason):
  teacher = fault_server.Teacher(faults=1.0, kinds=(kind,))
  start = time.monotonic()
  with pytest.raises(failures.Failure) as caught:
    asyncio.run(ask(teacher, request(), timeout_s=0.3))
  assert caught.value.reason == reason
  assert caught.value.passing
  assert str(caught.value)
  # The drip would take as many seconds as it has bytes, times 0.05.
  assert time.monotonic() - start < 5
  assert (caught.value.retry_after == 0.2) == (kind == "429_retry_after")


def test_a_server_that_is_not_there():
  async def ask_nobody():
    async with client.Client(base_url="http://127.0.0.1:9/v1", api_key=None,
                             timeout_s=5) as asker:
      await asker.ask(request())

  with pytest.raises(failures.Failure) as caught:
    asyncio.run(ask_nobody())
  assert caught.value.reason == failures.CONNECTION


def test_a_wrong_key_ends_the_run_and_is_not_repeated():
  secret = "sk-this-is-a-secret-1234567890"
  teacher = fault_server.Teacher(secret="another")
  with pytest.raises(failures.Failure) as caught:
    asyncio.run(ask(teacher, request(), key=secret))
  assert caught.value.ends_run
  assert caught.value.reason == failures.UNAUTHORIZED
  assert secret not in str(caught.value) and "secret" not in str(caught.value)
  asyncio.run(ask(fault_server.Teacher(secret=secret), request(), key=secret))


@pytest.mark.parametrize("url", [
    "localhost:8000", "ftp://x", "http://", "https://user:pa55@host/v1"])
def test_a_bad_address_is_reported_without_its_password(url):
  with pytest.raises(errors.UserError) as caught:
    client.check_base_url(url)
  assert "pa55" not in str(caught.value)


@pytest.mark.parametrize("text", [
    "Incorrect API key provided: sk-proj-abcdef123.", "Bearer abc.def",
    "token hf_abcdefghij was", "key my-own-secret here"])
def test_redaction(text):
  shown = failures.redact(text + "\nsecond line", "my-own-secret")
  assert "[key]" in shown and "\n" not in shown
  for secret in ("abcdef", "abc.def", "my-own-secret"):
    assert secret not in shown
