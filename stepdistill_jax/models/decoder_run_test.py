"""A decoder from an import to an export: every method, whole or interrupted.

Its texts are full of the tokenizer's id 0, which is padding elsewhere.
"""

import json
import shutil

from flax import traverse_util
import numpy as np
import pytest

import stepdistill_jax as sd
from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.data import tokenizer_files
from stepdistill_jax.embedded_t5x import checkpoints, train_test
from stepdistill_jax.evaluation import scoring

# It registers a gin configurable, which gin refuses after a run.
from stepdistill_jax.interop import rebuilding  # noqa: F401
from stepdistill_jax.interop.hf import weights as hf_weights
from stepdistill_jax.records import record_writer, records
from stepdistill_jax.runs import run_record
from tests.support.decoder_runs import STEPS, parameters, train, write_data


@pytest.fixture(name="imported", scope="module")
def _imported(tmp_path_factory):
  folder = tmp_path_factory.mktemp("decoder")
  write_data(folder)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("STEPDISTILL_RECORDS", str(folder / "records"))
    yield folder


def losses(run, name="loss"):
  return train_test.scalars(run / "train", name)


@pytest.fixture(name="run", scope="module")
def _run(imported, tmp_path_factory):
  folder = tmp_path_factory.mktemp("run") / "run"
  assert train(imported, folder) == 0
  return folder


def test_loss_falls_and_is_the_weighted_mean_of_the_tasks(run):
  loss, label, rationale = (losses(run, n) for n in (
      "loss", "loss/label", "loss/rationale"))
  assert len(loss) == STEPS and loss[STEPS] < loss[1]
  for step, value in loss.items():
    np.testing.assert_allclose(
        value, 0.5 * label[step] + 0.5 * rationale[step], rtol=1e-5)


def test_interrupted_run_equals_the_whole_one(imported, run, tmp_path):
  part = tmp_path / "run"
  shutil.copytree(run, part)
  shutil.rmtree(part / f"checkpoint_{STEPS}")
  assert train(imported, part) == 0
  np.testing.assert_array_equal(parameters(part), parameters(run))


def test_packed_rows_train_too(imported, tmp_path):
  assert train(imported, tmp_path / "run", "step_by_step",
               "--gin.PACK=True", "--gin.TASK_FEATURE_LENGTHS="
               "%PACKED_FEATURE_LENGTHS", "--gin.BATCH_SIZE=2",
               "--gin.LOOP_LAYERS=False") == 0
  assert losses(tmp_path / "run")[STEPS] < losses(tmp_path / "run")[1]


def test_rationales_are_as_long_as_in_the_tokens_that_it_reads(
    imported, tmp_path, capsys):
  """And no vocabulary of T5's is looked for: there is none."""
  def said(most):
    assert train(imported, tmp_path / "run", "step_by_step", "--dry_run",
                 f"--gin.preprocessors.filter_train_records.max_pieces={most}"
                 ) == 0
    return "".join(capsys.readouterr())
  tokenizer = tokenizer_files.open_tokenizer(imported / "hf/tokenizer.json")
  sizes = [len(tokenizer.encode(f"! {i} apples! !{i}").ids) for i in range(12)]
  most = min(sizes)
  assert max(sizes) > most
  assert f"12 records: {sizes.count(most)} kept" in said(most)


@pytest.mark.parametrize("method", ["finetune", "synthetic_cot_reason"])
def test_the_other_methods_train(imported, tmp_path, method):
  assert train(imported, tmp_path / "run", method) == 0
  assert losses(tmp_path / "run")[STEPS] < losses(tmp_path / "run")[1]


@pytest.fixture(name="results", scope="module")
def _results(run, tmp_path_factory):
  found = []
  for batch_size in (1, 3):
    output = tmp_path_factory.mktemp("scores")
    scoring.score_checkpoint(
        run, "gsm8k", output=output, label_length=6, rationale_length=6,
        batch_size=batch_size)
    found.append(output)
  return found


def test_scores_are_the_same_at_any_batch_size(results):
  def answers(folder):
    lines = (folder / "examples.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items()
             if not isinstance(value, float)} for line in lines
            if json.loads(line)["system"] == "run step 4"]
  first, second = map(answers, results)
  assert len(first) == 3 and first == second
  scores = json.loads((results[0] / "results.json").read_text())
  cost = scores["systems"][0]["cost"]
  assert cost["parameters"] > 0 and cost["flops_per_example"] > 0


