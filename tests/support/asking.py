"""For tests and benchmarks: a loopback teacher, and collectors that get killed.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import time
from typing import Any
import urllib.request

from stepdistill_jax.teacher import completions
from tests.support import fault_server

_ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMAND, ALL = "command", "all"


@dataclasses.dataclass(frozen=True)
class Server:
  """A loopback teacher in a process of its own.

  Attributes:
    base_url: for `--base_url`.
  """

  base_url: str

  def stats(self) -> dict[str, Any]:
    """What it has been asked and paid; see `fault_server`."""
    with urllib.request.urlopen(f"{self.base_url}/stats", timeout=10) as file:
      return json.load(file)


@contextlib.contextmanager
def loopback(*arguments: str) -> Iterator[Server]:
  """Runs a fault server with these arguments for the block's time."""
  with subprocess.Popen(
      [sys.executable, "-m", fault_server.__name__, *arguments],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(),
      text=True) as process:
    try:
      port = int(process.stdout.readline())
      yield Server(f"http://127.0.0.1:{port}/v1")
    finally:
      process.stdin.close()
      process.terminate()


def environment(**more: str) -> dict[str, str]:
  """This process's environment, with the package on Python's path."""
  paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
  return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)),
          **more}


def write_rows(path: pathlib.Path, count: int) -> pathlib.Path:
  """Writes a CSV of made-up rows, all different."""
  with path.open("w", encoding="utf-8") as file:
    file.write("question,answer\n")
    for number in range(count):
      file.write(f"What is {number} plus {number % 7}?,"
                 f"{number + number % 7}\n")
  return path


def command(rows: pathlib.Path, output: pathlib.Path, server: Server,
            *more: str) -> list[str]:
  """The command line that collects rows of `write_rows` into a cache."""
  return [
      sys.executable, "-m", "stepdistill_jax.cli.stepdistill", "teacher",
      "collect",
      "--dataset=sums", f"--rows={rows}",
      "--columns=inputs=question,label=answer", "--prompt=zero_shot_cot",
      "--model=loopback", f"--base_url={server.base_url}",
      f"--output={output}", "--no_records", *more]


@dataclasses.dataclass
class KillTrial:
  """What came of a collection that was killed again and again.

  Attributes:
    kills: SIGKILLs that hit a running collector.
    lost: rows that are not in the cache at the end.
    repeated: lines too many.
    in_doubt: requests that were under way when their process was killed, as
      the collectors themselves have reported.
    stats: the server's books.
    seconds: from the first start to the last end.
  """

  kills: int
  lost: int
  repeated: int
  in_doubt: int
  stats: dict[str, Any]
  seconds: float


def killed_collection(
    folder: pathlib.Path, server: Server, *, rows: int, kills: int,
    target: str = COMMAND, more: Sequence[str] = (), seed: int = 0,
    longest_s: float = 300.0) -> KillTrial:
  """Collects rows, killing the collector by SIGKILL `kills` times on the way.

  Args:
    folder: an empty folder.
    server: the teacher.
    rows: number of rows.
    kills: how often; at random points of the way.
    target: COMMAND kills the process that the user started; ALL kills its
      worker as well, as the end of a container does.
    more: further arguments of the command.
    seed: of the random points.
    longest_s: raises TimeoutError after this time.
  """
  start = time.monotonic()
  path, output = write_rows(folder / "rows.csv", rows), folder / "cache"
  argv = command(path, output, server, "--json", *more)
  # Points of the way: numbers of paid rows at which to strike.
  points = sorted(random.Random(seed).sample(
      range(rows // 20, rows - rows // 10), kills))
  struck = in_doubt = 0
  for point in points:
    with subprocess.Popen(
        argv, env=environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL) as process:
      while process.poll() is None and server.stats()["paid"] < point:
        if time.monotonic() - start > longest_s:
          process.kill()
          raise TimeoutError(f"only {server.stats()['paid']} of {rows} paid")
        time.sleep(0.01)
      worker = _worker(output)
      struck += process.poll() is None
      process.kill()
      if target == ALL and worker:
        with contextlib.suppress(ProcessLookupError):
          os.kill(worker, signal.SIGKILL)
        in_doubt += under_way(output)
  left = longest_s - (time.monotonic() - start)
  subprocess.run(argv, env=environment(), check=True, timeout=max(1.0, left),
                 stdout=subprocess.DEVNULL)
  found = collections.Counter(
      entry.value["id"] for entry in completions.read_completions(output)
      if entry.value["finish_reason"] == "stop")
  return KillTrial(
      kills=struck, lost=rows - len(found),
      repeated=sum(found.values()) - len(found), in_doubt=in_doubt,
      stats=server.stats(), seconds=time.monotonic() - start)


def under_way(output: pathlib.Path) -> int:
  """Requests that a killed collector has left in doubt."""
  with contextlib.closing(sqlite3.connect(
      f"file:{output / completions.GROWING}?mode=ro", uri=True)) as database:
    return database.execute("SELECT COUNT(*) FROM under_way").fetchone()[0]


def _worker(output: pathlib.Path) -> int | None:
  """The process that holds the cache, if any has."""
  try:
    return int((output / ".lock").read_text("ascii"))
  except (OSError, ValueError):
    return None
