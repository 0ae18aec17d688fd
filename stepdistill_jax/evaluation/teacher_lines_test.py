"""The teacher's lines: published PaLM numbers, and raw caches under rules."""

import json
import types

import pytest

from stepdistill_jax.evaluation import (
  command as main,
  evaluate,
  examples,
  scored,
  systems,
  teacher_cache,
)
from stepdistill_jax.records import datasets, records
from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.importing import (
  formats as importing,
  tables as import_tables,
)
from tests.support import real_data as testing

# Correct of all, by the papers' rules (papers.md; data/README.md section 4).
# The validation splits of svamp and cqa are held out from train: together
# they are the published train split.
PALM = {
    ("svamp", "test"): (148, 200), ("svamp", "train"): (586, 800),
    ("cqa", "test"): (943, 1221), ("cqa", "train"): (7234, 9741),
    ("anli1", "test"): (656, 1000), ("anli1", "validation"): (668, 1000),
    ("esnli", "test"): (7171, 9824), ("esnli", "validation"): (7201, 9842),
}


@pytest.fixture(name="records_dir", scope="module")
def _records_dir(tmp_path_factory):
  data = testing.real_data_dir()
  folder = tmp_path_factory.mktemp("palm")
  for dataset in ("svamp", "cqa", "anli1", "esnli"):
    importing.import_published(
        dataset=dataset, rows=data / dataset, outputs=data / dataset / "palm",
        teacher="palm540b", output=folder, rules="reference")
  return folder


