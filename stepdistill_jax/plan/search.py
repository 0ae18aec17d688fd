"""Looks for the fastest arrangement of a run that fits a slice.

All products of data, model and fully-sharded axes, microbatches and remat
policies are estimated by formulas; the best of them are compiled, in that
order, until enough have been seen.
"""

from collections.abc import Callable, Mapping
import dataclasses
import itertools
import time
from typing import Any

from stepdistill_jax.plan import (
  chips,
  figures,
  flops as flops_lib,
  planning,
  programs as programs_lib,
)
from stepdistill_jax.util import errors

REMAT_POLICIES = ("none", "minimal", "full")
# Of XLA's own buffers, beside what the formulas know of.
_SPARE = 0.9


@dataclasses.dataclass(frozen=True)
class Candidate:
  """An arrangement.

  Attributes:
    model: size of the model axis; the rest is data.
    parameter_dims: 2 shards parameters and optimizer over data too.
    activation_dims: 2 shards the residual stream over model too.
    microbatches: that a batch is cut into.
    remat: policy of the looped network.
  """

  model: int
  parameter_dims: int
  activation_dims: int
  microbatches: int
  remat: str

  def name(self, num_chips: int) -> str:
    sharded = ", fully sharded" if self.parameter_dims == 2 else ""
    split = ", activations split" if self.activation_dims == 2 else ""
    return (f"data {num_chips // self.model} x model {self.model}{sharded}"
            f"{split}, {self.microbatches} microbatches, remat {self.remat}")

  def changes(self, config: Any) -> list[str]:
    """Gin files and bindings that arrange a run of such a network so."""
    rules = "partitioning.standard_logical_axis_rules"
    return [
        figures.loop_layers(config),
        f"partitioning.PjitPartitioner.num_partitions = {self.model}",
        f"{rules}.parameter_partitioning_dims = {self.parameter_dims}",
        f"{rules}.activation_partitioning_dims = {self.activation_dims}",
        f"trainer.Trainer.num_microbatches = {self.microbatches}",
        f"REMAT_POLICY = '{self.remat}'"]


