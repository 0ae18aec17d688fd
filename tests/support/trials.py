"""A small training to be killed, and whether two runs are the same, bit by bit.

For tests and `benchmarks/faults.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import pathlib
import random
import shutil

import numpy as np

STEPS = 40  # Of a run of many kills: each may take it a few steps further.
# Float32 sums over other numbers of devices are added in other orders, and
# Adafactor divides by their roots: relative to the largest of each parameter,
# after 16 steps.
OTHER_DEVICES_TOLERANCE = 2e-4
PACKED = ("PACK = True", "TASK_FEATURE_LENGTHS = %PACKED_FEATURE_LENGTHS",
          "PACKED_FEATURE_LENGTHS = {'inputs': 128, 'targets': 48}")
MICROBATCHES = ("students.StepDistillTrainer.num_microbatches = 2",)
NO_EVALUATION = ("train_script.train.infer_eval_dataset_cfg = None",
                 "train_script.train.train_eval_dataset_cfg = None")
# Decoding is traced anew in each process, for seconds.
NO_DECODING = NO_EVALUATION[:1]
# Periods that do not divide one another: a save cuts a period of metrics.
_BINDINGS = (
    "BATCH_SIZE = 8", "DROPOUT_RATE = 0.1", "EVAL_PERIOD = 8",
    "CHECKPOINT_PERIOD = 4", "CHECKPOINTS_KEPT = 2",
    "train_script.train.stats_period = 3", "WARMUP_STEPS = 4",
    "t5.network.T5Config.emb_dim = 16", "t5.network.T5Config.num_heads = 2",
    "t5.network.T5Config.head_dim = 8", "t5.network.T5Config.mlp_dim = 32",
    "t5.network.T5Config.num_encoder_layers = 1",
    "t5.network.T5Config.num_decoder_layers = 1")


def write_records(output_dir: pathlib.Path, stories: int = 50) -> pathlib.Path:
  """Makes records of the embedded benchmark; returns their folder."""
  import dataclasses

  from stepdistill_jax.quickstart import benchmark_data, plan as plan_lib
  plan = dataclasses.replace(
      plan_lib.BUDGETS["small"], train_stories=stories, validation_stories=8,
      test_stories=8)
  return benchmark_data.prepare(output_dir, plan).records_dir


def arguments(
    records_dir: pathlib.Path, bindings: Sequence[str] = (),
    steps: int = STEPS) -> list[str]:
  """The command line of the small training, but for MODEL_DIR."""
  return ["train", "--engine=embedded",
          "--gin_file=gin/recipes/tracking_step_by_step.gin",
          f"--tfds_data_dir={records_dir}", *(
              f"--gin_bindings={b}" for b in (
                  f"TRAIN_STEPS = {steps}", *_BINDINGS, *bindings))]


def scalars(model_dir: pathlib.Path) -> Mapping[tuple[str, str, int], float]:
  """(folder, tag, step) -> value of all metrics that are not of time.

  Of TensorBoard's files, and of SeqIO's lines of JSON.

  Raises:
    AssertionError: a step was logged twice, with different values.
  """
  from tensorboard.backend.event_processing import event_file_loader
  from tensorboard.util import tensor_util
  found = {}
  for file in sorted(model_dir.rglob("events*")):
    folder = str(file.parent.relative_to(model_dir))
    for event in event_file_loader.EventFileLoader(str(file)).Load():
      for value in event.summary.value:
        is_text = value.metadata.plugin_data.plugin_name == "text"
        if "timing" in value.tag or is_text:
          continue
        key = (folder, value.tag, event.step)
        number = (tensor_util.make_ndarray(value.tensor)
                  if value.HasField("tensor") else value.simple_value)
        if key in found:
          np.testing.assert_array_equal(found[key], number, err_msg=str(key))
        found[key] = number
  for file in sorted(model_dir.rglob("*-metrics.jsonl")):
    folder = str(file.relative_to(model_dir))
    for line in file.read_text().splitlines():
      values = json.loads(line)
      step = values.pop("step")
      for tag, number in values.items():
        if found.setdefault((folder, tag, step), number) != number:
          raise AssertionError(f"{folder} has {tag} of step {step} twice")
  return found


def assert_same_run(
    model_dir: pathlib.Path, expected: pathlib.Path, step: int = STEPS,
    rtol: float = 0.0) -> int:
  """Compares parameters, optimizer state, step and the stream of metrics.

  Args:
    model_dir: of a run.
    expected: of another.
    step: of the checkpoints to compare.
    rtol: 0 compares bit by bit; otherwise metrics of evaluation are left out,
      as a predicted token may tip over.

  Returns:
    How many metric values were compared.

  Raises:
    AssertionError: they differ.
  """
  import jax

  from stepdistill_jax.embedded_t5x import checkpoints

  def compare(a, b, err_msg=""):
    if rtol:
      np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol, err_msg=err_msg)
    else:
      np.testing.assert_array_equal(a, b, err_msg=err_msg)

  jax.tree.map(compare, *(
      checkpoints.load_t5x_checkpoint(str(folder), step)
      for folder in (model_dir, expected)))
  a, b = scalars(model_dir), scalars(expected)
  if set(a) != set(b):
    raise AssertionError(
        f"other metrics: {sorted(set(a) ^ set(b))[:6]} in one of "
        f"{model_dir}, {expected}")
  for key in a:
    if not (rtol and key[0] != "train"):
      compare(a[key], b[key], str(key))
  return len(a)


def largest_difference(
    model_dir: pathlib.Path, expected: pathlib.Path, step: int) -> float:
  """The largest difference of parameters, relative to the largest of each."""
  import jax

  from stepdistill_jax.embedded_t5x import checkpoints
  a, b = (checkpoints.load_t5x_checkpoint(str(folder), step)["target"]
          for folder in (model_dir, expected))
  return max(jax.tree.leaves(jax.tree.map(
      lambda x, y: float(np.max(np.abs(x - y)) / np.max(np.abs(y))), a, b)))


def assert_same_examples(
    model_dir: pathlib.Path, expected: pathlib.Path) -> None:
  """Compares the metrics that depend on the data alone, exactly."""
  a, b = ({key: value for key, value in scalars(folder).items()
           if "non_padding_fraction" in key[1]}
          for folder in (model_dir, expected))
  if not a or a != b:
    raise AssertionError(f"other examples: {a} and {b}")


def random_fault(rng: random.Random, evaluates: bool = True) -> str:
  """Where the next process is killed: anywhere in training and saving.

  Args:
    rng: chooses.
    evaluates: whether the run has evaluations.
  """
  point, most = rng.choice([
      ("step", 9), ("step", 9), ("step", 9), ("save_started", 2),
      ("checkpoint_written", 2), ("manifest_written", 2),
      ("checkpoint_named", 2), ("evaluation", 1) if evaluates else ("step", 9)])
  return f"{point}:{rng.randint(1, most)}:kill"


def pretend_step(model_dir: pathlib.Path, step: int, other: int) -> None:
  """Makes a run's checkpoint one of another step, as if it had come so far."""
  import orbax.checkpoint as ocp

  from stepdistill_jax.runs import checkpoint_manifest
  source, target = (model_dir / f"checkpoint_{s}" for s in (step, other))
  shutil.move(source, target)
  with ocp.PyTreeCheckpointer() as checkpointer:
    state = checkpointer.restore(target / "state")
    state["state"]["step"] = np.full_like(state["state"]["step"], other)
    shutil.rmtree(target / "state")
    checkpointer.save(target / "state", state)
  checkpoint_manifest.write(target)
