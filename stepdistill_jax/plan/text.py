"""A plan as lines for people."""

from collections.abc import Mapping
from typing import Any

_GIB = 2**30


def _gib(size: float) -> str:
  if size < 0.01 * _GIB:
    return f"{size / 2**20:.2f} MiB"
  return f"{size / _GIB:.2f} GiB"


def _flops(value: float) -> str:
  for unit, scale in (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9)):
    if value >= scale:
      return f"{value / scale:.4g} {unit}"
  return f"{value / 1e6:.4g} MFLOP"


def _seconds(value: float) -> str:
  return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def _kinds(kinds: Mapping[str, float]) -> str:
  return "  HBM a chip: " + ", ".join(
      f"{kind} {_gib(size)}" for kind, size in kinds.items()
      if kind != "total" and size)


def _flag(change: str) -> str:
  """A gin file or binding as an argument of commands."""
  return (f"--gin_file={change}" if change.endswith(".gin")
          else f"--gin.{change.replace(' = ', '=')}")


def _too_large(name: str, figures: Mapping[str, Any]) -> list[str]:
  """Of a program that the compiler refused."""
  kinds, missing = figures["hbm_bytes"], figures["missing_bytes"]
  needs = (f"needs at least {_gib(kinds['total'])} of "
           f"{_gib(figures['usable_bytes'])} usable a chip: {_gib(missing)} "
           f"({missing:,.0f} bytes) too much"
           if missing else figures["error"])
  return [
      f"{name}: does NOT fit: {needs}; given up after "
      f"{figures['compile_seconds']:.0f} s", _kinds(kinds),
      "  what helps: a larger slice, or",
      *(f"    {_flag(change)}" for change in figures["what_helps"]),
      "  (--search tries them)"]


def _program(name: str, figures: Mapping[str, Any], usable: float) -> list[str]:
  if "error" in figures:
    return _too_large(name, figures)
  kinds = figures["hbm_bytes"]
  fits = "fits" if figures["fits"] else "does NOT fit"
  repeated = figures["flops_with_repeated"]
  again = (f", {_flops(repeated)} with what is computed again and embeddings' "
           "gradients"
           if repeated > 1.005 * figures["flops"] else "")
  lines = [
      f"{name}: {fits}: {_gib(kinds['total'])} of {_gib(usable)} a chip; "
      f"compiled in {figures['compile_seconds']:.0f} s", _kinds(kinds),
      f"  matrix products: {_flops(figures['flops'])} on all chips{again}"]
  sent = figures["collective_bytes"]
  lines.append("  collectives a chip: " + (", ".join(
      f"{kind} {_gib(size)} ({figures['collective_count'][kind]})"
      for kind, size in sorted(sent.items())) or "none"))
  kernels = "" if figures["kernels"] is None else " and kernels"
  if kernels:
    lines.append(f"  kernels: {figures['kernels']:,} started, those of loops "
                 f"at each turn; {figures['kernels_compiled']:,} compiled")
  if figures["loops_of_unknown_length"]:
    lines.append(f"  ({figures['loops_of_unknown_length']} loops of unknown "
                 f"length: their collectives{kernels} count once)")
  bound = figures["bound"]
  by = ", ".join(f"{k} {_seconds(v)}" for k, v in bound["by"].items())
  lines.append(f"  at least {_seconds(bound['seconds'])}, limited by "
               f"{bound['limited_by']} ({by})")
  return lines


def lines_of(plan: Mapping[str, Any]) -> list[str]:
  """The plan, a line each."""
  mesh = " x ".join(f"{name} {size}" for name, size in plan["mesh"].items())
  chip = plan["chip"]
  inputs, targets = ("prompts", "targets after them") if (
      plan["decoder_alone"]) else ("encoder rows", "decoder rows")
  lines = [
      f"plan of {', '.join(plan['gin_files'])} on {plan['topology']} "
      f"({plan['accelerator_type']}, {plan['chips']} chips)",
      *(["  " + " ".join(plan["gin_bindings"])]
        if plan["gin_bindings"] else []),
      plan["caveat"] + (
          " Compiled quickly: a run's program may need a little more or less."
          if plan["quick"] else ""),
      f"mesh: {mesh}; batch {plan['batch_size']}, {inputs} "
      f"{plan['batch']['encoder_input_tokens']}, {targets} "
      f"{plan['batch']['decoder_target_tokens']}",
      *filter(None, [plan.get("rows")])]
  for name, figures in plan["programs"].items():
    lines += _program(name, figures, chip["usable_bytes"])
  recipe = plan.get("recipe")
  if recipe:
    lines.append(
        f"recipe: at most {recipe['steps_per_second']:.3g} steps/s "
        f"({recipe['examples_per_second']:.4g} examples/s, "
        f"{recipe['examples_per_second_per_chip']:.3g} a chip); "
        f"{recipe['steps']} steps take at least {recipe['hours']:.3g} h = "
        f"{recipe['chip_hours']:.3g} chip-hours, evaluation apart")
    if recipe["cost"] is not None:
      lines.append(f"cost: at least {recipe['cost']:.2f} at the given price")
  network = ""
  if plan["slices"] > 1:
    network = (f", {chip['dcn_bandwidth'] / 1e9:.3g} GB/s between slices"
               if chip["dcn_bandwidth"]
               else ", between slices unpublished: not in the bound")
  if chip["usable_bytes"] != chip["hbm_bytes"]:
    lines.append(
        f"of {_gib(chip['hbm_bytes'])} JAX takes "
        f"{chip['usable_bytes'] / chip['hbm_bytes']:.0%} at its start; "
        "XLA_PYTHON_CLIENT_MEM_FRACTION=.95 has it take more")
  lines.append(
      f"peaks of a {chip['label']}: {chip['flops'] / 1e12:.0f} TFLOP/s "
      f"bfloat16, {chip['hbm_bandwidth'] / 1e9:.0f} GB/s HBM, "
      f"{chip['ici_bandwidth'] / 1e9:.0f} GB/s interconnect{network} "
      f"({chip['source']})")
  return lines


def search_lines(search: Mapping[str, Any]) -> list[str]:
  """The best first, or why there is none."""
  found = search["candidates"]
  lines = [
      f"search of {', '.join(search['gin_files'])} on {search['topology']}",
      search["caveat"],
      f"{search['arrangements']} arrangements, {search['seem_to_fit']} seem to "
      f"fit by formulas; the {len(found)} fastest of these were compiled"
      + (", quickly" if not search["out_of_time"] else
         ", quickly, then the time was over")]
  fitting = [c for c in found if c["fits"]]
  for rank, candidate in enumerate(fitting):
    title = "recommended" if rank == 0 else f"runner-up {rank}"
    lines.append(
        f"{title}: {candidate['name']}: {_gib(candidate['hbm_bytes'])} a chip,"
        f" at most {candidate['steps_per_second']:.3g} steps/s "
        f"({candidate['limited_by']})")
    if rank == 0:
      lines += [f"  {_flag(change)}" for change in candidate["changes"]]
  for candidate in found:
    if candidate["error"]:
      lines.append(f"not possible: {candidate['name']}: {candidate['error']}")
    elif not candidate["fits"]:
      missing = candidate["missing_bytes"]
      lines.append(f"does not fit: {candidate['name']}" + (
          f": {_gib(missing)} a chip too much" if missing else ""))
  if not fitting:
    lines.append("none of those tried fits: take a larger slice, a smaller "
                 "batch, or raise --search_limit")
  return lines
