"""From collected caches to records: order, samples, forms, rejections."""

import json
import random

import pytest

from stepdistill_jax.records import records
from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.importing import (
  cache_joining,
  formats as importing,
  record_importer,
)
from stepdistill_jax.util import errors

LABELS = ("entailment", "neutral", "contradiction")


def write_cache(folder, lines, *, shuffle=True, **manifest):
  """Writes a cache as `collect` does, its lines in some order."""
  folder.mkdir(parents=True)
  values = {
      "format_version": completions.FORMAT_VERSION, "teacher": "t",
      "dataset": "anli1", "split": "train", "reads": "chain_of_thought",
      "sampling": {"samples": 1}, "complete": True, **manifest}
  (folder / "manifest.json").write_text(json.dumps(values))
  if shuffle:
    random.Random(1).shuffle(lines)
  with (folder / "shard-00000.jsonl").open("w") as file:
    for line in lines:
      file.write(json.dumps(line) + "\n")
  return folder


def line(number, output, *, sample=0, label=None, **more):
  return {
      "id": f"anli1/train/{number}", "sample": sample, "position": number,
      "input": {"premise": f"p {number}", "hypothesis": "h",
                "label": LABELS[number % 3] if label is None else label},
      "output": output, "finish_reason": "stop", "error": None,
      "usage": {}, "request": "00", **more}


def answer(label, why="Because."):
  return f"{why} So the answer is {label}."


def imported(tmp_path, folder, **options):
  result = importing.import_cache(
      folder, output=tmp_path / "records", **options)
  found = [
      record for split in records.split_sizes(
          tmp_path / "records", result.dataset, result.teacher)
      for record in records.read_records(
          tmp_path / "records", result.dataset, result.teacher, split)]
  return sorted(found, key=lambda r: int(r.origin[6:-1])), result.info


def test_the_order_of_the_answers_does_not_matter(tmp_path):
  lines = [line(n, answer(LABELS[n % 3])) for n in range(50)]
  first, _ = imported(tmp_path / "a", write_cache(tmp_path / "c1", lines[:]))
  second, _ = imported(tmp_path / "b", write_cache(
      tmp_path / "c2", lines[:], shuffle=False))
  assert first == second and len(first) == 50
  assert [r.origin for r in first] == [f"train[{n}]" for n in range(50)]
  assert all(r.teacher_label == r.label and r.weight == "" for r in first)


def test_samples_become_one_record_with_a_weight(tmp_path):
  outputs = {
      0: [answer("neutral", "A."), answer("entailment", "B."),
          answer("entailment", "C.")],
      1: [answer("neutral")] * 3,
      2: ["no idea"] * 3,
  }
  lines = [line(n, output, sample=sample) for n, samples in outputs.items()
           for sample, output in enumerate(samples)]
  found, info = imported(tmp_path, write_cache(
      tmp_path / "c", lines, sampling={"samples": 3}))
  assert [(r.teacher_label, r.rationale, r.weight, r.status)
          for r in found] == [
              ("entailment", "B.", "0.666667", "ok"),
              ("neutral", "Because.", "1", "ok"),
              ("", "", "1", "no_marker")]
  assert "majority of 9 samples of 3 rows; 1 rows unanimous" in info["notes"][0]
  assert info["sources"]["train"]["rules"]["strict"]["correct"] == 2


def test_wrong_rationales_are_rejected_and_counted(tmp_path):
  lines = [line(0, answer("entailment")), line(1, answer("entailment")),
           line(2, answer("neutral"), label="")]
  folder = write_cache(tmp_path / "c", lines)
  found, info = imported(tmp_path, folder, reject_wrong=True)
  assert [(r.teacher_label, r.rationale, r.status) for r in found] == [
      ("entailment", "Because.", "ok"),
      ("entailment", "", "rejected_wrong_label"),
      ("neutral", "Because.", "ok")]
  assert "1 samples rejected" in info["notes"][0]
  assert "1 rows without a rationale" in info["notes"][0]
  # The teacher's accuracy is what it was.
  strict = info["sources"]["train"]["rules"]["strict"]
  assert (strict["correct"], strict["with_gold"]) == (1, 2)


def test_a_repeated_sample_is_counted_and_the_first_is_read(tmp_path):
  lines = [line(0, answer("entailment")), line(1, answer("neutral")),
           line(0, answer("neutral"))]
  found, info = imported(tmp_path, write_cache(
      tmp_path / "c", lines, shuffle=False))
  assert [r.teacher_label for r in found] == ["entailment", "neutral"]
  dropped = info["sources"]["train"]["dropped"]
  assert {name: entry["count"] for name, entry in dropped.items()} == {
      "repeated_completion": 1}


