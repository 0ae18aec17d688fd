import pytest

from stepdistill_jax.runs import retention
from stepdistill_jax.util import errors

STEPS = [0, 5, 10, 15, 20, 25]


@pytest.mark.parametrize("options,kept", [
    (dict(keep=None), STEPS),
    (dict(keep=2), [20, 25]),
    (dict(keep=1, keep_period=10), [0, 10, 20, 25]),
    (dict(keep=9), STEPS),
])
def test_by_age_and_multiples(options, kept):
  gone = retention.to_delete(STEPS, **options)
  assert [s for s in STEPS if s not in gone] == kept


@pytest.mark.parametrize("options,kept", [
    # The best two, and the latest to go on from.
    (dict(keep=2, keep_without_metric=False), [5, 15, 25]),
    (dict(keep=2, mode="min", keep_without_metric=False), [0, 10, 25]),
    (dict(keep=1), [5, 20, 25]),  # 20 has no value: it stays.
    (dict(keep=1, keep_period=10, keep_without_metric=False),
     [0, 5, 10, 20, 25]),
])
def test_best_by_a_metric(options, kept):
  metric = {0: 0.1, 5: 0.9, 10: 0.2, 15: 0.8}
  gone = retention.to_delete(STEPS, metric=metric, **options)
  assert [s for s in STEPS if s not in gone] == kept


def test_of_equal_ones_the_later_stays():
  assert retention.to_delete(
      [1, 2, 3], keep=1, metric={1: 0.5, 2: 0.5}) == [1]


def test_deleting_leaves_nothing_that_looks_like_a_checkpoint(tmp_path):
  checkpoint = tmp_path / "checkpoint_5"
  for _ in range(2):  # The second time, as if the first had been cut off.
    (tmp_path / "checkpoint_5.deleted" / "old").mkdir(
        parents=True, exist_ok=True)
    checkpoint.mkdir()
    (checkpoint / "file").write_text("x")
    retention.delete(str(checkpoint))
    assert not list(tmp_path.iterdir())


def test_of_a_link_only_the_link_is_deleted(tmp_path):
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / "checkpoint_5").symlink_to(tmp_path / "elsewhere")
  retention.delete(str(tmp_path / "checkpoint_5"))
  assert [p.name for p in tmp_path.iterdir()] == ["elsewhere"]


def test_metrics_are_read_from_the_runs_files(tmp_path):
  from clu import metric_writers
  writer = metric_writers.SummaryWriter(
      str(tmp_path / "inference_eval" / "my_task"))
  for step, value in ((5, 0.25), (10, 0.75), (11, 1.0)):
    writer.write_scalars(step, {"eval/accuracy": value})
  writer.flush()
  for name in ("accuracy", "eval/accuracy"):
    assert retention.read_metric(
        str(tmp_path), f"inference_eval/my_task/{name}", [5, 10, 20]) == {
            5: 0.25, 10: 0.75}
  assert not retention.read_metric(str(tmp_path), "train/loss", [5])


def test_settings_that_mean_nothing():
  with pytest.raises(errors.UserError, match="keep = 0"):
    retention.check(0, "max")
  with pytest.raises(errors.UserError, match="one of 'max', 'min'; got 'best'"):
    retention.check(1, "best")
