"""Tests of plans and of the folder that belongs to one."""

import dataclasses

import pytest

from stepdistill_jax.quickstart import plan as plan_lib
from stepdistill_jax.util import errors, locations

SMALL = plan_lib.BUDGETS["small"]


@pytest.mark.parametrize("plan", plan_lib.BUDGETS.values(),
                         ids=plan_lib.BUDGETS)
def test_budgets_have_what_a_comparison_needs(plan):
  assert {"finetune", "step_by_step"} <= set(plan.methods) <= set(
      plan_lib.METHODS)
  assert plan.shares[-1] == 1.0 and len(plan.seeds) >= 2 and plan.shows
  assert plan.test_stories >= 500
  runs = list(plan.runs())
  assert len({run.name for run in runs}) == len(runs) == (
      len(plan.methods) * len(plan.shares) * len(plan.seeds))
  for student in plan_lib.STUDENTS:
    for run in runs:
      for file in dataclasses.replace(plan, student=student).gin_files(run):
        assert (locations.resource_root() / file).is_file()


def test_another_seed_has_other_stories_and_students():
  assert SMALL.with_seed(0) == SMALL
  plans = [SMALL.with_seed(seed) for seed in range(3)]
  assert len({seed for plan in plans for seed in plan.seeds}) == 9
  assert [plan.data_seed for plan in plans] == [0, 1, 2]


def test_a_folder_is_claimed_once(tmp_path):
  folder = tmp_path / "out"
  plan_lib.claim_folder(folder, SMALL)
  plan_lib.claim_folder(folder, SMALL)  # The same plan goes on.
  other = dataclasses.replace(SMALL, steps=SMALL.steps + 1)
  with pytest.raises(errors.UserError, match=r"steps was \d+, now \d+"):
    plan_lib.claim_folder(folder, other)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
  (tmp_path / "thesis.tex").write_text("dear to its author")
  with pytest.raises(errors.UserError, match="not a quickstart's output"):
    plan_lib.claim_folder(tmp_path, SMALL)


def test_a_damaged_plan_is_reported(tmp_path):
  (tmp_path / "plan.json").write_text("{")
  with pytest.raises(errors.UserError, match="damaged"):
    plan_lib.claim_folder(tmp_path, SMALL)
