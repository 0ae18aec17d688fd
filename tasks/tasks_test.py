import contextlib

import gin
import numpy as np
import pytest
import seqio

from stepdistill_jax import tasks  # noqa: F401
from stepdistill_jax.data import preprocessors, task_registry
from stepdistill_jax.records import record_writer, records
from stepdistill_jax.util import errors
from tests.support import real_data as testing

LENGTHS = {"inputs": 256, "targets": 128, "rationale_inputs": 256,
           "rationale_targets": 128}


def record(number, split="train", **fields):
  return records.Record(id=f"{split}/{number}", inputs=f"is it {number}?",
                        **fields)


@pytest.fixture(name="records_folder")
def _records_folder(tmp_path, monkeypatch):
  vocabulary = testing.write_tiny_vocabulary(tmp_path / "spiece.model")
  monkeypatch.setenv("STEPDISTILL_VOCAB", str(vocabulary))
  monkeypatch.setenv("STEPDISTILL_RECORDS", str(tmp_path))
  record_writer.write_records(tmp_path, "svamp", "palm540b", {
      "train": [
          record(0, label="( 1.0 + 1.0 )", teacher_label="(1 + 1)",
                 rationale="one and one."),
          record(1, label="( 2.0 )", status="no_marker"),
          record(2, teacher_label="(3)", rationale="three."),
      ],
      "test": [
          record(0, "test", label="( 4.0 )", teacher_label="(5)",
                 rationale="four."),
          record(1, "test", label="( 6.0 )", status="no_marker"),
      ],
  })
  return tmp_path


def examples(name, split="train"):
  dataset = task_registry.require_task(name).get_dataset(
      sequence_length=LENGTHS, split=split, shuffle=False, num_epochs=1)
  found = list(dataset.as_numpy_iterator())
  return sorted(found, key=lambda example: example.get("id", b""))


def decode(name, feature, ids):
  vocabulary = task_registry.require_task(
      name).output_features[feature].vocabulary
  return vocabulary.decode(ids.tolist())


def texts(name, split="train", features=("inputs", "targets")):
  return [tuple(decode(name, feature, example[feature])
                for feature in features) for example in examples(name, split)]


def test_targets_and_prefixes(records_folder):
  assert texts("svamp_label_gold") == [
      ("is it 0?", "( 1.0 + 1.0 )"), ("is it 1?", "( 2.0 )")]
  assert texts("svamp_predict_gold")[0] == (
      "predict: is it 0?", "( 1.0 + 1.0 )")
  assert texts("svamp_label_palm540b") == [
      ("is it 0?", "(1 + 1)"), ("is it 2?", "(3)")]
  assert texts("svamp_rationale_palm540b") == [
      ("explain: is it 0?", "one and one."), ("explain: is it 2?", "three.")]
  assert texts("svamp_explain_palm540b") == texts("svamp_rationale_palm540b")
  assert texts("svamp_single_gold_palm540b") == [
      ("is it 0?", "one and one. The answer is ( 1.0 + 1.0 )")]
  assert texts("svamp_single_palm540b_palm540b") == [
      ("is it 0?", "one and one. The answer is (1 + 1)"),
      ("is it 2?", "three. The answer is (3)")]


def test_pinto_reads_the_rationale_with_the_question(records_folder):
  assert texts("svamp_pinto_gold_palm540b") == [
      ("is it 0? Rationale: one and one.", "( 1.0 + 1.0 )"),
      ("is it 1?", "( 2.0 )")]
  # As the evaluation asks it, at test time too.
  train, test = (
      list(records.read_records(
          records_folder, "svamp", "palm540b", split))
      for split in ("train", "test"))
  for rows, split in ((train, "train"), (test, "test")):
    asked = [records.with_rationale(row).inputs for row in rows if row.label]
    assert [text for text, _ in texts(
        "svamp_pinto_gold_palm540b", split)] == asked


def test_scores_are_against_human_labels_whatever_was_learned(records_folder):
  for name in ("svamp_label_palm540b", "svamp_step_palm540b_palm540b",
               "svamp_mix_palm540b_palm540b.label"):
    assert [target for _, target in texts(name, "test")] == [
        "( 4.0 )", "( 6.0 )"]
  assert len(examples("svamp_single_palm540b_palm540b", "test")) == 2


def test_pairs_have_the_labels_of_fine_tuning(records_folder):
  features = ("inputs", "targets", "rationale_inputs", "rationale_targets")
  assert texts("svamp_step_gold_palm540b", features=features) == [
      ("predict: is it 0?", "( 1.0 + 1.0 )", "explain: is it 0?",
       "one and one."),
      ("predict: is it 1?", "( 2.0 )", "explain: is it 1?", "")]
  without_rationale = examples("svamp_step_gold_palm540b")[1]
  assert without_rationale["rationale_targets"].size == 0
  assert without_rationale["targets"][-1] == 1
  assert without_rationale["rationale_targets"].dtype == np.int32


