"""Tests of task names."""

import pytest

from stepdistill_jax.data import task_names
from stepdistill_jax.util import errors


@pytest.mark.parametrize("kind,labels,teacher,expected", [
    ("label", "gold", None, "cqa_label_gold"),
    ("predict", "teacher", "llama3", "cqa_predict_llama3"),
    ("explain", "gold", "palm540b", "cqa_explain_palm540b"),
    ("step", "teacher", "palm540b", "cqa_step_palm540b_palm540b"),
    ("mix", "gold", "palm540b", "cqa_mix_gold_palm540b"),
    ("single", "gold", "llama3", "cqa_single_gold_llama3"),
])
def test_names(kind, labels, teacher, expected):
  assert task_names.task_name(kind, "cqa", labels, teacher) == expected


@pytest.mark.parametrize("arguments,message", [
    (("stpe", "cqa"), "did you mean: step"),
    (("label", "cqa", "human"), "LABELS must be"),
    (("step", "cqa", "gold"), "bind TEACHER"),
])
def test_mistakes_are_reported(arguments, message):
  with pytest.raises(errors.UserError, match=message):
    task_names.task_name(*arguments)