@pytest.mark.parametrize("dataset, split", PALM)
def test_palm_by_the_papers_rule(records_dir, capsys, dataset, split):
  correct = n = 0
  for part in (split, "validation") if split == "train" else (split,):
    assert main.main([
        "--teacher=palm540b", f"--benchmarks={dataset}", f"--split={part}",
        "--rules=reference", "--json", f"--records_dir={records_dir}"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["systems"]
    assert not line["warnings"] and line["cost"]["parameters"] == 540e9
    correct, n = correct + line["correct"], n + line["n"]
  assert (correct, n) == PALM[dataset, split]


# The data README's rule for free generations: correct, and without a label.
LLAMA = {"svamp": (138, 22, 200), "cqa": (751, 116, 1221),
         "anli1": (401, 3, 1000)}


@pytest.mark.parametrize("dataset", LLAMA)
def test_llama_from_records_and_as_a_predictions_file(
    tmp_path, capsys, dataset):
  data = testing.real_data_dir() / dataset
  importing.import_llama3(
      dataset=dataset, rows=data, outputs=[data / "llama3"], teacher="llama3",
      output=tmp_path)
  generations = data / "llama3" / f"{dataset}_test_llama3.json"
  rows = (data / f"{dataset}_test.json").read_text().splitlines()
  spec = datasets.get(dataset)
  by_input = {
      records.input_hash(spec.read_row(json.loads(row)).inputs):
          generation["gen_label"]
      for row, generation in zip(
          rows, json.loads(generations.read_text()), strict=True)}
  asked = examples.load(dataset, "test", records_dir=tmp_path).examples
  (tmp_path / "raw.jsonl").write_text("".join(
      json.dumps({"id": e.id, "text": by_input[records.input_hash(e.inputs)]})
      + "\n" for e in asked))
  assert main.main([
      "--teacher=llama3", f"--predictions={tmp_path / 'raw.jsonl'}",
      "--free_text", f"--benchmarks={dataset}", "--json",
      f"--records_dir={tmp_path}"]) == 0
  for line in json.loads(capsys.readouterr().out)["systems"]:
    assert (line["correct"], line["unparsable"], line["n"]) == LLAMA[dataset]


ROWS = [
    {"input": "Mary had 8 pears and ate 3.\nHow many are left?",
     "label": "( 8.0 - 3.0 )"},
    {"input": "Tom has 2 boxes of 4.\nHow many?", "label": "( 2.0 * 4.0 )"},
    {"input": "Ann has 1.\nHow many?", "label": "( 1.0 + 0.0 )"},
    {"input": "Bob has 5.\nHow many?", "label": "( 5.0 + 0.0 )"},
]
OUTPUTS = [
    "She ate 3. The answer is (8 - 3).\n\nQ: next",  # Right by both rules.
    "Two boxes. The answer is 2 * 4.",  # No parentheses: strict alone.
    "She has 1. The answer is (1 + 1).",  # Wrong.
    None,  # The teacher failed.
]


@pytest.mark.parametrize("rules, correct, unparsable", [
    ("strict", 2, 1), ("reference", 1, 2)])
def test_a_raw_cache_is_parsed_by_the_rules_of_the_call(
    tmp_path, rules, correct, unparsable):
  with completions.cache_writer(
      tmp_path / "cache", teacher="big", dataset="svamp",
                         split="test") as writer:
    for i, (row, output) in enumerate(zip(ROWS, OUTPUTS)):
      writer.append(completions.Completion(
          str(i), row, output, error=None if output else "timeout"))
  importing.import_cache(tmp_path / "cache", output=tmp_path / "records")
  example_set = examples.load(
      "svamp", "test", records_dir=tmp_path / "records")
  system = teacher_cache.TeacherCache(tmp_path / "cache", rules)
  (given,) = system.answer(example_set)
  summary = scored.score(system, example_set, given, rules=rules).summary
  assert summary["name"] == "teacher big"
  assert (summary["n"], summary["correct"]) == (4, correct)
  assert (summary["missing"], summary["unparsable"]) == (1, unparsable)
  assert "1 of 4 examples have no completion" in summary["warnings"][0]


def test_samples_of_a_raw_cache_are_one_answer_as_in_its_records(tmp_path):
  (tmp_path / "cache").mkdir()
  (tmp_path / "cache" / "manifest.json").write_text(json.dumps({
      "format_version": completions.FORMAT_VERSION, "teacher": "big",
      "dataset": "svamp", "split": "test", "reads": "chain_of_thought",
      "sampling": {"samples": 3}}))
  samples = [(0, OUTPUTS[2]), (1, OUTPUTS[0]), (2, OUTPUTS[0])]
  (tmp_path / "cache" / "shard-00000.jsonl").write_text("".join(
      json.dumps({"id": "0", "position": 0, "sample": sample, "input": ROWS[0],
                  "output": output, "finish_reason": "stop", "error": None,
                  "usage": {"prompt_tokens": 50, "completion_tokens": 8}})
      + "\n" for sample, output in [*samples, samples[0]]))
  importing.import_cache(tmp_path / "cache", output=tmp_path / "records")
  example_set = examples.load(
      "svamp", "test", records_dir=tmp_path / "records")
  raw, = teacher_cache.TeacherCache(tmp_path / "cache").answer(example_set)
  own, = systems.TeacherRecords("big", tmp_path / "records").answer(example_set)
  assert [a.text for a in raw.answers] == [a.text for a in own.answers]
  assert raw.answers[0].text == "(8 - 3)" and not raw.warnings
  assert raw.cost == {"input_tokens": 150.0, "label_tokens_per_example": 24.0}
  assert own.cost == {}


def test_a_second_completion_of_a_question_is_named(tmp_path):
  for name, number in (("cache", 2), ("once", 1)):
    with completions.cache_writer(
        tmp_path / name, teacher="big", dataset="svamp",
        split="test") as writer:
      for i in range(number):
        writer.append(completions.Completion(str(i), ROWS[0], OUTPUTS[2 * i]))
  importing.import_cache(tmp_path / "once", output=tmp_path / "records")
  example_set = examples.load(
      "svamp", "test", records_dir=tmp_path / "records")
  given, = teacher_cache.TeacherCache(tmp_path / "cache").answer(example_set)
  assert given.warnings == (
      "1 further completions in the cache are of questions that have one; they "
      "are left out",)


def test_a_teacher_without_labels_has_no_accuracy(tmp_path, capsys):
  for name, output in (("mute", "I do not know."), ("big", OUTPUTS[0])):
    with completions.cache_writer(
        tmp_path / name, teacher=name, dataset="svamp",
        split="test") as writer:
      writer.append(completions.Completion("0", ROWS[0], output))
    importing.import_cache(tmp_path / name, output=tmp_path / "records",
                           allow_useless=True)
  flags = ["--benchmarks=svamp", f"--records_dir={tmp_path / 'records'}",
           "--json"]
  for teacher in ("mute", tmp_path / "mute"):
    assert main.main([*flags, f"--teacher={teacher}"]) == 2
    error = capsys.readouterr().err
    assert "nothing was scored" in error and "accuracy was not mea" in error
    assert main.main([*flags, f"--teacher={teacher}", "--teacher=big"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [s["name"] for s in results["systems"]] == ["teacher big"]
    assert "accuracy was not measured" in results["warnings"][0]


def test_human_labels_get_no_line_beside_a_student(tmp_path):
  (tmp_path / "test.jsonl").write_text(json.dumps(
      {"question": "1 + 1?", "answer": "1 + 1 = 2.\n#### 2"}))
  import_tables.import_rows(dataset="gsm8k", rows=tmp_path, output=tmp_path)
  student = types.SimpleNamespace(
      name="student", kind="checkpoint", source="run", answer=lambda s, _: [
          systems.Answers(tuple(
              systems.Answer(e.id, e.label) for e in s.examples))])
  results, _ = evaluate.evaluate(
      [student], [examples.load("gsm8k", "test", records_dir=tmp_path)],
      evaluate.EvalConfig(), records_dir=tmp_path)
  assert [line["name"] for line in results["systems"]] == ["student"]
  assert results["warnings"] == [
      "teacher human: the labels of teacher human are the rows' own in gsm8k: "
      "its accuracy was not measured"]
