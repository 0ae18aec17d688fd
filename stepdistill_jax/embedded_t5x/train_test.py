"""Whole runs through gin files: what they leave, and that they repeat."""

import concurrent.futures
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepdistill_jax.distributed import device_mesh
from stepdistill_jax.embedded_t5x import checkpoints, utils
from stepdistill_jax.runs import run_record, t5x_command
from stepdistill_jax.util import errors
from tests.support import real_data as testing

GIN_FILE = "tests/support/testing.gin"
STEPS = 6
BINDINGS = ("EVAL_PERIOD = 3", "train_script.train.stats_period = 1",
            "utils.SaveCheckpointConfig.period = 3", "DROPOUT_RATE = 0.1",
            # Less to compile.
            "t5.network.T5Config.num_encoder_layers = 1",
            "t5.network.T5Config.num_decoder_layers = 1")
NO_INFER_EVAL = "train_script.train.infer_eval_dataset_cfg = None"
NO_EVAL = (NO_INFER_EVAL, "train_script.train.train_eval_dataset_cfg = None")


def run_train(model_dir, *bindings, steps=STEPS, **options):
  return t5x_command.run(
      "train", [GIN_FILE],
      [f"MODEL_DIR = {str(model_dir)!r}", f"TRAIN_STEPS = {steps}",
       *BINDINGS, *bindings], engine="embedded", **options)


