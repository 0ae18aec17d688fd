"""A model's folder under `transformers serve`, for tests."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

_START_S = 300


@contextlib.contextmanager
def transformers_server(folder: pathlib.Path) -> Iterator[str]:
  """Serves a folder; skips the test where a package is missing.

  Yields:
    The server's address, without a path.
  """
  for package in ("openai", "torch", "transformers", "accelerate", "fastapi",
                  "uvicorn"):
    pytest.importorskip(package, reason=f"needs {package} for the server")
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  program = "from transformers.cli.transformers import main; main()"
  path = folder.parent / f"{folder.name}.log"
  with path.open("w") as log, subprocess.Popen(
      [sys.executable, "-c", program, "serve", str(folder), "--host",
       "127.0.0.1", "--port", str(port), "--device", "cpu"],
      env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
      stdout=log, stderr=log) as process:
    try:
      _wait_until_ready(process, port, path)
      yield f"http://127.0.0.1:{port}"
    finally:
      process.terminate()


def _wait_until_ready(
    process: subprocess.Popen, port: int, log: pathlib.Path) -> None:
  until = time.monotonic() + _START_S
  while time.monotonic() < until:
    if process.poll() is not None:
      pytest.fail("`transformers serve` does not start here: "
                  + log.read_text()[-3000:])
    try:
      with urllib.request.urlopen(
          f"http://127.0.0.1:{port}/health", timeout=1):
        return
    except (urllib.error.URLError, OSError):
      time.sleep(0.2)
  pytest.fail(f"`transformers serve` was not ready within {_START_S} s")