def test_mixtures_tell_their_tasks_apart(records_folder):
  found = examples("svamp_mix_gold_palm540b")
  assert all(
      set(example) == {"inputs", "targets", "task_ids", "record_weights"}
      for example in found)
  by_task = {1: set(), 2: set()}
  for example in found:
    by_task[int(example["task_ids"][0])].add(
        decode("svamp_label_gold", "inputs", example["inputs"]))
  assert by_task[1] <= {"predict: is it 0?", "predict: is it 1?"}
  assert by_task[2] <= {"explain: is it 0?", "explain: is it 2?"}


def test_agreement_weighs_what_the_teacher_said(records_folder):
  record_writer.write_records(records_folder, "svamp", "palm540b", {
      split: [record(n, split, label="( 1.0 )", teacher_label="(1)",
                     rationale="one.", weight=weight)
              for n, weight in enumerate(["", "0.5", "1"])]
      for split in ("train", "test")})

  def weights(name, split="train"):
    return [e["record_weights"].tolist() for e in examples(name, split)]

  assert weights("svamp_rationale_palm540b") == [[1], [0.5], [1]]
  assert weights("svamp_label_gold") == [[1], [1], [1]]
  assert weights("svamp_label_palm540b") == [[1], [0.5], [1]]
  assert weights("svamp_step_gold_palm540b") == [[1, 1], [1, 0.5], [1, 1]]
  assert weights("svamp_step_palm540b_palm540b")[1] == [0.5, 0.5]
  assert weights("svamp_rationale_palm540b", "test") == [[1], [1], [1]]
  with gin.unlock_config():
    gin.bind_parameter("record_weight.use", False)
  try:
    assert weights("svamp_rationale_palm540b") == [[1], [1], [1]]
  finally:
    gin.clear_config()


@contextlib.contextmanager
def bound(**bindings):
  """Gin bindings of `choose_train_share` and `filter_train_records`."""
  with gin.unlock_config():
    for name, value in bindings.items():
      owner = ("choose_train_share" if name in ("share", "seed")
               else "filter_train_records")
      gin.bind_parameter(f"{owner}.{name}", value)
  try:
    yield
  finally:
    gin.clear_config()


def test_train_shares_are_exact_nested_and_the_same_for_all_methods(
    records_folder):
  record_writer.write_records(records_folder, "svamp", "palm540b", {
      split: [record(n, split, label="( 1.0 )", rationale="one.")
              for n in range(400)] for split in ("train", "test")})
  kept = {}
  for share, names in (
      (0.125, ("svamp_label_gold",)),
      (0.25, ("svamp_label_gold", "svamp_step_gold_palm540b",
              "svamp_mix_gold_palm540b.rationale")),
      (1.0, ("svamp_label_gold",))):
    with bound(share=share):
      found = [{e["id"] for e in examples(name)} for name in names]
      assert share != 0.25 or len(examples("svamp_label_gold", "test")) == 400
    assert all(ids == found[0] for ids in found)
    kept[share] = found[0]
  assert kept[0.125] < kept[0.25] < kept[1.0]
  assert [len(kept[share]) for share in kept] == [50, 100, 400]
  with bound(share=0.25, seed=1):
    assert {e["id"] for e in examples("svamp_label_gold")} != kept[0.25]


def test_hosts_choose_among_all_records(records_folder):
  record_writer.write_records(records_folder, "svamp", "palm540b", {
      "train": [record(n, label="( 1.0 )") for n in range(60)]})
  task, found = task_registry.require_task("svamp_label_gold"), []
  with bound(share=0.5):
    for index in range(2):
      found += [e["id"] for e in task.get_dataset(
          sequence_length=LENGTHS, split="train", shuffle=False,
          shard_info=seqio.ShardInfo(index, 2)).as_numpy_iterator()]
    whole = [e["id"] for e in examples("svamp_label_gold")]
  assert len(found) == 30 and sorted(found) == sorted(whole)


