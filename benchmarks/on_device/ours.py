"""Trains a recipe's student on this machine's device; prints a JSON line.

The programs are those of `t5x train` with the same gin files. Examples have
the lengths of `lengths`, and come from memory.
"""

from __future__ import annotations

import argparse
import collections
import glob
import itertools
import json
import tempfile
import time

from benchmarks.on_device import lengths


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--dataset", choices=lengths.DATASETS, required=True)
  parser.add_argument("--size", required=True)
  parser.add_argument("--steps", type=int, required=True)
  parser.add_argument("--pairs", type=int, default=64)
  parser.add_argument("--packed", action="store_true")
  parser.add_argument("--plain", action="store_true", help="no loop of layers")
  parser.add_argument("--kernels", action="store_true")
  parser.add_argument("--gin", action="append", default=[])
  args = parser.parse_args()

  from stepdistill_jax.util import devices, runtime, t5x_finder

  runtime.configure()
  device = devices.description()
  t5x_finder.install("embedded")
  runtime.import_tensorflow()
  import jax

  from stepdistill_jax.plan import figures, flops, programs

  size = "" if args.size == "tiny" else f"_{args.size}"
  files = [f"gin/recipes/{args.dataset}_step_by_step{size}.gin"]
  examples = lengths.pairs(args.dataset, 4096)
  bindings = [f"BATCH_SIZE = {args.pairs}", "DROPOUT_RATE = 0.0", *(
      ["models.StepDistillModel.loop_layers = False"] if args.plain else []),
              *args.gin]
  with programs.parsed(files, bindings, jax.devices()) as arguments:
    made = _batches(arguments, examples, args.packed)
    found = programs.build(arguments, batch={
        k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in made[0].items()})
    trainer, batches = found.trainer, itertools.cycle(made)
    trainer.train_state = found.initializer.from_scratch(jax.random.PRNGKey(0))
    trainer.train(batches, 1, start_step=0)
    jax.block_until_ready(trainer.train_state.params)
    first_step = time.time() - runtime.START_TIME
    trainer.train(batches, 2, start_step=1)
    jax.block_until_ready(trainer.train_state.params)
    counted = _counting(batches)
    start = time.perf_counter()
    trainer.train(counted, args.steps, start_step=3)
    jax.block_until_ready(trainer.train_state.params)
    seconds = time.perf_counter() - start
    # Of the tokens there are: neither padding nor a row's other pairs.
    sizes = figures.network_config(found)
    of_pair = sum(
        flops.train(sizes, 1, len(e["inputs"]), len(e[target]))
        for e in examples for target in ("label", "rationale")) / len(examples)
    rate = counted.pairs / seconds
    kernels = _kernels(trainer, batches) if args.kernels else None
  stats = jax.local_devices()[0].memory_stats() or {}
  print(json.dumps({
      "device": device, "first_step_seconds": first_step,
      "pairs_per_second": rate, "steps_per_second": args.steps / seconds,
      "flops_per_second": rate * of_pair, "matmul_flops_per_second": _peak(),
      "peak_bytes": stats.get("peak_bytes_in_use"), "kernels": kernels}))


def _batches(arguments, examples, packed: bool) -> list:
  """A few batches as a run has them with `PACK = 'pairs'`, or `False`."""
  import numpy as np
  import tensorflow as tf

  from stepdistill_jax.data import feature_converter, pair_rows

  names = {"inputs": "inputs", "targets": "label", "rationale_inputs": "inputs",
           "rationale_targets": "rationale"}
  model, cfg = arguments["model"], arguments["train_dataset_cfg"]
  pairs, given = cfg.batch_size, {
      k: v for k, v in cfg.task_feature_lengths.items() if k in names}
  number = min(16, len(examples) // pairs)
  if not number:
    raise SystemExit(f"{len(examples)} examples fill no batch of {cfg}")
  converter = model.FEATURE_CONVERTER_CLS(pack=False)
  spec = {k: tf.TensorSpec([None], tf.int32) for k in names}
  *sizes, _, _ = converter.row_sizes(spec, lambda keys: np.array(
      [[len(e[names[k]]) for e in examples] for k in keys]), given)
  sizes = np.stack(sizes)[:, :number * pairs].reshape(2, number, pairs)
  shape = pair_rows.shape_of(
      lambda at: sizes[:, at], number, tuple(sizes.max(axis=(1, 2)).tolist()),
      pair_rows.multiple(arguments["partitioner"], arguments["trainer_cls"])
  ) if packed else None
  convert = converter.of_many(spec, given, shape)
  found = []
  for i in range(number):
    batch = {k: tf.ragged.constant(
        [e[name] for e in examples[i * pairs:(i + 1) * pairs]], tf.int32)
             for k, name in names.items()}
    if shape:
      rows, = pair_rows.place(sizes[:, i:i + 1], shape)
      batch[feature_converter.PLACEMENT] = pair_rows.starts(sizes[:, i], rows)
    found.append({k: x.numpy() for k, x in convert(batch).items()})
  return found


class _counting:
  """Batches, and the pairs that they had."""

  def __init__(self, batches):
    self._batches, self.pairs = batches, 0

  def __iter__(self):
    return self

  def __next__(self):
    batch = next(self._batches)
    starts = (batch["decoder_task_ids"] == 1)
    starts[..., 1:] &= batch["decoder_positions"][..., 1:] == 0
    self.pairs += int(starts.sum()) if "decoder_positions" in batch else len(
        starts)
    return batch


def _peak() -> float:
  """FLOP/s of a plain bfloat16 product, at its best of ten."""
  import jax
  import jax.numpy as jnp

  size = 512 if jax.default_backend() == "cpu" else 8192
  a = jnp.ones((size, size), jnp.bfloat16)
  product = jax.jit(lambda a: a @ a)
  product(a).block_until_ready()
  seconds = []
  for _ in range(10):
    start = time.perf_counter()
    product(a).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2 * size**3 / min(seconds)


def _kernels(trainer, batches, steps: int = 3) -> list[tuple[str, float]]:
  """The ten kernels that take longest, and their share of all kernels' time."""
  import jax

  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      trainer.train(batches, steps, start_step=1000)
      jax.block_until_ready(trainer.train_state.params)
    (file,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
    data = jax.profiler.ProfileData.from_file(file)
    spent: collections.Counter[str] = collections.Counter()
    for plane in data.planes:
      on_device = plane.name.startswith("/device:")
      for line in plane.lines:
        if (on_device and line.name != "Steps") or "XLA" in line.name:
          for event in line.events:
            if not event.name.startswith("ThunkExecutor"):  # A CPU's own loop.
              spent[event.name] += event.duration_ns
  total = sum(spent.values())
  return [(name[:80], ns / total) for name, ns in spent.most_common(10)]


if __name__ == "__main__":
  main()
