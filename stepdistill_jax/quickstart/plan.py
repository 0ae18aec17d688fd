"""What the quickstart trains: methods, shares of the stories, seeds."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import json
import pathlib
from typing import Any

from stepdistill_jax.quickstart import tracking, tracking_teacher
from stepdistill_jax.util import durable_files, errors

# In the order of the report; the difference is the last minus the first.
METHODS = ("finetune", "distill", "step_by_step")
STUDENTS = {"t5": "T5 v1.1", "decoder": "a decoder of Llama's kind"}
_PLAN_FILE = "plan.json"
# What plans of before did not write down.
_EARLIER = {"student": "t5", "shows": "", "watched": True}


@dataclasses.dataclass(frozen=True)
class Run:
  """One student: a method on a share of the training stories, from a seed."""

  method: str
  share: float
  seed: int

  @property
  def name(self) -> str:
    """The name of its folders."""
    return f"{self.method}-{self.share:.0%}-seed{self.seed}".replace("%", "pct")

  @property
  def gin_file(self) -> str:
    return f"gin/recipes/tracking_{self.method}.gin"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """All that decides the quickstart's numbers, but for the gin recipes.

  Attributes:
    budget: the name of the plan.
    train_stories: stories of the whole training split.
    validation_stories: looked at while training, never for a choice.
    test_stories: unseen stories that every student is scored on.
    shares: shares of the training split to train on, ascending.
    seeds: of parameters and order of the data; each method runs each.
    steps: training steps of every run.
    data_seed: of the stories and of the teacher's mistakes.
    difficulty: of the stories.
    teacher: who writes rationales and labels.
    methods: which of METHODS.
    student: one of STUDENTS.
    shows: what the numbers can and cannot show.
    watched: whether validation is scored on the way, for TensorBoard's curves.
  """

  budget: str
  train_stories: int
  validation_stories: int
  test_stories: int
  shares: tuple[float, ...]
  seeds: tuple[int, ...]
  steps: int
  data_seed: int = 0
  difficulty: tracking.Difficulty = tracking.Difficulty()
  teacher: tracking_teacher.SimulatedTeacher = (
      tracking_teacher.SimulatedTeacher())
  methods: tuple[str, ...] = METHODS
  student: str = "t5"
  shows: str = ""
  watched: bool = True

  def with_seed(self, seed: int) -> Plan:
    """The plan with other stories and students for each number from 0 on."""
    return dataclasses.replace(
        self, data_seed=seed, seeds=tuple(
            len(self.seeds) * seed + i for i in range(len(self.seeds))))

  def gin_files(self, run: Run) -> list[str]:
    """A run's recipe, and what puts another student in its place."""
    more = [] if self.student == "t5" else [
        f"gin/models/tracking_{self.student}.gin"]
    return [run.gin_file, *more]

  def runs(self) -> Iterator[Run]:
    """All runs; what a first look needs comes first.

    A group's longest run comes first, so that processes beside each other
    end together and the first two compile different programs.
    """
    for seed in self.seeds:
      for share in reversed(self.shares):
        for method in reversed(self.methods):
          yield Run(method, share, seed)

  def as_json(self) -> dict[str, Any]:
    """The plan as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(self)))


# Short stories: the rationales' effect is there after a few hundred steps.
_SHORT = tracking.Difficulty(people=3, objects=2, sentences=(3, 5))
BUDGETS = {
    "full": Plan(
        budget="full", train_stories=4000, validation_stories=200,
        test_stories=1000, shares=(0.25, 1.0), seeds=(0, 1), steps=800,
        difficulty=_SHORT, shows=(
            "all three methods on two sizes of data; made-up stories and "
            "students of 0.2 million parameters say nothing of yours")),
    "small": Plan(
        budget="small", train_stories=4000, validation_stories=200,
        test_stories=500, shares=(1.0,), seeds=(0, 1, 2), steps=600,
        difficulty=_SHORT, methods=("finetune", "step_by_step"), watched=False,
        shows=(
            "whether rationales help on these stories; not with how little "
            "data, nor against a teacher's labels: for these take `stepdistill "
            "quickstart`")),
}


def claim_folder(folder: pathlib.Path, plan: Plan) -> None:
  """Makes `folder` this plan's, or checks that it is.

  Raises:
    errors.UserError: another plan's output is there, or something else.
  """
  path = folder / _PLAN_FILE
  if not path.exists():
    if folder.is_dir() and any(folder.iterdir()):
      raise errors.UserError(
          f"{folder} is not empty and not a quickstart's output; choose "
          "another folder with --output_dir=DIR")
    folder.mkdir(parents=True, exist_ok=True)
    durable_files.replace(path, json.dumps(plan.as_json(), indent=2) + "\n")
    return
  with errors.reported((ValueError, TypeError), lambda error: (
      f"{path} is damaged ({error}); remove {folder}")):
    before = {**_EARLIER, **json.loads(path.read_text("utf-8"))}
  changed = [f"{key} was {before.get(key)!r}, now {value!r}"
             for key, value in plan.as_json().items()
             if before.get(key) != value]
  if changed:
    raise errors.UserError(
        f"{folder} holds another quickstart ({'; '.join(changed[:3])}); "
        "choose another folder with --output_dir=DIR, or remove it")
