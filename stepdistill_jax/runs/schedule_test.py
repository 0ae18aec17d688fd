"""When a run stops stepping to do something else."""

import pytest

from stepdistill_jax.runs import schedule as schedule_lib


def schedule(**options):
  return schedule_lib.Schedule(**{
      "last": 1000, "stats": None, "evaluation": 0, "checkpoint": 0,
      "checkpoint_steps": (), "collection": 0, **options})


@pytest.mark.parametrize("options, step, expected", [
    ({}, 0, 100),  # Metrics are written every 100 steps,
    ({"evaluation": 30}, 0, 30),  # or as often as there is an evaluation.
    ({"evaluation": 30}, 45, 60),  # Periods are in absolute steps.
    ({"stats": 7, "checkpoint": 10}, 7, 10),
    ({"stats": 0, "evaluation": 400}, 0, 400),
    ({"stats": 50, "checkpoint_steps": (3, 60)}, 0, 3),
    ({"stats": 50, "checkpoint_steps": (3, 60)}, 50, 60),
    ({"stats": 50, "collection": 20}, 0, 20),
    ({"last": 10}, 5, 10)])
def test_next_stop(options, step, expected):
  assert schedule(**options).next_stop(step) == expected
