"""What becomes of a reasoning teacher's completions, thinking and all.

  python examples/reasoning_teacher.py /tmp/reasoning_teacher

legs.csv's column `completion` has what such a model wrote. `--thinking` says
whether its thoughts are rationales: `missing` (the default) where the answer
has no reasoning of its own, `always` or `never`.
"""

import pathlib
import sys

import stepdistill_jax as sd
from stepdistill_jax.cli import stepdistill

HERE = pathlib.Path(__file__).parent


def main(folder, thinking="missing"):
  code = stepdistill.main([
      "teacher", "import", "--format=columns", "--dataset=legs",
      "--teacher=thinker", f"--outputs={HERE / 'legs.csv'}", "--kind=number",
      "--columns=inputs=question,label=answer,output=completion",
      f"--thinking={thinking}", f"--records_dir={folder}"])
  if code:
    sys.exit(code)
  for record in sd.load_records("legs", "thinker", records_dir=folder):
    print(f"{record.inputs}  status: {record.status}")
    print(f"  label {record.teacher_label!r}, rationale {record.rationale!r}")
    print(f"  thinking {record.thinking!r}")


if __name__ == "__main__":
  main(*sys.argv[1:])
