import collections

import pytest

from stepdistill_jax.records import records
from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.importing import (
  formats as importing,
  record_importer,
)
from stepdistill_jax.util import errors
from tests.support import real_data as testing


def imported(tmp_path, dataset):
  data = testing.real_data_dir()
  return importing.import_published(
      dataset=dataset, rows=data / dataset, outputs=data / dataset / "palm",
      teacher="palm540b", output=tmp_path).info["sources"]


def statuses(counts, rules):
  return {reason: entry["count"] for reason, entry in (
      counts["rules"][rules]["statuses"].items())}


def correct(counts, rules="reference"):
  return counts["rules"][rules]["correct"], counts["rules"][rules]["with_gold"]


# The numbers of the next tests were counted with the papers' code.


def test_real_svamp(tmp_path):
  sources = imported(tmp_path, "svamp")
  assert correct(sources["train"]) == (586, 800)
  assert correct(sources["test"]) == (148, 200)
  # 34 and 7 labels have no value.
  assert statuses(sources["train"], "reference") == {
      "ok": 767, "no_marker": 11, "no_label": 2,
      "equation_unknown": 18, "equation_unbalanced": 1, "equation_tuple": 1,
  }
  assert statuses(sources["test"], "reference") == {
      "ok": 193, "no_marker": 2, "equation_unknown": 4, "equation_tuple": 1}
  assert records.split_sizes(tmp_path, "svamp", "palm540b") == {
      "train": 720, "validation": 80, "test": 200}
  found = collections.Counter(
      record.status for split in ("train", "validation")
      for record in records.read_records(tmp_path, "svamp", "palm540b", split))
  assert found == statuses(sources["train"], "strict")


def test_real_cqa(tmp_path):
  sources = imported(tmp_path, "cqa")
  assert correct(sources["train"]) == (7234, 9741)
  assert correct(sources["test"]) == (943, 1221)
  # 448 and 46 are none of the choices, 123 and 15 differ only in case.
  assert statuses(sources["train"], "reference") == {
      "ok": 9741 - 448, "label_not_a_choice": 448 - 123 - 3,
      "label_differs_in_case": 123, "no_label": 3}
  assert statuses(sources["test"], "reference") == {
      "ok": 1221 - 46, "label_not_a_choice": 46 - 15,
      "label_differs_in_case": 15}
  assert statuses(sources["train"], "strict")["several_answers"] == 284
  assert statuses(sources["test"], "strict")["several_answers"] == 25
  assert records.split_sizes(tmp_path, "cqa", "palm540b") == {
      "train": 8766, "validation": 975, "test": 1221}


def test_real_anli1(tmp_path):
  sources = imported(tmp_path, "anli1")
  # Rows of which only the first 1,000 have a human label; all completions
  # count for the defects.
  assert correct(sources["train"]) == (756, 1000)
  assert correct(sources["validation"]) == (668, 1000)
  assert correct(sources["test"]) == (656, 1000)
  assert statuses(sources["train"], "reference") == {
      "ok": 16946 - 125, "no_marker": 122, "no_label": 1,
      "label_not_allowed": 2}
  assert statuses(sources["validation"], "reference")["no_marker"] == 9
  assert statuses(sources["test"], "reference")["no_marker"] == 10
  assert sources["train"]["dropped"]["no_row"]["count"] == 16946 - 10380
  # Joined by the index that the recovered rows carry.
  assert sources["train"]["overlap"]["own_row"] > 0.5
  assert sources["train"]["overlap"]["row_before"] < 0.1


def test_real_esnli(tmp_path):
  sources = imported(tmp_path, "esnli")
  assert correct(sources["validation"]) == (7201, 9842)
  assert correct(sources["test"]) == (7171, 9824)
  assert statuses(sources["validation"], "reference")["no_label"] == 4
  assert statuses(sources["test"], "reference")["label_not_allowed"] == 1
  assert statuses(sources["test"], "strict") == {"ok": 9824}


