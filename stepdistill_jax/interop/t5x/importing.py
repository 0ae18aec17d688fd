"""T5X → T5X: between its older and its current layout, and from others' runs.

The public checkpoints have the older layout. `t5x` restores them as they are;
importing brings them to this disk, checks that they are complete, and leaves
the optimizer's state out, which is of another optimizer anyway.
"""

from __future__ import annotations

import math
import pathlib

import numpy as np

from stepdistill_jax.interop import (
  architecture,
  gin_model,
  import_result,
  run_context,
  streaming,
)
from stepdistill_jax.interop.t5x import writer as t5x_writer
from stepdistill_jax.runs import array_reader as t5x_reader, restore_choice
from stepdistill_jax.util import errors


def _task(array: t5x_reader.Array, writer: t5x_writer.CheckpointWriter,
          dtype: np.dtype | None) -> streaming.Task:
  """Copies an array along its first axis; chunks stay as they are or shrink."""
  cast = dtype is not None and array.name.startswith("target/")
  dtype = dtype if cast else array.dtype
  rows = array.shape[0] if array.shape else 1
  row_bytes = max(1, array.nbytes // max(rows, 1))
  step = streaming.rows_per_block(rows, row_bytes)
  create = writer.declare(
      array.name, array.shape, dtype,
      (step, *array.shape[1:]) if array.shape else ())
  # Whole chunks of the source at once, so that none is read twice.
  chunk = array.chunk[0] if array.chunk else 1
  read_step = max(chunk, step // chunk * chunk)

  def run(advance) -> None:
    if not array.shape:
      create().write(array.read(...).astype(dtype)).result()
      advance(array.nbytes)
      return
    store = create()
    for start, stop in streaming.row_ranges(rows, read_step):
      block = array.read(slice(start, stop))
      writes = streaming.InFlight()
      # Pieces that begin where chunks of the target begin.
      edges = [start, *range(-(-(start + 1) // step) * step, stop, step), stop]
      for begin, end in zip(edges, edges[1:]):
        writes.add(store[begin:end].write(
            block[begin - start:end - start].astype(dtype)))
      writes.wait()
      advance(block.nbytes)
      del block

  return streaming.Task(array.name, array.nbytes, run)


def import_t5x(
    path: str, output: pathlib.Path, *, layout: str = "orbax",
    dtype: str = "source", step: int | None = None,
    optimizer_state: bool = False, quiet: bool = False,
    strict: bool = False) -> import_result.Imported:
  """Copies a T5X checkpoint of any layout into one of `layout`.

  Args:
    path: a checkpoint, or a folder for its latest; local or `gs://`.
    output: the folder that gets `checkpoint_STEP` and `model.gin`.
    layout: one of `t5x_writer.LAYOUTS`.
    dtype: of the parameters: a key of `imported.DTYPES`.
    step: to give it; None keeps the checkpoint's.
    optimizer_state: whether to copy that too.
    quiet: shows no progress.
    strict: refuse a folder whose latest is not what was written, instead of
      taking the one before it.

  Raises:
    errors.UserError: it is not a checkpoint, not a T5, or incomplete.
  """
  source = t5x_reader.open_checkpoint(
      restore_choice.choose(path, strict=strict).checkpoint)
  context = run_context.find(source.path)
  arch = architecture.infer(
      {n: a.shape for n, a in source.parameters.items()},
      context.mlp_activations, context.dropout_rate, where=source.path)
  step = source.step if step is None else step
  if step is None:
    raise errors.UserError(
        f"{source.path} does not say its step; pass --step=N")
  arrays = [array for name, array in source.arrays.items()
            if name != "state/step"
            and (optimizer_state or name.startswith("target/"))]
  writer = t5x_writer.CheckpointWriter(output, step, layout)
  tasks = [_task(a, writer, import_result.DTYPES[dtype]) for a in arrays]
  journal = writer.journal({
      "source": source.path, "dtype": dtype,
      "optimizer_state": optimizer_state})
  total = sum(task.nbytes for task in tasks)
  streaming.check_free_space(writer.partial, total)
  streaming.run(tasks, journal, "import", quiet=quiet)
  name = pathlib.PurePath(source.path).parent.name
  no_recipe = gin_model.why_no_recipe(arch, None)
  model_file = gin_model.write(
      output, arch, title=f"{name}, imported from T5X.", no_recipe=no_recipe,
      checkpoint=writer.final, optimizer_state=optimizer_state)
  return import_result.Imported(
      writer.finish(), model_file, arch,
      sum(math.prod(a.shape) for a in source.parameters.values()), total,
      no_recipe)
