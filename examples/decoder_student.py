"""Distilling into a decoder from the Hub, and back into its format.

  python examples/decoder_student.py /path/to/SmolLM2-135M /tmp/decoder

Any folder of Llama, Qwen or SmolLM2; `transformers` alone loads the export.
"""

import pathlib
import sys

import own_csv

from stepdistill_jax.cli import stepdistill, t5x

RECIPE = "gin/recipes/decoder/gsm8k_step_by_step_smollm2_135m.gin"


def run(program, *arguments):
  if code := program.main(list(arguments)):
    sys.exit(code)


def main(hugging_face, folder, *bindings):
  folder = pathlib.Path(folder)
  records = own_csv.records(folder)
  run(stepdistill, "checkpoint", "import-hf", str(hugging_face),
      f"--output={folder / 'student'}")
  # The recipe has the method and the run, student.gin the network.
  run(t5x, "train", f"--gin_file={RECIPE}",
      f"--gin_file={folder / 'student/student.gin'}", "--gin.DATASET='legs'",
      "--gin.TEACHER='me'", "--gin.TRAIN_RECORDS=9", "--gin.BATCH_SIZE=4",
      "--gin.train_script.train.infer_eval_dataset_cfg=None",
      f"--records_dir={records}", f"--gin.MODEL_DIR='{folder / 'run'}'",
      *bindings)
  run(stepdistill, "checkpoint", "export-hf", str(folder / "run"),
      f"--output={folder / 'export'}")


if __name__ == "__main__":
  main(*sys.argv[1:])