def test_predict_gives_the_answers_of_the_evaluation(run, results, tmp_path):
  expected = [json.loads(line) for line in (
      results[0] / "examples.jsonl").read_text().splitlines()]
  expected = [row for row in expected if row["system"] == "run step 4"]
  questions, output = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
  questions.write_text("".join(json.dumps(
      {"id": row["id"], "input": row["input"]}) + "\n" for row in expected))
  student = sd.load(run, label_length=6, rationale_length=6)
  texts = [row["input"] for row in expected]
  assert student.predict(texts) == [row["prediction"] for row in expected]
  assert cli.main(["predict", str(run), str(questions), "--explain",
                   f"--output={output}"]) == 0
  for row, wanted in zip(map(json.loads, output.open()), expected, strict=True):
    # The command writes to the end, the evaluation's answers have 6 tokens.
    assert row["id"] == wanted["id"] and row["rationale"] is not None
    assert row["answer"].startswith(wanted["prediction"])


def test_likelihoods_are_those_of_a_plain_loop(imported, run, tmp_path):
  import jax
  import jax.numpy as jnp

  record_writer.write_records(imported / "records", "esnli", "human", {
      "test": [records.Record(
          id=f"test/{i}", inputs=f"Stop!{'!' * i} Who has 3?",
          label="neutral", split="test") for i in range(5)]})
  found = scoring.score_checkpoint(
      run, "esnli", output=tmp_path / "scores", mode="score", batch_size=2)
  rows = {row["id"]: row for row in found["examples"]
          if row["system"] == "run step 4"}
  model, _ = rebuilding.rebuild_model(
      run / "config.gin", imported / "records")
  network = model.module.clone(config=model.module.config.replace(
      dtype=jnp.float32))
  params = checkpoints.load_t5x_checkpoint(str(run), step=STEPS)["target"]
  vocabulary = model.output_vocabulary

  @jax.jit
  def log_probs(tokens):  # Padding after a token does not change its own.
    return jax.nn.log_softmax(
        network.apply({"params": params}, tokens, tokens), axis=-1)

  def log_likelihood(prompt, target):
    total, tokens = 0.0, list(prompt)
    for token in target:
      padded = np.pad(tokens, (0, 64 - len(tokens)))[None].astype(np.int32)
      total += float(log_probs(padded)[0, len(tokens) - 1, token])
      tokens.append(token)
    return total

  assert len(rows) == 5
  for i in range(5):
    prompt = vocabulary.encode_prompt(
        f"predict: Stop!{'!' * i} Who has 3?")
    totals = {label: log_likelihood(
        prompt, [*vocabulary.encode(label), vocabulary.eos_id])
              for label in ("entailment", "neutral", "contradiction")}
    best = max(totals, key=totals.get)
    row = rows[f"test/{i}"]
    assert row["prediction"] == best
    np.testing.assert_allclose(row["score"], np.exp(totals[best]) / sum(
        np.exp(list(totals.values()))), rtol=1e-4)


def test_inspect_names_the_decoder(run, capsys):
  assert cli.main(["checkpoint", "inspect", str(run)]) == 0
  assert ("decoder: 2 layers, width 24, 4 heads and 2 key-value heads of 6, "
          "MLP of 40, ") in capsys.readouterr().out


def test_export_has_the_trained_weights_and_says_how_to_ask(
    imported, run, tmp_path):
  assert cli.main(["checkpoint", "export-hf", str(run), "--quiet",
                   f"--output={tmp_path / 'hf'}"]) == 0
  before = hf_weights.open_folder(imported / "hf")
  after = hf_weights.open_folder(tmp_path / "hf")
  assert {n: t.shape for n, t in before.items()} == {
      n: t.shape for n, t in after.items()}
  embedding = checkpoints.load_t5x_checkpoint(str(run), step=STEPS)["target"][
      "token_embedder"]["embedding"]
  rows = before["model.embed_tokens.weight"].shape[0]
  got = after["model.embed_tokens.weight"].read_rows(0, rows)
  np.testing.assert_array_equal(got[1:], embedding[1:rows])
  np.testing.assert_array_equal(got[0], embedding[rows])
  # "!" was trained, padding was not.
  assert np.any(got[0] != before["model.embed_tokens.weight"].read_rows(0, 1))
  assert not embedding[0].any() and not embedding[rows + 1:].any()
  config = json.loads((tmp_path / "hf" / "config.json").read_text())
  assert config["task_specific_params"] == {
      "prompt": {"chat": False, "system": "", "prompt_suffix": "\n"},
      "predict": {"prefix": "predict: "}, "explain": {"prefix": "explain: "}}
  card = (tmp_path / "hf" / "README.md").read_text()
  assert "AutoModelForCausalLM" in card and "## Licences" in card
  assert "a name that begins with \"Llama\", as hf does not" in card
  assert (tmp_path / "hf" / "LICENSE").is_file()


