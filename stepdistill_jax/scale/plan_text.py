"""A plan as lines for people."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

_GIB = 2**30


def _gib(size: float) -> str:
  return f"{size / _GIB:.2f} GiB"


def _flops(value: float) -> str:
  for unit, scale in (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9)):
    if value >= scale:
      return f"{value / scale:.4g} {unit}"
  return f"{value / 1e6:.4g} MFLOP"


def _seconds(value: float) -> str:
  return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def _program(name: str, figures: Mapping[str, Any], hbm: float) -> list[str]:
  if "error" in figures:
    needed = figures["needed_bytes"]
    return [f"{name}: does NOT fit ({_gib(needed) if needed else 'more'} "
            f"needed, {_gib(hbm)} a chip)"]
  kinds = figures["hbm_bytes"]
  fits = "fits" if figures["fits"] else "does NOT fit"
  lines = [
      f"{name}: {fits}: {_gib(kinds['total'])} of {_gib(hbm)} a chip; compiled "
      f"in {figures['compile_seconds']:.0f} s",
      "  HBM a chip: " + ", ".join(
          f"{kind} {_gib(size)}" for kind, size in kinds.items()
          if kind != "total" and size >= _GIB / 1000),
      f"  matrix products: {_flops(figures['flops'])} on all chips"]
  sent = figures["collective_bytes"]
  lines.append("  collectives a chip: " + (", ".join(
      f"{kind} {_gib(size)} ({figures['collective_count'][kind]})"
      for kind, size in sorted(sent.items())) or "none"))
  if figures["loops_of_unknown_length"]:
    lines.append(f"  ({figures['loops_of_unknown_length']} loops of unknown "
                 "length: their collectives count once)")
  bound = figures["bound"]
  by = ", ".join(f"{k} {_seconds(v)}" for k, v in bound["by"].items())
  lines.append(f"  at least {_seconds(bound['seconds'])}, limited by "
               f"{bound['limited_by']} ({by})")
  return lines


def lines_of(plan: Mapping[str, Any]) -> list[str]:
  """The plan, a line each."""
  mesh = " x ".join(f"{name} {size}" for name, size in plan["mesh"].items())
  chip = plan["chip"]
  lines = [
      f"plan of {', '.join(plan['gin_files'])} on {plan['topology']} "
      f"({plan['accelerator_type']}, {plan['chips']} chips)",
      plan["caveat"],
      f"mesh: {mesh}; batch {plan['batch_size']}, encoder rows "
      f"{plan['batch']['encoder_input_tokens']}, decoder rows "
      f"{plan['batch']['decoder_target_tokens']}"]
  for name, figures in plan["programs"].items():
    lines += _program(name, figures, chip["hbm_bytes"])
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
  lines.append(
      f"peaks of a {chip['name']}: {chip['flops'] / 1e12:.0f} TFLOP/s "
      f"bfloat16, {chip['hbm_bandwidth'] / 1e9:.0f} GB/s HBM, "
      f"{chip['ici_bandwidth'] / 1e9:.0f} GB/s interconnect "
      f"({chip['source']})")
  return lines


def search_lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
  """The best first, or why there is none."""
  lines = []
  fitting = [c for c in found if c["fits"]]
  for rank, candidate in enumerate(fitting):
    title = "recommended" if rank == 0 else f"runner-up {rank}"
    lines.append(
        f"{title}: {candidate['name']}: {_gib(candidate['hbm_bytes'])} a chip,"
        f" at most {candidate['steps_per_second']:.3g} steps/s")
    if rank == 0:
      lines += [f"  --gin.{b.replace(' = ', '=')}" if not b.endswith(".gin")
                else f"  --gin_file={b}" for b in candidate["changes"]]
  for candidate in found:
    if not candidate["fits"]:
      lines.append(f"does not fit: {candidate['name']}")
  if not fitting:
    lines.append("none of those tried fits: take a larger slice, a smaller "
                 "batch, or raise --search_limit")
  return lines
