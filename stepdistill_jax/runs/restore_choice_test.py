"""Bad checkpoints of a real run: found, and the one before is used."""

import errno
import pathlib
import random
import shutil

import flax.core
from flax.linen import partitioning as flax_partitioning
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepdistill_jax.embedded_t5x import (
  adafactor,
  checkpoint_config,
  checkpoints,
  partitioning,
  state_initializer,
)
from stepdistill_jax.runs import (
  array_reader,
  checkpoint_manifest,
  checkpoint_writing,
  restore_choice,
  run_record,
)
from stepdistill_jax.util import errors
from tests.support import damage

PARTITIONER = partitioning.PjitPartitioner(num_partitions=1)


def _initializer():
  def init(rng, input_shapes=None, input_types=None):
    del input_shapes, input_types
    params = {"a": {"kernel": jax.random.normal(rng, (16, 12))}}
    axes = {"a": {"kernel_axes": flax_partitioning.AxisMetadata(
        ("embed", "mlp"))}}
    return flax.core.freeze({"params": params, "params_axes": axes})

  return state_initializer.TrainStateInitializer(
      adafactor.Adafactor(
          logical_factor_rules=adafactor.standard_logical_factor_rules()),
      init, {}, PARTITIONER)


@pytest.fixture(scope="module", name="written")
def _written(tmp_path_factory) -> pathlib.Path:
  """A folder with the checkpoints 5 and 10."""
  folder = tmp_path_factory.mktemp("written") / "run"
  initializer = _initializer()
  manager = checkpoints.OrbaxCheckpointManagerInterface(
      str(folder), initializer.global_train_state_shape, PARTITIONER)
  for step in (5, 10):
    state = initializer.from_scratch(jax.random.PRNGKey(step))
    manager.save(state.replace_step(jnp.array(step)), run_state={"x": step})
  manager.close()
  return folder


@pytest.fixture(name="run")
def _run(written, tmp_path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(written, tmp_path / "run"))


def latest(folder) -> str:
  cfg = checkpoint_config.RestoreCheckpointConfig(path=str(folder))
  _, (path,) = checkpoint_config.get_first_valid_restore_config_and_paths(
      [cfg])
  return pathlib.Path(path).name


def test_good_ones_are_taken_in_silence(run, capsys):
  assert latest(run) == "checkpoint_10"
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", damage.KINDS)
def test_all_damage_is_found(written, tmp_path, kind):
  # 15 of each of the 4 kinds, in all files of the checkpoint.
  rng = random.Random(kind)
  for trial in range(15):
    folder = tmp_path / str(trial)
    shutil.copytree(written, folder)
    message = damage.inflict(kind, folder / "checkpoint_10", rng)
    assert restore_choice.problems(str(folder / "checkpoint_10")), message
    assert latest(folder) == "checkpoint_5", message


def test_the_report_names_path_and_file(run, capsys):
  damage.inflict("bit_flip", run / "checkpoint_10", random.Random(1))
  (problem,) = checkpoint_manifest.verify(run / "checkpoint_10")
  assert latest(run) == "checkpoint_5"
  said = " ".join(capsys.readouterr().err.split())
  assert f"{run}/checkpoint_10 is not what was written: {problem.file}" in said
  with run_record.launched(["t5x"], strict=True), pytest.raises(
      errors.UserError, match="checkpoint_10 .*without --strict"):
    latest(run)


def test_no_good_one_is_left(run):
  for step in (5, 10):
    damage.inflict("truncation", run / f"checkpoint_{step}", random.Random(2))
  with pytest.raises(errors.UserError, match="no good checkpoint is left"):
    latest(run)
  cfg = checkpoint_config.RestoreCheckpointConfig(
      path=str(run / "checkpoint_5"), mode="specific")
  with pytest.raises(errors.UserError, match="is not what was written"):
    checkpoint_config.get_first_valid_restore_config_and_paths([cfg])
  with pytest.raises(errors.UserError, match="is not what was written"):
    _initializer().restore(cfg, str(run / "checkpoint_5"))
  with pytest.raises(errors.UserError, match="is not what was written"):
    restore_choice.choose(run / "checkpoint_5")


