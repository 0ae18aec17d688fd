"""The data sets of the second paper, from rows of their authors' forms."""

import pytest

from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.records import datasets, questions, record_writer, records
from stepdistill_jax.teacher.importing import tables
from stepdistill_jax.util import errors
from tests.support import real_data


@pytest.mark.parametrize("name, fields, expected", [
    ("conjnli", {"Premise": "A and B.", "Hypothesis": "A.",
                 "Label": "entailment"},
     (datasets.nli_inputs("A and B.", "A."), "entailment", "")),
    ("openbookqa", {"question": {"stem": "Why?", "choices": [
        {"text": "this", "label": "A"}, {"text": "that", "label": "B"}]},
                    "answerKey": "B", "fact1": "it is that"},
     (datasets.cqa_inputs("Why?", ("this", "that")), "that", "it is that")),
    ("aqua", {"question": "2 + 2?", "options": ["A)3", "B) 4", "C)5)"],
              "correct": "B", "rationale": "two and two"},
     (datasets.cqa_inputs("2 + 2?", ("3", "4", "5)")), "4", "two and two")),
    ("multiarith", {"question": "2 + 2?", "gold": "4", "cot": "no rationale"},
     ("2 + 2?", "4", "")),
    ("dialogsum", {"dialogue": "#Person1#: Hi.", "summary1": "A greets.",
                   "summary2": "B"}, ("#Person1#: Hi.", "A greets.", "")),
    ("azureml_math", {"messages": [
        {"role": "system", "content": "An integer."},
        {"role": "user", "content": "Question: 2 + 2?"}], "gold": "4"},
     ("An integer.\nQuestion: 2 + 2?", "4", "")),
    ("azureml_conversation", {"messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi!"},
        {"role": "assistant", "content": "Hello!"}]},
     ("system: Be kind.\nuser: Hi!", "Hello!", "")),
    # A turn as the collector has it.
    ("azureml_conversation", {"inputs": "user: Hi!", "label": "Hello!"},
     ("user: Hi!", "Hello!", "")),
    ("math_l5", {"problem": "Solve $x=1$.", "answer": "1"},
     ("Solve $x=1$.", "1", "")),
])
def test_rows_are_read(name, fields, expected):
  row = datasets.get(name).read_row(fields)
  assert (row.inputs, row.label, row.rationale) == expected


def test_aqua_without_its_right_choice_is_refused():
  with pytest.raises(datasets.BadRow, match="label_not_a_choice"):
    datasets.get("aqua").read_row(
        {"question": "q", "options": ["A)3"], "correct": "E"})


@pytest.mark.parametrize("name, folder, counts", [
    ("conjnli", "conjnli", {"train": 15000, "validation": 623, "test": 1000}),
    ("openbookqa", "openbookqa",
     {"train": 4957, "validation": 500, "test": 500}),
    ("aqua", "aqua", {"validation": 254, "test": 254}),
    ("multiarith", "zero_shot_cot/derived", {"test": 600}),
    ("dialogsum", "dialogsum", {"validation": 500, "test": 500}),
    *((f"azureml_{task}", "azureml_distillation",
       {"train": train, "validation": validation})
      for task, train, validation in (
          ("nli", 512, 256), ("qa", 512, 256), ("math", 378, 42),
          ("conversation", 100, 100))),
])
def test_the_real_files_are_read_whole(tmp_path, name, folder, counts):
  result = tables.import_rows(
      dataset=name, rows=real_data.real_data_dir() / "seed2" / folder,
      output=tmp_path)
  assert {split: found["written"][split] for split, found in
          result.info["sources"].items()} == counts
  for split, rows in counts.items():
    if (name, split) != ("conjnli", "test"):  # Not labelled, as published.
      found = result.info["sources"][split]["filled"][split]
      assert found["label"] == rows
  assert not any(found["human_labels"]
                 for found in result.info["sources"].values())


def test_articles_without_summaries_are_refused(tmp_path):
  with pytest.raises(errors.UserError, match="none of the 400 rows"):
    tables.import_rows(
        dataset="azureml_summarization", output=tmp_path,
        rows=real_data.real_data_dir() / "seed2/azureml_distillation")


def test_dialogsum_keeps_three_summaries(tmp_path):
  tables.import_rows(
      dataset="dialogsum", output=tmp_path,
      rows=real_data.real_data_dir() / "seed2/dialogsum")
  rows = list(records.read_records(tmp_path, "dialogsum", "human", "test"))
  assert {len(row.labels) for row in rows} == {3}
  assert {len(row.labels) for row in records.read_records(
      tmp_path, "dialogsum", "human", "validation")} == {1}


@pytest.mark.parametrize("one, other", [
    ("Be brief.\nQuestion:  Where is it?\nAnswer Choices:\n(A) here",
     datasets.cqa_inputs("Where is it?", ("there", "here"))),
    ("Premise: “A café” closed.\nHypothesis: It did.",
     datasets.nli_inputs('"A cafe" closed.', "It did.")),
    ("问题?", " 问题 "),
])
def test_forms_of_one_question_are_the_same(one, other):
  assert questions.question_key(one) == questions.question_key(other)


