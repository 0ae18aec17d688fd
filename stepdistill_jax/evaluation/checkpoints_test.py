"""Tests of checkpoints scored end to end, on random students of 20 kB."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import seqio

from stepdistill_jax.answers import metrics
from stepdistill_jax.evaluation import (
  checkpoints,
  command as main,
  examples,
  model_config,
  model_loading,
  questions,
  scored,
  scoring,
  systems,
)
from stepdistill_jax.interop import run_folder
from stepdistill_jax.util import disk_lists, errors
from tests.support import students as testing

ROWS = 23
# One bucket of 96 for all inputs: each program is compiled once.
SETTINGS = dict(batch_size=8, label_length=12, rationale_length=16)


@pytest.fixture(name="records_dir", scope="module", autouse=True)
def _records_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("records")
  testing.write_records(folder, ROWS)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("STEPDISTILL_RECORDS", str(folder))
    patch.setenv("STEPDISTILL_VOCAB", str(folder / testing.VOCABULARY))
    yield folder


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory, records_dir):
  return testing.write_run(tmp_path_factory.mktemp("runs") / "step_run",
                           records_dir=records_dir)


@pytest.fixture(name="system", scope="module")
def _system(run, records_dir):
  return checkpoints.Checkpoint(
      run, model_config.ModelConfig(mode="generate", **SETTINGS),
      records_dir=records_dir)


@pytest.fixture(name="answered", scope="module")
def _answered(system, records_dir):
  example_set = examples.load("svamp", "test", records_dir=records_dir)
  (given,) = system.answer(example_set)
  return example_set, given


def test_run_folder(run):
  found = run_folder.find(run)
  assert found.step == 7
  assert run_folder.find(run / "checkpoint_7") == found
  assert found.seed() == 0


def test_answers_and_their_warnings(system, answered):
  example_set, given = answered
  assert system.name == "step_run step 7"
  assert system.trained_on == ("svamp", "palm540b")
  assert [a.id for a in given.answers] == [e.id for e in example_set.examples]
  assert all(0 <= a.score <= 1 and a.rationale is not None
             for a in given.answers)
  assert len({a.text for a in given.answers}) > 3
  *cut_warnings, warning = given.warnings
  assert warning.startswith("2 of 23 questions are also in the train split")
  # What is shorter than its length has ended.
  assert given.cut["inputs"] == 0
  for what, sizes in (
      ("answers", [a.tokens for a in given.answers]),
      ("rationales", [a.rationale_tokens for a in given.answers])):
    length = SETTINGS[{"answers": "label_length"}.get(what, "rationale_length")]
    assert 0 < given.cut[what] <= sizes.count(length)
    (line,) = [w for w in cut_warnings if f" {what} are cut" in w]
    assert line.startswith(f"{given.cut[what]} of 23 ")
    assert f"after {length} tokens" in line
  # Where the teacher has no rationale there is no likelihood of it.
  assert [a.rationale_log_prob is None for a in given.answers] == [
      not e.rationale for e in example_set.examples]
  assert given.cost["parameters"] > 5000 and given.cost["step"] == 7
  assert given.cost["flops_per_example"] > given.cost["parameters"]


def require_alike(found, expected):
  """Answers equal, but for how batches of another length round."""
  for one, other in zip(found, expected, strict=True):
    one, other = dataclasses.asdict(one), dataclasses.asdict(other)
    for name in ("score", "rationale_log_prob"):
      value = other.pop(name)
      assert one.pop(name) == (
          value if value is None else pytest.approx(value, rel=1e-4))
    assert one == other


def test_many_questions_are_answered_alike(
    system, answered, records_dir, monkeypatch):
  """On the disk, and asked some at a time."""
  monkeypatch.setattr(disk_lists, "MOST_IN_MEMORY", 3)
  monkeypatch.setattr(questions, "_TOGETHER", SETTINGS["batch_size"])
  example_set = examples.load("svamp", "test", records_dir=records_dir)
  (given,) = system.answer(example_set)
  before, cut, warnings = (
      answered[1].answers, answered[1].cut, answered[1].warnings)
  assert len(given.answers) == len(before) > 2 * SETTINGS["batch_size"]
  assert (given.cut, given.warnings) == (cut, warnings)
  require_alike(given.answers, before)
  for pair in zip(example_set.examples, answered[0].examples, strict=True):
    assert pair[0] == pair[1]


def test_a_pinto_student_is_asked_with_the_rationale_and_says_so(
    run, records_dir, tmp_path):
  folder = tmp_path / "pinto"
  shutil.copytree(run, folder)
  config = (folder / "config.gin").read_text()
  (folder / "config.gin").write_text(
      config.replace("kind = 'step'", "kind = 'pinto'"))
  results = scoring.score_checkpoint(
      folder, "svamp", records_dir=records_dir, limit=8, **SETTINGS)
  (name,) = [s["name"] for s in results["systems"]
             if s["kind"] == "checkpoint"]
  assert name == "pinto step 7 (reads the teacher's rationale)"
  rows = [row for row in results["examples"] if row["system"] == name]
  # Of records with a rationale the input is longer than the question.
  system = checkpoints.Checkpoint(
      folder, model_config.ModelConfig(**SETTINGS), records_dir=records_dir)
  example_set = examples.load(
      "svamp", "test", records_dir=records_dir, limit=8)
  (given,) = system.answer(example_set)
  asked = [system.questions(example_set).encode(e.inputs + (
      f" Rationale: {e.rationale}" if e.rationale else ""))
           for e in example_set.examples]
  assert [a.input_tokens for a in given.answers] == list(map(len, asked))
  assert len(rows) == 8 and "explain" not in str(system.explain_prefix)


def test_what_training_cut_is_reported(system, run):
  record = run / "run.json"
  record.write_text(json.dumps({"data": {"cut": [{
      "examples": 720, "kept": 720,
      "inputs": {"cut": 711, "length": 24, "median": 17.5, "most": 49},
      "labels": {"cut": 0, "length": 24, "median": 0.0, "most": 0},
      "rationales": {"cut": 7, "length": 16, "median": 2, "most": 3,
                     "done": "cut_head"}}, None]}}))
  try:
    assert list(system._cut_warnings()) == [
        "of the run's 720 training examples 711 had inputs longer than 24 "
        "tokens, by 17.5 in the median and 49 at most: they were cut; here "
        "inputs are whole",
        "of the run's 720 training examples 7 had rationales longer than 16 "
        "tokens, by 2 in the median and 3 at most: they were cut at the "
        "beginning"]
  finally:
    record.unlink()
  assert not list(system._cut_warnings())


def test_questions_are_those_of_the_seqio_task(system, records_dir):
  """Token for token, with prefix, EOS, and EOS between premise and text."""
  vocabulary = system._model.input_vocabulary
  for dataset in ("svamp", "anli1"):
    task = seqio.get_mixture_or_task(f"{dataset}_predict_gold")
    expected = {
        row["id"].decode(): row["inputs"].tolist()
        for row in task.get_dataset(None, "test", shuffle=False)
        .as_numpy_iterator()}
    found = {
        row.id: questions.encode(vocabulary, "predict: " + row.inputs)
        for row in examples.load(
            dataset, "test", records_dir=records_dir).examples}
    assert found == expected
  assert 1 in found["anli1/test/0"][:-1]


def test_equals_seqio_evaluator(system, answered):
  """The same predictions and metric functions give the same scores.

  A random student is never right, so every third answer is the gold one.
  """
  example_set, given = answered
  task = seqio.get_mixture_or_task("svamp_predict_gold")
  rows = list(task.get_dataset(
      None, "test", shuffle=False).as_numpy_iterator())
  texts = {a.id: a.text for a in given.answers}
  vocabulary = system._model.output_vocabulary
  name = "svamp_for_evaluator"
  seqio.TaskRegistry.add(
      name, source=task.source, preprocessors=task.preprocessors,
      output_features=task.output_features,
      metric_fns=metrics.label_metric_fns("svamp"))
  said = {}

  def predict_fn(dataset):
    found = []
    for index, tokens in sorted(_predict(system, dataset)):
      row = rows[index]
      assert vocabulary.decode(tokens) == texts[row["id"].decode()]
      tokens = row["targets"].tolist() if index % 3 == 0 else tokens
      said[row["id"].decode()] = vocabulary.decode(tokens)
      found.append((index, tokens + [0] * (64 - len(tokens))))
    return found

  try:
    evaluator = seqio.Evaluator(
        name, feature_converter=seqio.EncDecFeatureConverter(pack=False),
        eval_split="test", sequence_length={"inputs": 96, "targets": 64})
    future, _ = evaluator.evaluate(compute_metrics=True, step=7,
                                   predict_fn=predict_fn, score_fn=None)
    found = future.result()[name]
  finally:
    seqio.TaskRegistry.remove(name)
  same = systems.Answers(tuple(
      systems.Answer(e.id, said[e.id]) for e in example_set.examples))
  ours = scored.score(system, example_set, same).summary
  assert ours["correct"] == 8
  assert found["accuracy"] == ours["accuracy"]
  assert found["unparsable"] == ours["unparsable"] / ROWS


def _predict(system, dataset):
  """Decodes what SeqIO's feature converter made; (index, tokens) pairs."""
  inputs, indices = [], []
  for index, features in dataset.as_numpy_iterator():
    tokens = features["encoder_input_tokens"]
    inputs.append(tokens[:np.flatnonzero(tokens)[-1] + 1].tolist())
    indices.append(int(index))
  found = []
  for batch, decoded in system.student.generate(inputs, 12):
    found += [(indices[i], list(d.tokens)) for i, d in zip(batch, decoded)]
  return found


