"""The data sets of the second paper, from rows of their authors' forms."""

import pytest

from stepdistill_jax.records import datasets
from stepdistill_jax.teacher.importing import tables
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
])
def test_the_real_files_are_read_whole(tmp_path, name, folder, counts):
  result = tables.import_rows(
      dataset=name, rows=real_data.real_data_dir() / "seed2" / folder,
      output=tmp_path)
  assert {split: found["written"][split] for split, found in
          result.info["sources"].items()} == counts
