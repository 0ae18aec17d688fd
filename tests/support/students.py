"""What tests of checkpoints share: records and run folders, made in seconds."""

from __future__ import annotations

import json
import pathlib

from stepdistill_jax.records import record_writer, records
from tests.support import real_data as testing

TEACHER = "palm540b"

CONFIG = """\
from __gin__ import dynamic_registration
import __main__ as train_script
import tasks
from stepdistill_jax import models as students
from stepdistill_jax.data import task_names
from t5x.examples.t5 import network

MIXTURE_OR_TASK_NAME = @task_names.task_name()
MODEL = @students.StepDistillModel()
RANDOM_SEED = {seed}
train_script.train.model = %MODEL
train_script.train.random_seed = %RANDOM_SEED
task_names.task_name:
  kind = '{kind}'
  dataset = '{dataset}'
  labels = 'gold'
  teacher = 'palm540b'
task_names.vocabulary_of.mixture_or_task_name = %MIXTURE_OR_TASK_NAME
students.StepDistillModel:
  module = @network.Transformer()
  input_vocabulary = @task_names.vocabulary_of()
  output_vocabulary = @task_names.vocabulary_of()
  optimizer_def = None
network.Transformer.config = @network.T5Config()
network.T5Config:
  vocab_size = {vocab_size}
  dtype = 'bfloat16'
  emb_dim = 16
  num_heads = 2
  num_encoder_layers = 1
  num_decoder_layers = 1
  head_dim = 8
  mlp_dim = 32
  mlp_activations = ('gelu', 'linear')
  dropout_rate = 0.1
  logits_via_embedding = False
"""


VOCABULARY = "spiece.model"  # At most 200 pieces, and 100 extra ids.


def write_records(
    records_dir: pathlib.Path, rows: int = 23, overlap: int = 2) -> None:
  """Writes svamp and anli1 records, and a small vocabulary beside them.

  The caller names it as T5's (`$STEPDISTILL_VOCAB`): a process may have
  registered these tasks before, with T5's vocabulary.

  Args:
    records_dir: where to.
    rows: of each test split.
    overlap: so many test questions are training questions too.
  """
  for dataset in ("svamp", "anli1"):
    test = [_record(dataset, "test", i) for i in range(rows)]
    train = [_record(dataset, "train", i) for i in range(100, 110)]
    for i in range(overlap):
      train[i].inputs = test[i].inputs.upper()
    record_writer.write_records(
        records_dir, dataset, TEACHER, {"train": train, "test": test})
  testing.write_tiny_vocabulary(records_dir / VOCABULARY)


def _record(dataset: str, split: str, i: int) -> records.Record:
  words = " ".join(f"has {j} apples" for j in range(i % 5))
  if dataset == "anli1":
    inputs = f"Story {i} {words}{records.EOS_TEXT}It is {i}."
    label = ("entailment", "neutral", "contradiction")[i % 3]
  else:
    inputs = f"Mary {words} and {i} pears.\nHow many?"
    label = f"( {i}.0 + 1.0 )"
  ok = i % 4 != 3
  return records.Record(
      id=f"{dataset}/{split}/{i}", inputs=inputs, label=label,
      teacher_label=label if ok else "",
      rationale=f"There are {i} of them. So {i} + 1." if ok else "",
      status="ok" if ok else "no_marker")


def write_run(
    folder: pathlib.Path, *, kind: str = "step", dataset: str = "svamp",
    seed: int = 0, vocab_size: int = 384, step: int = 7,
    records_dir: pathlib.Path,
) -> pathlib.Path:
  """Writes a run's folder: `config.gin`, and a checkpoint of random weights.

  The logit of EOS is made larger, so that answers end.
  """
  import jax
  from t5x import checkpoints, partitioning, utils

  from stepdistill_jax.interop import rebuilding

  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.gin").write_text(CONFIG.format(
      kind=kind, dataset=dataset, seed=seed, vocab_size=vocab_size))
  model, task_name = rebuilding.rebuild_model(
      folder / "config.gin", records_dir)
  (folder / "run.json").write_text(json.dumps(
      {"data": {"task": task_name}, "seeds": {"model": seed}}))
  partitioner = partitioning.PjitPartitioner(
      num_partitions=1,
      logical_axis_rules=partitioning.standard_logical_axis_rules())
  shapes = {"encoder_input_tokens": (1, 8), "decoder_input_tokens": (1, 8)}
  initializer = utils.TrainStateInitializer(
      optimizer_def=None, init_fn=model.get_initial_variables,
      input_shapes=shapes, partitioner=partitioner)
  state = initializer.from_scratch(jax.random.PRNGKey(seed))
  contents = state.state_dict()
  kernel = contents["target"]["decoder"]["logits_dense"]["kernel"]
  contents["target"]["decoder"]["logits_dense"]["kernel"] = (
      4.0 * kernel.at[:, 1].multiply(2.0))
  state = state.restore_state(contents).replace(step=step)
  checkpoints.Checkpointer(state, partitioner, str(folder)).save(state)
  return folder
