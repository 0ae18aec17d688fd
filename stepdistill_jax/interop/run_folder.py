"""What a run's folder says: its checkpoints, configuration, method, seed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from typing import TypeVar

from etils import epath

from stepdistill_jax.interop import import_result
from stepdistill_jax.records import task_names
from stepdistill_jax.runs import (
  checkpoint_manifest,
  checkpoint_paths,
  restore_choice,
  run_record,
)
from stepdistill_jax.util import errors, locations

CONFIG_FILE = "config.gin"
_Run = TypeVar("_Run", bound=Hashable)
# Task kinds of the registry that ask for the label with a prefix.
_PREFIXED = ("step", "mix", "predict")
_PREDICT, _EXPLAIN = "predict: ", "explain: "
# Bindings that two runs of one method may differ in.
_RUN_SPECIFIC = re.compile(
    r"\b(seed|MODEL_DIR|model_dir|random_seed|SEED)\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class TrainedOn:
  """The SeqIO task or mixture that a student was trained on.

  Attributes:
    dataset: such as `svamp`.
    kind: one of `task_names.KINDS`; empty for a task that is not one of ours.
    teacher: whose records; None for `label_gold` and unknown tasks.
  """

  dataset: str
  kind: str = ""
  teacher: str | None = None

  @property
  def prefix(self) -> str:
    """What stands before the question when the label is asked for."""
    return _PREDICT if self.kind in _PREFIXED else ""

  @property
  def explain_prefix(self) -> str | None:
    """Likewise for the rationale; None where the student was not taught it."""
    return _EXPLAIN if self.kind in (
        "step", "mix", "explain", "rationale") else None

  @property
  def answer_after_rationale(self) -> bool:
    """True where one target holds the rationale and then the label."""
    return self.kind == "single"

  @property
  def reads_rationale(self) -> bool:
    """True where the teacher's rationale is read with the question."""
    return self.kind == "pinto"


def parse_task_name(name: str) -> TrainedOn:
  """Reads a task name of the registry.

  >>> parse_task_name("svamp_step_gold_palm540b")
  TrainedOn(dataset='svamp', kind='step', teacher='palm540b')
  >>> parse_task_name("anli1_step_big_llm_big_llm").teacher
  'big_llm'
  """
  match = re.fullmatch(rf"(.+?)_({'|'.join(task_names.KINDS)})_(.+)", name)
  if not match:
    return TrainedOn(name)
  dataset, kind, rest = match.groups()
  teacher: str | None = rest
  if kind in ("single", "step", "mix", "pinto"):
    half = rest[:len(rest) // 2]
    if rest.startswith("gold_"):
      teacher = rest[len("gold_"):]
    elif rest == f"{half}_{half}":
      teacher = half
  elif rest == "gold":
    teacher = None
  return TrainedOn(dataset, kind, teacher)


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """A checkpoint and the run that it belongs to.

  Attributes:
    path: the run's folder, local or remote.
    checkpoint: the folder `checkpoint_STEP`.
    step: of the checkpoint.
    passed_over: what is wrong with newer checkpoints, a line each.
  """

  path: epath.Path
  checkpoint: epath.Path
  step: int
  passed_over: tuple[str, ...] = ()

  @property
  def config_path(self) -> epath.Path:
    return self.path / CONFIG_FILE

  def real_path(self) -> str:
    """The run's folder, the same under all names that lead to it."""
    path = os.fspath(self.path)
    return path if "://" in path else os.path.realpath(path)

  def fingerprint(self) -> str:
    """A hash of the configuration and of the checkpoint's files.

    Files count by their manifest, else by name, size and time of change.
    """
    digest = hashlib.sha256(self.config_path.read_bytes())
    if checkpoint_manifest.has_manifest(self.checkpoint):
      digest.update((
          self.checkpoint / checkpoint_manifest.MANIFEST_FILE).read_bytes())
      return digest.hexdigest()[:16]
    for name in checkpoint_manifest.files(self.checkpoint):
      file = self.checkpoint / name
      if "://" in os.fspath(file):
        stat = file.stat()
        size, changed = stat.length, stat.mtime
      else:
        stat = os.stat(file)
        size, changed = stat.st_size, stat.st_mtime_ns
      digest.update(f"{name} {size} {changed}\n".encode())
    return digest.hexdigest()[:16]

  def method_key(self) -> str:
    """A hash of the configuration without seed, folders and imports."""
    return _method_key(self.path)

  def seed(self) -> int | None:
    """The run's seed, where its provenance or configuration names one."""
    return seed_of(self.path)


def seed_of(run: epath.Path | pathlib.Path) -> int | None:
  """The seed of a run's folder, where its files name one."""
  seeds = run_record.peek(run).get("seeds")
  if isinstance(seeds, dict):
    seeds = next(iter(seeds.values()), None)
  if isinstance(seeds, int):
    return seeds
  text = (run / CONFIG_FILE).read_text(encoding="utf-8")
  found = re.findall(
      r"(?im)^\S*(?:random_seed|SEED)\s*=\s*(\d+)\s*$", text)
  return int(found[-1]) if found else None  # Gin's last binding wins.


def identities_of(run: epath.Path | pathlib.Path) -> list[str]:
  """Returns texts of which a folder shares one with each copy of its run.

  A copied folder has the same beginning in its record; a repeated run has the
  same configuration, data and seed.
  """
  record, found = run_record.peek(run), []
  starts = record.get("starts")
  if isinstance(starts, list) and starts:
    found.append(json.dumps(
        [record.get("created"), record.get("seeds"), starts[0]]))
  seed, data = seed_of(run), record.get("data")
  if seed is not None:
    files = data.get("files_sha256") if isinstance(data, dict) else None
    found.append(json.dumps([_method_key(run), seed, files]))
  return found


def first_copies(
    identities: Mapping[_Run, Iterable[str]]) -> dict[_Run, _Run]:
  """Returns, for each run, the first that shares one of its identities."""
  owners: dict[str, _Run] = {}
  first: dict[_Run, _Run] = {}
  for run, own in identities.items():
    own = list(own)
    first[run] = next((owners[i] for i in own if i in owners), run)
    for identity in own:
      owners.setdefault(identity, first[run])
  return first


def copy_lines(first: Mapping[_Run, _Run]) -> list[str]:
  """Returns a line for each run that is not the first of its copies."""
  return [f"{run} has the record, or configuration, data and seed, of "
          f"{original}: they count as one run"
          for run, original in first.items() if run != original]


def _method_key(run: epath.Path | pathlib.Path) -> str:
  lines = (run / CONFIG_FILE).read_text(encoding="utf-8").splitlines()
  kept = [line for line in _joined(lines)
          if line and not line.startswith(("#", "from ", "import "))
          and not _RUN_SPECIFIC.search(line.partition("=")[0])]
  return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]


