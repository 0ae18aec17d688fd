"""A simulated teacher for the embedded benchmark, which errs at a known rate.

It answers as a large model does that was asked to reason first:

    mary took the apple . mary went to the kitchen . So the answer is kitchen.

A *mistaken* completion quotes somebody's move to another place as the
deciding one and answers with that place: wrong in rationale and label alike,
as a teacher's mistakes are. An *unfinished* one stops before its answer, as
generations do that run into their length limit.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
import random

from stepdistill_jax.quickstart import tracking
from stepdistill_jax.teacher import completions
from stepdistill_jax.util import errors

TEACHER = "simulated"


@dataclasses.dataclass(frozen=True)
class SimulatedTeacher:
  """Completes stories; what it says of one depends on no other.

  Attributes:
    seed: which teacher; the same seed makes the same mistakes everywhere.
    error_rate: share of the finished completions that are mistaken.
    unfinished_rate: share of the completions that stop before their answer.
  """

  seed: int = 0
  error_rate: float = 0.15
  unfinished_rate: float = 0.01

  def __post_init__(self):
    for name in ("error_rate", "unfinished_rate"):
      rate = getattr(self, name)
      if not 0 <= rate <= 1:
        raise errors.UserError(
            f"simulated teacher: {name}={rate}, expected 0 to 1")

  def complete(self, story: tracking.Story) -> completions.Completion:
    """The completion of one story."""
    # A stream a story: neither its place in a split nor other stories matter.
    rng = random.Random(f"{TEACHER}/{self.seed}/{story.inputs}")
    unfinished = rng.random() < self.unfinished_rate
    evidence = story.evidence
    if rng.random() < self.error_rate:
      evidence = (*evidence[:-1], rng.choice(_wrong_moves(story)))
    answer = story.events[evidence[-1]].place
    words = f"{story.quote(evidence)} So the answer is {answer}.".split()
    if unfinished:
      words = words[:rng.randint(1, len(words) - 6)]
    return completions.Completion(
        id=story.inputs, input={"inputs": story.inputs, "label": story.label},
        output=" ".join(words),
        finish_reason="length" if unfinished else "stop",
        usage={"prompt_tokens": len(story.inputs.split()),
               "completion_tokens": len(words)})


def _wrong_moves(story: tracking.Story) -> list[int]:
  """Positions of moves to other places than the answer; never empty."""
  return [i for i, event in enumerate(story.events)
          if event.deed == "went" and event.place != story.label]


def write_caches(
    folder: pathlib.Path, splits: Mapping[str, Sequence[tracking.Story]],
    teacher: SimulatedTeacher, *, seed: int,
    difficulty: tracking.Difficulty) -> list[pathlib.Path]:
  """Lets the teacher complete all splits; writes one cache a split.

  Args:
    folder: gets a subfolder a split, each a teacher cache.
    splits: stories a split, as `tracking.draw_splits` gives them.
    teacher: who completes.
    seed: of the stories; with the difficulty, kept in the manifests.
    difficulty: of the stories.

  Returns:
    The caches' folders.
  """
  folders = []
  for split, stories in splits.items():
    folders.append(folder / split)
    with completions.cache_writer(
        folders[-1], teacher=TEACHER, dataset=tracking.DATASET, split=split,
        prompt_id="none: simulated",
        sampling=json.loads(json.dumps({
            **dataclasses.asdict(teacher), "stories_seed": seed,
            "difficulty": dataclasses.asdict(difficulty)}))) as writer:
      for story in stories:
        writer.append(teacher.complete(story))
  return folders
