"""What a compiled run needs of a slice, and how fast it could be at best."""

from collections.abc import Mapping
import math
from typing import Any

from stepdistill_jax.plan import (
  chips,
  flops as flops_lib,
  hlo,
  programs as programs_lib,
)


def caveat(topology: chips.Topology) -> str:
  """What is said wherever the figures are shown."""
  kind = topology.chip.kind
  return (f"Bounds from the {kind} compiler and published peaks, not "
          f"measurements: nothing ran on a {kind}.")


def _bytes(shape, dtype) -> int:
  return math.prod(shape) * dtype.itemsize


def state_bytes(programs: programs_lib.Programs) -> Mapping[str, float]:
  """Bytes per device of the train state: `parameters` and `optimizer`."""
  import jax
  state = programs.initializer.global_train_state_shape
  specs = programs.initializer.train_state_axes
  mesh = programs.partitioner.mesh
  shardings = programs.partitioner.shardings(specs)
  found = {"parameters": 0.0, "optimizer": 0.0}
  flat = jax.tree_util.tree_leaves_with_path(state.state_dict())
  of_name = dict(jax.tree_util.tree_leaves_with_path(shardings.state_dict()))
  for path, leaf in flat:
    kind = "parameters" if path[0].key == "target" else "optimizer"
    sharding = of_name.get(path, jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec()))
    found[kind] += _bytes(sharding.shard_shape(leaf.shape), leaf.dtype)
  return found


def network_config(programs: programs_lib.Programs) -> Any:
  return programs.arguments["model"].module.config


def _rows(batch: Mapping[str, Any]) -> tuple[int, int, int]:
  """(rows, input length, target length) that reach the network."""
  inputs = batch["encoder_input_tokens"].shape
  targets = batch["decoder_target_tokens"].shape
  return math.prod(inputs[:-1]), inputs[-1], targets[-1]


