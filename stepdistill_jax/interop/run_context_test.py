"""What the folder around a checkpoint says: task, records, vocabulary."""

import json

import pytest

from stepdistill_jax.data import vocabularies
from stepdistill_jax.interop import run_context
from stepdistill_jax.records import records
from stepdistill_jax.util import errors, locations
from tests.support import real_data as testing

CONFIG = """
from __gin__ import dynamic_registration
from stepdistill_jax.data import vocabularies
from t5x import adafactor
from t5x import models
from t5x.examples.t5 import network

MIXTURE_OR_TASK_NAME = 'tracking_label_gold'
MODEL = @models.EncoderDecoderModel()
VOCABULARY = @vocabularies.task_vocabulary()
vocabularies.task_vocabulary.dataset = 'tracking'
models.EncoderDecoderModel:
  module = @network.Transformer()
  input_vocabulary = %VOCABULARY
  output_vocabulary = %VOCABULARY
  optimizer_def = @adafactor.Adafactor()
network.Transformer.config = @network.T5Config()
network.T5Config.vocab_size = 256
"""


@pytest.fixture(name="run")
def _run(tmp_path, monkeypatch):
  """A run whose records are where the user's default is not."""
  monkeypatch.setenv("STEPDISTILL_RECORDS", str(tmp_path / "default"))
  # A process has one vocabulary of a data set, and it was found before.
  monkeypatch.setattr(
      vocabularies, "_OWN_VOCABULARY", (*vocabularies._OWN_VOCABULARY,
                                        tmp_path.name))
  folder = tmp_path / "run"
  folder.mkdir()
  (folder / "config.gin").write_text(
      CONFIG.replace("'tracking'", repr(tmp_path.name)))
  testing.write_tiny_vocabulary(
      records.vocabulary_path(tmp_path / "records", tmp_path.name))
  version = records.version_dir(tmp_path / "records", "tracking", "simulated")
  version.mkdir(parents=True)
  (folder / "run.json").write_text(json.dumps({"data": {
      "task": "tracking_label_gold", "folders": [str(version)]}}))
  return folder


def find(run):
  return run_context.find(str(run / "checkpoint_3"))


def test_the_records_that_the_run_wrote_down(run, tmp_path):
  context = find(run)
  assert context.records_dir() == tmp_path / "records"
  assert context.task_name() == "tracking_label_gold"
  tokenizer = context.tokenizer()
  assert tokenizer.spiece == records.vocabulary_path(
      tmp_path / "records", tmp_path.name).read_bytes()


def test_records_that_have_moved(run, tmp_path):
  (tmp_path / "records").rename(tmp_path / "moved")
  context = find(run)
  assert context.records_dir() == locations.records_dir()
  with pytest.raises(errors.UserError, match="--records_dir=DIR") as caught:
    context.tokenizer()
  assert "\n" not in str(caught.value)
  assert context.tokenizer(tmp_path / "moved").extra_ids == 0


@pytest.mark.parametrize("text", [
    "", "{", "[]", '{"data": 5}', '{"data": {"task": 5, "folders": "x"}}',
    '{"data": {"folders": [5, "/x"]}}'])
def test_a_damaged_run_json_says_nothing(run, text):
  (run / "run.json").write_text(text)
  context = find(run)
  assert context.records_dir() == locations.records_dir()
  assert context.task_name() == "tracking_label_gold"  # By config.gin.