def test_questions_differ():
  assert questions.question_key(
      datasets.nli_inputs("A.", "B.")) != questions.question_key(
          datasets.nli_inputs("A.", "C."))
  assert questions.question_key("?") != questions.question_key("!")


def test_questions_of_other_test_splits_are_named_and_left_out(
    tmp_path, capsys):
  """CQA's test questions are the validation rows of the group's QA data."""
  data = real_data.real_data_dir()

  def run(*arguments):
    assert cli.main(["teacher", "import", *arguments,
                     f"--output={tmp_path}"]) == 0
    return capsys.readouterr().out

  qa = ("--format=rows", "--dataset=azureml_qa",
        f"--rows={data / 'seed2/azureml_distillation'}")
  assert cli.main(["teacher", "import", *qa, "--leave_out=cqa",
                   f"--output={tmp_path}"]) == 2
  assert "no records of the test split of data set 'cqa'" in (
      capsys.readouterr().err)
  run("--format=rows", "--dataset=cqa", f"--rows={data / 'cqa'}")
  said = run(*qa)
  assert ("256 of the 256 rows in the validation split ask what the test "
          "split of cqa asks: a student of azureml_qa is not to be scored on "
          "cqa, unless") in said
  assert "rows in the train split" not in said
  assert cli.main(["teacher", "audit", "--dataset=azureml_qa",
                   f"--records_dir={tmp_path}"]) == 0
  assert "256 of the 256 rows" in capsys.readouterr().out
  assert "256 of the 256 rows" in next(
      tmp_path.rglob("audit.html")).read_text("utf-8")
  said = run(*qa, "--leave_out=cqa")
  assert "256 in_the_test_split_of_cqa" in said
  assert "ask what the test split" not in said
  # The other way round, of what was trained on and is a test now.
  run("--format=rows", "--dataset=svamp", f"--rows={data / 'svamp'}")
  chains = data / "seed2/mentor_kd/svamp_3_train.json.gz"
  mentor = ("--format=columns", "--teacher=gpt35", f"--outputs={chains}",
            "--columns=inputs=input,rationale=chain,label=answer")
  said = run("--dataset=mentor_svamp", *mentor)
  # Three chains of each of 122 questions; every tenth row is validation.
  shared = [int(line.split(" of the ")[0].split()[-1]) for line in
            said.splitlines() if "the test split of svamp" in line]
  assert len(shared) == 2 and sum(shared) == 3 * 122
  rows = {row.inputs for split in ("train", "validation") for row in
          records.read_records(tmp_path, "mentor_svamp", "gpt35", split)}
  tested = set(questions.test_questions(tmp_path, ["svamp"])["svamp"])
  assert len({questions.question_key(row) for row in rows} & tested) == 122


def test_all_teachers_rows_are_looked_at(tmp_path):
  """A teacher who was asked a few questions does not hide the others'."""
  rows = lambda name, split, n: [records.Record(
      id=f"{name}/{split}/{i}", inputs=f"How many are {i} pears?",
      label=str(i)) for i in range(n)]
  write = record_writer.write_records
  write(tmp_path, "tested", "a_few", {"test": rows("tested", "test", 1)})
  write(tmp_path, "tested", "human", {"test": rows("tested", "test", 5)})
  write(tmp_path, "mine", "a_few", {"train": rows("mine", "train", 1)})
  write(tmp_path, "mine", "human", {
      "train": rows("mine", "train", 3),
      "validation": rows("mine", "validation", 4)})
  assert len(questions.test_questions(tmp_path, ["tested"])["tested"]) == 5
  line = questions.overlap_line
  assert [line(found).split(":")[0] for found in questions.overlaps(
      tmp_path, "mine", "human")] == [
          "3 of the 3 rows in the train split ask what the test split of "
          "tested asks", "4 of the 4 rows in the validation split ask what "
          "the test split of tested asks"]
  # The same, whichever was imported first.
  assert [line(found).split(":")[0] for found in questions.overlaps(
      tmp_path, "tested", "human")] == [
          "3 of the 5 rows in the test split ask what the train split of mine "
          "asks", "4 of the 5 rows in the test split ask what the validation "
          "split of mine asks"]


def test_what_cannot_be_left_out_is_said(tmp_path):
  write = lambda name, split: record_writer.write_records(
      tmp_path, name, "human", {split: [records.Record(
          id=f"{name}/{split}/0", inputs="1?", label="1")]})
  write("svamp", "test")
  write("azureml_nli", "train")
  for name, said in (("svmap", "did you mean: svamp"),
                     ("azureml_nli", "have no test split"),
                     ("gsm8k", "import --dataset=gsm8k ...` first")):
    with pytest.raises(errors.UserError, match=said):
      questions.test_questions(tmp_path, [name])
