"""Collectives of a compiled program, counted from XLA's text.

A collective in a loop counts once for each turn. Bytes are what one device
sends by the best algorithm known, in a group of n devices:

  all-gather, all-to-all, reduce-scatter   (n-1)/n of the larger side
  all-reduce                               twice that
  collective-permute                       the operand
  between slices                           as above, over slices

The TPU compiler cuts a collective over several slices into one inside of each
slice and a transfer between them, over the data-center network. NCCL does so
when it runs: of GPUs in several hosts it is counted here.
"""

import collections
from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
import re
from typing import Any

import numpy as np

_BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16,
         "bf16": 16, "f16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64,
         "u64": 64, "f64": 64, "c64": 64, "f8e4m3fn": 8, "f8e5m2": 8}
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all",
         "collective-permute")
BETWEEN_SLICES = "between slices"
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|[\w\[\],{}:()#*\-]+) "
    r"([\w\-]+)\((.*)$")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|called_computations|"
    r"branch_computations|true_computation|false_computation)="
    r"(\{[^}]*\}|%?[\w.\-]+)")


@dataclasses.dataclass
class Collectives:
  """What one device sends in one run of a program.

  Attributes:
    bytes: by kind.
    count: by kind.
    unknown_loops: loops whose number of turns is not in the text; their
      collectives are counted once.
  """

  bytes: Mapping[str, float]
  count: Mapping[str, int]
  unknown_loops: int

  @property
  def bytes_in_slice(self) -> float:
    return sum(size for kind, size in self.bytes.items()
               if kind != BETWEEN_SLICES)

  @property
  def bytes_between_slices(self) -> float:
    return self.bytes.get(BETWEEN_SLICES, 0.0)


def _sizes(shape: str) -> list[float]:
  """Bytes of each array in a shape or tuple of shapes; at least one number."""
  return [_BITS[dtype] / 8 * math.prod(map(int, filter(None, dims.split(","))))
          for dtype, dims in _SHAPE.findall(shape) if dtype in _BITS] or [0.0]