def test_adapters_alone_are_trained_kept_and_merged(imported, run, tmp_path):
  lora = ("--gin_file=gin/runs/lora.gin", "--gin.LORA_RANK=2",
          "--gin.LEARNING_RATE=1e-2", "--gin.LORA_BASE_DTYPE='float32'")
  whole, part = tmp_path / "whole", tmp_path / "part"
  assert train(imported, whole, "step_by_step", *lora) == 0
  assert losses(whole)[1] == pytest.approx(losses(run)[1], rel=1e-6)
  assert losses(whole)[STEPS] < losses(whole)[1]
  state = checkpoints.load_t5x_checkpoint(str(whole), step=STEPS)
  flat = traverse_util.flatten_dict(state["target"], sep="/")
  before = traverse_util.flatten_dict(checkpoints.load_t5x_checkpoint(
      str(imported / "t5x" / "checkpoint_0"))["target"], sep="/")
  for name, value in before.items():
    np.testing.assert_array_equal(flat[name], value, err_msg=name)
  assert flat.keys() - before.keys() == {
      f"decoder/layers_{i}/{m}/lora_{ab}" for i in (0, 1) for ab in "ab"
      for m in ("self_attention/query", "self_attention/key",
                "self_attention/value", "self_attention/out", "mlp/wi_0",
                "mlp/wi_1", "mlp/wo")}
  # The optimizer has moments of adapters alone.
  moments = traverse_util.flatten_dict(
      state["state"]["param_states"], sep="/")
  assert all("lora_" in name for name, value in moments.items()
             if getattr(value, "ndim", 0) > 0)
  assert any("lora_" in name for name in moments)

  # Stored are adapters; the rest is read where the run began.
  tree = json.loads((whole / f"checkpoint_{STEPS}" / "state" / "_METADATA")
                    .read_text())["tree_metadata"]
  names = [name for name in tree if "'target'" in name]
  assert names and all("lora_" in name for name in names)

  # A run of before some bindings goes on.
  now = json.loads((whole / "run.json").read_text())["config"]
  before = {name: value for name, value in now.items() if not name.endswith((
      "lora_base_dtype", "LORA_BASE_DTYPE", "save_adapters.base",
      "LONG_PROMPT", "long_prompts.do"))}
  assert len(now) - len(before) == 5
  assert not run_record.differences(before, now)

  shutil.copytree(whole, part)
  shutil.rmtree(part / f"checkpoint_{STEPS}")
  assert train(imported, part, "step_by_step", *lora) == 0
  np.testing.assert_array_equal(parameters(part), parameters(whole))

  assert cli.main(["checkpoint", "export-hf", str(whole), "--quiet",
                   f"--output={tmp_path / 'hf'}"]) == 0
  assert "(LoRA) of rank 2 alone, merged" in (
      tmp_path / "hf/README.md").read_text("utf-8")
  merged = hf_weights.open_folder(tmp_path / "hf")[
      "model.layers.1.mlp.down_proj.weight"]
  module = "decoder/layers_1/mlp/wo"
  expected = flat[f"{module}/kernel"] + 32 / 2 * (
      flat[f"{module}/lora_a"] @ flat[f"{module}/lora_b"])
  np.testing.assert_allclose(
      merged.read_rows(0, merged.shape[0]), expected.T, rtol=1e-6)


def test_adapters_of_a_bfloat16_base(imported, tmp_path, capsys):
  """Scored and resumed from the base's path; without it, a line says so."""
  import jax.numpy as jnp
  lora = ("--gin_file=gin/runs/lora.gin", "--gin.LORA_RANK=2",
          "--gin.LEARNING_RATE=1e-2")
  base = imported / "t5x" / "checkpoint_0"
  whole, part = tmp_path / "whole", tmp_path / "part"
  assert train(imported, whole, "finetune", *lora) == 0
  assert losses(whole)[STEPS] < losses(whole)[1]
  shutil.copytree(whole, part)
  shutil.rmtree(part / f"checkpoint_{STEPS}")
  assert train(imported, part, "finetune", *lora) == 0
  np.testing.assert_array_equal(parameters(part), parameters(whole))
  scoring.score_checkpoint(
      whole, "gsm8k", output=tmp_path / "scores", label_length=6, batch_size=3)
  assert (tmp_path / "scores" / "results.json").is_file()
  state = checkpoints.load_t5x_checkpoint(str(whole), step=STEPS)["target"]
  assert state["decoder"]["layers_0"]["mlp"]["wo"]["lora_a"].dtype == (
      jnp.float32)
  moved = base.with_name("elsewhere")
  base.rename(moved)
  try:
    capsys.readouterr()
    assert cli.main(["checkpoint", "export-hf", str(whole), "--quiet",
                     f"--output={tmp_path / 'hf'}"]) == 2
    assert "holds adapters alone" in capsys.readouterr().err
  finally:
    moved.rename(base)