def write_cache(folder, split, collected):
  with completions.cache_writer(
      folder, teacher="simulated", dataset="toy", split=split) as writer:
    for entry in collected:
      writer.append(entry)


def completion(number, output="It is so. The answer is here.", **fields):
  return completions.Completion(
      id=str(number), output=output,
      input={"inputs": f"where is {number} ?", "label": "here"}, **fields)


def test_our_cache_format(tmp_path):
  write_cache(tmp_path / "c" / "train", "train", [
      completion(0), completion(1, "no idea"), completion(2, None),
      completion(3, None, error="500"),
      completion(4, "It is so because", finish_reason="length"),
      completion(0, "again. So the answer is there")])
  write_cache(tmp_path / "c" / "test", "test", [completion(0)])
  result = importing.import_cache(tmp_path / "c", output=tmp_path / "r")
  train = sorted(
      records.read_records(tmp_path / "r", "toy", "simulated", "train"),
      key=lambda record: record.origin)
  assert [r.status for r in train] == [
      "ok", "no_marker", "not_text", "teacher_error", "truncated",
      "label_not_seen"]
  assert (train[0].rationale, train[0].teacher_label) == ("It is so.", "here")
  assert (train[5].rationale, train[5].teacher_label) == ("again.", "")
  assert train[5].id == train[0].id + "-2"
  assert result.info["repeated_inputs"] == {"test": 0, "train": 1}
  assert result.info["leaked_inputs"] == {"test & train": 1}


def test_an_edited_cache_is_refused(tmp_path):
  write_cache(tmp_path / "c", "train", [completion(0)])
  shard = tmp_path / "c" / "shard-00000.jsonl"
  shard.write_text(shard.read_text().replace("here", "there"))
  with pytest.raises(errors.UserError, match="sha256 differs"):
    importing.import_cache(tmp_path / "c", output=tmp_path / "r")


def test_a_cache_is_written_as_a_whole_or_not_at_all(tmp_path):
  def ids():
    return [entry.value["id"]
            for entry in completions.read_completions(tmp_path / "c")]

  write_cache(tmp_path / "c", "train", [completion(0), completion(1)])
  with pytest.raises(KeyError):
    write_cache(tmp_path / "c", "train", (
        {}["no such row"] for _ in range(1)))
  assert ids() == ["0", "1"]
  with pytest.raises(errors.UserError, match="with split 'train', not 'test'"):
    write_cache(tmp_path / "c", "test", [completion(2)])
  assert ids() == ["0", "1"]
  # A cut one is refused, and written again is whole.
  shard = tmp_path / "c" / "shard-00000.jsonl"
  shard.write_bytes(shard.read_bytes()[:-5])
  with pytest.raises(errors.UserError, match="sha256 differs"):
    ids()
  write_cache(tmp_path / "c", "train", [completion(2)])
  assert ids() == ["2"]
  importing.import_cache(tmp_path / "c", output=tmp_path / "r")


def test_held_out_rows_are_a_fixed_tenth():
  positions = record_importer.held_out_positions(800, 0.1)
  assert len(positions) == 80 and positions == (
      record_importer.held_out_positions(800, 0.1))
  # By the rule that is stated there.
  import numpy as np
  assert positions == set(
      np.random.default_rng(0).permutation(800)[:80].tolist())


def test_imports_report_how_many(tmp_path):
  (tmp_path / "asdiv_train.jsonl").write_text("")
  (tmp_path / "svamp_test.json").write_text(
      '{"input": "a", "label": "(1)"}\n' * 3)
  (tmp_path / "test_CoT_0.json").write_text(
      '["The answer is (1).", "b", "c"]')
  calls = []
  importing.import_published(
      dataset="svamp", rows=tmp_path, outputs=tmp_path, teacher="t",
      output=tmp_path / "records", progress=lambda *numbers: calls.append(
          numbers))
  assert calls == [(1, 3), (2, 3), (3, 3)]
