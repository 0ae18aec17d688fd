"""launch/tpu_vm against a recording stand-in for gcloud.

The stand-in knows the documented flags of each call, refuses any other, and
plays a VM that is preempted once.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = (pathlib.Path(__file__).resolve().parents[1]
          / "launch" / "tpu_vm" / "tpu_vm.sh")

# Flags as the gcloud reference documents them for these calls.
STAND_IN = r'''
import json, pathlib, sys
folder = pathlib.Path(__file__).parent
COMMON = {"--zone", "--project"}
FLAGS = {
    ("tpu-vm", "create"): {"--accelerator-type", "--version", "--spot"},
    ("tpu-vm", "describe"): {"--format"},
    ("tpu-vm", "ssh"): {"--worker", "--command"},
    ("tpu-vm", "scp"): {"--worker", "--recurse"},
    ("tpu-vm", "delete"): {"--quiet"},
    ("queued-resources", "create"): {
        "--node-id", "--accelerator-type", "--runtime-version", "--spot"},
    ("queued-resources", "delete"): {"--quiet", "--force"},
}
arguments = sys.argv[1:]
with open(folder / "calls.jsonl", "a") as f:
    f.write(json.dumps(arguments) + "\n")
if arguments[:2] == ["storage", "cp"]:
    sys.exit(0)
assert arguments[:2] == ["compute", "tpus"], arguments
call = tuple(arguments[2:4])
unknown = {a.split("=")[0] for a in arguments[4:] if a.startswith("--")}
unknown -= FLAGS[call] | COMMON
if unknown:
    sys.exit(f"unrecognized arguments: {sorted(unknown)}")
play = json.loads((folder / "play.json").read_text())
def pop(name):
    value = play[name].pop(0) if len(play[name]) > 1 else play[name][0]
    (folder / "play.json").write_text(json.dumps(play))
    return value
if call == ("tpu-vm", "describe"):
    state = pop("states")
    if state == "ABSENT":
        sys.exit(1)
    print(state)
elif call == ("tpu-vm", "ssh") and "cat stepdistill_run/exit_code" in " ".join(
    arguments):
    print(pop("exit_codes"))
'''


@pytest.fixture
def gcloud(tmp_path):
  """Returns run(args, states, exit_codes) -> (process, recorded calls)."""
  folder = tmp_path / "bin"
  folder.mkdir()
  (folder / "stand_in.py").write_text(STAND_IN)
  program = folder / "gcloud"
  program.write_text(
      f'#!/bin/sh\nexec "{sys.executable}" "{folder}/stand_in.py" "$@"\n')
  program.chmod(0o755)

  def run(*arguments, states=("READY",), exit_codes=("0",)):
    (folder / "play.json").write_text(
        json.dumps({"states": states, "exit_codes": exit_codes}))
    process = subprocess.run(
        ["bash", str(SCRIPT), *arguments], capture_output=True, text=True,
        timeout=60,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"})
    recorded = folder / "calls.jsonl"
    calls = ([json.loads(line) for line in recorded.read_text().splitlines()]
             if recorded.exists() else [])
    return process, calls

  return run


def _verbs(calls):
  return [call[3] for call in calls if call[:2] == ["compute", "tpus"]]


WATCH = ("watch", "--name=n", "--zone=z", "--type=v5litepod-16", "--spot",
         "--poll=0")
T5X = ("--", "--gin_file=gin/recipes/a b.gin", '--gin.MODEL_DIR="gs://b/r"')


def test_a_preempted_vm_is_deleted_and_made_again(gcloud):
  process, calls = gcloud(
      *WATCH, *T5X, states=("ABSENT", "READY", "PREEMPTED", "READY"),
      exit_codes=("", "0"))
  assert process.returncode == 0, process.stderr
  assert "done after 1 restarts" in process.stderr
  made = [verb for verb in _verbs(calls) if verb in ("create", "delete")]
  assert made == ["create", "delete", "create"]


def test_saved_on_sigterm_is_started_again_on_the_same_vm(gcloud):
  process, calls = gcloud(*WATCH, *T5X, exit_codes=("75", "0"))
  assert process.returncode == 0, process.stderr
  assert "create" not in _verbs(calls)
  starts = [c for c in calls if "nohup" in " ".join(c)]
  assert len(starts) == 2


def test_a_failed_run_is_not_restarted(gcloud):
  process, _ = gcloud(*WATCH, *T5X, exit_codes=("2",))
  assert process.returncode == 1
  assert "failed with exit code 2" in process.stderr


def test_restarts_are_bounded(gcloud):
  process, _ = gcloud(*WATCH, "--restarts=2", *T5X, states=("PREEMPTED",))
  assert process.returncode == 1
  assert "gave up after 2 restarts" in process.stderr


def test_arguments_reach_t5x_as_they_were_given(gcloud, tmp_path):
  """The remote command line, run here, hands T5X the same arguments."""
  process, calls = gcloud("run", "--name=n", "--zone=z", *T5X)
  assert process.returncode == 0, process.stderr
  (command,) = [a.removeprefix("--command=") for a in calls[-1]
                if a.startswith("--command=")]
  home = tmp_path / "home"
  program = home / "stepdistill_run" / "venv" / "bin" / "t5x"
  program.parent.mkdir(parents=True)
  program.write_text(
      f'#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))')
  program.chmod(0o755)
  subprocess.run(["sh", "-c", command], cwd=home, check=True)
  exit_code = home / "stepdistill_run" / "exit_code"
  for _ in range(200):  # The run is in the background.
    if exit_code.exists() and exit_code.read_text():
      break
    subprocess.run(["sleep", "0.05"], check=True)
  assert exit_code.read_text() == "0\n"
  log = (home / "stepdistill_run" / "train.log").read_text()
  assert json.loads(log) == ["train", *T5X[1:]]


@pytest.mark.parametrize("arguments, words", [
    (("create", "--zone=z"), "--name is missing"),
    (("create", "--name=n"), "--zone is missing"),
    (("create", "--name=n", "--zone=z"), "--type is missing"),
    (("create", "--name=n", "--zone=z", "--type=v9-8"), "no runtime known"),
    (("run", "--name=n", "--zone=z"), "arguments are missing"),
    (("strat", "--name=n", "--zone=z"), "unknown subcommand strat"),
    (("run", "--name=n", "--zone=z", "--gin_file=x"), "go after --"),
])
def test_mistakes_are_told_and_nothing_is_called(gcloud, arguments, words):
  process, calls = gcloud(*arguments)
  assert process.returncode == 2
  assert words in process.stderr
  assert not calls


@pytest.mark.parametrize("argument", ["--help", "-h", "help"])
def test_help_needs_no_name(argument):
  shown = subprocess.run(
      ["bash", str(SCRIPT), argument], check=True, capture_output=True,
      text=True)
  assert "example" in shown.stdout and not shown.stderr


def test_dry_run_calls_nothing_and_prints_every_command(gcloud):
  process, calls = gcloud(*WATCH, "--queued", "--dry-run", *T5X)
  assert process.returncode == 0, process.stderr
  assert not calls
  printed = process.stdout.splitlines()
  assert "queued-resources create n --node-id=n" in printed[0]
  assert "--accelerator-type=v5litepod-16" in printed[0]
  assert any("scp" in line for line in printed)