def kept_activations(programs: programs_lib.Programs) -> float:
  """Bytes per device that the forward pass keeps for the backward pass.

  JAX's residuals of the loss of a microbatch, without the parameters. Axes
  that are the batch's rows count as split over `data`, heads and hidden
  layers over `model`: an estimate, XLA may keep other values.
  """
  import jax
  model, mesh = programs.arguments["model"], programs.partitioner.mesh
  microbatches = getattr(programs.trainer, "_num_microbatches", None) or 1
  batch = {k: jax.ShapeDtypeStruct((x.shape[0] // microbatches, *x.shape[1:]),
                                   x.dtype)
           for k, x in programs.train_batch.items()}
  rows, _, _ = _rows(batch)
  params = programs.initializer.global_train_state_shape.params

  def residuals(params, batch, rng):
    return jax.vjp(
        lambda p: model.loss_fn(p, batch, rng), params, has_aux=True)[1]

  kept = jax.eval_shape(
      residuals, params, batch,
      jax.eval_shape(lambda: jax.random.PRNGKey(0)))
  config = network_config(programs)
  split_by_model = {config.num_heads, config.mlp_dim, config.vocab_size,
                    config.num_heads * config.head_dim}
  model_size = mesh.shape.get("model", 1)
  data_size = mesh.size // model_size
  of_params = {(p.shape, p.dtype) for p in jax.tree.leaves(params)}
  total = 0.0
  for leaf in jax.tree.leaves(kept):
    if rows not in leaf.shape[:2] or (leaf.shape, leaf.dtype) in of_params:
      continue
    size = _bytes(leaf.shape, leaf.dtype) / min(data_size, rows)
    if split_by_model & set(leaf.shape[1:]) - {config.emb_dim}:
      size /= model_size
    total += size
  return total


def memory(
    compiled: programs_lib.Compiled, state: Mapping[str, float],
    activations: float) -> Mapping[str, float]:
  """Bytes per device by kind; `total` is what XLA allots at most at once."""
  stats = compiled.executable.memory_analysis()
  temporary = float(stats.temp_size_in_bytes)
  total = (stats.argument_size_in_bytes + stats.output_size_in_bytes
           - stats.alias_size_in_bytes + temporary
           + stats.generated_code_size_in_bytes)
  kept = min(activations, temporary)
  kinds = dict(state) if compiled.name == "train" else {
      "parameters": state["parameters"]}
  kinds |= {
      "activations": kept,
      "temporaries": temporary - kept,
      "program": float(stats.generated_code_size_in_bytes)}
  return {**kinds, "other": max(total - sum(kinds.values()), 0.0),
          "total": float(total)}


def train_flops(programs: programs_lib.Programs) -> int:
  """Useful matmul FLOPs of a train step, on all chips."""
  return flops_lib.train(
      network_config(programs), *_rows(programs.train_batch))


def useful_flops(programs: programs_lib.Programs,
                 compiled: programs_lib.Compiled) -> int:
  """Useful matmul FLOPs of one run of a program, on all chips."""
  if compiled.name == "train":
    return train_flops(programs)
  count = flops_lib.forward if compiled.name == "eval" else flops_lib.decode
  return count(network_config(programs), *_rows(compiled.batch))


def bound(
    topology: chips.Topology, total_flops: float, hbm_bytes: float,
    sent: hlo.Collectives) -> Mapping[str, Any]:
  """The least seconds that a program can take, and what limits it.

  Args:
    topology: the slice or slices.
    total_flops: on all chips.
    hbm_bytes: that one chip at least reads and writes.
    sent: by one chip.
  """
  chip = topology.chip
  seconds = {
      "compute": total_flops / (topology.num_chips * chip.flops),
      "memory": hbm_bytes / chip.hbm_bandwidth,
      "interconnect": sent.bytes_in_slice / chip.ici_bandwidth}
  if topology.slices > 1 and chip.dcn_bandwidth:
    seconds["network between slices"] = (
        sent.bytes_between_slices / chip.dcn_bandwidth)
  limit = max(seconds, key=seconds.get)
  return {"seconds": seconds[limit], "limited_by": limit, "by": seconds}


def program_figures(
    topology: chips.Topology, programs: programs_lib.Programs,
    compiled: programs_lib.Compiled, state: Mapping[str, float],
    activations: float) -> Mapping[str, Any]:
  """The figures of one program, as JSON values."""
  activations = activations if compiled.name == "train" else 0.0
  kinds = memory(compiled, state, activations)
  text = compiled.executable.as_text()
  sent = hlo.collectives(
      text, topology.num_chips, topology.slices,
      split=topology.chip.kind == "TPU")
  stats = compiled.executable.memory_analysis()
  # Read once what goes in, write once what comes out and what is kept.
  traffic = (stats.argument_size_in_bytes + stats.output_size_in_bytes
             + 2 * kinds["activations"])
  useful = useful_flops(programs, compiled)
  done = max(useful, compiled.traced_flops or 0)
  on_gpu = topology.chip.kind == "GPU"
  return {
      "fits": kinds["total"] <= topology.chip.usable_bytes,
      "hbm_bytes": kinds, "flops": useful, "flops_with_repeated": done,
      "collective_bytes": dict(sent.bytes),
      "collective_count": dict(sent.count),
      "loops_of_unknown_length": sent.unknown_loops,
      "kernels": hlo.kernels(text) if on_gpu else None,
      "kernels_compiled": hlo.kernels(text, False) if on_gpu else None,
      "compile_seconds": round(compiled.seconds, 1),
      "bound": bound(topology, done, traffic, sent)}


def loop_layers(config: Any) -> str:
  """The gin file or binding that has a network's layers run in a loop."""
  return "gin/models/scanned.gin" if flops_lib.layers(config)[0] else (
      "LOOP_LAYERS = True")


def refused_program_figures(
    topology: chips.Topology, error: programs_lib.OutOfMemory, name: str,
    state: Mapping[str, float], config: Any) -> Mapping[str, Any]:
  """The figures of a program that XLA refused."""
  kinds = {kind: size for kind, size in state.items()
           if name == "train" or kind == "parameters"}
  rules = "partitioning.standard_logical_axis_rules"
  if error.needed:
    kinds = {**kinds, "other": max(error.needed - sum(kinds.values()), 0.0),
             "total": error.needed}
  return {
      "fits": False, "error": str(error), "hbm_bytes": kinds,
      "usable_bytes": error.usable or topology.chip.usable_bytes,
      "missing_bytes": error.missing,
      "compile_seconds": round(error.seconds, 1),
      "what_helps": [
          f"{rules}.parameter_partitioning_dims = 2",
          f"{rules}.activation_partitioning_dims = 2",
          "partitioning.PjitPartitioner.num_partitions = N",
          "trainer.Trainer.num_microbatches = N", loop_layers(config)]}


def recipe_figures(
    topology: chips.Topology, steps: int, batch_size: int,
    seconds: float, price: float | None) -> Mapping[str, Any]:
  """Time, chip-hours and cost of all steps, evaluation apart.

  Args:
    topology: the slice.
    steps: of the recipe.
    batch_size: records, or packed rows, a step.
    seconds: of a step at best.
    price: of a chip for an hour, in any currency; or None.
  """
  hours = steps * seconds / 3600
  chip_hours = hours * topology.num_chips
  return {
      "steps": steps, "steps_per_second": 1 / seconds,
      "examples_per_second": batch_size / seconds,
      "examples_per_second_per_chip": batch_size / seconds / topology.num_chips,
      "hours": hours, "chip_hours": chip_hours,
      "cost": None if price is None else chip_hours * price}