@pytest.mark.parametrize("reads, output, rationale, label", [
    ("json", '{"reason": "Why.", "answer_choice": "neutral"}', "Why.",
     "neutral"),
    ("answer", "Neutral.", "", "neutral"),
    ("rationale", "Why.", "Why.", ""),
])
def test_other_forms(tmp_path, reads, output, rationale, label):
  found, info = imported(tmp_path, write_cache(
      tmp_path / "c", [line(1, output)], reads=reads,
      gold_given=reads == "rationale"))
  assert [(r.rationale, r.teacher_label, r.status) for r in found] == [
      (rationale, label, "ok")]
  assert any("saw the human labels" in note for note in info["notes"]) == (
      reads == "rationale")


def test_turns_of_a_conversation(tmp_path):
  lines = [{**line(0, f"reply {turn}"), "id": f"talk/train/x/turn-{turn}",
            "input": {"inputs": f"user: {turn}", "label": f"gold {turn}"}}
           for turn in (1, 3, 5)]
  found, _ = imported(tmp_path, write_cache(
      tmp_path / "c", lines, dataset="talk", reads="turns", rows=30))
  assert sorted((r.inputs, r.label, r.teacher_label) for r in found) == [
      (f"user: {n}", f"gold {n}", f"reply {n}") for n in (1, 3, 5)]
  assert len({r.split for r in found}) == 1  # A conversation stays together.


@pytest.mark.parametrize("more, status", [
    ({"error": "timeout: 5 s", "output": None}, "teacher_error"),
    ({"finish_reason": "refusal"}, "refusal"),
    ({"finish_reason": "content_filter"}, "content_filter"),
    ({"finish_reason": "length", "output": "So"}, "truncated"),
    ({"output": " "}, "empty_output"),
])
@pytest.mark.parametrize("samples", [1, 2])
def test_endings_have_their_names(tmp_path, more, status, samples):
  lines = [{**line(1, answer("neutral"), sample=sample), **more}
           for sample in range(samples)]
  found, _ = imported(tmp_path, write_cache(
      tmp_path / "c", lines, sampling={"samples": samples}),
      allow_useless=True)
  assert [(r.status, r.rationale) for r in found] == [(status, "")]


def test_own_data_holds_out_a_tenth_of_its_rows(tmp_path):
  lines = [{**line(n, f"Why. The answer is {n}."),
            "input": {"inputs": f"i {n}", "label": str(n)}}
           for n in range(20)]
  found, _ = imported(tmp_path, write_cache(
      tmp_path / "c", lines, dataset="mine", rows=20))
  held_out = [int(r.label) for r in found if r.split == "validation"]
  assert len(found) == 20
  assert held_out == sorted(record_importer.held_out_positions(20, 0.1))


@pytest.mark.parametrize("change", [
    {"position": None}, {"position": 2**70}, {"id": 7}, {"sample": "0"},
    {"input": []}, {"input": {"premise": 3}}, {"output": {"a": 1}},
])
def test_damaged_lines_are_counted(tmp_path, change):
  lines = [line(0, answer("entailment")), {**line(1, "x"), **change}]
  found, info = imported(tmp_path, write_cache(tmp_path / "c", lines))
  dropped = sum(entry["count"] for entry in
                info["sources"]["train"]["dropped"].values())
  assert found[0].status == "ok" or found[0].origin == "train[-1]"
  assert len(found) + dropped == 2


@pytest.mark.parametrize("manifest", [
    {"reads": "tea_leaves"}, {"reads": 3}, {"sampling": {"samples": "x"}},
    {"rows": -1}])
def test_a_damaged_manifest_is_one_line(tmp_path, manifest):
  folder = write_cache(tmp_path / "c", [line(0, "x")], **manifest)
  with pytest.raises(errors.UserError) as caught:
    importing.import_cache(folder, output=tmp_path / "records")
  assert "manifest.json" in str(caught.value)
  assert "\n" not in str(caught.value)


def test_a_plain_cache_is_read_in_its_order(tmp_path):
  folder = write_cache(tmp_path / "c", [line(5, "x")])
  manifest = json.loads((folder / "manifest.json").read_text())
  del manifest["reads"]
  form = cache_joining.Form.of(manifest, "m")
  assert not form.collected and form.samples == 1