def test_resume_goes_on_from_the_stored_answers(
    run, records_dir, tmp_path, answered):
  """A call that is interrupted after a batch, then given again."""
  class Interrupted(Exception):
    pass

  def stop(done, total, what):
    del total, what
    if done >= 8:
      raise Interrupted

  settings = dict(records_dir=records_dir, output=tmp_path / "scores",
                  rationales="no", **SETTINGS)
  with pytest.raises(Interrupted):
    scoring.score_checkpoint(run, "svamp", progress=stop, **settings)
  assert not (tmp_path / "scores" / "results.json").exists()
  counts = []
  results = scoring.score_checkpoint(
      run, "svamp", progress=lambda *args: counts.append(args[0]), **settings)
  assert counts[0] == 8 and counts[-1] == ROWS
  mine, teacher = results["systems"]
  assert mine["cost"]["scored_now"] == ROWS - 8
  assert "8 answers are those of an earlier" in mine["cost"]["note"]
  assert [r["prediction"] for r in results["examples"][:ROWS]] == [
      a.text for a in answered[1].answers]
  assert (teacher["name"], teacher["correct"]) == (
      "teacher palm540b", sum(i % 4 != 3 for i in range(ROWS)))
  # A third call asks the student nothing: it is not even loaded.
  again = scoring.score_checkpoint(run, "svamp", **settings)
  assert again["systems"][0]["cost"]["scored_now"] == 0
  assert again["systems"][0]["accuracy"] == mine["accuracy"]


