"""A study's runs as commands of the launch scripts, for other machines."""

from __future__ import annotations

from collections.abc import Sequence
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
# What is done is skipped where it is started again; then, where its runs are
# (`{folder}/runs`):
#   {again}
set -euo pipefail
: "${{RUNS:?folder of the runs, a MODEL_DIR each: {where}}}"
: "${{RECORDS:?folder of the records, as of stepdistill --records_dir}}"
"""
# Launcher -> (what it needs, what begins a command, where runs may be).
_LAUNCHERS = {
    "slurm": (
        "GPUs under SLURM: NODES, of each run (1).",
        "sbatch --nodes=\"${NODES:-1}\" --job-name={name} "
        "launch/gpu/slurm.sbatch", "on storage that all machines share"),
    "tpu_vm": (
        "Cloud TPU VMs, one after the other: ZONE and TYPE.",
        "launch/tpu_vm/tpu_vm.sh watch --name={vm} --zone=\"${ZONE:?}\" "
        "--type=\"${TYPE:?such as v5litepod-8}\" --",
        "gs://BUCKET/FOLDER; copy what ended to a local folder to score it"),
    "gke": (
        "TPUs on GKE: CLUSTER, ZONE, PROJECT, TYPE and IMAGE, see "
        "launch/gke/gke.sh.",
        "launch/gke/gke.sh run --cluster=\"${CLUSTER:?}\" --zone=\"${ZONE:?}\" "
        "--project=\"${PROJECT:?}\" --tpu-type=\"${TYPE:?}\" "
        "--image=\"${IMAGE:?}\" --name={vm} --",
        "gs://BUCKET/FOLDER; copy what ended to a local folder to score it"),
}


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
  folder.mkdir(parents=True, exist_ok=True)
  found = []
  for launcher, (how, command, where) in _LAUNCHERS.items():
    lines = [_HEAD.format(
        title=title, runs=len(jobs), how=how, where=where, folder=study,
        again=shlex.join(again))]
    for variable in dict.fromkeys(students.values()):
      lines.append(f': "${{{variable}:?folder of a `checkpoint import-hf`}}"\n')
    for job in jobs:
      vm = re.sub(r"[^a-z0-9]+", "-", job.name.lower())[-40:].strip("-")
      begin = command.replace("{name}", shlex.quote(job.name)).replace(
          "{vm}", vm)
      lines.append(" \\\n  ".join([
          begin, *(f"--gin_file={shlex.quote(file)}" for file in job.gin_files),
          *([f'--gin_file="${{{students[job.group]}}}/student.gin"']
            if job.group in students else []),
          '--tfds_data_dir="${RECORDS}"',
          f'--gin.MODEL_DIR="\'${{RUNS}}/{job.name}\'"',
          *(f"--gin_bindings={shlex.quote(b)}" for b in job.bindings)]) + "\n")
    path = folder / f"{launcher}.sh"
    durable_files.replace(path, "\n".join(lines))
    path.chmod(0o755)
    found.append(path)
  return found


def _variable(one: resolving.Resolved) -> str:
  """The variable that names a size's student."""
  return "STUDENT_" + re.sub(r"\W", "_", one.cell.size).upper()