def test_filters_drop_train_records_and_tell(records_folder, capsys):
  step = "svamp_step_palm540b_palm540b"
  with bound(only_correct=True):
    assert [e["id"] for e in examples(step)] == [b"train/0"]
    # Human labels are no teacher's output; test splits are whole.
    assert len(examples("svamp_label_gold")) == 2
    assert len(examples(step, "test")) == 2
  assert ("train records of svamp by palm540b: 3 records: 1 kept; "
          "dropped 2 by only_correct") in " ".join(
              capsys.readouterr().err.split())
  with bound(max_pieces=8):
    assert [e["id"] for e in examples("svamp_rationale_palm540b")] == [
        b"train/2"]
  with bound(only_ok=True, share=0.5), pytest.raises(
      errors.UserError, match="min_overlap is 2"):
    gin.bind_parameter("filter_train_records.min_overlap", 2)
    examples(step)
  with bound(min_overlap=1.0, only_ok=True), pytest.raises(
      errors.UserError, match="no train record of 'svamp' by 'palm540b'"):
    examples(step)


def test_two_data_sets_as_one(records_folder):
  record_writer.write_records(records_folder, "asdiv", "palm540b", {"train": [
      records.Record(id=f"asdiv/train/{n}", inputs=f"has it {n}?", label="1",
                     teacher_label="(2)", rationale="two.") for n in range(6)]})
  # Of svamp's three records, two have a teacher's label.
  name = "svamp_asdiv_step_palm540b_palm540b"
  mixture = task_registry.require_task(name)
  assert {task.name: mixture.get_rate(task) for task in mixture.tasks} == {
      f"{name}.svamp": 3.0, f"{name}.asdiv": 6.0}
  dataset = mixture.get_dataset(
      sequence_length=LENGTHS, split="train", shuffle=False, num_epochs=None)
  found = list(dataset.take(60).as_numpy_iterator())
  assert {decode("svamp_label_gold", "inputs", e["inputs"]) for e in found} == {
      *(f"predict: has it {n}?" for n in range(6)),
      "predict: is it 0?", "predict: is it 2?"}
  assert all(e["record_weights"].tolist() == [1, 1] for e in found)
  scored = mixture.get_dataset(
      sequence_length=LENGTHS, split="test", shuffle=False, num_epochs=1)
  assert len(list(scored.as_numpy_iterator())) == 2
  # Human labels too, and weights in place of the numbers of records.
  gold = task_registry.require_task("svamp_asdiv_step_gold_palm540b")
  with gin.unlock_config():
    for weights, rates in ({"svamp": 3, "asdiv": 1}, {3.0, 1.0}), (
        {}, {3.0, 6.0}), ({"svamp": 3}, None):
      gin.bind_parameter("mixing_weights.weights", weights)
      of = {task.name.rpartition(".")[2]: task for task in gold.tasks}
      if rates:
        assert gold.get_rate(of["svamp"]) == 3.0
        assert {gold.get_rate(task) for task in of.values()} == rates
        continue
      with pytest.raises(errors.UserError, match="gives asdiv nothing"):
        gold.get_rate(of["asdiv"])
  gin.clear_config()


def test_a_union_is_of_every_teacher_who_has_records(records_folder):
  for dataset in ("svamp", "asdiv"):
    record_writer.write_records(records_folder, dataset, "own_llama", {
        "train": [records.Record(id=f"{dataset}/{n}", inputs="q?",
                                 teacher_label="(1)", rationale="one.")
                  for n in range(3)]})
  record_writer.write_records(records_folder, "asdiv", "half", {
      "train": [records.Record(id="a", inputs="q?", teacher_label="(1)")]})
  task_registry.register_found_records()
  for form in ("label", "predict", "explain", "rationale",
               "step_own_llama"):
    name = f"svamp_asdiv_{form}_own_llama"
    mixture = task_registry.require_task(name)
    assert {task.name: mixture.get_rate(task) for task in mixture.tasks} == {
        f"{name}.svamp": 3.0, f"{name}.asdiv": 3.0}
  dataset = task_registry.require_task("svamp_asdiv_step_own_llama_own_llama")
  assert len(list(dataset.get_dataset(
      sequence_length=LENGTHS, split="train", shuffle=False,
      num_epochs=1).as_numpy_iterator())) >= 3
  assert not [name for name in task_registry.task_names()
              if name.startswith("svamp_asdiv_") and name.endswith("_half")]
  with pytest.raises(errors.UserError, match="no records of data set 'svamp' "
                     "by teacher 'half'"):
    task_registry.require_task("svamp_asdiv_label_half")


def test_rounds_of_anli_have_tasks():
  for name in ("anli2_label_gold", "anli3_step_gold_palm540b"):
    assert task_registry.require_task(name).name == name


