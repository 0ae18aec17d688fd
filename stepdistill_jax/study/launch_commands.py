"""A study's runs as commands of the launch scripts, for other machines."""

from collections.abc import Sequence
import hashlib
import pathlib
import re
import shlex
import tomllib

from stepdistill_jax.study import jobs as jobs_lib, resolving
from stepdistill_jax.util import durable_files

_LAUNCHERS = tomllib.loads(
    pathlib.Path(__file__).with_name("launchers.toml").read_text("utf-8"))
_HEAD, _TAIL = _LAUNCHERS.pop("head"), _LAUNCHERS.pop("tail")
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
  for launcher, words in _LAUNCHERS.items():
    filled = lambda text, job="": text.replace(
        "{study}", workload_name(study.name)).replace(
            "{workload}", workload_name(job)).replace(
                "{name}", shlex.quote(job))
    lines = [_HEAD.format(
        title=" ".join(title.split()), runs=len(jobs), how=words["needs"],
        where=words["where"], folder=study, again=shlex.join(again))]
    for variable in wanted:
      lines.append(f': "${{{variable}:?folder of an import-hf, '
                   'where all machines reach it}"\n')
    lines.append("failed=''\n")
    for job in jobs:
      student = students.get(job.group)
      lines.append(" \\\n  ".join([
          filled(words["command"], job.name),
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
        [*lines, *filter(None, [filled(words["last"])]), _TAIL]))
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
