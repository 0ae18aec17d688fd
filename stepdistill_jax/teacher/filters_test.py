import pytest

from stepdistill_jax.records import datasets, records
from stepdistill_jax.teacher import filters
from stepdistill_jax.teacher.audit import audit
from stepdistill_jax.util import errors

SVAMP = datasets.get("svamp")


def some_records(number):
  return [records.Record(
      id=f"svamp/train/{i:04x}", inputs=f"{i} and 2?", label=f"( {i}.0 )",
      teacher_label=f"({i})", rationale=f"{i} = {i}.") for i in range(number)]


@pytest.mark.parametrize("chosen, fields", [
    ({"only_ok": True}, {"status": "no_marker"}),
    ({"only_correct": True}, {"teacher_label": "(77)"}),
    ({"only_correct": True}, {"label": ""}),
    ({"only_consistent": True}, {"rationale": "1 + 1 = 99."}),
    ({"max_pieces": 3}, {"rationale": "a b c d"}),
    ({"min_overlap": 0.5}, {"rationale": "nothing shared"}),
    ({"dedupe": True}, {"id": "svamp/train/0000-2"}),
])
def test_each_filter_drops_its_own_and_tells(chosen, fields):
  good, bad = some_records(2)
  for name, value in fields.items():
    setattr(bad, name, value)
  selection = filters.select(
      [good, bad], SVAMP, filters=filters.Filters(**chosen),
      count_pieces=audit.count_words)
  assert selection.kept == {good.id}
  assert dict(selection.dropped) == {next(iter(chosen)): 1}
  assert selection.summary() == (
      f"2 records: 1 kept; dropped 1 by {next(iter(chosen))}")


def test_what_cannot_be_judged_is_not_filtered_in_silence():
  with pytest.raises(errors.UserError, match="only_consistent cannot judge"):
    filters.select(some_records(2), datasets.get("mine"),
                   filters=filters.Filters(only_consistent=True))


def test_shares_are_nested_seeded_and_exact():
  found = some_records(720)
  previous = frozenset()
  for share in (0.125, 0.25, 0.5, 0.75, 0.8, 1.0):
    kept = filters.select(found, SVAMP, share=share).kept
    assert len(kept) == round(720 * share) and previous <= kept
    assert kept == filters.select(found[::-1], SVAMP, share=share).kept
    previous = kept
  one = filters.select(found, SVAMP, share=0.25, seed=1).kept
  assert one != filters.select(found, SVAMP, share=0.25, seed=2).kept


def test_a_share_is_of_all_records():
  found = some_records(100)
  for record in found[::2]:
    record.teacher_label = "(777)"
  share = filters.select(found, SVAMP, share=0.5)
  both = filters.select(
      found, SVAMP, share=0.5, filters=filters.Filters(only_correct=True))
  assert both.kept < share.kept
  assert both.dropped["share"] == 50


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan"), "half", True])
def test_shares_that_are_none(share):
  with pytest.raises(errors.UserError, match="the share of train records is"):
    filters.select([], SVAMP, share=share)