def test_scores_of_choices(run, records_dir, monkeypatch):
  system = checkpoints.Checkpoint(
      run, model_config.ModelConfig(mode="both", rationales="no", **SETTINGS),
      records_dir=records_dir)
  example_set = examples.load("anli1", "test", records_dir=records_dir)
  generated, chosen = system.answer(example_set)
  assert (generated.mode, chosen.mode) == ("generate", "score")
  labels = ("entailment", "neutral", "contradiction")
  example = example_set.examples[4]
  vocabulary = system._model.input_vocabulary
  found = {}
  for indices, likelihoods in system.student.log_likelihoods(
      [questions.encode(vocabulary, "predict: " + example.inputs)] * 3,
      [questions.encode(vocabulary, label) for label in labels]):
    found.update(zip((labels[i] for i in indices), likelihoods))
  assert chosen.answers[4].text == max(found, key=found.get)
  assert chosen.answers[4].score == pytest.approx(
      np.exp(max(found.values())) / np.exp(list(found.values())).sum(),
      rel=1e-4)
  monkeypatch.setattr(disk_lists, "MOST_IN_MEMORY", 3)
  monkeypatch.setattr(questions, "_TOGETHER", SETTINGS["batch_size"])
  for found, before in zip(system.answer(example_set), (generated, chosen)):
    require_alike(found.answers, before.answers)
  svamp = examples.load("svamp", "test", records_dir=records_dir)
  only_generated = system.answer(svamp)
  assert [g.mode for g in only_generated] == ["generate"]
  assert any("no closed set" in w for w in only_generated[0].warnings)


def test_two_seeds_from_the_command_line(
    run, records_dir, tmp_path, capsys, monkeypatch):
  """By relative paths; the newest checkpoint of one is not what was written."""
  other = testing.write_run(tmp_path / "other_seed", seed=1,
                            records_dir=records_dir)
  shutil.copytree(other / "checkpoint_7", other / "checkpoint_9")
  monkeypatch.chdir(tmp_path)
  flags = [
      f"--checkpoint={os.path.relpath(run)}", "--checkpoint=second=other_seed",
      "--benchmarks=svamp", "--rationales=no", "--output=out",
      f"--records_dir={os.path.relpath(records_dir)}", "--batch_size=8",
      "--gin.ModelConfig.label_length=12"]
  assert main.main([*flags, "--strict"]) == 2
  assert "without --strict the one before it" in capsys.readouterr().err
  code = main.main(flags)
  printed = capsys.readouterr()
  assert code == 0, printed.err
  line = (f"the checkpoint {other / 'checkpoint_9'} is not what was written: "
          "state: is of step 7")
  assert " ".join(printed.err.split()) == (
      "stepdistill-eval: checkpoints run on 1 x cpu "
      f"warning: {line}; trying the one before it")
  results = json.loads((tmp_path / "out" / "results.json").read_text())
  assert [s["name"] for s in results["systems"]] == [
      "step_run step 7", "second", "teacher palm540b"]
  assert [s["source"] for s in results["systems"][:2]] == [
      str(run / "checkpoint_7"), str(other / "checkpoint_7")]
  assert f"{line}; checkpoint_7 is scored instead" in (
      results["systems"][1]["warnings"])
  (group,) = results["seeds"]
  assert group["n_seeds"] == 2
  assert group["method"] == "svamp_step_gold_palm540b"
  assert len(results["comparisons"]) == 3


