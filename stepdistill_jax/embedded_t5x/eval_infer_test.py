"""`t5x eval` and `t5x infer` on a checkpoint, through gin files."""

import json

import pytest
import seqio

from stepdistill_jax.embedded_t5x import infer as infer_lib
from stepdistill_jax.runs import t5x_command
from stepdistill_jax.util import errors
from tests.support import testing_tasks

MODEL = "tests/support/testing_model.gin"
TASK = "t5x_testing_reverse"
# Less to compile.
SMALL = ["t5.network.T5Config.num_encoder_layers = 1",
         "t5.network.T5Config.num_decoder_layers = 1"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
  """A run folder with the checkpoints of steps 0, 1 and 2."""
  folder = tmp_path_factory.mktemp("run")
  t5x_command.run("train", ["tests/support/testing.gin"], [
      *SMALL, f"MODEL_DIR = {str(folder)!r}", "TRAIN_STEPS = 2",
      "utils.SaveCheckpointConfig.period = 1",
      "train_script.train.train_eval_dataset_cfg = None",
      "train_script.train.infer_eval_dataset_cfg = None"], engine="embedded")
  return folder


def run_infer(run_folder, output, *bindings, gin_files=()):
  t5x_command.run(
      "infer", ["t5x/configs/runs/infer.gin", MODEL, *gin_files],
      [*SMALL, f"CHECKPOINT_PATH = {str(run_folder / 'checkpoint_2')!r}",
       f"INFER_OUTPUT_DIR = {str(output)!r}",
       "utils.RestoreCheckpointConfig.dtype = 'float32'",
       "utils.DatasetConfig.batch_size = 4", *bindings], engine="embedded")


def read_lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_eval_of_all_checkpoints_skips_what_is_done(run_folder, tmp_path):
  def evaluate(mode, path):
    t5x_command.run("eval", ["t5x/configs/runs/eval.gin", MODEL], [
        *SMALL, f"CHECKPOINT_PATH = {str(path)!r}",
        f"EVAL_OUTPUT_DIR = {str(tmp_path)!r}",
        f"utils.RestoreCheckpointConfig.mode = {mode!r}"], engine="embedded")

  metrics = tmp_path / "inference_eval" / f"{TASK}-metrics.jsonl"
  evaluate("specific", run_folder / "checkpoint_1")
  assert [line["step"] for line in read_lines(metrics)] == [1]
  evaluate("all", run_folder)
  assert [line["step"] for line in read_lines(metrics)] == [1, 0, 2]
  assert len(read_lines(
      tmp_path / "inference_eval" / f"{TASK}-000002.jsonl")) == 10
  record = (tmp_path / f"eval.{TASK}.ckpt").read_text().split()
  assert record == [str(run_folder / f"checkpoint_{n}") for n in (0, 1, 2)]


def test_inferences_of_another_call_are_not_mixed_in(
    run_folder, tmp_path, capsys):
  name = f"{TASK}-predict.jsonl-00000-of-00001"
  run_infer(run_folder, tmp_path / "one")
  whole = read_lines(tmp_path / "one" / name)
  run_infer(run_folder, tmp_path / "one")  # Complete already.
  with pytest.raises(errors.UserError, match="has the inferences of .*nt_2 in"):
    run_infer(run_folder, tmp_path / "one",
              f"CHECKPOINT_PATH = {str(run_folder / 'checkpoint_1')!r}")
  # A call that was killed had finished one chunk of one batch.
  folder = tmp_path / "two" / f"tmp-{TASK}-00000-of-00001"
  folder.mkdir(parents=True)
  (folder / f"{name}-chunk00000").write_text('{"prediction": "old"}\n')
  (folder / f"{name}-chunk00000.COMPLETED").touch()
  capsys.readouterr()
  run_infer(run_folder, tmp_path / "two")
  assert "has unfinished inferences of another call" in capsys.readouterr().err
  assert read_lines(tmp_path / "two" / name) == whole


def test_predictions_do_not_depend_on_chunks_or_shards(run_folder, tmp_path):
  run_infer(run_folder, tmp_path / "one")
  name = f"{TASK}-predict.jsonl-00000-of-00001"
  whole = read_lines(tmp_path / "one" / name)
  words = [testing_tasks._word("test", i) for i in range(10)]
  assert [line["inputs"]["inputs_pretokenized"] for line in whole] == words
  assert all(isinstance(line["prediction"], str) for line in whole)
  assert (tmp_path / "one" / f"{name}.COMPLETED").is_file()

  run_infer(run_folder, tmp_path / "many",
            "infer_script.infer.checkpoint_period = 1")
  assert read_lines(tmp_path / "many" / name) == whole

  for shard in (0, 1):
    run_infer(run_folder, tmp_path / "two",
              f"infer_script.infer.shard_id = {shard}",
              "infer_script.infer.num_shards = 2")
  shards = [read_lines(
      tmp_path / "two" / f"{TASK}-predict.jsonl-0000{i}-of-00002")
      for i in (0, 1)]
  assert [line for pair in zip(*shards) for line in pair] == whole


def test_interrupted_inference_goes_on(run_folder, tmp_path, monkeypatch):
  written = []
  original = infer_lib.write_inferences_to_file

  def write(path, *args, **kwargs):
    if len(written) == 1:
      raise RuntimeError("the machine goes")
    written.append(path)
    original(path, *args, **kwargs)

  bindings = ("infer_script.infer.checkpoint_period = 1",)
  monkeypatch.setitem(
      infer_lib.infer.__kwdefaults__, "write_fn", write)
  with pytest.raises(RuntimeError, match="machine"):
    run_infer(run_folder, tmp_path, *bindings)
  monkeypatch.setitem(
      infer_lib.infer.__kwdefaults__, "write_fn", original)
  run_infer(run_folder, tmp_path, *bindings)
  lines = read_lines(tmp_path / f"{TASK}-predict.jsonl-00000-of-00001")
  assert len(lines) == 10
  assert not list(tmp_path.glob("tmp-*"))


def test_scores_and_auxiliary_values(run_folder, tmp_path):
  run_infer(run_folder, tmp_path, "infer_script.infer.mode = 'score'")
  scores = read_lines(tmp_path / f"{TASK}-score.jsonl-00000-of-00001")
  assert all(line["score"] < 0 for line in scores)
  run_infer(run_folder, tmp_path,
            "infer_script.infer.mode = 'predict_with_aux'")
  lines = read_lines(
      tmp_path / f"{TASK}-predict_with_aux.jsonl-00000-of-00001")
  assert all("scores" in line["aux"] for line in lines)


@pytest.mark.parametrize("binding, expected", [
    ("shard_id = 2", "shard_id must be one of 0 to 0, .*; got 2"),
    ("checkpoint_period = 0", "checkpoint_period must be a whole number"),
    ("output_vocab_feature_name = 'target'",
     "unknown feature 'target'; did you mean: targets"),
])
def test_what_cannot_be_inferred_is_reported(
    run_folder, tmp_path, binding, expected):
  with pytest.raises(errors.UserError, match=expected):
    run_infer(run_folder, tmp_path, f"infer_script.infer.{binding}")


def test_options_of_what_is_written(run_folder, tmp_path):
  gin_file = tmp_path / "written.gin"
  gin_file.write_text("""
      from __gin__ import dynamic_registration
      import __main__ as infer_script
      infer_script.infer.write_fn = @infer_script.write_inferences_to_file
      infer_script.write_inferences_to_file.output_ids = True
      """)
  run_infer(run_folder, tmp_path / "out", gin_files=[str(gin_file)])
  lines = read_lines(
      tmp_path / "out" / f"{TASK}-predict.jsonl-00000-of-00001")
  assert all("prediction_tokens" in line for line in lines)


def test_text_files(run_folder, tmp_path):
  (tmp_path / "words.txt").write_text("abc\nfeed\n")
  run_infer(run_folder, tmp_path / "out",
            f"TEXT_FILE_PATHS = {str(tmp_path / 'words.txt')!r}",
            gin_files=["t5x/configs/runs/infer_from_text_file.gin"])
  (path,) = (tmp_path / "out").glob("infer_*-predict.jsonl-00000-of-00001")
  assert [line["inputs"]["inputs_pretokenized"]
          for line in read_lines(path)] == ["abc", "feed"]


def test_missing_text_file(tmp_path):
  with pytest.raises(errors.UserError, match="no file matches"):
    infer_lib.create_task_from_text_file(
        str(tmp_path / "absent*"), testing_tasks.FEATURES)


def test_tfexample_files(tmp_path):
  import tensorflow as tf
  path = str(tmp_path / "examples.tfrecord")
  with tf.io.TFRecordWriter(path) as writer:
    for text in (b"one", b"two"):
      feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text]))
      writer.write(tf.train.Example(features=tf.train.Features(
          feature={"text": feature, "answer": feature})).SerializeToString())
  name = infer_lib.create_task_from_tfexample_file(
      [path], "tfrecord", "text", "answer", testing_tasks.FEATURES)
  ds = seqio.get_mixture_or_task(name).get_dataset(
      {"inputs": 8, "targets": 8}, split="infer", shuffle=False)
  assert [x["inputs_pretokenized"] for x in ds.as_numpy_iterator()] == [
      b"one", b"two"]


def test_what_is_written_of_an_example(tmp_path):
  import tensorflow as tf
  ds = tf.data.Dataset.from_tensor_slices({
      "inputs": [[5, 1]], "inputs_pretokenized": ["x"], "id": ["7"]})

  def write(**options):
    infer_lib.write_inferences_to_file(
        str(tmp_path / "out"), ([[68, 1, 0]], {}), ds, "predict",
        testing_tasks.VOCABULARY, **options)
    return read_lines(tmp_path / "out")[0]

  assert write()["inputs"] == {"inputs_pretokenized": "x"}
  assert set(write(include_all_inputs=True)["inputs"]) == {
      "inputs", "inputs_pretokenized", "id"}
  assert write(input_fields_to_include=["id"])["inputs"] == {"id": "7"}
  assert write(output_ids=True)["prediction_tokens"] == [68, 1]
