"""TPUs and GPUs: published peaks, and names of slices as people write them."""

from collections.abc import Mapping
import dataclasses
import math
import os
import re

from stepdistill_jax.plan import gpus
from stepdistill_jax.util import devices, errors


@dataclasses.dataclass(frozen=True)
class Chip:
  """The published figures of a TPU generation or a GPU, per chip.

  Attributes:
    name: as in topologies.
    flops: bfloat16 FLOP/s.
    hbm_bytes: of memory; sizes given as GB are taken as GiB, as the compiler
      does.
    hbm_bandwidth: bytes/s.
    ici_bandwidth: bytes/s that a chip can send over all its links together:
      a TPU's torus, a GPU's NVLink.
    dcn_bandwidth: bytes/s of the data-center network, a chip's share of a
      pod's or its own, or of a GPU's InfiniBand in the maker's own servers;
      None where it is not published.
    dimensions: of the torus; 1 for GPUs, which a switch joins.
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

  @property
  def kind(self) -> str:
    """`TPU` or `GPU`."""
    return "GPU" if self.name in gpus.TARGETS else "TPU"

  @property
  def label(self) -> str:
    """As in `a v5e`, `a GPU h100`."""
    return self.name if self.kind == "TPU" else f"GPU {self.name}"

  @property
  def usable_bytes(self) -> float:
    """Of memory that programs get: JAX takes a share of a GPU's at its start.

    $XLA_PYTHON_CLIENT_MEM_FRACTION says which; see `runtime.configure`.
    """
    if self.kind == "TPU":
      return self.hbm_bytes
    name = "XLA_PYTHON_CLIENT_MEM_FRACTION"
    text = os.environ.get(name, devices.GPU_MEMORY_FRACTION)
    with errors.reported(ValueError, f"{name}={text}: expected a number"):
      return float(text) * self.hbm_bytes


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
    *(Chip(name, flops, gpus.TARGETS[name].memory, bandwidth, nvlink / 2,
           infiniband / 8, 1, 1, source)
      for name, flops, bandwidth, nvlink, infiniband, source in (
          ("a100", 312e12, 2039e9, 600e9, 200e9,
           "NVIDIA's data sheets of A100 80GB SXM and DGX A100"),
          ("h100", 989e12, 3350e9, 900e9, 400e9,
           "NVIDIA's data sheets of H100 SXM and DGX H100"),
          ("h200", 989e12, 4800e9, 900e9, 400e9,
           "NVIDIA's data sheets of H200 SXM and DGX H200"),
          ("b200", 2250e12, 7700e9, 1800e9, 400e9,
           "NVIDIA's data sheets of HGX B200 and DGX B200"))),
)}
_ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "v5-lite": "v5e",
            "trillium": "v6e", "v6-lite": "v6e"}
# Shapes of slices by their number of chips, as the same pages list them.
_SHAPES_2D = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8),
              64: (8, 8), 128: (8, 16), 256: (16, 16)}
_SHAPES_3D = {4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4),
              64: (4, 4, 4), 128: (4, 4, 8), 256: (4, 8, 8), 512: (8, 8, 8),
              1024: (8, 8, 16), 2048: (8, 16, 16), 4096: (16, 16, 16)}
# GPUs of a host; a slice of GPUs is one.
_SHAPES_1D = {n: (n,) for n in (1, 2, 4, 8)}


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
    """As the compiler calls it: `v5e:4x4`, `v4:2x2x4`; of GPUs `h100-8`."""
    if self.chip.kind == "GPU":
      return self.accelerator_type
    return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

  @property
  def name(self) -> str:
    """The slice's name, `2 x v5e:4x4` for several."""
    several = f"{self.slices} x " if self.slices > 1 else ""
    return several + self.slice_name

  @property
  def accelerator_type(self) -> str:
    """A slice as people call it: `v5litepod-16`, `v4-32`, `h100-8`."""
    prefix = {"v5e": "v5litepod"}.get(self.chip.name, self.chip.name)
    return f"{prefix}-{math.prod(self.shape) * self.chip.cores}"


def _shapes(chip: Chip) -> Mapping[int, tuple[int, ...]]:
  return {1: _SHAPES_1D, 2: _SHAPES_2D, 3: _SHAPES_3D}[chip.dimensions]


def known_names() -> list[str]:
  """The accelerator types that `parse` understands, and shapes."""
  return [name for chip in CHIPS.values()
          for number, shape in _shapes(chip).items() for name in (
              Topology(chip, shape).name, f"{chip.name}-{number * chip.cores}")]


def parse(name: str) -> Topology:
  """Understands `v5e:4x4`, `v5e-16`, `v5litepod-16`, `v4-32`, `h100-8`.

  In a type with a dash the number is that of chips for v5e, v6e and GPUs and
  of cores, two a chip, for v4 and v5p, as Google Cloud counts them. More than
  8 GPUs are hosts of 8.

  >>> parse("v4-32").name, parse("v5litepod-16").num_chips
  ('v4:2x2x4', 16)
  >>> parse("h100-16").name
  '2 x h100-8'

  Raises:
    errors.UserError: unknown; lists the known.
  """
  text = name.strip().lower().replace("tpu", "").strip(" -_")
  match = re.fullmatch(r"(.+?)\s*[:-]\s*([0-9]+(?:x[0-9]+)*)", text)
  generation = match and _ALIASES.get(match[1], match[1])
  if not match or generation not in CHIPS:
    types = ", ".join(  # As a shell would write them.
        f"{c.name}-{{{','.join(str(n * c.cores) for n in _shapes(c))}}}"
        for c in CHIPS.values())
    raise errors.UserError(errors.unknown_name_message(
        "topology", name, known_names(),
        f"known: {types}; also v5litepod-16, v5e:4x4, v4:2x2x4"))
  chip = CHIPS[generation]
  shapes = _shapes(chip)
  if "x" in match[2]:
    shape = tuple(map(int, match[2].split("x")))
    if chip.dimensions == 3 and len(shape) == 2:
      shape = (*shape, 1)
    if chip.kind == "TPU" and len(shape) == chip.dimensions and all(
        n > 0 and (n == 1 or n % 2 == 0) for n in shape):
      return Topology(chip, shape)
  else:
    count = int(match[2])
    if chip.kind == "GPU" and count > 8 and count % 8 == 0:
      return Topology(chip, (8,), slices=count // 8)
    shape = shapes.get(count // chip.cores)
    if shape and count % chip.cores == 0:
      return Topology(chip, shape)
  types = ", ".join(f"{generation}-{n * chip.cores}" for n in shapes)
  other = ("hosts of 8, such as h100-16" if chip.kind == "GPU"
           else f"a shape such as {Topology(chip, shapes[16]).slice_name}")
  raise errors.UserError(
      f"unknown slice {name!r} of {generation}; known: {types}, or {other}")
