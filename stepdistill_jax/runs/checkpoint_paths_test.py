"""What is said where no checkpoint is."""

import pytest

from stepdistill_jax.runs import checkpoint_paths
from stepdistill_jax.util import errors


def test_a_path_without_a_checkpoint_says_what_is_there(tmp_path):
  run = tmp_path / "run"

  def message_of(path) -> str:
    with pytest.raises(errors.InvalidValue) as raised:
      checkpoint_paths.require(path)
    assert str(raised.value).startswith(f"no checkpoint at {path}: ")
    return str(raised.value)

  assert "no such folder; a name on the Hugging Face hub" in message_of(run)
  run.mkdir()
  assert f"no checkpoint_STEP folders, {checkpoint_paths.NEITHER_LAYOUT}" in (
      message_of(run))
  (run / "config.json").touch()
  assert "it is a Hugging Face folder" in message_of(run)
  (run / "checkpoint_7" / checkpoint_paths.STATE_ITEM).mkdir(parents=True)
  assert f"name one ({run}/checkpoint_7) or use mode 'latest'" in (
      message_of(run))
  assert f"{run} has steps [7]" in message_of(run / "checkpoint_8")
  checkpoint_paths.require(run / "checkpoint_7")
