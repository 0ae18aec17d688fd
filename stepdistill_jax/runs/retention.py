"""Which checkpoints are deleted: by age, by multiples, by a metric."""

from collections.abc import Mapping, Sequence
import os

from etils import epath

from stepdistill_jax.config import setting_checks
from stepdistill_jax.util import errors

# A folder with this ending is not a checkpoint: what is being deleted
# never looks like one, even if deleting is cut off.
DELETED_SUFFIX = ".deleted"
PINNED_FILE = "PINNED"


def to_delete(
    steps: Sequence[int], *, keep: int | None,
    keep_period: int | None = None,
    metric: Mapping[int, float] | None = None, mode: str = "max",
    keep_without_metric: bool = True) -> list[int]:
  """The steps whose checkpoints go.

  Args:
    steps: of all checkpoints.
    keep: number kept, the latest ones or, with `metric`, the best ones and
      the latest besides; None keeps all.
    keep_period: steps that are multiples of it always stay.
    metric: step -> value, where it is known; None goes by age.
    mode: `max` if more is better, else `min`. Of equal ones the later stays.
    keep_without_metric: whether checkpoints without value stay.
  """
  steps = sorted(steps)
  if keep is None or not steps:
    return []
  candidates = [s for s in steps[:-1] if not (
      keep_period and s % keep_period == 0)]
  if metric is None:
    latest = steps[-keep:] if keep > 0 else steps[-1:]
    return [s for s in candidates if s not in latest]
  sign = 1.0 if mode == "max" else -1.0
  valued = sorted((s for s in steps if s in metric),
                  key=lambda s: (sign * metric[s], s))
  best = valued[-keep:] if keep > 0 else []
  return [s for s in candidates if s not in best and (
      s in metric or not keep_without_metric)]


def is_pinned(checkpoint: str | os.PathLike[str]) -> bool:
  """Whether a file says that a checkpoint stays, as T5X's users ask."""
  return (epath.Path(checkpoint) / PINNED_FILE).exists()


def delete(checkpoint: str) -> None:
  """Deletes a checkpoint; cut off in the middle, none is left half deleted."""
  if "://" in checkpoint:
    remove(epath.Path(checkpoint))  # Object stores do not rename.
    return
  doomed = epath.Path(checkpoint + DELETED_SUFFIX)
  if doomed.exists():
    remove(doomed)
  epath.Path(checkpoint).rename(doomed)
  remove(doomed)


def remove(folder: epath.Path) -> None:
  """Removes a folder; of a link the link alone, as what it names may be used.
  """
  if os.path.islink(folder):
    os.unlink(folder)
  else:
    folder.rmtree()


def read_metric(
    model_dir: str, name: str, steps: Sequence[int]) -> dict[int, float]:
  """A metric's values at some steps, from a run's TensorBoard files.

  Args:
    model_dir: the run folder.
    name: `COLLECTION/TAG`, such as `train/accuracy` or
      `inference_eval/svamp_label_gold/accuracy`; where the collection ends
      is found by what folders there are.
    steps: of interest.

  Returns:
    step -> value, where there is one.
  """
  from tensorboard.backend.event_processing import event_file_loader
  from tensorboard.util import tensor_util
  parts, found = name.split("/"), {}
  for cut in range(1, len(parts)):
    folder = epath.Path(os.path.join(model_dir, *parts[:cut]))
    # SeqIO's logger puts `eval/` before the names of its metrics.
    tags = {"/".join(parts[cut:]), "eval/" + "/".join(parts[cut:])}
    if not folder.is_dir():
      break
    for file in sorted(folder.glob("events.out.tfevents*")):
      for event in event_file_loader.EventFileLoader(os.fspath(file)).Load():
        for value in event.summary.value:
          if value.tag in tags and event.step in steps:
            found[event.step] = float(
                value.simple_value if value.HasField("simple_value")
                else tensor_util.make_ndarray(value.tensor))
  return found


def check(keep: int | None, mode: str) -> None:
  """Raises UserError for settings that mean nothing."""
  if keep is not None and keep < 1:
    raise errors.UserError(
        f"SaveCheckpointConfig.keep = {keep}: give 1 or more, or None for all")
  setting_checks.require_choice("metric_mode", mode, ("max", "min"))
