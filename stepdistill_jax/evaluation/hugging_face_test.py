"""Tests of Hugging Face students: the same answers as the checkpoint's own."""

import json
import re
import shutil

import numpy as np
import pytest

from stepdistill_jax.evaluation import (
  checkpoints,
  evaluate,
  examples,
  model_config,
)
from stepdistill_jax.util import errors
from tests.support import students as testing

pytestmark = pytest.mark.interop
pytest.importorskip("transformers")
pytest.importorskip("torch")
from stepdistill_jax.evaluation import hugging_face
from stepdistill_jax.interop.hf import exporting as export_hf

SETTINGS = dict(batch_size=8, label_length=12, rationale_length=16)


@pytest.fixture(name="folders", scope="module")
def _folders(tmp_path_factory):
  """Records, a run, and the run's student in the Hugging Face format."""
  base = tmp_path_factory.mktemp("hf")
  records_dir, run = base / "records", base / "run"
  testing.write_records(records_dir, rows=17)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("STEPDISTILL_RECORDS", str(records_dir))
    patch.setenv(
        "STEPDISTILL_VOCAB", str(records_dir / testing.VOCABULARY))
    testing.write_run(run, records_dir=records_dir)
    export_hf.export_hf(run, base / "student", export_hf.Options(
        records_dir=records_dir, quiet=True))
    yield records_dir, run, base / "student"


def _answers(system, records_dir, dataset):
  (given,) = system.answer(
      examples.load(dataset, "test", records_dir=records_dir))
  return given


def _texts(given, field="text"):
  """Without what a random student makes up, and decoders write differently.

  SeqIO gives ids without a piece as ` ⁇ ` and sentinels by name; a Hugging Face
  tokenizer leaves out both.
  """
  return ["".join(re.sub(r"\u2047|<extra_id_\d+>", "",
                         getattr(a, field)).split()) for a in given.answers]


@pytest.mark.parametrize("dataset", ["svamp", "anli1"])
def test_same_answers_as_the_checkpoint(folders, dataset):
  """Question encoding, greedy decoding, scores, rationales, perplexity."""
  records_dir, run, student = folders
  config = model_config.ModelConfig(**SETTINGS)
  expected = _answers(checkpoints.Checkpoint(
      run, config, records_dir=records_dir), records_dir, dataset)
  found = _answers(
      hugging_face.HuggingFaceStudent(student, config), records_dir, dataset)
  assert _texts(found) == _texts(expected)
  assert _texts(found, "rationale") == _texts(expected, "rationale")
  for field in ("score", "rationale_log_prob"):
    # Float32 sums in another order, over at most 60 tokens.
    np.testing.assert_allclose(
        [getattr(a, field) or 0.0 for a in found.answers],
        [getattr(a, field) or 0.0 for a in expected.answers],
        rtol=2e-4, atol=2e-4)
  assert found.cost["parameters"] == expected.cost["parameters"]
  # The mean of as many tokens, but for sentinels, which one leaves out.
  assert found.cost["flops_per_example"] == pytest.approx(
      expected.cost["flops_per_example"], rel=1e-6)
  assert len({a.text for a in expected.answers}) > 3


def test_beam_finds_likelier_answers(folders):
  """By what its beam search goes: log-probability a token."""
  records_dir, _, student = folders
  totals = {}
  for beam in (1, 4):
    config = model_config.ModelConfig(**SETTINGS, beam=beam, rationales="no")
    given = _answers(hugging_face.HuggingFaceStudent(student, config),
                     records_dir, "svamp")
    totals[beam] = sum(np.log(a.score) / a.tokens for a in given.answers)
  assert totals[4] > totals[1]


def test_scores_of_choices_and_a_teacher_line(folders):
  records_dir, _, student = folders
  system = hugging_face.HuggingFaceStudent(
      student, model_config.ModelConfig(**SETTINGS, mode="score"), name="hf")
  config = evaluate.EvalConfig(benchmarks="anli1")
  sets, _ = evaluate.load_example_sets(config, records_dir)
  results, rows = evaluate.evaluate(
      [system], sets, config, records_dir=records_dir)
  assert [(s["name"], s["mode"]) for s in results["systems"]] == [
      ("hf", "score"), ("teacher palm540b", "generate")]
  assert len(rows) == 2 * 17
  assert results["systems"][0]["unparsable"] == 0


def test_bad_folders(folders, tmp_path):
  config = model_config.ModelConfig()
  with pytest.raises(errors.UserError, match="no config.json"):
    hugging_face.HuggingFaceStudent(tmp_path, config)
  (tmp_path / "config.json").write_text(json.dumps({"model_type": "t6"}))
  with pytest.raises(errors.UserError, match=str(tmp_path)):
    hugging_face.HuggingFaceStudent(tmp_path, config)
  shutil.copytree(folders[2], tmp_path / "wordless")
  for name in ("tokenizer.json", "spiece.model"):
    (tmp_path / "wordless" / name).unlink(missing_ok=True)
  with pytest.raises(errors.UserError, match="has no tokenizer"):
    hugging_face.HuggingFaceStudent(tmp_path / "wordless", config)
  shutil.copytree(folders[2], tmp_path / "deeper")
  deeper = json.loads((tmp_path / "deeper" / "config.json").read_text())
  deeper["num_layers"] += 1
  (tmp_path / "deeper" / "config.json").write_text(json.dumps(deeper))
  with pytest.raises(errors.UserError, match="weights of .* are not there"):
    _ = hugging_face.HuggingFaceStudent(tmp_path / "deeper", config).student
  shutil.copytree(folders[2], tmp_path / "copy")
  (tmp_path / "copy" / "model.safetensors").write_bytes(b"junk")
  with pytest.raises(errors.UserError, match="copy"):
    _ = hugging_face.HuggingFaceStudent(tmp_path / "copy", config).student