def _group(line: str, num_devices: int) -> list[int]:
  """Devices that talk to each other in a collective: the first such group.

  Of pairs that send the two that are farthest apart.
  """
  if match := re.search(r"source_target_pairs=\{([\d,{}]*)\}", line):
    pairs = re.findall(r"(\d+),(\d+)", match[1])
    return max(([int(x), int(y)] for x, y in pairs),
               key=lambda pair: abs(pair[0] - pair[1]))
  if match := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
    return [int(device) for device in match[1].split(",")]
  if match := re.search(
      r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
    sizes, order = ([int(x) for x in (match[i] or "").split(",") if x]
                    for i in (3, 4))
    devices = np.arange(math.prod(sizes)).reshape(sizes).transpose(
        order or None)
    return devices.reshape(int(match[1]), int(match[2]))[0].tolist()
  if match := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", line):
    axes = re.findall(r"'([^']+)'=(\d+)", match[1])
    names = re.findall(r"'([^']+)'", match[2])
    devices = np.arange(math.prod(int(n) for _, n in axes)).reshape(
        [int(n) for _, n in axes])
    return devices[tuple(slice(None) if axis in names else 0
                         for axis, _ in axes)].flatten().tolist()
  return list(range(num_devices))


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Instructions of each computation, and the entry's name."""
  found, current, entry = {}, None, ""
  for line in text.splitlines():
    if line and not line[0].isspace() and line.rstrip().endswith("{"):
      match = re.match(r"(ENTRY )?%?([\w.\-]+)", line)
      if match and "=" not in line.split("(")[0]:
        current = match[2]
        found[current] = []
        entry = current if match[1] else entry
        continue
    if current is not None and line.strip() != "}":
      found[current].append(line)
  return found, entry


def _turns(condition: list[str]) -> int | None:
  """How often a loop runs whose counter goes up by one from 0."""
  constants = {}
  for line in condition:
    if match := re.search(r"%?([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)",
                          line):
      constants[match[1]] = int(match[2])
  for line in condition:
    if " compare(" in line and "direction=LT" in line:
      for name, value in constants.items():
        if re.search(rf"[%( ]{re.escape(name)}[,)]", line):
          return value
  return max(constants.values()) if len(constants) == 1 else None


# Instructions that start no kernel of their own.
_NO_KERNEL = frozenset((
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "call",
    "while", "conditional", "after-all", "async-start", "async-done",
    "partition-id", "replica-id", "iota", "opt-barrier"))


def _instructions(
    text: str, is_opened: Callable[[str], bool], each_turn: bool = True
) -> Iterator[tuple[str, re.Match[str], int | None]]:
  """All that runs in a program, by XLA's text; a loop's body once.

  Args:
    text: `compiled.as_text()`.
    is_opened: takes an operation: whether to go through what it calls.
    each_turn: whether what is in a loop runs as often as that.

  Yields:
    (name of the computation, `_INSTRUCTION`'s match, how often it runs; None
    for a loop of unknown length, whose body counts as run once).
  """
  computations, entry = _computations(text)

  def visit(name: str, times: int) -> Iterator[Any]:
    for line in computations.get(name, ()):
      if not (match := _INSTRUCTION.match(line)):
        continue
      if match[3] == "while":
        body, turns = _loop(line, computations)
        yield name, match, None if turns is None else times
        yield from visit(body, times * (each_turn and turns or 1))
        continue
      yield name, match, times
      for called in _CALLED.findall(line) if is_opened(match[3]) else ():
        for inner in re.findall(r"[\w.\-]+", called):
          yield from visit(inner, times)

  return visit(entry, 1)


def kernels(text: str, each_turn: bool = True) -> int:
  """Kernels that a GPU starts in one run of a program, by XLA's text.

  Args:
    text: `compiled.as_text()`.
    each_turn: those of a loop count for each turn, or once where its turns are
      not known; False counts them once, as they are compiled.
  """
  return sum(
      times for _, match, times in _instructions(
          text, ("call", "conditional").__contains__, each_turn)
      if match[3] not in _NO_KERNEL and not match[3].endswith("-done"))


def _loop(line: str, computations: Mapping[str, list[str]]
          ) -> tuple[str, int | None]:
  """The body of a `while`, and its turns if they are known."""
  body = re.search(r"body=%?([\w.\-]+)", line)[1]
  condition = re.search(r"condition=%?([\w.\-]+)", line)[1]
  known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
  return body, int(known[1]) if known else _turns(computations[condition])


def collectives(
    text: str, num_devices: int, num_slices: int = 1, *,
    split: bool = True) -> Collectives:
  """Counts the collectives of a program.

  Args:
    text: `compiled.as_text()`.
    num_devices: that the program runs on.
    num_slices: that they are in.
    split: whether the compiler cuts a collective over several slices; if not,
      its share between slices is counted as of one that does.
  """
  per_slice = num_devices // num_slices
  sent, count = collections.Counter(), collections.Counter()
  unknown = 0

  def add(kind, computation, line, shape, times):
    devices = _group(line, num_devices)
    group = len(devices)
    if group < 2 and kind != "collective-permute":
      return
    # What an asynchronous one gives holds its operand too.
    started = f"{kind}-start(" in line and shape[0] == "("
    size = max(_sizes(shape)) if started else sum(_sizes(shape))
    if kind == "reduce-scatter" and not started:
      size *= group  # The text has the smaller side's shape.
    # An all-reduce of which each device keeps a part; XLA's TPU compiler
    # makes reduce-scatters of this form.
    if kind == "all-reduce" and "reduce-scatter" in computation:
      kind = "reduce-scatter"

    def part(n: int) -> float:
      """What one of `n` sends, as a part of the size."""
      share = (n - 1) / n
      return {"all-reduce": 2 * share, "collective-permute": float(n > 1)}.get(
          kind, share)

    inside = group if split else sum(
        d // per_slice == devices[0] // per_slice for d in devices)
    sent[kind] += times * size * part(inside)
    count[kind] += times
    if inside < group:
      sent[BETWEEN_SLICES] += times * size / inside * part(group // inside)
      count[BETWEEN_SLICES] += times

  for name, match, times in _instructions(
      text, lambda operation: operation.removesuffix("-start") not in KINDS):
    line, shape, operation = match.string, match[2], match[3]
    kind = operation.removesuffix("-start")
    if operation == "while":
      unknown += times is None
    elif kind in KINDS:
      add(kind, name, line, shape, times)
    elif operation == "send" and "xla_megascale_runtime" in line:
      # A sum passes each slice twice; anything else goes to all others.
      reduced = "_xla_megascale_reduce_operation" in line
      sent[BETWEEN_SLICES] += times * max(_sizes(shape)) * (
          2 * (num_slices - 1) / num_slices if reduced else num_slices - 1)
      count[BETWEEN_SLICES] += times
  return Collectives(dict(sent), dict(count), unknown)
