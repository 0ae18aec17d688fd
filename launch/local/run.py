#!/usr/bin/env python3
"""Runs `t5x` as several processes on this machine, and keeps them running.

  python launch/local/run.py --processes=2 -- train \\
      --gin_file=gin/recipes/tracking_step_by_step.gin \\
      --gin.MODEL_DIR=\\"/tmp/run\\"

When a process dies, or all saved because they were asked to (exit code 75),
all are started again: training goes on from the last checkpoint. A user's
mistake (exit code 2) ends it. Lines of process I begin with `[I]`. Ctrl-C and
SIGTERM are passed on, so that training can save.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

EXIT_MISTAKE = 2  # A user's: starting again would not mend it.
EXIT_START_AGAIN = 75
# The others see a loss themselves, and say so; then they are ended.
LOST_SECONDS = 60


def parse_arguments(argv):
  """Returns the arguments; `t5x` has what follows `--`."""
  parser = argparse.ArgumentParser(
      prog="run.py", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
      "--processes", type=int, default=2, metavar="N",
      help="number of processes (2)")
  parser.add_argument(
      "--cpu_devices", type=int, metavar="K",
      help="run on CPUs, with K virtual devices a process")
  parser.add_argument(
      "--gpus", type=int, metavar="K",
      help="give process I the K GPUs from I*K on")
  parser.add_argument(
      "--restarts", type=int, default=10, metavar="R",
      help="give up after so many (10)")
  parser.add_argument(
      "--dry_run", action="store_true", help="print the commands only")
  parser.add_argument("t5x", nargs=argparse.REMAINDER,
                      metavar="-- MODE ...", help="arguments of t5x")
  args = parser.parse_args(argv)
  args.t5x = args.t5x[1:] if args.t5x[:1] == ["--"] else args.t5x
  if not args.t5x:
    parser.error("t5x's arguments are missing: put them after --, such as "
                 "-- train --gin_file=...")
  if args.processes < 1 or args.restarts < 0:
    parser.error("--processes must be 1 or more, --restarts 0 or more")
  if any(k is not None and k < 1 for k in (args.cpu_devices, args.gpus)):
    parser.error("--cpu_devices and --gpus must be 1 or more")
  if args.cpu_devices and args.gpus:
    parser.error("--cpu_devices and --gpus exclude each other")
  return args


def free_port():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def command_of(index, port, args):
  """(command, what it changes in the environment) of a process."""
  command = [sys.executable, "-m", "stepdistill_jax.cli.t5x", *args.t5x,
             f"--coordinator_address=127.0.0.1:{port}",
             f"--process_count={args.processes}", f"--process_index={index}"]
  changes = {}
  if args.cpu_devices:
    kept = [f for f in os.environ.get("XLA_FLAGS", "").split()
            if "host_platform_device_count" not in f]
    changes = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([
        *kept,
        f"--xla_force_host_platform_device_count={args.cpu_devices}"])}
  if args.gpus:
    first = index * args.gpus
    changes = {"CUDA_VISIBLE_DEVICES": ",".join(
        str(i) for i in range(first, first + args.gpus))}
  return command, changes


def say(text):
  print(f"[launch] {text}", file=sys.stderr, flush=True)


def copy_lines(index, stream):
  for line in stream:
    if line.startswith("[Gloo] Rank"):
      continue  # Of each group of devices that talk to each other.
    sys.stderr.write(f"[{index}] {line}")
    sys.stderr.flush()


class Processes:
  """One start of all processes."""

  def __init__(self, args):
    port = free_port()
    self.all = []
    for index in range(args.processes):
      command, changes = command_of(index, port, args)
      self.all.append(subprocess.Popen(
          command, env={**os.environ, **changes}, text=True, errors="replace",
          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
          # Ctrl-C reaches them through this one alone, once.
          start_new_session=True))
    self._readers = [
        threading.Thread(target=copy_lines, args=(i, p.stdout), daemon=True)
        for i, p in enumerate(self.all)]
    for reader in self._readers:
      reader.start()

  def send(self, number):
    for process in self.all:
      if process.poll() is None:
        process.send_signal(number)

  def wait(self):
    """Waits for all; returns their exit codes."""
    lost_at = None
    while True:
      codes = [process.poll() for process in self.all]
      if None not in codes:
        break
      if lost_at is None and any(code for code in codes):
        index = next(i for i, code in enumerate(codes) if code)
        say(f"process {index} ended with {codes[index]}; the others have "
            f"{LOST_SECONDS} s to end")
        lost_at = time.monotonic()
      if lost_at is not None and time.monotonic() - lost_at > LOST_SECONDS:
        self.send(signal.SIGKILL)
      time.sleep(0.1)
    for reader in self._readers:
      reader.join(timeout=5)
    return codes


def main(argv=None):
  """Starts all until they are done; returns the exit code."""
  args = parse_arguments(argv)
  if args.dry_run:
    for index in range(args.processes):
      command, changes = command_of(index, "PORT", args)
      words = [*(f"{k}={shlex.quote(v)}" for k, v in changes.items()),
               *map(shlex.quote, command)]
      print(" ".join(words))
    return 0
  asked_to_end = []
  running = None

  def pass_on(number, unused_frame):
    asked_to_end.append(number)
    if running is not None:
      running.send(signal.SIGTERM)

  signal.signal(signal.SIGTERM, pass_on)
  signal.signal(signal.SIGINT, pass_on)
  for restart in range(args.restarts + 1):
    running = Processes(args)
    codes = running.wait()
    if not any(codes):
      say(f"done after {restart} restarts")
      return 0
    if EXIT_MISTAKE in codes:
      return EXIT_MISTAKE
    if asked_to_end:
      return EXIT_START_AGAIN
    if restart < args.restarts:
      say(f"exit codes {codes}; starting all again ({restart + 1} of at most "
          f"{args.restarts})")
  say(f"exit codes {codes}; gave up after {args.restarts} restarts")
  return 1


if __name__ == "__main__":
  sys.exit(main())
