"""A teacher on loopback that fails on purpose: for tests and benchmarks only.

    python -m tests.support.fault_server --faults=0.3

It prints its port, answers chats and plain completions after `--latency_s`,
and spoils a share of the requests. A request is *paid* when a whole, valid
completion was handed to a connection that was still open. `GET /stats` tells
what was paid, how often twice, and whether anyone came back before the time
that a Retry-After named.

The answers are no language: they state the sum of the numbers in the row, so
that they parse and depend on their row alone.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
from collections.abc import Mapping
import hashlib
import json
import random
import re
import sys
import time
from typing import Any

# The ways to fail, equally likely.
FAULTS = ("429_retry_after", "429", "500", "cut_before", "cut_inside",
          "time_out", "malformed", "no_choices", "slow_drip")
_RETRY_AFTER_S = 0.2
_DRIP_S = 0.05  # Between two bytes.


class Teacher:
  """Decides what each request gets, and keeps the books.

  Attributes:
    paid: key of a request -> how often a whole answer was handed over.
  """

  def __init__(self, *, faults: float = 0.0, latency_s: float = 0.0,
               seed: int = 0, idempotent: bool = False,
               kinds: tuple[str, ...] = FAULTS, with_usage: bool = True,
               secret: str = ""):
    self._share, self._latency_s = faults, latency_s
    self._random = random.Random(seed)
    self._idempotent, self._kinds = idempotent, kinds
    self._with_usage, self._secret = with_usage, secret
    self.paid: collections.Counter[str] = collections.Counter()
    self._replayed = self._requests = self._early = 0
    self._faults: collections.Counter[str] = collections.Counter()
    self._not_before: dict[str, float] = {}
    self.under_way = self._most_under_way = 0

  def stats(self) -> dict[str, Any]:
    return {
        "requests": self._requests, "faults": dict(self._faults),
        "paid": sum(self.paid.values()), "paid_rows": len(self.paid),
        "paid_twice": sum(n - 1 for n in self.paid.values()),
        "replayed": self._replayed, "early_retries": self._early,
        "under_way": self.under_way, "most_under_way": self._most_under_way,
    }

  async def answer(self, connection: Connection, path: str,
                   headers: Mapping[str, str], body: bytes) -> None:
    """Answers one request, or fails to."""
    if path.endswith("/stats"):
      connection.reply(200, json.dumps(self.stats()).encode())
      return
    if self._secret and headers.get("authorization") != (
        f"Bearer {self._secret}"):
      # As some servers do, it repeats the key that it does not know.
      connection.reply(401, json.dumps({"error": {
          "message": f"unknown key {headers.get('authorization')}"}}).encode())
      return
    self._requests += 1
    self.under_way += 1
    self._most_under_way = max(self._most_under_way, self.under_way)
    try:
      await self._answer(connection, body)
    finally:
      self.under_way -= 1

  async def _answer(self, connection: Connection, body: bytes) -> None:
    key = hashlib.sha256(body).hexdigest()
    if time.monotonic() < self._not_before.get(key, 0.0):
      self._early += 1
    if self._latency_s:
      await asyncio.sleep(self._latency_s)
    completion = json.dumps(completion_of(
        json.loads(body), with_usage=self._with_usage)).encode()
    if self._random.random() < self._share:
      kind = self._random.choice(self._kinds)
      self._faults[kind] += 1
      await self._fail(kind, key, connection, completion)
      return
    if self._idempotent and key in self.paid:
      self._replayed += 1
      connection.reply(200, completion)
    elif connection.reply(200, completion):
      self.paid[key] += 1

  async def _fail(self, kind: str, key: str, connection: Connection,
                  completion: bytes) -> None:
    if kind == "429_retry_after":
      self._not_before[key] = time.monotonic() + _RETRY_AFTER_S
      connection.reply(429, b'{"error": {"message": "slow down"}}',
                       f"retry-after: {_RETRY_AFTER_S}\r\n")
    elif kind == "429":
      connection.reply(429, b'{"error": {"message": "slow down"}}')
    elif kind == "500":
      connection.reply(500, b"<html>something broke</html>")
    elif kind == "cut_before":
      connection.close()
    elif kind == "cut_inside":
      connection.begin(200, len(completion))
      connection.write(completion[:len(completion) // 2])
      connection.close()
    elif kind == "time_out":
      await connection.closed()
    elif kind == "malformed":
      connection.reply(200, completion[:len(completion) // 2])
    elif kind == "no_choices":
      connection.reply(200, b'{"object": "chat.completion", "choices": []}')
    elif kind == "slow_drip":
      connection.begin(200, len(completion))
      for byte in completion[:-1]:
        if connection.is_closed:
          return
        connection.write(bytes([byte]))
        await asyncio.sleep(_DRIP_S)
      connection.close()  # It never ends well.


def completion_of(body: Mapping[str, Any], *, with_usage: bool
                  ) -> dict[str, Any]:
  """The completion object that answers a request's body."""
  chat = "messages" in body
  text = body["messages"][-1]["content"] if chat else body["prompt"]
  row = text.rpartition("\n\n")[2]
  numbers = re.findall(r"\d+(?:\.\d+)?", row)[:3] or ["0"]
  reason, total = f"The numbers are {', '.join(numbers)}.", " + ".join(numbers)
  answer = f"{reason} The answer is ({total})."
  if "response_format" in body:
    answer = json.dumps({"reason": reason, "answer_choice": total})
  choices = []
  for index in range(body.get("n", 1)):
    choice = {"index": index, "finish_reason": "stop", "logprobs": None}
    choice |= {"message": {"role": "assistant", "content": answer}} if chat \
        else {"text": f" {answer}"}
    choices.append(choice)
  completion = {
      "id": "loopback", "created": 0, "model": body.get("model", ""),
      "object": "chat.completion" if chat else "text_completion",
      "choices": choices}
  if with_usage:
    prompt, written = len(text) // 4, len(answer) // 4 * len(choices)
    completion["usage"] = {
        "prompt_tokens": prompt, "completion_tokens": written,
        "total_tokens": prompt + written}
  return completion


