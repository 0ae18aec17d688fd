"""Similarity by sentence embeddings, with the package and without it."""

import json
import sys

import numpy as np
import pytest

from stepdistill_jax.answers import embeddings
from stepdistill_jax.cli import stepdistill, stepdistill_eval
from stepdistill_jax.records import records
from stepdistill_jax.util import errors


def test_without_the_package_a_line_says_what_to_do(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "sentence_transformers", None)
  embeddings.load.cache_clear()
  with pytest.raises(errors.UserError, match=r"-e '\.\[embeddings\]'"):
    embeddings.load(str(tmp_path))


class Model:
  """Counts a, b and c."""

  def encode(self, texts, **unused):
    rows = np.array([[text.count(c) for c in "abc"] for text in texts], float)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def test_the_best_reference_counts(monkeypatch):
  monkeypatch.setattr(embeddings, "load", lambda folder: Model())
  found = embeddings.similarities(
      "any", ["ab", "a", "c"], [("a", "aabb"), ("b",), ()])
  assert found == [pytest.approx(1.0), pytest.approx(0.0), None]


@pytest.mark.interop
def test_the_package_reads_a_models_folder(tmp_path):
  pytest.importorskip("sentence_transformers")
  transformers = pytest.importorskip("transformers")
  tokenizer = transformers.BertTokenizerFast(vocab={
      piece: i for i, piece in enumerate(
          ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog"])})
  transformers.BertModel(transformers.BertConfig(
      vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
      intermediate_size=8)).save_pretrained(tmp_path / "model")
  tokenizer.save_pretrained(tmp_path / "model")
  embeddings.load.cache_clear()
  same, other = embeddings.similarities(
      str(tmp_path / "model"), ["cat", "cat"], [("cat", "dog"), ("dog",)])
  assert same == pytest.approx(1.0, abs=1e-5)
  assert -1 <= other < 0.9999
  # The same by the flag.
  (tmp_path / "test.csv").write_text("q,a\nfirst,cat\nsecond,dog\n")
  assert stepdistill.main([
      "teacher", "import", "--format=columns", "--dataset=mine",
      "--kind=summary", "--teacher=human", "--columns=inputs=q,label=a",
      f"--outputs={tmp_path / 'test.csv'}",
      f"--records_dir={tmp_path / 'records'}"]) == 0
  (tmp_path / "answers.jsonl").write_text("".join(
      json.dumps({"id": row.id, "text": "cat"}) + "\n"
      for row in records.read_records(
          tmp_path / "records", "mine", "human", "test")))
  assert stepdistill_eval.main([
      f"--predictions=cats={tmp_path / 'answers.jsonl'}", "--benchmarks=mine",
      f"--embeddings={tmp_path / 'model'}", f"--output={tmp_path / 'scores'}",
      f"--records_dir={tmp_path / 'records'}"]) == 0
  results = json.loads((tmp_path / "scores/results.json").read_text())
  (found,) = [s for s in results["systems"] if s["name"] == "cats"]
  similarity = found["text_metrics"]["values"]["embedding"]
  assert similarity["n"] == 2
  assert similarity["mean"] == pytest.approx((same + other) / 2)
  embeddings.load.cache_clear()
  (tmp_path / "empty").mkdir()
  with pytest.raises(errors.UserError, match="cannot be loaded"):
    embeddings.load(str(tmp_path / "empty"))
