"""The Llama-3 formats, on the real files; their numbers are the data's."""

import json

import pytest

from stepdistill_jax.records import records
from stepdistill_jax.teacher.importing import formats as importing
from stepdistill_jax.util import errors
from tests.support import real_data as testing


def strict(result, split):
  return result.info["sources"][split]["rules"]["strict"]


def raw_import(tmp_path, dataset, outputs=None):
  data = testing.real_data_dir()
  return importing.import_llama3(
      dataset=dataset, rows=data / dataset, teacher="llama3", output=tmp_path,
      outputs=[data / dataset / "llama3" / name for name in outputs]
      if outputs else data / dataset / "llama3")


def test_raw_generations(tmp_path):
  svamp = raw_import(tmp_path, "svamp")
  assert strict(svamp, "test")["correct"] == 138
  assert strict(svamp, "test")["labels"] == 200 - 22
  assert strict(svamp, "train")["correct"] == 528
  assert strict(svamp, "train")["labels"] == 800 - 76
  cqa = raw_import(tmp_path, "cqa")
  assert strict(cqa, "test")["correct"] == 751
  assert strict(cqa, "test")["labels"] == 1221 - 116
  anli = raw_import(tmp_path, "anli1")
  assert strict(anli, "test")["correct"] == 401
  assert strict(anli, "test")["labels"] == 1000 - 3
  assert strict(anli, "validation")["correct"] == 426
  assert strict(anli, "validation")["labels"] == 1000 - 10


def test_a_file_with_rows_of_another_split_is_joined_with_those(tmp_path):
  # The names say test and valid, the contents are train rows.
  svamp = raw_import(tmp_path, "svamp", ["svamp_test_random_llama3.json"])
  assert list(svamp.info["sources"]) == ["train"]
  assert strict(svamp, "train")["correct"] == 70
  assert svamp.info["sources"]["train"]["completions"] == 200
  anli = raw_import(tmp_path, "anli1", ["anli1_valid_random_llama3.json"])
  assert list(anli.info["sources"]) == ["train"]
  assert strict(anli, "train")["correct"] == 562
  assert anli.info["sources"]["train"]["dropped"] == {}


def test_copied_labels_are_flagged(tmp_path):
  data = testing.real_data_dir()
  result = importing.import_llama3_cot(
      dataset="cqa", rows=data / "cqa", outputs=data / "cqa" / "llama3_cot",
      teacher="llama3_cot", output=tmp_path)
  test = result.info["sources"]["test"]["rules"]["reference"]
  assert test["correct_if_trusted"] == 762
  assert test["statuses"]["label_copied_from_gold"]["count"] == 32
  assert test["correct"] == 762 - 32
  # Without copies, the cleaned file has the raw file's accuracy.
  assert strict(result, "test")["correct"] == 751
  train = result.info["sources"]["train"]["rules"]["reference"]
  assert (train["correct"], train["correct_if_trusted"]) == (None, 5662)
  found = list(records.read_records(tmp_path, "cqa", "llama3_cot", "test"))
  copied = [r for r in found if r.status == "label_copied_from_gold"]
  assert len(copied) == 32
  assert all(r.rationale and not r.teacher_label for r in copied)


def test_cleaned_anli(tmp_path):
  data = testing.real_data_dir()
  result = importing.import_llama3_cot(
      dataset="anli1", rows=data / "anli1", teacher="llama3_cot",
      outputs=data / "anli1" / "llama3_cot", output=tmp_path,
      keep_unverified=True)
  sources = result.info["sources"]
  # The papers' rule fails on every one.
  for split, number in (
      ("train", 16946), ("validation", 1000), ("test", 1000)):
    statuses = sources[split]["rules"]["reference"]["statuses"]
    assert {k: v["count"] for k, v in statuses.items()} == {
        "marker_twice": number}
  assert strict(result, "train")["correct"] == 638
  assert strict(result, "validation")["correct_if_trusted"] == 435
  assert strict(result, "test")["correct_if_trusted"] == 404
  # Without copies, the cleaned files have the raw files' accuracy.
  assert strict(result, "test")["correct"] == 401
  assert strict(result, "validation")["correct"] == 426
  # 3, 1 and 0 are empty in the files; 1, 2 and 0 are a comma.
  assert strict(result, "train")["empty_rationales"] == 3 + 1
  assert strict(result, "validation")["empty_rationales"] == 1 + 2
  assert strict(result, "test")["empty_rationales"] == 0


def write_rows(folder, rows):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "svamp_train.json").write_text("\n".join(
      json.dumps({"input": question, "label": label})
      for question, label in rows))


def test_what_has_no_row_or_comes_twice_is_counted(tmp_path):
  write_rows(tmp_path / "rows", [("a 1?", "( 1.0 )"), ("b 2?", "( 2.0 )")])
  generations = [
      {"input": "a  1?", "gen_label": "Rationale: so. Hence the answer is 1."},
      {"input": "a 1?", "gen_label": "Answer: 3"},
      {"input": "c 3?", "gen_label": "Answer: 3"},
      {"input": None, "gen_label": "Answer: 3"}, ["nested"],
      {"input": "b 2?", "gen_label": None},
  ]
  (tmp_path / "out.json").write_text(json.dumps(generations))
  result = importing.import_llama3(
      dataset="svamp", rows=tmp_path / "rows", outputs=tmp_path / "out.json",
      teacher="llama3", output=tmp_path / "records")
  source = result.info["sources"]["train"]
  assert {k: v["count"] for k, v in source["dropped"].items()} == {
      "repeated_completion": 1, "input_not_text": 1, "line_not_object": 1,
      "not_text": 1, "no_row": 1}
  found = [r for split in ("train", "validation") for r in
           records.read_records(tmp_path / "records", "svamp", "llama3", split)]
  by_label = {r.label: r for r in found}
  assert by_label["( 1.0 )"].teacher_label == "1"
  assert by_label["( 1.0 )"].rationale == "so."
  assert by_label["( 2.0 )"].status == "no_completion"


def test_generations_of_other_rows(tmp_path):
  write_rows(tmp_path / "rows", [("a 1?", "( 1.0 )")])
  (tmp_path / "out.json").write_text('[{"input": "x", "gen_label": "y"}]')
  with pytest.raises(errors.UserError, match="no generation of .* is of a row"):
    importing.import_llama3(
        dataset="svamp", rows=tmp_path / "rows", teacher="llama3",
        outputs=tmp_path / "out.json", output=tmp_path / "records")
