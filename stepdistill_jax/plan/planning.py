"""A plan: the programs of a gin file on a slice, as figures."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from stepdistill_jax.plan import (
  chips,
  figures,
  flops as flops_lib,
  programs as programs_lib,
)
from stepdistill_jax.util import errors

PROGRAMS = ("train", "eval", "decode")


@dataclasses.dataclass(frozen=True)
class Request:
  """What to plan.

  Attributes:
    topology: the slice.
    gin_files: of the run.
    gin_bindings: of the run.
    search_paths: where gin files are looked for first.
    programs: which of PROGRAMS.
    price: of a chip for an hour; or None.
    quick: see `programs.Programs.compile`.
  """

  topology: chips.Topology
  gin_files: Sequence[str]
  gin_bindings: Sequence[str] = ()
  search_paths: Sequence[str] = ()
  programs: Sequence[str] = PROGRAMS
  price: float | None = None
  quick: bool = False


def make(
    request: Request, say: Callable[[str], None] = lambda text: None
) -> Mapping[str, Any]:
  """Compiles a run's programs and returns their figures, as JSON values.

  Args:
    request: what to plan.
    say: takes lines about the progress.

  Raises:
    errors.UserError: the gin files do not train, or the batch does not
      divide by the slice.
  """
  topology = request.topology
  devices = programs_lib.devices_of(topology)
  with programs_lib.parsed(
      request.gin_files, request.gin_bindings, devices,
      request.search_paths) as arguments:
    programs = programs_lib.build(arguments)
    mesh = dict(programs.partitioner.mesh.shape)
    state = figures.state_bytes(programs)
    plan = {
        "caveat": figures.caveat(topology),
        "gin_files": list(request.gin_files),
        "gin_bindings": list(request.gin_bindings),
        "topology": topology.name,
        "accelerator_type": topology.accelerator_type,
        "slices": topology.slices,
        "chips": topology.num_chips,
        "quick": request.quick,
        "chip": {**dataclasses.asdict(topology.chip),
                 "label": topology.chip.label,
                 "usable_bytes": topology.chip.usable_bytes},
        "mesh": mesh,
        "decoder_alone": not flops_lib.layers(
            figures.network_config(programs))[0],
        "batch": {k: list(x.shape) for k, x in programs.train_batch.items()},
        "batch_size": arguments["train_dataset_cfg"].batch_size,
        "rows": programs.rows,
        "state_bytes": state,
        "train_flops": figures.train_flops(programs),
        "programs": {}}
    activations = (figures.kept_activations(programs)
                   if "train" in request.programs else 0.0)
    for name in request.programs:
      say(f"compiling {name} for {topology.num_chips} x {topology.chip.name}")
      try:
        compiled = programs.compile(name, request.quick)
      except programs_lib.OutOfMemory as error:
        plan["programs"][name] = figures.refused_program_figures(
            topology, error, name, state, figures.network_config(programs))
        continue
      plan["programs"][name] = figures.program_figures(
          topology, programs, compiled, state, activations)
    steps = arguments.get("relative_steps") or arguments.get("total_steps")
  train = plan["programs"].get("train", {})
  if "bound" in train and steps:
    plan["recipe"] = figures.recipe_figures(
        topology, int(steps), plan["batch_size"], train["bound"]["seconds"],
        request.price)
  plan["fits"] = all(p["fits"] for p in plan["programs"].values())
  return plan


def check_programs(names: Sequence[str]) -> None:
  """Raises UserError for no programs, or unknown ones."""
  if not names:
    raise errors.UserError(f"--programs is empty; known: {', '.join(PROGRAMS)}")
  for name in names:
    errors.require_known("program", name, PROGRAMS)