def test_googles_checkpoints_restore_with_a_line(run, capsys):
  # They have neither the manifest nor the mark.
  checkpoint = run / "checkpoint_10"
  (checkpoint / checkpoint_manifest.MANIFEST_FILE).unlink()
  metadata = checkpoint / "_CHECKPOINT_METADATA"
  metadata.write_text(metadata.read_text().replace('"manifest"', '"other"'))
  assert latest(run) == "checkpoint_10"
  assert "no checksums.json (Google's T5X" in " ".join(
      capsys.readouterr().err.split())


def test_googles_checkpoint_without_a_file_is_reported_in_a_line(run):
  checkpoint = run / "checkpoint_10"
  for name in (checkpoint_manifest.MANIFEST_FILE, "_CHECKPOINT_METADATA"):
    (checkpoint / name).unlink()
  largest = max(checkpoint.rglob("d/*"), key=lambda p: p.stat().st_size)
  largest.unlink()
  assert latest(run) == "checkpoint_5"
  with pytest.raises(
      errors.UserError, match="cannot be opened: NOT_FOUND") as caught:
    checkpoints.load_t5x_checkpoint(str(run), 10)
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 800


def test_what_cannot_be_read_is_not_called_damaged(run, monkeypatch):
  """No advice that could lose a good checkpoint, and no older one instead."""
  def refuse(file, sync=False):
    raise PermissionError(errno.EACCES, "Permission denied", str(file))

  monkeypatch.setattr(checkpoint_manifest, "_checksum", refuse)
  for read in (latest, restore_choice.choose):
    with pytest.raises(errors.Unreadable) as caught:
      read(run)
    assert "checkpoint_10 cannot be read: " in str(caught.value)
    assert "Permission denied" in str(caught.value)
    for word in ("damaged", "not what was written", "move"):
      assert word not in str(caught.value)


def test_an_error_of_reading_a_good_checkpoint_is_given_as_it_is(
    run, monkeypatch):
  def fail(*unused_args, **unused_options):
    raise ValueError("no such layout")

  monkeypatch.setattr(
      array_reader, "_of_store", lambda name, store, dtype=None:
      array_reader.Array(name, store.shape, np.dtype("int32"), (), fail))
  with pytest.raises(errors.Unreadable, match="read: no such layout$"):
    checkpoints.load_t5x_checkpoint(str(run), 10)
  # The same of one whose manifest proves the damage.
  damage.inflict("truncation", run / "checkpoint_10" / "state" / "d",
                 random.Random(3))
  with pytest.raises(errors.UserError, match="not what was written: state/d"):
    checkpoints.load_t5x_checkpoint(str(run), 10)


def test_paths_may_be_relative(run, monkeypatch):
  monkeypatch.chdir(run.parent)
  assert restore_choice.choose("run").checkpoint == str(
      run / "checkpoint_10")
  np.testing.assert_equal(checkpoints.load_t5x_checkpoint(
      "run", 10)["state"]["step"], 10)


def test_who_reads_without_devices_gets_the_same_choice(run, capsys):
  damage.inflict("bit_flip", run / "checkpoint_10", random.Random(1))
  (problem,) = checkpoint_manifest.verify(run / "checkpoint_10")
  choice = restore_choice.choose(run)
  assert choice.checkpoint == str(run / "checkpoint_5")
  (line,) = choice.passed_over
  assert f"checkpoint_10 is not what was written: {problem.file}" in line
  assert line in " ".join(capsys.readouterr().err.split())
  with pytest.raises(errors.UserError, match="without --strict"):
    restore_choice.choose(run, strict=True)


def test_a_lost_manifest_is_damage(run):
  (run / "checkpoint_10" / checkpoint_manifest.MANIFEST_FILE).unlink()
  assert latest(run) == "checkpoint_5"


def _half_deleted(checkpoint):
  for name in ("checksums.json", "_CHECKPOINT_METADATA", "state/_METADATA"):
    (checkpoint / name).unlink()


def _without_arrays(checkpoint):
  for path in checkpoint.iterdir():
    if path.name != "state":
      path.unlink() if path.is_file() else shutil.rmtree(path)
  (checkpoint / "state" / "manifest.ocdbt").unlink()


