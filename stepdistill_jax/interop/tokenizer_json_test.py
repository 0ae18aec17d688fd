"""Every kind of SentencePiece model makes the same tokens in transformers."""

import io
import json

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
import seqio

from stepdistill_jax.interop import tokenizer_json, tokenizers
from stepdistill_jax.util import errors
from tests.support import real_data as testing

SENTENCES = ["john went to the hall .", "mary took the red ball there .",
             "where is the ball ? it is in the hall , says john"]
TEXTS = [*SENTENCES, "", " ", "  two  spaces ", "a\nb\tc", "{}[]~^`",
         "went to the", "x went to the the went to the", "wentto the hallway",
         "Ünïcode ½ ﬁ 日本 😀 hall"]
KINDS = {
    # As the embedded benchmark's: phrases that are one piece.
    "bpe_with_phrases": {"model_type": "bpe", "user_defined_symbols": [
        "\u2581went\u2581to", "\u2581went\u2581to\u2581the", "\u2581says"]},
    "bpe": {"model_type": "bpe"},
    "across_spaces": {"model_type": "unigram", "split_by_whitespace": False},
    "no_dummy_prefix": {"model_type": "unigram", "add_dummy_prefix": False},
    "spaces_kept": {"model_type": "bpe", "remove_extra_whitespaces": False},
    "like_t5": {"model_type": "unigram"},
}


def train(**options):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(SENTENCES * 20), model_writer=model,
      vocab_size=70, hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2,
      bos_id=-1, minloglevel=2, **options)
  return model.getvalue()


@pytest.mark.interop
@pytest.mark.parametrize("extra_ids", [0, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tokens_and_texts(tmp_path, kind, extra_ids):
  transformers = pytest.importorskip("transformers")
  spiece = train(**KINDS[kind])
  tokenizers.write(tmp_path, tokenizers.Tokenizer(spiece, extra_ids), None)
  assert tokenizer_json.is_like_t5(spiece) == (kind == "like_t5")
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  ours = seqio.SentencePieceVocabulary(
      str(tmp_path / tokenizers.SPIECE_FILE), extra_ids)
  assert len(theirs) == ours.vocab_size
  assert (theirs.pad_token_id, theirs.eos_token_id) == (0, 1)
  if extra_ids:
    # T5's order: the first sentinel has the last id.
    assert theirs.convert_tokens_to_ids("<extra_id_0>") == len(theirs) - 1
  for text in TEXTS:
    ids = list(ours.encode(text))
    assert theirs(text)["input_ids"] == [*ids, 1], text
    if ours.unk_id not in ids:  # Unknowns are shown differently.
      assert theirs.decode(ids) == ours.decode(ids), text


@pytest.mark.interop
def test_a_folder_that_has_only_a_tokenizer_json(tmp_path):
  """As published ones may; written by transformers here."""
  transformers = pytest.importorskip("transformers")
  testing.write_tiny_vocabulary(tmp_path / "in" / tokenizers.SPIECE_FILE)
  spiece = (tmp_path / "in" / tokenizers.SPIECE_FILE).read_bytes()
  tokenizers.write(tmp_path / "in", tokenizers.Tokenizer(spiece, 100), None)
  transformers.AutoTokenizer.from_pretrained(
      tmp_path / "in").save_pretrained(tmp_path / "saved")
  (tmp_path / "saved" / tokenizers.SPIECE_FILE).unlink(missing_ok=True)
  found = tokenizers.find(tmp_path / "saved", {"model_type": "t5"})
  assert found.extra_ids == 100
  (tmp_path / "found.model").write_bytes(found.spiece)
  before, after = (seqio.SentencePieceVocabulary(str(file), 100) for file in (
      tmp_path / "in" / tokenizers.SPIECE_FILE, tmp_path / "found.model"))
  assert before.vocab_size == after.vocab_size
  for text in TEXTS:
    assert before.encode(text) == after.encode(text), text
    assert before.decode(before.encode(text)) == after.decode(
        after.encode(text)), text


@pytest.mark.parametrize("tokenizer, reason", [
    ({"model": {"type": "BPE", "vocab": {}}}, "has a BPE model"),
    ({}, "has a missing model"),
    ({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<s>", 0.0]]}},
     "begins with the pieces ['<s>']")])
def test_another_kind_of_tokenizer_json(tmp_path, tokenizer, reason):
  (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
  with pytest.raises(errors.UserError) as caught:
    tokenizers.find(tmp_path, {"model_type": "t5", "vocab_size": 100})
  assert reason in str(caught.value)


def test_what_a_tokenizer_json_cannot_express(tmp_path):
  model = sentencepiece_model_pb2.ModelProto.FromString(
      train(model_type="bpe"))
  model.trainer_spec.byte_fallback = True
  with pytest.raises(errors.UserError, match="has bytes for unknown"):
    tokenizers.write(tmp_path, tokenizers.Tokenizer(
        model.SerializeToString(), 0), None)
  with pytest.raises(errors.UserError, match="no SentencePiece model"):
    tokenizers.write(tmp_path, tokenizers.Tokenizer(b"<html>", 0), None)
