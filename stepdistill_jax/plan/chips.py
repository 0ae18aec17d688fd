"""TPU chips and slices: published peaks, and names as people write them."""

from collections.abc import Mapping
import dataclasses
import math
import re

from stepdistill_jax.util import errors


@dataclasses.dataclass(frozen=True)
class Chip:
  """A TPU generation's published figures, per chip.

  Attributes:
    name: as in topologies.
    flops: bfloat16 FLOP/s.
    hbm_bytes: of memory; sizes given as GB are taken as GiB, as the compiler
      does.
    hbm_bandwidth: bytes/s.
    ici_bandwidth: bytes/s that a chip can send over all its links together.
    dcn_bandwidth: bytes/s of the data-center network, a chip's share of a
      pod's or its own; None where it is not published.
    dimensions: of the torus.
    cores: that accelerator types such as `v4-32` count, for each chip.
    source: where the figures are published.
  """

  name: str
  flops: float
  hbm_bytes: int
  hbm_bandwidth: float
  ici_bandwidth: float
  dcn_bandwidth: float | None
  dimensions: int
  cores: int
  source: str


# The one table of peaks. Interconnect figures are published in Gbit/s, or as
# the sum of both directions in later editions of the same pages.
CHIPS: Mapping[str, Chip] = {chip.name: chip for chip in (
    Chip("v4", 275e12, 32 * 2**30, 1228e9, 2400e9 / 8, None, 3, 2,
         "cloud.google.com/tpu/docs/v4; arXiv 2304.01433, table 4"),
    Chip("v5e", 197e12, 16 * 2**30, 819e9, 1600e9 / 8, 6.4e12 / 8 / 256, 2, 1,
         "cloud.google.com/tpu/docs/v5e"),
    Chip("v5p", 459e12, 95 * 2**30, 2765e9, 4800e9 / 8, 50e9 / 8, 3, 2,
         "cloud.google.com/tpu/docs/v5p"),
    Chip("v6e", 918e12, 32 * 2**30, 1638e9, 800e9 / 2, 25.6e12 / 8 / 256, 2, 1,
         "cloud.google.com/tpu/docs/v6e"),
)}
_ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "v5-lite": "v5e",
            "trillium": "v6e", "v6-lite": "v6e"}
# Shapes of slices by their number of chips, as the same pages list them.
_SHAPES_2D = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8),
              64: (8, 8), 128: (8, 16), 256: (16, 16)}
_SHAPES_3D = {4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4),
              64: (4, 4, 4), 128: (4, 4, 8), 256: (4, 8, 8), 512: (8, 8, 8),
              1024: (8, 8, 16), 2048: (8, 16, 16), 4096: (16, 16, 16)}


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice, or several that the data-center network joins.

  Attributes:
    chip: its chips.
    shape: their arrangement in a slice.
    slices: number of slices.
  """

  chip: Chip
  shape: tuple[int, ...]
  slices: int = 1

  @property
  def num_chips(self) -> int:
    return self.slices * math.prod(self.shape)

  @property
  def slice_name(self) -> str:
    """As the compiler calls it: `v5e:4x4`, `v4:2x2x4`."""
    return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

  @property
  def name(self) -> str:
    """The slice's name, `2 x v5e:4x4` for several."""
    several = f"{self.slices} x " if self.slices > 1 else ""
    return several + self.slice_name

  @property
  def accelerator_type(self) -> str:
    """A slice as Google Cloud calls it: `v5litepod-16`, `v4-32`."""
    prefix = {"v5e": "v5litepod"}.get(self.chip.name, self.chip.name)
    return f"{prefix}-{math.prod(self.shape) * self.chip.cores}"


def _shapes(chip: Chip) -> Mapping[int, tuple[int, ...]]:
  return _SHAPES_2D if chip.dimensions == 2 else _SHAPES_3D


def known_names() -> list[str]:
  """The accelerator types that `parse` understands, and shapes."""
  names = []
  for chip in CHIPS.values():
    for shape in _shapes(chip).values():
      topology = Topology(chip, shape)
      names.append(topology.name)
      names.append(f"{chip.name}-{topology.num_chips * chip.cores}")
  return names


def _all_types() -> str:
  """All accelerator types, as a shell would write them."""
  return ", ".join(
      f"{chip.name}-{{{','.join(str(n * chip.cores) for n in _shapes(chip))}}}"
      for chip in CHIPS.values())


def parse(name: str) -> Topology:
  """Understands `v5e:4x4`, `v5e-16`, `v5litepod-16`, `v4-32`, `V5P-8`.

  In a type with a dash the number is that of chips for v5e and v6e and of
  cores, two a chip, for v4 and v5p, as Google Cloud counts them.

  >>> parse("v4-32").name, parse("v5litepod-16").num_chips
  ('v4:2x2x4', 16)

  Raises:
    errors.UserError: unknown; lists the known.
  """
  text = name.strip().lower().replace("tpu", "").strip(" -_")
  match = re.fullmatch(r"(.+?)\s*[:-]\s*([0-9]+(?:x[0-9]+)*)", text)
  generation = match and _ALIASES.get(match[1], match[1])
  if not match or generation not in CHIPS:
    raise errors.UserError(errors.unknown_name_message(
        "topology", name, known_names(),
        f"known: {_all_types()}; also v5litepod-16, v5e:4x4, v4:2x2x4"))
  chip = CHIPS[generation]
  shapes = _shapes(chip)
  if "x" in match[2]:
    shape = tuple(map(int, match[2].split("x")))
    if chip.dimensions == 3 and len(shape) == 2:
      shape = (*shape, 1)
    if len(shape) == chip.dimensions and all(
        n > 0 and (n == 1 or n % 2 == 0) for n in shape):
      return Topology(chip, shape)
  else:
    count = int(match[2])
    shape = shapes.get(count // chip.cores)
    if shape and count % chip.cores == 0:
      return Topology(chip, shape)
  types = ", ".join(f"{generation}-{n * chip.cores}" for n in shapes)
  raise errors.UserError(
      f"unknown slice {name!r} of {generation}; known: {types}, or a shape "
      f"such as {Topology(chip, shapes[16]).slice_name}")