def _joined(lines: list[str]) -> list[str]:
  """Puts bindings that gin wrote over several lines on one line each."""
  joined: list[str] = []
  for line in lines:
    if joined and (joined[-1].endswith("\\") or line.startswith((" ", "\t"))):
      joined[-1] = joined[-1].rstrip("\\") + line.strip()
    else:
      joined.append(line)
  return joined


def find(path: str | os.PathLike[str], *, strict: bool = False) -> RunFolder:
  """Finds a checkpoint from a run's folder or from the checkpoint itself.

  Args:
    path: a run's folder, for its newest good checkpoint, or one of those.
    strict: refuse a folder whose newest checkpoint is not what was written.

  Raises:
    errors.UserError: there is no such folder, no good checkpoint in it, or no
      configuration beside it.
  """
  folder = require_folder(path)
  if checkpoint_paths.step_of(folder.name) is None and (
      not checkpoint_paths.all_steps(folder)):
    raise errors.UserError(
        f"no checkpoint_STEP folder in {folder}; pass a run's folder (its "
        "MODEL_DIR) or one of its checkpoints")
  choice = restore_choice.choose(folder, strict=strict)
  checkpoint = epath.Path(choice.checkpoint)
  found = RunFolder(
      checkpoint.parent, checkpoint, checkpoint_paths.step_of(checkpoint.name),
      tuple(f"{line}; checkpoint_{checkpoint_paths.step_of(checkpoint.name)} "
            "is scored instead" for line in choice.passed_over))
  if not found.config_path.is_file():
    if (found.path / import_result.HF_FOLDER).is_dir():
      raise errors.UserError(
          f"{found.path} is what `stepdistill checkpoint import-hf` wrote, "
          "which is there to be trained from (INITIAL_CHECKPOINT_PATH); pass "
          "the Hugging Face folder itself to use the model as it is")
    raise errors.UserError(
        f"{found.path} has checkpoints but no {CONFIG_FILE}, from which the "
        "model would be rebuilt; put the run's configuration there "
        "(`t5x train` writes it)")
  return found


def require_folder(path: str | os.PathLike[str]) -> epath.Path:
  """Returns the absolute path of a run's folder or of a checkpoint.

  Raises:
    errors.UserError: there is no such folder.
  """
  folder = epath.Path(locations.absolute(path))
  if locations.is_dir(folder):
    return folder
  why = (": it is a file, not a folder" if folder.exists()
         else ": there is no such folder")
  if (checkpoint_paths.step_of(folder.name) is not None
      and folder.parent.is_dir()):
    steps = checkpoint_paths.all_steps(folder.parent)
    why = (f"; {folder.parent} has the steps "
           f"{', '.join(map(str, steps)) or 'none'}")
  raise errors.UserError(f"no checkpoint at {folder}{why}")
