r"""Figures of the collector: faults and kills, requests a second, memory.

  python benchmarks/collect.py                      # All of them, 4 minutes.
  python benchmarks/collect.py --only=faults --rows=1000 --kills=10
  python benchmarks/collect.py --only=throughput
  python benchmarks/collect.py --only=memory --memory_rows=100000

Everything runs against a loopback server of the project's own, which counts
what it was paid for. Each figure is a table; the last line is the headline.

faults: 30% of the requests fail (429 with and without Retry-After, 500, cut
connections, time-outs, malformed JSON, slow drip), and the collector is killed
by SIGKILL at random points of the way. Three rounds: the command that the user
started is killed; its worker is killed with it, as a container's end does; the
same on a server that honours Idempotency-Key.

throughput: 50 ms of latency, 64 requests at once, on prompts of one message
and of ten exemplars, beside the plain `openai` client doing nothing else.

memory: resident memory of the worker while it collects.
"""

from __future__ import annotations

import argparse
import asyncio
import pathlib
import subprocess
import tempfile
import threading
import time

from stepdistill_jax.teacher import prompts
from tests.support import asking as testing

_CONCURRENCY = 64
_LATENCY_S = 0.05


def main() -> None:
  parser = argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--only", choices=("faults", "throughput", "memory"))
  parser.add_argument("--rows", type=int, default=1000)
  parser.add_argument("--kills", type=int, default=10)
  parser.add_argument("--requests", type=int, default=4000,
                      help="of the throughput figure")
  parser.add_argument("--memory_rows", type=int, default=20_000)
  args = parser.parse_args()
  headlines = []
  if args.only in (None, "faults"):
    headlines.append(faults(args.rows, args.kills))
  if args.only in (None, "throughput"):
    headlines.append(throughput(args.requests))
  if args.only in (None, "memory"):
    headlines.append(memory(args.memory_rows))
  print("; ".join(headlines))


def faults(rows: int, kills: int) -> str:
  """Collects under faults and kills; returns the headline."""
  print(f"{rows} rows, 30% faults, {kills} SIGKILLs")
  print(f"{'killed':>28} {'hit':>4} {'lost':>5} {'paid':>6} {'twice':>6} "
        f"{'in doubt':>9} {'requests':>9} {'early':>6} {'seconds':>8}")
  trials = {}
  for name, target, more in (
      ("the command", testing.COMMAND, ()),
      ("command and worker", testing.ALL, ()),
      ("both, idempotent server", testing.ALL, ("--idempotent",))):
    with (tempfile.TemporaryDirectory() as folder,
          testing.loopback("--faults=0.3", f"--latency_s={_LATENCY_S}", *more)
          as server):
      trial = testing.killed_collection(
          pathlib.Path(folder), server, rows=rows, kills=kills, target=target,
          more=("--timeout_s=5", "--backoff_s=0.1", "--attempts=30",
                "--concurrency=32"), longest_s=600)
    stats, trials[name] = trial.stats, trial
    print(f"{name:>28} {trial.kills:>4} {trial.lost:>5} {stats['paid']:>6} "
          f"{stats['paid_twice']:>6} {trial.in_doubt:>9} "
          f"{stats['requests']:>9} {stats['early_retries']:>6} "
          f"{trial.seconds:>8.1f}")
  first = trials["the command"]
  return (f"{first.kills} kills of the collector in {rows} rows: "
          f"{first.lost} lost, {first.stats['paid_twice']} paid twice")


def throughput(requests: int) -> str:
  """Requests a second, ours and the plain client's; returns the headline."""
  few_shot = prompts.find("few_shot_cot", "gsm8k")
  one = {"inputs": "What is 12 plus 5?"}
  cases = {
      "1 message": ("zero_shot_cot", prompts.find(
          "zero_shot_cot", "sums").chat(one)),
      "10 exemplars": (str(_as_any(few_shot)), few_shot.chat(one)),
  }
  print(f"{requests} requests, {_LATENCY_S * 1e3:.0f} ms of latency, "
        f"{_CONCURRENCY} at once; requests a second")
  print(f"{'prompt':>14} {'plain client':>13} {'collector':>10} {'ratio':>6}")
  ratios = {}
  for name, (prompt, messages) in cases.items():
    with testing.loopback(f"--latency_s={_LATENCY_S}") as server:
      plain = asyncio.run(_plain_client(server, messages, requests // 2))
      ours = _collector_rate(server, prompt, requests)
    ratios[name] = ours / plain
    print(f"{name:>14} {plain:>13.0f} {ours:>10.0f} {ours / plain:>6.0%}")
    headline = (f"{ours:.0f} requests/s, {ours / plain:.0%} of the plain "
                f"client's ({name})")
  return headline


def _as_any(prompt: prompts.Prompt) -> pathlib.Path:
  """The prompt as a file for any data set."""
  path = pathlib.Path(tempfile.mkdtemp()) / "ten_exemplars.toml"
  path.write_bytes(prompt.source.replace(b'["gsm8k"]', b'["*"]'))
  return path


async def _plain_client(server: testing.Server, messages, requests: int
                        ) -> float:
  """The package's own ceiling: ask, and throw the answer away."""
  import openai

  async with openai.AsyncOpenAI(
      base_url=server.base_url, api_key="none", max_retries=0,
      timeout=600) as client:
    numbers = iter(range(requests))

    async def work() -> None:
      for number in numbers:
        answer = await client.chat.completions.create(
            model="loopback", max_tokens=256, temperature=0.2,
            messages=[*messages[:-1], {
                "role": "user", "content": f"What is {number} plus 5?"}])
        assert answer.choices[0].message.content

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(_CONCURRENCY)))
    return requests / (time.perf_counter() - start)