def test_nli_inputs_have_the_eos_id_between_premise_and_hypothesis(
    records_folder):
  record_writer.write_records(records_folder, "anli1", "palm540b", {"train": [
      records.Record(id="a", inputs="A dog runs.</s>It moves.",
                     label="entailment")]})
  ids = examples("anli1_predict_gold")[0]["inputs"]
  vocabulary = seqio.get_mixture_or_task(
      "anli1_predict_gold").output_features["inputs"].vocabulary
  assert ids.tolist() == [
      *vocabulary.encode("predict: A dog runs."), 1,
      *vocabulary.encode("It moves."), 1]


def test_long_features_end_with_eos(records_folder):
  dataset = task_registry.require_task("svamp_label_gold").get_dataset(
      sequence_length={"inputs": 4, "targets": 3}, split="train",
      shuffle=False)
  for example in dataset.as_numpy_iterator():
    assert len(example["inputs"]) == 4 and example["inputs"][-1] == 1
    assert len(example["targets"]) == 3 and example["targets"][-1] == 1


def test_every_example_has_its_id(records_folder):
  for name in ("svamp_label_gold", "svamp_step_gold_palm540b",
               "svamp_explain_palm540b"):
    assert examples(name)[0]["id"] == b"train/0"


def test_metrics_compare_values(records_folder):
  task = task_registry.require_task("svamp_label_gold")
  (metric,) = task.metric_fns
  assert metric(targets=["( 4.0 / 2.0 )", "( 1.0 )", "( 3.0 )"],
                predictions=["(8 / 4)", "( 2 )", "no"]) == {
                    "accuracy": pytest.approx(100 / 3),
                    "unparsable": pytest.approx(100 / 3)}
  single = task_registry.require_task("svamp_single_gold_palm540b")
  assert single.postprocess_fn("so. The answer is (1) The answer is (2)") == (
      "(2)")
  assert single.postprocess_fn("there is no answer") == ""


def test_the_teachers_labels_are_no_accuracy(records_folder):
  record_writer.write_records(records_folder, "svamp", "palm540b", {"test": [
      record(0, "test", label="( 1.0 )", teacher_label="(9)", rationale="r"),
      record(1, "test", label="( 2.0 )", teacher_label="(2)", rationale="r"),
      record(2, "test", teacher_label="(3)", rationale="r"),
  ]})
  predictions = ["( 1.0 )", "( 1.0 )", "(3)"]  # Of records 0, 1 and 2.
  for name, expected in (
      ("svamp_label_gold", {"accuracy": 50, "unparsable": 0}),
      ("svamp_label_palm540b", {
          "accuracy": 50, "teacher_agreement": 100, "unparsable": 0}),
      ("svamp_single_palm540b_palm540b", {
          "accuracy": 50, "teacher_agreement": 100, "unparsable": 0}),
      ("svamp_step_palm540b_palm540b", {
          "accuracy": 50, "teacher_agreement": 100, "unparsable": 0})):
    task = task_registry.require_task(name)
    mark = "so. The answer is " if "single" in name else ""
    found = examples(name, "test")
    targets = [task.postprocess_fn(
        example["targets_pretokenized"].decode(), example=example,
        is_target=True) for example in found]
    answers = [task.postprocess_fn(mark + text, example=example,
                                   is_target=False)
               for example, text in zip(found, predictions)]
    assert task.metric_fns[0](targets=targets, predictions=answers) == expected


def test_hosts_read_different_shards(records_folder):
  record_writer.write_records(records_folder, "svamp", "palm540b", {"train": [
      record(i, label="( 1.0 )") for i in range(50)]})
  found = []
  for index in range(4):
    dataset = task_registry.require_task("svamp_label_gold").get_dataset(
        sequence_length=LENGTHS, split="train", shuffle=False,
        shard_info=seqio.ShardInfo(index=index, num_shards=4))
    found += [example["id"] for example in dataset.as_numpy_iterator()]
  assert len(found) == len(set(found)) == 50


def test_what_is_missing_is_one_line(records_folder):
  with pytest.raises(errors.UserError, match="did you mean: svamp_step_gold"):
    task_registry.require_task("svamp_step_glod_palm540b")
  with pytest.raises(errors.UserError, match="stepdistill teacher import"):
    examples("cqa_label_gold")
  with pytest.raises(errors.UserError, match="no split 'validation'"):
    examples("svamp_label_gold", "validation")


def test_records_of_a_users_own_data_set_have_tasks(records_folder):
  record_writer.write_records(records_folder, "mine", "my_llama", {"train": [
      record(0, label="yes", teacher_label="no", rationale="r")]})
  task_registry.register_found_records()
  assert texts("mine_label_my_llama") == [("is it 0?", "no")]


def test_prefixes_are_the_papers():
  assert preprocessors.PREDICT_PREFIX == "predict: "
  assert preprocessors.EXPLAIN_PREFIX == "explain: "