class Connection(asyncio.Protocol):
  """HTTP/1.1 with kept-alive connections, as little as clients need."""

  def __init__(self, teacher: Teacher):
    self._teacher = teacher
    self._received = b""
    self._closed = asyncio.get_running_loop().create_future()
    self._tasks: set[asyncio.Task] = set()

  def connection_made(self, transport) -> None:
    self._transport = transport

  def connection_lost(self, exception) -> None:
    if not self._closed.done():
      self._closed.set_result(None)

  def data_received(self, data: bytes) -> None:
    self._received += data
    while True:
      head, found, rest = self._received.partition(b"\r\n\r\n")
      if not found:
        return
      first, *lines = head.decode("latin-1").split("\r\n")
      headers = {name.lower(): value.strip() for name, _, value in (
          line.partition(":") for line in lines)}
      length = int(headers.get("content-length", 0))
      if len(rest) < length:
        return
      self._received = rest[length:]
      task = asyncio.ensure_future(self._teacher.answer(
          self, first.split(" ")[1], headers, rest[:length]))
      self._tasks.add(task)  # The loop alone would not keep it.
      task.add_done_callback(self._tasks.discard)

  @property
  def is_closed(self) -> bool:
    return self._closed.done() or self._transport.is_closing()

  async def closed(self) -> None:
    await self._closed

  def reply(self, status: int, body: bytes, more_headers: str = "") -> bool:
    """Sends an answer; False if nobody is there any more."""
    if self.is_closed:
      return False
    self.begin(status, len(body), more_headers)
    self.write(body)
    return True

  def begin(self, status: int, length: int, more_headers: str = "") -> None:
    self.write((
        f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n"
        f"content-length: {length}\r\n{more_headers}\r\n").encode("ascii"))

  def write(self, data: bytes) -> None:
    if not self.is_closed:
      self._transport.write(data)

  def close(self) -> None:
    self._transport.close()


async def serve(teacher: Teacher, port: int = 0) -> asyncio.Server:
  """Starts a server on loopback."""
  return await asyncio.get_running_loop().create_server(
      lambda: Connection(teacher), "127.0.0.1", port)


async def _main(args: argparse.Namespace) -> None:
  teacher = Teacher(
      faults=args.faults, latency_s=args.latency_s, seed=args.seed,
      idempotent=args.idempotent, secret=args.secret)
  server = await serve(teacher, args.port)
  print(server.sockets[0].getsockname()[1], flush=True)
  # Ends with whoever started it.
  await asyncio.to_thread(sys.stdin.read)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--port", type=int, default=0)
  parser.add_argument("--faults", type=float, default=0.0)
  parser.add_argument("--latency_s", type=float, default=0.0)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--idempotent", action="store_true")
  parser.add_argument("--secret", default="")
  asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
  main()
