"""From a CSV with rationales to a student that answers.

  python examples/own_csv.py /tmp/own_csv

Needs T5's vocabulary: STEPDISTILL_VOCAB=/path/to/spiece.model.
"""

import pathlib
import sys

import stepdistill_jax as sd
from stepdistill_jax.cli import stepdistill, t5x

HERE = pathlib.Path(__file__).parent


def records(folder):
  """Writes distillation records of legs.csv; returns their folder."""
  path = f"{folder}/records"
  stepdistill.main([
      "teacher", "import", "--format=columns", "--dataset=legs",
      "--teacher=me", f"--outputs={HERE / 'legs.csv'}", "--kind=number",
      "--columns=inputs=question,label=answer,rationale=why",
      f"--records_dir={path}"])
  return path


def main(folder, *bindings):
  path = records(folder)
  if t5x.main(["train", f"--gin_file={HERE / 'legs.gin'}",
               f"--records_dir={path}", f"--gin.MODEL_DIR='{folder}/run'",
               *bindings]):
    sys.exit(2)
  student = sd.load(f"{folder}/run", records_dir=path)
  question = ["How many legs have 3 cats?"]
  print(student.predict(question), student.explain(question))


if __name__ == "__main__":
  main(*sys.argv[1:])
