"""Where students train: how many processes, and which devices each has."""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import re

from stepdistill_jax.util import devices, errors

CPU = "cpu"


@dataclasses.dataclass(frozen=True)
class Place:
  """Processes that train beside each other.

  Attributes:
    number: of processes.
    platforms: their JAX_PLATFORMS; empty leaves JAX the choice.
    threads: of each on a CPU; None takes all processors.
    words: where that is.
    note: what else to say of it.
    environments: of each process, where each has devices of its own.
  """

  number: int
  platforms: str
  threads: int | None
  words: str
  note: str = ""
  environments: tuple[Mapping[str, str], ...] = ()

  def __str__(self) -> str:
    return self.words + (
        ", one at a time" if self.number == 1
        else f", {self.number} at a time") + self.note


def processors() -> int:
  """How many this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(
      os, "sched_getaffinity") else os.cpu_count() or 1


def of_small_students(number: int | None = None) -> Place:
  """Students so small that an accelerator would wait for its next program.

  They train on the CPU, unless $JAX_PLATFORMS says otherwise: one is busy with
  a student, so two train where there are two processors. An accelerator
  belongs to one process at a time.
  """
  platforms = os.environ.get("JAX_PLATFORMS") or CPU
  number = number or (min(2, processors()) if platforms == CPU else 1)
  words = "the CPU" if platforms == CPU else f"JAX_PLATFORMS={platforms}"
  found = devices.present()
  note = (f", without {devices.names(found)} (which JAX_PLATFORMS="
          f"{next(iter(found))} would take)"
          if platforms == CPU and found else "")
  return Place(number, platforms, None if number == 1 else 1, words, note)


def of_machine(number: int | None = None) -> Place:
  """All that this machine has, shared by `number` processes.

  One process an accelerator by default; one process on a CPU.

  Raises:
    errors.UserError: the accelerators cannot be shared so.
  """
  chosen = os.environ.get("JAX_PLATFORMS", "")
  found = {} if chosen.split(",")[0] == CPU else devices.present()
  if not found:
    number = number or 1
    return Place(number, chosen, max(1, processors() // number)
                 if number > 1 else None,
                 f"the CPU's {processors()} processors")
  platform, nodes = next(iter(found.items()))
  ids = _visible(platform, nodes)
  number = number or len(ids)
  words = f"{len(ids)} x {platform}"
  if number == 1:
    return Place(1, chosen, None, words)
  if len(ids) % number or (platform == "tpu" and number != len(ids)):
    raise errors.UserError(
        f"--workers={number}: {len(ids)} devices of {platform} "
        f"({', '.join(nodes)}) are not shared by so many; take "
        f"--workers={len(ids)} (one each) or 1 (all in one)")
  each = len(ids) // number
  return Place(number, chosen, None, words, environments=tuple(
      _environment(platform, ids[i * each:(i + 1) * each])
      for i in range(number)))


def _visible(platform: str, nodes: Sequence[str]) -> list[str]:
  """The devices' names for `_environment`."""
  variable = {"cuda": "CUDA_VISIBLE_DEVICES", "tpu": "TPU_VISIBLE_CHIPS",
              "rocm": "HIP_VISIBLE_DEVICES"}[platform]
  if os.environ.get(variable):
    return os.environ[variable].split(",")
  if platform == "rocm":  # /dev/kfd is one for all of them.
    return ["0"]
  return [str(i) for i in range(len(nodes))] if platform == "tpu" else [
      re.sub(r"\D", "", os.path.basename(node)) for node in nodes]


def _environment(platform: str, ids: Sequence[str]) -> Mapping[str, str]:
  """What gives a process these devices alone."""
  if platform == "tpu":
    return {"TPU_VISIBLE_CHIPS": ",".join(ids),
            "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
            "TPU_PROCESS_BOUNDS": "1,1,1"}
  name = "HIP" if platform == "rocm" else "CUDA"
  return {f"{name}_VISIBLE_DEVICES": ",".join(ids)}