def test_a_good_checkpoint_by_a_relative_path(run, records_dir, monkeypatch):
  monkeypatch.chdir(run.parent)
  config = model_config.ModelConfig(**SETTINGS)
  for path in (run.name, f"./{run.name}/checkpoint_7/"):
    system = checkpoints.Checkpoint(path, config, records_dir=records_dir)
    assert system.student is not None
    assert system.source == str(run / "checkpoint_7")


def test_bad_checkpoints(run, records_dir, tmp_path):
  config = model_config.ModelConfig(**SETTINGS)

  def load(path):
    system = checkpoints.Checkpoint(path, config, records_dir=records_dir)
    return system.student

  with pytest.raises(errors.UserError, match="no such folder"):
    load(tmp_path / "nothing")
  (tmp_path / "file").touch()
  with pytest.raises(errors.UserError, match="it is a file, not a folder"):
    load(tmp_path / "file")
  with pytest.raises(errors.UserError, match="the steps 7"):
    load(run / "checkpoint_8")
  (tmp_path / "empty").mkdir()
  with pytest.raises(errors.UserError, match="no checkpoint_STEP"):
    load(tmp_path / "empty")
  copy = pathlib.Path(shutil.copytree(run, tmp_path / "copy"))
  text = (copy / "config.gin").read_text()
  (copy / "config.gin").write_text(text.replace("emb_dim = 16", "emb_dim = 8"))
  with pytest.raises(errors.UserError, match="of another model.*16"):
    load(copy)
  (copy / "config.gin").write_text(text.replace(
      "num_encoder_layers = 1", "num_encoder_layers = 2"))
  with pytest.raises(errors.UserError, match="layers_1.*missing"):
    load(copy)
  (copy / "config.gin").write_text(text.replace("MODEL = @", "MODLE = @"))
  with pytest.raises(errors.UserError, match="cannot be rebuilt.*MODEL"):
    load(copy)
  (copy / "config.gin").unlink()
  with pytest.raises(errors.UserError, match="no config.gin"):
    load(copy)


def test_another_vocabulary_of_the_same_size_is_refused(system, run):
  file = pathlib.Path(system._model.input_vocabulary.sentencepiece_model_file)
  params = {"token_embedder": {"embedding": np.zeros((32_128, 1))}}
  for digest, refused in (
      (hashlib.sha256(file.read_bytes()).hexdigest(), False), ("ab", True)):
    (run / "run.json").write_text(json.dumps(
        {"data": {"vocabularies_sha256": [digest]}}))
    try:
      with (pytest.raises(errors.UserError, match=(
          "trained with another vocabulary than .*; set STEPDISTILL_VOCAB"))
            if refused else contextlib.nullcontext()):
        model_loading._check_vocabulary(system._model, params, system.run)
    finally:
      (run / "run.json").unlink()


def test_a_larger_vocabulary_is_refused(run, records_dir, tmp_path):
  small = testing.write_run(tmp_path / "small", vocab_size=64,
                            records_dir=records_dir)
  with pytest.raises(errors.UserError, match="embedding has 64 rows"):
    _ = checkpoints.Checkpoint(
        small, model_config.ModelConfig(**SETTINGS),
        records_dir=records_dir).student


def test_task_names():
  for kind in ("step", "mix", "predict"):
    assert run_folder.TrainedOn("d", kind).prefix == "predict: "
  for name, prefix, explain in (
      ("svamp_label_gold", "", None), ("cqa_single_gold_t", "", None),
      ("svamp_mix_t_t", "predict: ", "explain: "), ("other", "", None)):
    task = run_folder.parse_task_name(name)
    assert (task.prefix, task.explain_prefix) == (prefix, explain)
  assert run_folder.parse_task_name("svamp_label_t").teacher == "t"
  assert run_folder.parse_task_name("a_b_single_gold_c_d").teacher == "c_d"
