"""Scripts for other machines: names that are taken, and what a script does."""

import pathlib
import re
import subprocess

from stepdistill_jax.study import definition, launch_commands, resolving


def _jobs(name):
  options = resolving.Options(pathlib.Path("none"))
  found = resolving.resolve(
      definition.read(definition.packaged()[name]), options)
  return found, resolving.jobs(found, {}, options, None)


def test_each_run_has_a_name_that_xpk_takes():
  for study in definition.packaged():
    names = [launch_commands.workload_name(job.name)
             for job in _jobs(study)[1]]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)
               and len(name) < 40 for name in names)
  assert re.fullmatch("run-[0-9a-f]{6}-3-gr-e-f-lle-seed0",
                      launch_commands.workload_name("3-Größe-Fülle-seed0"))


def test_a_script_goes_on_after_a_failure_and_gives_the_machine_back(tmp_path):
  found, jobs = _jobs("table2")
  jobs = [job for job in jobs if job.name.startswith("svamp-single")][:3]
  launch_commands.write(
      tmp_path / "jobs", jobs, found, title="of\ntwo lines",
      study=tmp_path / "study_of_a_table", again=["stepdistill", "study"])
  # The launcher: says what it got, and fails the second time.
  launcher = tmp_path / "launch/tpu_vm/tpu_vm.sh"
  launcher.parent.mkdir(parents=True)
  launcher.write_text(
      '#!/bin/bash\nprintf "%s\\n" "$*" >> calls\n'
      '[[ $(wc -l < calls) != 2 ]]\n')
  launcher.chmod(0o755)
  unset = subprocess.run(
      [tmp_path / "jobs/tpu_vm.sh"], cwd=tmp_path, capture_output=True,
      text=True, env={"PATH": "/usr/bin:/bin", "RUNS": "a", "RECORDS": "b"})
  (line,) = unset.stderr.splitlines()  # Nothing in it was run.
  assert unset.returncode and "STUDENT_BASE: folder of an import-hf" in line
  done = subprocess.run(
      [tmp_path / "jobs/tpu_vm.sh"], cwd=tmp_path, capture_output=True,
      text=True, env={"PATH": "/usr/bin:/bin", "RUNS": "gs://b/runs",
                      "RECORDS": "gs://b/records", "ZONE": "z", "TYPE": "v4-8",
                      "STUDENT_BASE": "gs://b/base"})
  assert (done.returncode, done.stderr) == (1, f"failed: {jobs[1].name}\n")
  calls = (tmp_path / "calls").read_text().splitlines()
  assert [call.split()[:3] for call in calls] == [
      [do, "--name=study-of-a-table", "--zone=z"]
      for do in ("watch", "watch", "watch", "delete")]
  for job, call in zip(jobs, calls):
    assert f"--gin.MODEL_DIR='gs://b/runs/{job.name}'" in call
    assert "--gin_file=gs://b/base/student.gin " in call
    # Not the path that the import had where it was made.
    assert ("--gin.INITIAL_CHECKPOINT_PATH='gs://b/base/checkpoint_0'"
            in call)
