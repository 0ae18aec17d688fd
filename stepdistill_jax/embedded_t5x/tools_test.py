"""precompile, export and the interactive model, on a tiny student."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from stepdistill_jax.embedded_t5x import (
  interactive_model,
  models,
  optimizers,
  partitioning,
)
from stepdistill_jax.embedded_t5x.examples.t5 import network
from stepdistill_jax.runs import t5x_command
from stepdistill_jax.util import errors
from tests.support import real_data as testing, testing_tasks

MODEL = "tests/support/testing_model.gin"
LENGTHS = {"inputs": 12, "targets": 8}
SIZES = {"vocab_size": 384, "emb_dim": 16, "num_heads": 2,
         "num_encoder_layers": 1, "num_decoder_layers": 1, "head_dim": 4,
         "mlp_dim": 16, "mlp_activations": ("relu",), "dtype": "float32"}


def make_model(vocabulary):
  config = network.T5Config(**SIZES, dropout_rate=0.0)
  return models.EncoderDecoderModel(
      module=network.Transformer(config=config), input_vocabulary=vocabulary,
      output_vocabulary=vocabulary,
      optimizer_def=optimizers.adam(learning_rate=0.01))


def make_interactive(tmp_path, vocabulary, checkpoint_path=""):
  return interactive_model.InteractiveModel(
      batch_size=4, task_feature_lengths=LENGTHS, output_dir=str(tmp_path),
      partitioner=partitioning.PjitPartitioner(num_partitions=1),
      model=make_model(vocabulary), dtype="float32", restore_mode="specific",
      checkpoint_path=checkpoint_path,
      input_shapes={"encoder_input_tokens": (4, 12),
                    "decoder_target_tokens": (4, 8),
                    "decoder_input_tokens": (4, 8)},
      input_types={k: jnp.int32 for k in (
          "encoder_input_tokens", "decoder_target_tokens",
          "decoder_input_tokens")})


def test_interactive_model_trains_predicts_and_goes_on(tmp_path):
  examples = [{"inputs": w, "targets": w} for w in ("ab", "cd", "ef", "gh")]
  model = make_interactive(tmp_path, testing_tasks.VOCABULARY)
  losses = []
  for _ in range(2):
    model.train_step(examples)
    losses.append(model.train_summary["loss"].value)
  assert model.step == 2 and losses[-1] < losses[0]
  predicted = model.predict(["ab", "cd", "ef"])  # Not a whole batch.
  assert [e["inputs_pretokenized"] for e, _ in predicted] == [
      b"ab", b"cd", b"ef"]
  scores = [score for _, score in model.score(examples)]
  assert all(score < 0 for score in scores)
  metrics = model.evaluate(examples, [testing_tasks.exact_match])
  assert 0 <= metrics["exact_match"] <= 100
  mean_score = lambda targets, scores: {"score": np.mean(scores)}
  with_aux = lambda targets, predictions, aux_values: {
      "rows": len(aux_values["scores"])}
  metrics = model.evaluate_with_preprocessors(
      examples, None, [mean_score, with_aux])
  np.testing.assert_allclose(metrics["score"], np.mean(scores), rtol=1e-6)
  assert metrics["rows"] == 4
  predictions, none, metrics = model.train_loop(
      3, 2, [examples], predict_batches=[["ab"], ["cd", "ef"]],
      eval_batches=[examples], metrics_fns=[mean_score])
  assert model.step == 5 and len(predictions) == 2 and none is None
  assert metrics["score"] > np.mean(scores)  # Learned meanwhile.
  scores = [score for _, score in model.score(examples)]
  again = make_interactive(tmp_path, testing_tasks.VOCABULARY)
  assert again.step == 5
  np.testing.assert_allclose(
      [score for _, score in again.score(examples)], scores, rtol=1e-6)


def test_interactive_model_by_t5x_s_interface(tmp_path):
  examples = [{"input": w, "target": w} for w in ("ab", "cd", "ef", "gh")]
  model = make_interactive(tmp_path, testing_tasks.VOCABULARY)
  preprocessors = [seqio.preprocessors.tokenize,
                   seqio.preprocessors.append_eos]
  with pytest.raises(ValueError, match="a batch of 4 examples; got 3"):
    model.train_step_with_preprocessors(examples[:3], preprocessors)
  model.train_loop(2, train_batches=examples)  # One batch, again and again.
  kind = interactive_model.InferenceType
  pairs, aux = model.infer_with_preprocessors(
      kind.PREDICT_WITH_AUX, examples, preprocessors, num_decodes=2,
      return_all_decodes=False)
  assert all(isinstance(text, bytes) for _, text in pairs)
  assert len(pairs) == len(aux["scores"]) == 4
  scores, aux = model.infer_with_preprocessors(
      kind.SCORE, examples, preprocessors)
  assert scores[0][0]["targets_pretokenized"] == b"ab" and aux == {}
  with pytest.raises(ValueError, match="InferenceType"):
    model.infer_with_preprocessors("score", examples, preprocessors)
  metrics = model.evaluate_with_preprocessors(
      examples, preprocessors,
      [lambda targets, predictions: {"targets": targets}],
      lambda text, example, is_target: (text, is_target, sorted(example)[0]))
  assert metrics["targets"][0] == ("ab", True, "inputs")
  initial = make_interactive(
      tmp_path, testing_tasks.VOCABULARY, str(tmp_path / "checkpoint_1"))
  assert (initial.step, model.step) == (1, 2)


def test_export_runs_without_this_project(tmp_path):
  spiece = testing.write_tiny_vocabulary(tmp_path / "tiny.model")
  vocabulary = seqio.SentencePieceVocabulary(str(spiece), extra_ids=0)
  model = make_interactive(tmp_path / "run", vocabulary)
  model.save_checkpoint()
  out = tmp_path / "out"
  bindings = [
      # In full: another test may have registered the scanned network's.
      *(f"t5.network.T5Config.{k} = {v!r}" for k, v in SIZES.items()),
      f"TASK_FEATURE_LENGTHS = {LENGTHS}", f"MODEL_OUTPUT_DIR = {str(out)!r}",
      f"CHECKPOINT_PATH = {str(tmp_path / 'run' / 'checkpoint_0')!r}",
      "DROPOUT_RATE = 0.0"]
  export = lambda model_file, *more: t5x_command.run(
      "export", ["t5x/configs/runs/export.gin", model_file],
      [*bindings, *more], engine="embedded")
  export("t5x/examples/t5/t5_1_1/tiny.gin",
         f"seqio.SentencePieceVocabulary.sentencepiece_model_file = "
         f"{str(spiece)!r}", "seqio.SentencePieceVocabulary.extra_ids = 0")
  meta = json.loads((out / "export.json").read_text())
  assert meta["inputs_length"] == 12 and meta["step"] == 0
  assert len((out / "reader.py").read_text().splitlines()) == 10
  texts = ["the answer", "is"]
  result = subprocess.run(
      [sys.executable, str(out / "reader.py")], input="\n".join(texts),
      capture_output=True, text=True, check=True, cwd=tmp_path,
      env={"PATH": "/usr/bin", "JAX_PLATFORMS": "cpu"})
  expected = [text for _, text in model.predict(texts)]
  assert result.stdout.splitlines() == expected
  with pytest.raises(errors.UserError, match="SentencePiece"):
    export(MODEL)


def test_precompile_fills_the_cache_that_train_reads(tmp_path):
  t5x_command.run("precompile", ["t5x/configs/runs/precompile.gin", MODEL], [
      f"MODEL_DIR = {str(tmp_path)!r}", "USE_CACHED_TASKS = False",
      "BATCH_SIZE = 8", "partitioning.PjitPartitioner.backend = None",
      "train/utils.DatasetConfig.pack = False",
      "trainer.Trainer.num_microbatches = 2"], engine="embedded")
  assert "stablehlo" in (
      tmp_path / "lowered_hlo_pre_optimization").read_text()
  assert "HloModule" in (
      tmp_path / "lowered_hlo_post_optimization").read_text()
  assert np.load(tmp_path / "assignment").size == jax.device_count()
