"""Our side of `benchmarks/throughput.py`: prints one JSON line."""

from __future__ import annotations

import json
import os
import time

from benchmarks.training_speed import common


def main() -> None:
  args = common.parse_arguments()
  os.environ["XLA_FLAGS"] = (
      os.environ.get("XLA_FLAGS", "")
      + " --xla_cpu_multi_thread_eigen=true "
      f"intra_op_parallelism_threads={args.threads}")
  from stepdistill_jax.util import runtime
  runtime.configure()

  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax
  from t5x import optimizers, partitioning, utils
  from t5x.examples.t5 import network

  from stepdistill_jax import (
    models,
    tasks,  # noqa: F401
  )
  from stepdistill_jax.data import lengths as lengths_lib, task_names
  from stepdistill_jax.models.llama import network as llama
  from stepdistill_jax.records import records
  from stepdistill_jax.teacher.audit import audit
  from stepdistill_jax.util import locations

  # Rows as `stepdistill data lengths` recommends them, for a CPU's caches.
  all_records = records.read_records(
      common.records_dir(), args.dataset, args.teacher, "train")
  row = lengths_lib.best_row(
      lengths_lib.measure(
          all_records, audit.piece_counter(locations.t5_vocabulary_path())),
      inputs=(256, 384, 512))
  rows = max(1, round(args.pairs / row.pairs))

  task = task_names.task_name("step", args.dataset, "gold", args.teacher)
  vocabulary = task_names.vocabulary_of(task)
  sizes = dict(
      vocab_size=common.VOCABULARY, dtype="float32", emb_dim=common.EMBED,
      num_heads=common.HEADS if args.student == "t5" else common.DECODER_HEADS,
      head_dim=common.HEAD, mlp_dim=common.MLP,
      logits_via_embedding=False)
  method = dict(
      optimizer_def=optimizers.chain([
          optax.clip_by_global_norm(1.0),
          optax.adamw(common.LEARNING_RATE, weight_decay=0.0)]),
      task_weights=models.label_and_rationale(alpha=common.ALPHA))
  if args.student == "t5":
    model = models.StepDistillModel(
        module=network.Transformer(config=network.T5Config(
            num_encoder_layers=common.LAYERS, num_decoder_layers=common.LAYERS,
            mlp_activations=("gelu", "linear"), dropout_rate=0.0, **sizes)),
        input_vocabulary=vocabulary, output_vocabulary=vocabulary, **method)
  else:
    model = models.StepDistillDecoder(
        module=llama.Transformer(config=llama.LlamaConfig(
            num_layers=common.LAYERS, num_kv_heads=common.KV_HEADS, **sizes)),
        vocabulary=vocabulary, **method)
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  dataset = utils.get_dataset(
      utils.DatasetConfig(
          mixture_or_task_name=task, task_feature_lengths={
              "inputs": row.inputs, "targets": row.targets},
          split="train", batch_size=rows, shuffle=True, seed=common.SEED,
          pack=True),
      0, 1, model.FEATURE_CONVERTER_CLS)
  iterator = dataset.prefetch(2).as_numpy_iterator()
  first = next(iterator)
  initializer = utils.TrainStateInitializer(
      model.optimizer_def, model.get_initial_variables,
      {k: v.shape for k, v in first.items()}, partitioner,
      {k: v.dtype for k, v in first.items()})
  pairs, waited = [], []

  def batches():
    batch = first
    while True:
      pairs.append(int(np.sum(
          (batch["decoder_task_ids"] == 1)
          & (batch["decoder_positions"] == 0))))
      yield batch
      start = time.perf_counter()
      batch = next(iterator)
      waited.append(time.perf_counter() - start)

  stream = batches()
  with models.StepDistillTrainer(
      model=model, train_state=initializer.from_scratch(
          jax.random.PRNGKey(common.SEED)),
      partitioner=partitioner, eval_names=[], summary_dir=None,
      train_state_axes=initializer.train_state_axes,
      rng=jax.random.PRNGKey(common.SEED),
      learning_rate_fn=lambda step: common.LEARNING_RATE,
      num_microbatches=None) as trainer:
    trainer.train(stream, 2, start_step=0).result()  # Compiles.
    jax.block_until_ready(trainer.train_state.params)
    pairs.clear(), waited.clear()
    start = time.perf_counter()
    trainer.train(stream, args.steps, start_step=2).result()
    jax.block_until_ready(trainer.train_state.params)
    seconds = time.perf_counter() - start

  filled = np.mean([(first[f"{side}_segment_ids"] != 0).mean() * length
                    for side, length in (("encoder", row.inputs),
                                         ("decoder", row.targets))])
  filled /= np.mean([row.inputs, row.targets])
  flops = args.steps * common.matmul_flops(
      args.student, rows, row.inputs, row.targets)

  # A plain matmul of the head's shape: the largest product of the step.
  a = jnp.ones((rows * row.targets, common.EMBED))
  b = jnp.ones((common.EMBED, common.VOCABULARY))
  matmul = jax.jit(lambda a, b: (a @ b).sum(axis=0))
  matmul(a, b).block_until_ready()
  start = time.perf_counter()
  for _ in range(5):
    matmul(a, b).block_until_ready()
  matmul_seconds = (time.perf_counter() - start) / 5

  print(json.dumps({
      "pairs_per_second": sum(pairs[:args.steps]) / seconds,
      "seconds_per_step": seconds / args.steps,
      "pairs_per_step": sum(pairs[:args.steps]) / args.steps,
      "rows": rows, "row_inputs": row.inputs, "row_targets": row.targets,
      "flops_per_second": flops / seconds, "filled": float(filled),
      "matmul_flops_per_second": 2 * a.size * common.VOCABULARY
                                 / matmul_seconds,
      "data_wait": sum(waited[:args.steps]) / seconds}))


if __name__ == "__main__":
  main()
