"""A study's runs as commands of the launch scripts, for other machines."""

from collections.abc import Sequence
import hashlib
import pathlib
import re
import shlex

from stepdistill_jax.study import jobs as jobs_lib, resolving
from stepdistill_jax.util import durable_files

_HEAD = """\
#!/usr/bin/env bash
# {title}: {runs} runs, a command each, from the project's folder.
#
# {how}
# What is done is skipped where it is started again, and a command that fails
# does not stop the others; then, where its runs are (`{folder}/runs`):
#   {again}
set -uo pipefail
: "${{RUNS:?folder of the runs, a MODEL_DIR each: {where}}}"
: "${{RECORDS:?folder of the records, as of stepdistill --records_dir}}"
"""
_TAIL = """\
if [[ -n "${failed}" ]]; then
  echo "failed:${failed}" >&2
  exit 1
fi
"""
_VM = "launch/tpu_vm/tpu_vm.sh {do} --name={study} --zone=\"${ZONE:?}\""
# Launcher -> (what it needs, what begins a command, where runs may be, what
# is left to do when all have ended).
_LAUNCHERS = {
    "slurm": (
        "GPUs under SLURM: NODES, of each run (1).",
        "sbatch --nodes=\"${NODES:-1}\" --job-name={name} "
        "launch/gpu/slurm.sbatch", "on storage that all machines share", ""),
    "tpu_vm": (
        "A Cloud TPU VM, one run after the other: ZONE and TYPE.",
        _VM.replace("{do}", "watch") +
        " --type=\"${TYPE:?such as v5litepod-8}\" --",
        "gs://BUCKET/FOLDER; copy what ended to a local folder to score it",
        _VM.replace("{do}", "delete") + "  # It costs while it is there.\n"),
    "gke": (
        "TPUs on GKE: CLUSTER, ZONE, PROJECT, TYPE and IMAGE, see "
        "launch/gke/gke.sh.",
        "launch/gke/gke.sh run --cluster=\"${CLUSTER:?}\" --zone=\"${ZONE:?}\" "
        "--project=\"${PROJECT:?}\" --tpu-type=\"${TYPE:?}\" "
        "--image=\"${IMAGE:?}\" --name={workload} --",
        "gs://BUCKET/FOLDER; copy what ended to a local folder to score it",
        ""),
}
_LONGEST = 39  # Name of a workload, by xpk.


def write(
    folder: pathlib.Path, jobs: Sequence[jobs_lib.Job],
    resolved: Sequence[resolving.Resolved], *, title: str, study: pathlib.Path,
    again: Sequence[str]) -> list[pathlib.Path]:
  """Writes a script for each kind of machine.

  Args:
    folder: where to.
    jobs: the runs that are left.
    resolved: their cells.
    title: of the study.
    study: its folder, where runs are scored and reported.
    again: the command that does so.

  Returns:
    The scripts.
  """
  students = {one.cell.name: _variable(one) for one in resolved
              if one.student != resolving.RANDOM}
  wanted = dict.fromkeys(students[job.group] for job in jobs
                         if job.group in students)
  folder.mkdir(parents=True, exist_ok=True)
  found = []
  for launcher, (how, command, where, last) in _LAUNCHERS.items():
    filled = lambda text, job="": text.replace(
        "{study}", workload_name(study.name)).replace(
            "{workload}", workload_name(job)).replace(
                "{name}", shlex.quote(job))
    lines = [_HEAD.format(
        title=" ".join(title.split()), runs=len(jobs), how=how, where=where,
        folder=study, again=shlex.join(again))]
    for variable in wanted:
      lines.append(f': "${{{variable}:?folder of an import-hf, '
                   'where all machines reach it}"\n')
    lines.append("failed=''\n")
    for job in jobs:
      student = students.get(job.group)
      lines.append(" \\\n  ".join([
          filled(command, job.name),
          *(f"--gin_file={shlex.quote(file)}" for file in job.gin_files),
          # The file has the checkpoint's path on the machine of the import.
          *([f'--gin_file="${{{student}}}/student.gin"',
             '--gin.INITIAL_CHECKPOINT_PATH='
             f'"\'${{{student}}}/checkpoint_0\'"'] if student else []),
          '--tfds_data_dir="${RECORDS}"',
          f'--gin.MODEL_DIR="\'${{RUNS}}/{job.name}\'"',
          *(f"--gin_bindings={shlex.quote(b)}" for b in job.bindings)])
                   + f" \\\n  || failed+={shlex.quote(' ' + job.name)}\n")
    path = folder / f"{launcher}.sh"
    durable_files.replace(path, "\n".join(
        [*lines, *filter(None, [filled(last)]), _TAIL]))
    path.chmod(0o755)
    found.append(path)
  return found


def workload_name(name: str) -> str:
  """A name for a workload or a machine, which no other run's name gives.

  >>> workload_name("svamp-finetune-base-12.5pct-seed0")
  'svamp-finetune-base-12-5pct-seed0'
  >>> workload_name("svamp-step_by_step_teacher-base-100pct-palm540b-seed0")
  'run-7a2bc3-r-base-100pct-palm540b-seed0'
  """
  plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
  if len(plain) <= _LONGEST and plain[:1].isalpha():
    return plain
  digest = hashlib.sha256(name.encode()).hexdigest()[:6]
  return "-".join(filter(None, (
      "run", digest, plain[-(_LONGEST - 11):].strip("-"))))


def _variable(one: resolving.Resolved) -> str:
  """The variable that names a size's student."""
  return "STUDENT_" + re.sub(r"\W", "_", one.cell.size).upper()