def candidates(
    num_chips: int, heads: int, batch_size: int, slices: int = 1
) -> list[Candidate]:
  """All arrangements that divide chips, heads and batch.

  Args:
    num_chips: of all slices.
    heads: of the network.
    batch_size: of the run.
    slices: the model axis stays inside of one.
  """
  powers = [2**i for i in range(13)]
  found = []
  for model, parameter_dims, activation_dims, micro, remat in itertools.product(
      powers, (1, 2), (1, 2), powers[:7], REMAT_POLICIES):
    data = num_chips // model
    if (num_chips // slices % model or heads % model or batch_size % micro
        or (batch_size // micro) % max(data, 1) or data < 1):
      continue
    if activation_dims == 2 and model == 1 or parameter_dims == 2 and data == 1:
      continue  # Nothing to split over.
    found.append(
        Candidate(model, parameter_dims, activation_dims, micro, remat))
  return found


def estimate(
    candidate: Candidate, topology: chips.Topology, config: Any,
    rows: int, inputs: int, targets: int, num_parameters: float,
    optimizer_bytes: float) -> tuple[float, float]:
  """(bytes per chip, seconds per step), by formulas, to order candidates.

  Args:
    candidate: the arrangement.
    topology: the slice.
    config: of the network.
    rows: of the global batch.
    inputs: of a row.
    targets: of a row.
    num_parameters: of the network.
    optimizer_bytes: of the whole optimizer state.
  """
  chip, chips_ = topology.chip, topology.num_chips
  again = {"full": 4 / 3, "minimal": 1.1, "none": 1.0}[candidate.remat]
  compute = again * flops_lib.train(config, rows, inputs, targets) / (
      chips_ * chip.flops)
  logit_positions = targets
  data = chips_ // candidate.model
  state_parts = chips_ if candidate.parameter_dims == 2 else candidate.model
  local = rows / data / candidate.microbatches
  joined = config.num_heads * config.head_dim
  stream = config.emb_dim / (
      candidate.model if candidate.activation_dims == 2 else 1)
  encoder, decoder = flops_lib.layers(config)
  if not encoder:  # Its rows are inputs, then targets.
    inputs, targets = 0, inputs + targets
  positions = encoder * inputs + decoder * targets
  # bfloat16 and float32.
  scores = local * config.num_heads / candidate.model * 6
  widest = scores * max(inputs * inputs, targets * inputs)
  kept = 2 * local * positions * stream
  hidden = len(config.mlp_activations) * config.mlp_dim
  products = 2 * local / candidate.model * (
      positions * (4 * joined + 2 * hidden)
      + decoder * 2 * (inputs + targets) * joined)
  if candidate.remat in ("minimal", "none"):
    kept += products
  if candidate.remat == "none":
    kept += products + scores * (encoder * inputs**2 + decoder * (
        targets**2 + targets * inputs))
  logits = 3 * 4 * local * logit_positions * config.vocab_size / candidate.model
  memory = (
      (4 + 4 + 4) * num_parameters / state_parts + optimizer_bytes / state_parts
      + kept + 2 * widest + logits)
  sent = 0.0
  if candidate.parameter_dims == 2:  # Gathered twice, gradients scattered.
    sent += candidate.microbatches * 8 * num_parameters / candidate.model
  elif data > 1:
    sent += 8 * num_parameters / candidate.model
  if candidate.model > 1:  # Two sums a layer, each way and once more again.
    share = (candidate.model - 1) / candidate.model
    sent += (candidate.microbatches * 2 * 2 * share * local * config.emb_dim
             * positions * (6 if candidate.remat == "full" else 4))
  return memory, compute + sent / chip.ici_bandwidth


def _facts(request: planning.Request) -> tuple[Any, ...]:
  """What `estimate` asks of a run, from its gin files."""
  # All of a slice on the model axis: then most batches divide.
  devices = programs_lib.devices_of(request.topology)
  with programs_lib.parsed(
      request.gin_files,
      [*request.gin_bindings,
       "partitioning.PjitPartitioner.num_partitions = "
       f"{request.topology.num_chips // request.topology.slices}"],
      devices, request.search_paths) as arguments:
    import jax
    programs = programs_lib.build(arguments)
    rows, inputs, targets = figures._rows(programs.train_batch)
    state = programs.initializer.global_train_state_shape
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    everything = sum(
        x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    return (figures.network_config(programs), rows, inputs, targets, parameters,
            everything - 4 * parameters,
            arguments["train_dataset_cfg"].batch_size)


def _try(
    request: planning.Request, candidate: Candidate,
    estimated: tuple[float, float],
    config: Any) -> Mapping[str, Any]:
  """Compiles a candidate's train step, quickly."""
  changes = candidate.changes(config)
  found = {
      "name": candidate.name(request.topology.num_chips),
      **dataclasses.asdict(candidate), "changes": changes, "fits": False,
      "estimated_bytes": estimated[0], "estimated_seconds": estimated[1],
      "hbm_bytes": None, "missing_bytes": None, "steps_per_second": None,
      "compile_seconds": None, "limited_by": None, "error": None}
  try:
    plan = planning.make(dataclasses.replace(
        request, programs=("train",), quick=True,
        gin_files=[*request.gin_files,
                   *(c for c in changes if c.endswith(".gin"))],
        gin_bindings=[*request.gin_bindings,
                      *(c for c in changes if not c.endswith(".gin"))]))
  except errors.UserError as error:  # A shape that this slice cannot have.
    return {**found, "error": str(error)}
  train = plan["programs"]["train"]
  bound = train.get("bound", {})
  return {
      **found, "fits": plan["fits"],
      "hbm_bytes": train["hbm_bytes"].get("total"),
      "missing_bytes": train.get("missing_bytes"),
      "compile_seconds": train["compile_seconds"],
      "steps_per_second": 1 / bound["seconds"] if bound else None,
      "limited_by": bound.get("limited_by")}


def search(
    request: planning.Request, limit: int, seconds: float = float("inf"),
    say: Callable[[str], None] = lambda text: None,
    now: Callable[[], float] = time.monotonic) -> Mapping[str, Any]:
  """Compiles the most promising arrangements; the best that fit come first.

  Args:
    request: what to plan; only its train program is compiled.
    limit: of compilations.
    seconds: after so long no other is begun.
    say: takes lines about the progress.
    now: the clock.

  Returns:
    JSON values: `candidates`, the best first, and the name of the one that is
    `recommended`; `arrangements` (how many there are), `seem_to_fit`, and
    whether `out_of_time`.
  """
  *facts, batch_size = _facts(request)
  topology, start = request.topology, now()
  all_of_them = candidates(
      topology.num_chips, facts[0].num_heads, batch_size, topology.slices)
  if not all_of_them:
    raise errors.UserError(
        f"batch size {batch_size} and {facts[0].num_heads} heads cannot be "
        f"divided over {topology.num_chips} chips; change BATCH_SIZE")
  estimates = {c: estimate(c, topology, *facts) for c in all_of_them}
  room = _SPARE * topology.chip.usable_bytes

  def order(candidate):
    memory, time_ = estimates[candidate]
    # What seems to fit, by speed; then the rest, by memory.
    return (0, time_) if memory <= room else (1, memory)

  seem_to_fit = sum(memory <= room for memory, _ in estimates.values())
  say(f"{len(all_of_them)} arrangements, {seem_to_fit} seem to fit; compiling "
      f"at most {limit}, the fastest by formulas first")
  found, out_of_time = [], False
  for candidate in sorted(all_of_them, key=order)[:limit]:
    out_of_time = bool(found) and now() - start > seconds
    if out_of_time:
      break
    say(f"{len(found) + 1}: {candidate.name(topology.num_chips)}")
    found.append(_try(request, candidate, estimates[candidate], facts[0]))
  # Of equal bounds the one that recomputes and sends less.
  found.sort(key=lambda c: (
      not c["fits"], -round(c["steps_per_second"] or 0, 6),
      c["estimated_seconds"]))
  return {
      "caveat": figures.caveat(topology), "topology": topology.name,
      "gin_files": list(request.gin_files),
      "gin_bindings": list(request.gin_bindings),
      "arrangements": len(all_of_them), "seem_to_fit": seem_to_fit,
      "out_of_time": out_of_time,
      "recommended": next((c["name"] for c in found if c["fits"]), None),
      "candidates": found}
