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
        sys.exit("ERROR: (gcloud...) NOT_FOUND: Resource n was not found")
    if state == "OFFLINE":
        sys.exit("ERROR: (gcloud...) no network")
    print(state)
elif call == ("tpu-vm", "create"):
    sys.exit(pop("creations"))
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

  def run(*arguments, states=("READY",), exit_codes=("0",), creations=(0,)):
    (folder / "play.json").write_text(json.dumps({
        "states": states, "exit_codes": exit_codes, "creations": creations}))
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
      *WATCH, *T5X,
      states=("ABSENT", "CREATING", "READY", "PREEMPTED", "READY"),
      exit_codes=("", "0"))
  assert process.returncode == 0, process.stderr
  assert "done after 1 restarts" in process.stderr
  made = [verb for verb in _verbs(calls) if verb in ("create", "delete")]
  assert made == ["create", "delete", "create"]


def test_no_capacity_after_a_preemption_is_waited_out(gcloud):
  process, calls = gcloud(
      *WATCH, *T5X, states=("ABSENT", "READY", "PREEMPTED", "ABSENT", "READY"),
      creations=(0, 1, 0), exit_codes=("0",))
  assert process.returncode == 0, process.stderr
  assert _verbs(calls).count("create") == 3
  assert "no VM yet" in process.stderr


def test_a_lost_connection_is_no_preemption(gcloud):
  process, calls = gcloud(
      *WATCH, *T5X, states=("READY", "READY", "OFFLINE", "READY"))
  assert process.returncode == 0, process.stderr
  assert not {"create", "delete"} & set(_verbs(calls))
  process, _ = gcloud(*WATCH, *T5X, states=("OFFLINE",))
  assert process.returncode == 2
  assert "no network" in process.stderr


def test_a_first_creation_that_fails_ends_it(gcloud):
  process, calls = gcloud(*WATCH, *T5X, states=("ABSENT",), creations=(1,))
  assert process.returncode == 1
  assert _verbs(calls)[-1] == "create"


def test_without_gcloud_this_is_reported(tmp_path):
  (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
  for subcommand in ("create", "status", "watch"):
    process = subprocess.run(
        ["/bin/bash", str(SCRIPT), subcommand, *WATCH[1:], *T5X],
        capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert process.returncode == 2
    assert "gcloud is not installed" in process.stderr


@pytest.mark.parametrize("code", ["75", "lost"])
def test_what_was_ended_is_started_again_on_the_same_vm(gcloud, code):
  process, calls = gcloud(*WATCH, *T5X, exit_codes=(code, "0"))
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
    (("watch", "--name=n", "--zone=z"), "arguments are missing"),
    (("fetch", "--name=n", "--zone=z"), "needs --from and --to"),
    (("strat", "--name=n", "--zone=z"), "unknown subcommand strat"),
    (("run", "--name=n", "--zone=z", "--gin_file=x"), "own arguments"),
    (("create", "--name", "n"), "written --option=VALUE"),
    (("watch", "--name=n", "--zone=z", "--poll=soon"), "a whole number"),
])
def test_mistakes_are_reported_and_nothing_is_called(gcloud, arguments, words):
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


@pytest.mark.parametrize("subcommand", [
    "create", "setup", "run", "logs", "status", "watch", "fetch", "delete"])
def test_a_dry_run_of_each_subcommand_calls_nothing(gcloud, subcommand):
  process, calls = gcloud(
      subcommand, *WATCH[1:], "--from=gs://b/r", "--to=r", "--dry-run", *T5X)
  assert process.returncode == 0, process.stderr
  assert not calls and "gcloud" in process.stdout