def scalars(folder: pathlib.Path, tag: str) -> dict[int, float]:
  """step -> value of a tag, from a folder's event files."""
  from tensorboard.backend.event_processing import event_file_loader
  from tensorboard.util import tensor_util
  found = {}
  for path in sorted(folder.glob("events*")):
    for event in event_file_loader.EventFileLoader(str(path)).Load():
      for value in event.summary.value:
        if value.tag == tag:
          found[event.step] = float(tensor_util.make_ndarray(value.tensor))
  return found


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
  """(run folder, last step, last train state) of an uninterrupted run."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  step, state = run_train(folder)
  return folder, step, state


def test_leaves_what_t5x_leaves(whole_run):
  folder, step, _ = whole_run
  assert step == STEPS
  assert sorted(p.name for p in folder.glob("checkpoint_*")) == [
      "checkpoint_0", "checkpoint_3", "checkpoint_6"]
  assert (folder / "checkpoint_6" / "state" / "_METADATA").is_file()
  assert "train_script.train" in (folder / "config.gin").read_text()
  assert "Total number of parameters" in (
      folder / "model-info.txt").read_text()
  losses = scalars(folder / "train", "loss")
  assert sorted(losses) == list(range(1, STEPS + 1))
  assert all(np.isfinite(list(losses.values())))
  for tag in ("learning_rate", "timing/steps_per_second",
              "timing/data_wait_fraction", "timing/uptime"):
    assert sorted(scalars(folder / "train", tag)) == sorted(losses), tag
  task = "t5x_testing_reverse"
  assert sorted(scalars(folder / "training_eval" / task, "loss")) == [3, 6]
  lines = (folder / "inference_eval" / f"{task}-metrics.jsonl").read_text()
  assert [json.loads(line)["step"] for line in lines.splitlines()] == [3, 6]
  predictions = (folder / "inference_eval" / f"{task}-000006.jsonl")
  assert len(predictions.read_text().splitlines()) == 12  # The whole split.


def test_record_says_where_the_run_comes_from(whole_run):
  record = json.loads((whole_run[0] / "run.json").read_text())
  assert record["engine"] == "embedded"
  assert record["seeds"] == {"model": 0, "data": 1}
  assert record["versions"]["jax"] == jax.__version__
  assert record["config"]["BATCH_SIZE"] == "8"
  assert record["data"]["task"] == "t5x_testing_reverse"
  assert [start["step"] for start in record["starts"]] == [0]
  assert record["finished"]["step"] == STEPS


def test_interrupted_run_equals_whole_run_bit_for_bit(
    whole_run, tmp_path, monkeypatch):
  folder, _, state = whole_run
  monkeypatch.chdir(tmp_path.parent)
  run_train(f"./{tmp_path.name}/", *NO_EVAL, steps=3)  # One name of two.
  _, resumed = run_train(tmp_path, *NO_EVAL)
  assert scalars(tmp_path / "train", "loss") == scalars(
      folder / "train", "loss")
  jax.tree.map(np.testing.assert_array_equal, resumed, state)
  record = json.loads((tmp_path / "run.json").read_text())
  assert [start["step"] for start in record["starts"]] == [0, 3]


def test_saved_data_position_resumes_as_well(whole_run, tmp_path):
  bindings = ("utils.SaveCheckpointConfig.save_dataset = True", *NO_EVAL)
  run_train(tmp_path, *bindings, steps=3)
  assert list((tmp_path / "checkpoint_3" / "dataset").iterdir())
  _, resumed = run_train(tmp_path, *bindings)
  jax.tree.map(np.testing.assert_array_equal, resumed, whole_run[2])


@pytest.mark.parametrize("saved, begun_from", [
    ("bfloat16", None),  # A run goes on from what it saved.
    ("float32", "bfloat16"), ("float32", None)])
def test_restored_state_has_the_dtypes_of_the_program(
    whole_run, tmp_path, capsys, saved, begun_from):
  save = f"utils.SaveCheckpointConfig.dtype = {saved!r}"
  start = ("INITIAL_CHECKPOINT_PATH = "
           f"{str(whole_run[0] / 'checkpoint_3')!r}",
           f"utils.RestoreCheckpointConfig.dtype = {begun_from!r}")
  bindings = (save, *NO_EVAL, *(start if begun_from else ()))
  run_train(tmp_path, *bindings, steps=4)
  _, state = run_train(tmp_path, *bindings, steps=5)
  assert {x.dtype for x in jax.tree.leaves(state.params)} == {
      np.dtype("float32")}
  message = " ".join(capsys.readouterr().err.split())
  rounded = saved == "bfloat16" or begun_from == "bfloat16"
  assert ("are bfloat16, and are trained in float32" in message) == rounded
  if begun_from:  # Its own data, from what was read in that dtype.
    load = lambda folder: checkpoints.load_t5x_checkpoint(
        str(folder), step=3)["target"]
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path), jax.tree.map(
        lambda x: x.astype(jnp.bfloat16).astype(np.float32),
        load(whole_run[0])))
  else:
    # bfloat16 has 8 bits.
    assert scalars(tmp_path / "train", "loss")[5] == pytest.approx(
        scalars(whole_run[0] / "train", "loss")[5],
        rel=1e-2 if rounded else 1e-7)


def test_a_failed_evaluation_ends_the_run(tmp_path, monkeypatch):
  from stepdistill_jax.embedded_t5x import eval as eval_lib
  failed = concurrent.futures.Future()
  failed.set_exception(ZeroDivisionError("in a metric"))
  monkeypatch.setattr(
      eval_lib.InferenceEvaluator, "evaluate", lambda *_: failed)
  with pytest.raises(ZeroDivisionError, match="in a metric"):
    run_train(tmp_path, "train_script.train.train_eval_dataset_cfg = None")
  assert not (tmp_path / "evaluated.json").exists()


def test_other_config_in_the_same_folder_is_refused(whole_run):
  with pytest.raises(errors.UserError, match="BATCH_SIZE was 8, now 16"):
    run_train(whole_run[0], "BATCH_SIZE = 16")
  # More steps are no other run; nothing is left to train here.
  step, _ = run_train(whole_run[0], "EVAL_PERIOD = 1")
  assert step == STEPS


def test_periods_that_do_not_divide_each_other_are_refused(tmp_path):
  with pytest.raises(errors.UserError, match=(
      "EVAL_PERIOD = 2 and CHECKPOINT_PERIOD = 3: one must divide.*2 and 4")):
    run_train(tmp_path / "run", "EVAL_PERIOD = 2")
  assert not (tmp_path / "run").exists()


def test_begins_from_another_runs_checkpoint(whole_run, tmp_path):
  initial = str(whole_run[0] / "checkpoint_3")
  step, _ = run_train(
      tmp_path, f"INITIAL_CHECKPOINT_PATH = {initial!r}",
      "TRAIN_STEPS_RELATIVE = 1", *NO_EVAL, steps=1)
  assert step == 4
  assert sorted(scalars(tmp_path / "train", "loss")) == [4]


def test_nothing_to_train_in_a_new_folder_is_reported(
    whole_run, tmp_path, capsys):
  folder, _, _ = whole_run
  new = tmp_path / "new"
  with pytest.raises(errors.UserError, match=(
      f"nothing to train in {new}: TRAIN_STEPS={STEPS} is reached")):
    run_train(new, f"INITIAL_CHECKPOINT_PATH = '{folder}/checkpoint_{STEPS}'")
  assert not (new / "run.json").exists()
  assert run_train(folder)[0] == STEPS  # A run's own folder: done before.
  assert "nothing to train" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
  with pytest.raises(errors.UserError, match="not finite in 1 of the steps"):
    run_train(
        tmp_path, *NO_EVAL,
        "utils.create_learning_rate_scheduler.base_learning_rate = 1e30",
        steps=9)
  # Its metrics are written, and nothing is saved.
  counted = scalars(tmp_path / "train", "guard/nonfinite_steps")
  assert sum(counted.values()) >= 1
  assert [p.name for p in tmp_path.glob("checkpoint_*")] == ["checkpoint_0"]


def test_other_data_in_the_same_folder_is_refused(whole_run):
  path = whole_run[0] / "run.json"
  text = path.read_text()
  try:
    record = json.loads(text)
    path.write_text(json.dumps(
        {**record, "data": {**record["data"], "files_sha256": "0" * 64}}))
    with pytest.raises(errors.UserError, match="had the fingerprint 000"):
      run_train(whole_run[0])
  finally:
    path.write_text(text)


@pytest.mark.parametrize("text", [
    "", "[]", "null", b"\xff", '{"starts": 3}', '{"starts": [3]}'])
def test_a_damaged_record_is_reported_in_a_line(tmp_path, text):
  (tmp_path / "run.json").write_bytes(
      text if isinstance(text, bytes) else text.encode())
  with pytest.raises(errors.UserError, match="run.json is not what was writ"):
    run_record.read(tmp_path)


def test_no_seed_is_a_new_one_with_fast_random_bits(tmp_path):
  """T5X's default; the record's seed repeats the run."""
  run_train(tmp_path / "run", "RANDOM_SEED = None", *NO_EVAL, steps=3)
  seed = run_record.read(tmp_path / "run")["seeds"]["model"]
  run_train(tmp_path / "again", f"RANDOM_SEED = {seed}",
            "USE_HARDWARE_RNG = True", *NO_EVAL, steps=3)
  first, again = (scalars(tmp_path / name / "train", "loss")
                  for name in ("run", "again"))
  assert first == again and len(first) == 3
  assert jax.config.jax_default_prng_impl == "threefry2x32"


def test_accelerators_draw_random_bits_of_their_own(tmp_path, monkeypatch):
  """And runs go on with the bits that they began with, wherever."""
  options = (*NO_EVAL, "RANDOM_SEED = 1",
             "utils.SaveCheckpointConfig.period = 2")
  def record():
    return run_record.read(tmp_path / "run")
  with monkeypatch.context() as patch:
    patch.setattr(device_mesh, "on_accelerators", lambda: True)
    run_train(tmp_path / "whole", *options, steps=4)
    run_train(tmp_path / "run", *options, steps=2)
    assert record()["random_bits"] == "rbg"
  run_train(tmp_path / "run", *options, steps=4)  # Here, on the CPU.
  assert record()["random_bits"] == "rbg"
  run_train(tmp_path / "threefry", *options, steps=4)
  whole, cut, threefry = (scalars(tmp_path / name / "train", "loss")
                          for name in ("whole", "run", "threefry"))
  assert whole == cut and len(whole) == 4
  # The same parameters to begin with, other dropout.
  assert threefry != whole
  assert utils.random_bits(False, 1) == "threefry2x32"
  assert utils.random_bits(None, None, "rbg") == "unsafe_rbg"


def test_a_run_of_before_goes_on_with_threefry():
  before, now = {"USE_HARDWARE_RNG": "False"}, {"USE_HARDWARE_RNG": "None"}
  assert not run_record.differences(before, now)
  assert run_record.differences(now, {"USE_HARDWARE_RNG": "True"})


def test_actions_end_training(tmp_path, monkeypatch):
  from stepdistill_jax.embedded_t5x import train as train_lib
  seen = []
  monkeypatch.setattr(
      train_lib, "run_actions",
      lambda mode, *_: seen.append(mode.name) or mode.name == "TRAIN_EVAL")
  step, _ = run_train(
      tmp_path, "train_script.train.concurrent_metrics = False",
      NO_INFER_EVAL)
  assert step == 3
  assert seen == ["TRAIN", "TRAIN", "TRAIN", "TRAIN_EVAL"]
  assert (tmp_path / "checkpoint_3").is_dir()


def test_loop_compiles_each_program_once_and_moves_nothing(
    tmp_path, monkeypatch):
  from stepdistill_jax.embedded_t5x import trainer
  compiled_at = {}
  original = trainer.BaseTrainer.train

  def counted(self, batch_iter, num_steps, start_step=None):
    with testing.counted_compilations() as programs:
      summary = original(self, batch_iter, num_steps, start_step)
      summary.result()
    compiled_at[start_step] = len(programs)
    return summary

  monkeypatch.setattr(trainer.BaseTrainer, "train", counted)
  run_train(tmp_path, NO_INFER_EVAL, "train_script.train.stats_period = 2")
  # Within the first two steps metrics are merged for the first time: one
  # program. The train step itself was compiled before the loop.
  assert compiled_at == {0: 1, 2: 0, 3: 0, 4: 0}


def test_transfer_guard_holds_in_the_loop(tmp_path, monkeypatch):
  from stepdistill_jax.util import progress

  def careless(self, step):
    del self, step
    jnp.ones(3) + np.ones(3)  # Moves an array to the device, unasked.

  monkeypatch.setattr(progress.Progress, "at_step", careless)
  with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
    run_train(tmp_path, *NO_EVAL)


def test_restarts_tell_what_changed(tmp_path, capsys, monkeypatch):
  def start(versions, **config):
    monkeypatch.setattr(run_record, "versions", lambda: versions)
    run_record.check_same_run(tmp_path, config, {})
    run_record.start(tmp_path, engine="embedded", config=config, step=0,
                     seeds={}, data={}, devices="1 x cpu")
    return " ".join(capsys.readouterr().err.split())

  assert not start({"jax": "1"}, TRAIN_STEPS="5", schedule="%TRAIN_STEPS")
  said = start({"jax": "2"}, TRAIN_STEPS="9", schedule="%TRAIN_STEPS")
  assert "TRAIN_STEPS was 5, now 9: schedule follows it" in said
  assert "jax was 1, now 2: results may differ" in said
  first, second = run_record.read(tmp_path)["starts"]
  assert (first["versions"], first["config_changes"]) == ({"jax": "1"}, [])
  assert second["versions"] == {"jax": "2"}
  assert second["config_changes"] == ["TRAIN_STEPS was 5, now 9"]


@pytest.mark.parametrize("binding, expected", [
    ("models.EncoderDecoderModel.loss_normalizing_factor = 'REAL_TOKENS'",
     "unknown loss_normalizing_factor 'REAL_TOKENS'"),
    ("t5.network.T5Config.mlp_activations = ('gelo',)",
     "an activation is .*'gelo"),
    ("t5.network.T5Config.emb_dim = '16'",
     "T5Config.emb_dim must be a whole number; got '16'"),
    ("adafactor.Adafactor.logical_factor_rules = {'embed': 'row'}",
     "have none for the axis 'joined_kv' of .*; add for instance"),
    ("MIXTURE_OR_TASK_MODULE = 'no_such_module'",
     "there is no module 'no_such_module' to import"),
    ("TASK_FEATURE_LENGTHS = {'inputs': 16}",
     "TASK_FEATURE_LENGTHS = {'inputs': 16}: .* is missing .*'targets'"),
    ("TASK_FEATURE_LENGTHS = {'inputs': 16, 'targets': -1}",
     r"TASK_FEATURE_LENGTHS\['targets'\] must be a whole number of at least 1"),
])
def test_values_that_cannot_work_are_reported_in_a_line(
    tmp_path, binding, expected):
  with pytest.raises(errors.UserError, match=expected):
    run_train(tmp_path, *NO_EVAL, binding)


def test_data_without_a_split_to_evaluate_on_says_how_to_train(tmp_path):
  with pytest.raises(errors.UserError, match="split 'dev'.*; to train without"):
    run_train(tmp_path, "train_eval/utils.DatasetConfig.split = 'dev'")
  with pytest.raises(errors.UserError, match=r"split 'dev'; it has \[[^;]*$"):
    run_train(tmp_path, "train/utils.DatasetConfig.split = 'dev'")


def test_an_optax_transformation_is_no_optimizer(tmp_path):
  gin_file = tmp_path / "optax.gin"
  gin_file.write_text("""
      from __gin__ import dynamic_registration
      import optax
      include 'tests/support/testing.gin'
      OPTIMIZER = @optax.sgd()
      optax.sgd.learning_rate = 0.1
      """)
  with pytest.raises(errors.UserError, match="wrap it in @optimizers.OptaxWr"):
    t5x_command.run(
        "train", [str(gin_file)], [
            f"MODEL_DIR = {str(tmp_path)!r}", "TRAIN_STEPS = 2", *NO_EVAL],
        engine="embedded")


def test_what_gin_files_came_to_bind_does_not_end_older_runs():
  lines = {"LONG_RATIONALE": "'cut_tail'",
           "preprocessors.long_rationales.do": "%LONG_RATIONALE"}
  assert not run_record.differences({}, lines)
  assert run_record.differences({}, {**lines, "LONG_RATIONALE": "'drop'"}) == [
      "LONG_RATIONALE was 'cut_tail', now 'drop'"]
  kind = {"SYNTHETIC_KIND": "'vanilla'"}  # A name, which runs had not.
  assert run_record.differences({}, kind) == []
  assert run_record.differences(kind, {"SYNTHETIC_KIND": "'cot_answer'"}) == [
      "SYNTHETIC_KIND was 'vanilla', now 'cot_answer'"]
