"""What a collection says at its end, and when it has failed."""

import argparse
import dataclasses

import pytest

from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.ask import command, job, outcomes, retries
from stepdistill_jax.util import errors


def test_a_collection_that_nobody_can_use_fails_and_is_kept(tmp_path, capsys):
  with completions.cache_writer(tmp_path / "c", teacher="t", dataset="sums",
                         split="train") as writer:
    writer.append(completions.Completion(
        "0", {"inputs": "1 + 1?"}, "Who knows."))
  outcome = job.Outcome(
      folder=str(tmp_path / "c"), total=1, usable=1, missing=0,
      endings={"stop": 1}, dropped={}, usd=0.0, progress=retries.Progress(),
      usage={"prompt_tokens": 9, "completion_tokens": 3})
  args = argparse.Namespace(
      min_success_ratio=0.7, no_records=False, reject_wrong=False, json=False,
      records_dir=str(tmp_path / "records"), kind=None, labels="", marker=[],
      thinking="missing")
  with pytest.raises(errors.UserError, match=(
      "train: 1 no_marker .*kept in .*see `stepdistill teacher audit")):
    command.finish(args, outcome)
  assert "1 of 1 completions ended as they should" in capsys.readouterr().out
  nothing = dataclasses.replace(
      outcome, total=0, usable=0, endings={}, dropped={
          "empty_inputs": {"count": 3, "examples": ["rows.csv line 2"]}})
  with pytest.raises(errors.UserError, match="no row could be asked about: 3 "
                     r"empty_inputs \(rows.csv line 2\)"):
    command.finish(args, nothing)
  assert "0 of 0 completions ended as they should ->" in (
      capsys.readouterr().out)


def test_a_budget_that_left_nothing_usable_has_failed(tmp_path, capsys):
  outcome = job.Outcome(
      folder=str(tmp_path), total=3, usable=0, missing=2,
      endings={"length": 1}, dropped={}, usd=1.0, usage={},
      progress=retries.Progress(stopped=retries.BUDGET))
  with pytest.raises(errors.UserError, match="--budget_usd.* 2 of 3 are miss"):
    outcomes.judge(outcome, 0.7)
  some = dataclasses.replace(outcome, usable=1, endings={"stop": 1})
  assert outcomes.judge(some, 0.7) == 0
  assert "2 completions are missing" in capsys.readouterr().out


@pytest.mark.parametrize("endings, said, unsaid", [
    ({"error:malformed": 3}, ["a rerun asks for those that failed"],
     ["not asked again"]),
    ({"aborted": 3}, ["not asked again", "'aborted', which is not known",
                      "--min_success_ratio=0"], ["rerun asks"]),
    ({"length": 2, "error:timeout": 1},
     ["a rerun asks", "not asked again", "--max_tokens"], ["not known"]),
])
def test_what_a_rerun_does_is_true(tmp_path, endings, said, unsaid):
  outcome = job.Outcome(
      folder=str(tmp_path), total=3, usable=0, missing=sum(
          count for name, count in endings.items() if "error" in name),
      endings=endings, dropped={}, usd=0.0, progress=retries.Progress(),
      usage={})
  with pytest.raises(errors.UserError) as caught:
    outcomes.judge(outcome, 0.7)
  assert all(words in str(caught.value) for words in said)
  assert not any(words in str(caught.value) for words in unsaid)