def _collector_rate(server: testing.Server, prompt: str, requests: int
                    ) -> float:
  """Durable completions a second, from the first to the last request.

  The start of the processes (some 3 s) is left out, as in the plain client's.
  """
  with tempfile.TemporaryDirectory() as folder:
    rows = testing.write_rows(pathlib.Path(folder) / "rows.csv", requests)
    before, marks = server.stats()["paid"], []
    argv = testing.command(
        rows, pathlib.Path(folder) / "cache", server, "--json",
        f"--prompt={prompt}", f"--concurrency={_CONCURRENCY}")
    with subprocess.Popen(argv, env=testing.environment(),
                          stdout=subprocess.DEVNULL) as process:
      while process.poll() is None:
        marks.append((time.perf_counter(), server.stats()["paid"] - before))
        time.sleep(0.05)
    assert process.returncode == 0
  first = next(mark for mark in marks if mark[1] > 0)
  last = next(mark for mark in marks if mark[1] == requests)
  return (last[1] - first[1]) / (last[0] - first[0])


def memory(rows: int) -> str:
  """Resident memory of the worker along the way; returns the headline."""
  with (tempfile.TemporaryDirectory() as folder,
        testing.loopback() as server):
    path = testing.write_rows(pathlib.Path(folder) / "rows.csv", rows)
    output = pathlib.Path(folder) / "cache"
    argv = testing.command(path, output, server, "--json",
                           f"--concurrency={_CONCURRENCY}")
    watch = _MemoryWatch(output, server)
    start = time.perf_counter()
    with subprocess.Popen(argv, env=testing.environment(),
                          stdout=subprocess.DEVNULL) as process:
      watch.start()
      process.wait()
    watch.stop()
    seconds = time.perf_counter() - start
    assert process.returncode == 0
    assert server.stats()["paid"] == rows
  print(f"{rows} rows in {seconds:.0f} s; resident memory of the worker")
  print(f"{'rows done':>10} {'MiB':>7}")
  shown = watch.at_shares(rows, 8)
  for done, mebibytes in shown:
    print(f"{done:>10} {mebibytes:>7.1f}")
  # The first tenth warms up caches and pools.
  settled = [m for done, m in watch.marks if done >= rows / 10]
  growth = max(settled) - settled[0]
  return (f"memory grows by {growth:.1f} MiB from row {rows // 10:,} to row "
          f"{rows:,} (at most {max(settled):.0f} MiB)")


class _MemoryWatch:
  """Reads a worker's resident memory now and then, in a thread."""

  def __init__(self, output: pathlib.Path, server: testing.Server):
    self._lock_file, self._server = output / ".lock", server
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._watch)
    self.marks: list[tuple[int, float]] = []  # Rows done, MiB.

  def start(self) -> None:
    self._thread.start()

  def stop(self) -> None:
    self._ended.set()
    self._thread.join()

  def at_shares(self, rows: int, parts: int) -> list[tuple[int, float]]:
    """The first mark at or after each share of the rows."""
    return [next(mark for mark in self.marks
                 if mark[0] >= min(rows * part / parts, self.marks[-1][0]))
            for part in range(1, parts + 1)]

  def _watch(self) -> None:
    while not self._ended.wait(0.25):
      try:
        status = pathlib.Path(
            f"/proc/{int(self._lock_file.read_text())}/status").read_text()
      except (OSError, ValueError):
        continue
      resident = status.partition("VmRSS:")[2].split()
      done = self._server.stats()["paid"]
      if resident and done:
        self.marks.append((done, int(resident[0]) / 1024))


if __name__ == "__main__":
  main()
