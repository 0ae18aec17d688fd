"""Requests in the form that a server takes."""

import asyncio
import dataclasses
import json

import pytest

from stepdistill_jax.teacher.ask import adaptations, client, failures, requests

openai = pytest.importorskip("openai")
MESSAGES = [{"role": "system", "content": "Be brief."},
            {"role": "user", "content": "1 and 2"}]
NO_MAX_TOKENS = (400, {"error": {"message": (
    "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead."), "code": "unsupported_parameter"}})


class Server:
  """Refuses what it does not take; `bodies` has what it was sent."""

  def __init__(self, *, system_error=None, max_tokens_error=None):
    self.bodies = []
    self._system_error, self._max_tokens_error = (
        system_error, max_tokens_error)

  def answer(self, body):
    self.bodies.append(body)
    if "max_tokens" in body and self._max_tokens_error:
      return self._max_tokens_error
    if body["messages"][0]["role"] != "user" and self._system_error:
      return self._system_error
    return 200, {"choices": [{
        "message": {"content": "3"}, "finish_reason": "stop"}]}

  async def handle(self, reader, writer):
    while header := await reader.readuntil(b"\r\n\r\n"):
      size = next(int(line.split(b":")[1]) for line in header.split(b"\r\n")
                  if line.lower().startswith(b"content-length"))
      status, value = self.answer(json.loads(await reader.readexactly(size)))
      data = json.dumps(value).encode()
      writer.write(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n"
                   b"Content-Length: %d\r\n\r\n" % (status, len(data)) + data)


def ask(server, *, count=2):
  """Asks; returns the outputs and the client's notes."""
  request = requests.Request(
      "ab" * 32, "/chat/completions",
      {"model": "m", "max_tokens": 9, "messages": MESSAGES}, (0,))

  async def run():
    listening = await asyncio.start_server(
        server.handle, "127.0.0.1", 0, limit=2**20)
    port = listening.sockets[0].getsockname()[1]
    async with listening, client.Client(
        base_url=f"http://127.0.0.1:{port}/v1", api_key=None,
        timeout_s=5) as asker:
      answers = [await asker.ask(request) for _ in range(count)]
      return [a.choices[0].output for a in answers], asker.notes

  return asyncio.run(run())


@pytest.mark.parametrize("refusal", [
    (400, {"error": {"message": "System role not supported"}}),
    (500, {"detail": "Conversation roles must alternate user/assistant"}),
    (200, {"error": {"message": "no system message in this template",
                     "type": "invalid_request_error"}}),
])
def test_a_server_without_a_system_role(refusal):
  server = Server(system_error=refusal)
  assert ask(server) == (["3", "3"], [adaptations.MERGED_SYSTEM])
  # Refused once; the second request is right at once.
  assert [b["messages"] for b in server.bodies] == [
      MESSAGES] + 2 * [[{"role": "user", "content": "Be brief.\n\n1 and 2"}]]


def test_a_server_that_wants_max_completion_tokens_and_no_system_role():
  server = Server(
      max_tokens_error=NO_MAX_TOKENS,
      system_error=(400, {"error": {"message": "System role not supported"}}))
  assert ask(server) == (["3", "3"], [
      adaptations.MAX_COMPLETION_TOKENS, adaptations.MERGED_SYSTEM])
  assert len(server.bodies) == 4
  assert "max_tokens" not in server.bodies[-1]
  assert server.bodies[-1]["max_completion_tokens"] == 9


def test_another_refusal_is_not_asked_again():
  server = Server(system_error=(400, {"error": {"message": "no such model"}}))
  with pytest.raises(failures.Failure, match="no such model"):
    ask(server)
  assert len(server.bodies) == 1
  # Nor one that stays after the change.
  server = Server()
  server.answer = lambda body: (
      server.bodies.append(body),
      (400, {"error": {"message": "System role not supported"}}))[1]
  with pytest.raises(failures.Failure, match="System role"):
    ask(server)
  assert len(server.bodies) == 2


def test_system_texts_go_to_the_next_users_turn():
  system, user, assistant = (
      lambda role: lambda text: {"role": role, "content": text})("system"), (
      lambda text: {"role": "user", "content": text}), (
      lambda text: {"role": "assistant", "content": text})
  assert adaptations.merge_system(
      [system("a"), system("b"), user("c"), assistant("d"), system("e"),
       user("f"), system("g")]) == [
           user("a\n\nb\n\nc"), assistant("d"), user("e\n\nf"), user("g")]


def test_what_is_asked_for_by_flag():
  from stepdistill_jax.teacher import prompts

  settings = requests.Settings(model="m", max_tokens=50)
  prompt = prompts.find("conversation", "any")
  fields = {"messages": MESSAGES}
  plain = requests.build(settings, prompt, fields, [0])
  assert plain.body["messages"] == MESSAGES and plain.max_tokens == 50
  # As it is in the manifests of caches written before the flag.
  assert "merge_system" not in settings.as_json()
  merged = requests.build(
      dataclasses.replace(settings, merge_system=True), prompt, fields, [0])
  assert merged.body["messages"] == adaptations.merge_system(MESSAGES)
  assert merged.key != plain.key
  longer = requests.build(
      dataclasses.replace(settings, extra_body={"max_completion_tokens": 70}),
      prompt, fields, [0])
  assert "max_tokens" not in longer.body and longer.max_tokens == 70