@pytest.mark.parametrize("make", [
    lambda checkpoint: checkpoint.mkdir(),
    lambda checkpoint: checkpoint.write_text("x"),
    lambda checkpoint: checkpoint.symlink_to("/nowhere"),
    # A copy's files are as they were written.
    lambda checkpoint: shutil.copytree(
        checkpoint.with_name("checkpoint_5"), checkpoint),
    lambda checkpoint: (shutil.copytree(
        checkpoint.with_name("checkpoint_10"), checkpoint),
                        _half_deleted(checkpoint)),
    lambda checkpoint: (shutil.copytree(
        checkpoint.with_name("checkpoint_10"), checkpoint),
                        _without_arrays(checkpoint)),
])
def test_what_has_a_checkpoints_name_and_is_none(run, make):
  from stepdistill_jax.cli import stepdistill as cli
  make(run / "checkpoint_15")
  assert latest(run) == "checkpoint_10"
  assert cli.main(["checkpoint", "verify", str(run)]) == 1


def test_verify_command(run, capsys):
  from stepdistill_jax.cli import stepdistill as cli
  assert cli.main(["checkpoint", "verify", str(run)]) == 0
  damage.inflict("swap", run / "checkpoint_5", random.Random(4))
  (run / "checkpoint_10" / checkpoint_manifest.MANIFEST_FILE).unlink()
  assert cli.main(["checkpoint", "verify", str(run)]) == 1
  assert capsys.readouterr().out.count("BAD") == 2


@pytest.mark.parametrize("break_folder,reason", [
    (lambda folder: (shutil.rmtree(folder), folder.write_text("")),
     "the folder is gone"),
    (lambda folder: (folder / "checkpoint_15.unchecked").write_text(""), ""),
])
def test_a_disk_that_takes_no_checkpoint(run, break_folder, reason):
  initializer = _initializer()
  manager = checkpoints.OrbaxCheckpointManagerInterface(
      str(run), initializer.global_train_state_shape, PARTITIONER)
  state = initializer.from_scratch(jax.random.PRNGKey(0))
  break_folder(run)
  with pytest.raises(errors.UserError, match=(
      f"cannot write a checkpoint into {run}: {reason}.*same command again")):
    manager.save(state.replace_step(jnp.array(15)))
    manager.wait_until_finished()
  manager.close()
  if run.is_dir():
    assert latest(run) == "checkpoint_10"


def test_set_aside_and_saved_again(run):
  aside = [restore_choice.set_aside(str(run / "checkpoint_10"))]
  shutil.copytree(run / "checkpoint_5", run / "checkpoint_10")
  aside.append(restore_choice.set_aside(str(run / "checkpoint_10")))
  assert [pathlib.Path(p).name for p in aside] == [
      "checkpoint_10.bad", "checkpoint_10.bad2"]
  assert checkpoints.all_steps(str(run)) == [5]


def test_what_was_left_unfinished_is_removed(run):
  for name in ("checkpoint_11.unchecked", "checkpoint_3.deleted",
               "checkpoint_11.unchecked.orbax-checkpoint-tmp"):
    (run / name).mkdir()
  (run / "checkpoint_2.bad").mkdir()
  assert checkpoints.all_steps(str(run)) == [5, 10]
  initializer = _initializer()
  manager = checkpoints.OrbaxCheckpointManagerInterface(
      str(run), initializer.global_train_state_shape, PARTITIONER,
      keep=1, force_keep_period=5)
  manager.save(initializer.from_scratch(jax.random.PRNGKey(0)).replace_step(
      jnp.array(11)))
  manager.close()
  assert sorted(p.name for p in run.glob("checkpoint*")) == [
      "checkpoint_10", "checkpoint_11", "checkpoint_2.bad", "checkpoint_5"]


def test_run_state_goes_with_the_checkpoint(run):
  assert checkpoint_writing.read_run_state(
      str(run / "checkpoint_10")) == {"x": 10}
  np.testing.assert_equal(checkpoints.load_t5x_checkpoint(
      str(run), 10)["state"]["step"], 10)
