"""A method without its data stops at once, saying what is missing."""

import dataclasses

import gin
import pytest
from t5x import utils

from stepdistill_jax.data import task_names, task_registry
from stepdistill_jax.models import data_check
from stepdistill_jax.records import record_writer, records
from stepdistill_jax.util import errors
from tests.support import real_data as testing

BOTH = ("label", "rationale")


@dataclasses.dataclass
class Student:
  """What the check asks of a model."""

  vocabulary: object
  task_names: tuple[str, ...] = BOTH
  has_mutual_information: bool = False

  input_vocabulary = property(lambda self: self.vocabulary)
  output_vocabulary = property(lambda self: self.vocabulary)


@pytest.fixture
def check(tmp_path, monkeypatch):
  """Writes records and checks a task of theirs."""
  monkeypatch.setenv("STEPDISTILL_VOCAB", str(
      testing.write_tiny_vocabulary(tmp_path / "spiece.model")))
  monkeypatch.setenv("STEPDISTILL_RECORDS", str(tmp_path))
  task_registry.register_dataset("checked", ["someone"])

  def check(kind, labels="gold", *, tasks=BOTH, split="train", pack=False,
            mutual_information=False, **fields):
    if fields:
      record_writer.write_records(tmp_path, "checked", "someone", {split: [
          records.Record(id=f"{split}/0", inputs="x", **fields)]})
    name = task_names.task_name(kind, "checked", labels, "someone")
    config = utils.DatasetConfig(
        mixture_or_task_name=name, task_feature_lengths={}, split=split,
        batch_size=1, shuffle=False, seed=0, pack=pack)
    data_check.verify_data(config, Student(
        task_names.vocabulary_of(name), tasks, mutual_information))

  return check


WHOLE = dict(label="a", teacher_label="a", rationale="because.")


@pytest.mark.parametrize("kind,tasks", [
    ("step", BOTH), ("mix", BOTH), ("single", ("label",)),
    ("label", ("label",))])
def test_whole_records_pass(check, kind, tasks):
  check(kind, tasks=tasks, **WHOLE)
  check(kind, "teacher", tasks=tasks, **WHOLE)


@pytest.mark.parametrize("kind,labels,fields,message", [
    ("step", "gold", dict(WHOLE, rationale=""), "needs rationales"),
    ("mix", "gold", dict(WHOLE, rationale=""), "needs rationales"),
    ("step", "gold", dict(WHOLE, label=""), "needs human labels.*LABELS"),
    ("step", "teacher", dict(WHOLE, teacher_label=""),
     "needs teacher's labels"),
])
def test_records_without_what_the_method_needs(
    check, kind, labels, fields, message):
  with pytest.raises(errors.UserError, match=message):
    check(kind, labels, **fields)


@pytest.mark.parametrize("kind, labels, fields, message", [
    ("step", "gold", dict(label="", teacher_label=""), "no other labels"),
    ("label", "teacher", dict(teacher_label=""), "train with LABELS = 'gold'"),
    ("label", "teacher", dict(label="", teacher_label=""), "no other labels"),
])
def test_advice_is_of_what_the_records_have(
    check, kind, labels, fields, message):
  with pytest.raises(errors.UserError, match=message):
    check(kind, labels, tasks=BOTH if kind == "step" else ("label",),
          **{**WHOLE, **fields})


ROUNDS = '[{"missing_entities": [], "summary": "a"}]'


@pytest.mark.parametrize("kind, fields, said", [
    ("vanilla", dict(rationale=""), ""),
    ("vanilla", {}, "came with reasoning: 1 of 1 have a rationale"),
    ("vanilla", dict(rationale="", rounds=ROUNDS), "are chain of density"),
    ("cot_answer", {}, ""),
    ("cot_answer", dict(rationale=""), "came without reasoning"),
    ("chain_of_density", dict(rationale="", rounds=ROUNDS), ""),
    ("chain_of_density", dict(rationale=""), "have no rounds"),
    # Of another method's run, which is not called so.
    ("cot_reason", dict(rationale=""), "")])
def test_answers_of_another_kind_than_tables_will_say(
    check, capsys, kind, fields, said):
  with gin.unlock_config():
    gin.parse_config(f"SYNTHETIC_KIND = {kind!r}")
  try:
    check("label", "teacher", tasks=("label",), **{**WHOLE, **fields})
  finally:
    gin.clear_config()
  shown = capsys.readouterr()
  assert said in shown.out + shown.err
  assert ("will be called" in shown.out + shown.err) == bool(said)


def test_rationales_alone_can_be_trained_on(check):
  check("explain", tasks=("label",), **dict(
      WHOLE, label="", teacher_label=""))


def test_what_cannot_be_scored_is_said_before_training(check, capsys):
  unlabeled = dict(WHOLE, label="")
  for kind in ("label", "predict", "single"):
    with pytest.raises(errors.UserError, match=(
        "needs human labels, but .* none in validation; score against the "
        r'teacher.s with --gin.EVAL_LABELS=\\"teacher')):
      check(kind, split="validation", tasks=("label",), **unlabeled)
    check(kind, "teacher", split="validation", tasks=("label",), **unlabeled)
    assert ("validation: 1 of 1 records have no human label; those of someone "
            "stand in for them, and count as teacher_agreement, not") in (
                " ".join(capsys.readouterr().err.split()))
  check("label", "teacher", split="validation", tasks=("label",), **WHOLE)
  assert "teacher_agreement" not in capsys.readouterr().err
  with pytest.raises(errors.UserError, match="infer_eval_dataset_cfg = None"):
    check("label", "teacher", split="validation", tasks=("label",),
          **dict(unlabeled, teacher_label=""))


def test_no_records_at_all(check):
  with pytest.raises(errors.UserError, match="stepdistill teacher import"):
    check("step")


def test_targets_and_weights_that_do_not_fit(check):
  with pytest.raises(errors.UserError, match="has no rationale"):
    check("label", **WHOLE)
  with pytest.raises(errors.UserError, match="weighs label; use"):
    check("step", tasks=("label",), **WHOLE)
  with pytest.raises(errors.UserError, match="a weight for each target"):
    check("step", tasks=("label", "rationale", "question"), **WHOLE)
  check("predict", split="validation", **WHOLE)  # Scored with one head.


def test_mutual_information_is_not_packed(check):
  with pytest.raises(errors.UserError, match="PACK = False"):
    check("step", pack=True, mutual_information=True, **WHOLE)


def test_labels_that_the_vocabulary_makes_the_same(check, tmp_path, capsys):
  def write(*labels):
    record_writer.write_records(tmp_path, "checked", "someone", {"train": [
        records.Record(id=f"train/{i}", inputs="x", label=label,
                       teacher_label="a", rationale="b")
        for i, label in enumerate(labels)]})

  write("是", "否", "a")
  with pytest.raises(errors.UserError, match=(
      "checked_step_gold_someone: different labels become the same tokens.*"
      "'是' = '否'.*--verbalize=")):
    check("step")
  check("step", "teacher")  # Whose labels are others.
  write("是", "a", "b")  # Lost, but distinguishable.
  check("step")
  assert "1 of 3 labels have characters" in capsys.readouterr().err
  write(*["a", "b"] * 200, "是", "否")  # Few: said, not refused.
  check("step")
  assert "'是' = '否'" in capsys.readouterr().err
