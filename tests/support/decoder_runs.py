"""A tiny decoder's data and runs, for tests and benchmarks.

Its texts are full of the tokenizer's id 0, which is padding elsewhere.
"""

from __future__ import annotations

import pathlib

import numpy as np

from stepdistill_jax.embedded_t5x import checkpoints
from stepdistill_jax.interop.hf import importing as import_hf
from stepdistill_jax.records import record_writer, records
from stepdistill_jax.runs import t5x_command
from tests.support import decoder_fixtures as fixtures

STEPS = 4
SMALL = [
    "--gin.BATCH_SIZE=4", "--gin.LEARNING_RATE=1e-2",
    "--gin.CHECKPOINT_PERIOD=2", "--gin.CHECKPOINTS_KEPT=None",
    "--gin.EVAL_PERIOD=2", "--gin.EVAL_STEPS=1",
    "--gin.train_script.train.stats_period=1", f"--gin.TRAIN_STEPS={STEPS}",
    "--gin.train_script.train.infer_eval_dataset_cfg=None",
    "--gin.MAX_INPUTS=24", "--gin.MAX_LABEL=8", "--gin.MAX_RATIONALE=24",
    "--gin.MAX_SINGLE=32", "--gin.network.LlamaConfig.dtype='float32'",
    "--gin.PACKED_FEATURE_LENGTHS={'inputs': 96, 'targets': 64}"]


def write_data(folder: pathlib.Path) -> None:
  """Imports a tiny Qwen into `folder/t5x`; records in `folder/records`."""
  fixtures.write_folder(folder / "hf", "qwen2_5")
  (folder / "hf" / "LICENSE").write_bytes(b"LLAMA 3.2 COMMUNITY LICENSE \xa9")
  import_hf.import_hf(folder / "hf", folder / "t5x", quiet=True)
  record_writer.write_records(folder / "records", "gsm8k", "human", {
      split: [records.Record(
          id=f"{split}/{i}", inputs=f"Stop! Who has {i}!!", label=f"!{i}",
          teacher_label=f"!{i}", rationale=f"! {i} apples! !{i}")
              for i in range(count)]
      for split, count in (("train", 12), ("validation", 4), ("test", 3))})


def train(data, model_dir, method="step_by_step", *more) -> int:
  """Trains on `write_data`'s, or goes on; $STEPDISTILL_RECORDS is theirs."""
  return t5x_command.main([
      "train",
      f"--gin_file=gin/recipes/decoder/gsm8k_{method}_qwen2_5_0_5b.gin",
      f"--gin_file={data / 't5x' / 'student.gin'}", *SMALL,
      f'--gin.MODEL_DIR="{model_dir}"', *more])


def parameters(run, step=STEPS) -> np.ndarray:
  """All of a run's, one after the other."""
  import jax
  state = checkpoints.load_t5x_checkpoint(str(run), step=step)
  return np.concatenate([x.ravel() for x in jax.tree.leaves(state["target"])])
