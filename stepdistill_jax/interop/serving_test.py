"""Exports in use: tokenizers, the model card's code, CTranslate2."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import seqio

from stepdistill_jax.interop import tokenizers
from stepdistill_jax.interop.hf import (
  exporting as export_hf,
  importing as import_hf,
  names as hf_names,
)
from tests.support import hf_fixtures as fixtures

pytestmark = pytest.mark.interop
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

TEXTS = ["predict: is it 5?", "two  spaces", " around ", "a\nb\tc", "",
         "{}[]~^`", "( 8.0 - 3.0 )", "(a) yes (b) no", "Ünïcode ½ ﬁ 日本 😀"]
DECODES = 12
# Where the code is the same for all.
one_family = pytest.mark.parametrize("exported", ["flan_t5"], indirect=True)


@pytest.fixture(name="exported", scope="module",
                params=["t5_v1_0", "flan_t5", "mt5", "byt5"])
def _exported(request, tmp_path_factory):
  transformers.logging.set_verbosity_error()
  transformers.utils.logging.disable_progress_bar()
  folder = tmp_path_factory.mktemp(request.param)
  tensors = fixtures.write_folder(folder / "hf", request.param)
  # The end token's logit is often far from the others': outputs end.
  for name in (hf_names.HEAD, hf_names.EMBEDDING, *hf_names.EMBEDDING_COPIES):
    if name in tensors and (
        name == hf_names.HEAD or request.param == "t5_v1_0"):
      tensors[name] = tensors[name].copy()
      tensors[name][1] *= 4.0
  fixtures.write_safetensors(folder / "hf" / "model.safetensors", tensors)
  # Scores are of greedy answers, which the export gives whatever this says.
  (folder / "hf" / "generation_config.json").write_text(json.dumps({
      "decoder_start_token_id": 0, "num_beams": 3, "length_penalty": 2.0,
      "repetition_penalty": 5.0}))
  import_hf.import_hf(folder / "hf", folder / "t5x", quiet=True)
  export_hf.export_hf(folder / "t5x", folder / "out",
                      export_hf.Options(quiet=True, max_new_tokens=DECODES))
  return folder


def vocabulary_of(folder):
  tokenizer = tokenizers.find(folder, {"model_type": "t5", "vocab_size": 384})
  if tokenizer.spiece is None:
    return seqio.ByteVocabulary(tokenizer.extra_ids)
  return seqio.SentencePieceVocabulary(
      str(folder / tokenizers.SPIECE_FILE), tokenizer.extra_ids)


def test_the_tokenizer_is_the_runs(exported):
  """Both ways, with what came from the import and with what we write."""
  vocabulary = vocabulary_of(exported / "out")
  ours = exported / "ours"
  ours.mkdir(exist_ok=True)
  tokenizers.write(ours, tokenizers.find(
      exported / "out", {"model_type": "t5", "vocab_size": 384}), None)
  for folder in (exported / "out", ours):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.pad_token_id == 0 and theirs.eos_token_id == 1
    assert len(theirs) == vocabulary.vocab_size
    for text in TEXTS:
      ids = list(vocabulary.encode(text))
      assert theirs(text)["input_ids"] == [*ids, 1], text
      if vocabulary.unk_id not in ids:  # Unknowns are shown differently.
        assert theirs.decode(ids) == vocabulary.decode(ids), text


def test_two_texts_are_joined_by_the_end_token(exported):
  """As the tasks join premise and hypothesis."""
  theirs = transformers.AutoTokenizer.from_pretrained(exported / "out")
  vocabulary = vocabulary_of(exported / "out")
  assert theirs("ab", "cd")["input_ids"] == [
      *vocabulary.encode("ab"), 1, *vocabulary.encode("cd"), 1]


@one_family
def test_the_code_of_the_model_card_runs(exported):
  card = (exported / "out" / "README.md").read_text()
  code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
  done = subprocess.run(
      [sys.executable, "-c", code], cwd=exported / "out", check=True,
      capture_output=True, text=True)
  assert done.stdout.endswith("\n")


@one_family
def test_the_code_of_the_readme_runs(exported):
  readme = pathlib.Path(__file__).resolve().parents[2] / "README.md"
  section = readme.read_text().partition("\n## Serving\n")[2]
  code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
  (exported / "student").symlink_to(exported / "out")
  done = subprocess.run(
      [sys.executable, "-c", code], cwd=exported, check=True,
      capture_output=True, text=True)
  assert done.stdout.endswith("\n")


def questions(vocab_size, rows=24, length=20):
  rng = np.random.default_rng(1)
  tokens = rng.integers(3, vocab_size, (rows, length))
  for row in range(1, rows):
    tokens[row, rng.integers(5, length):] = 0
  return tokens


def until_end(names):
  return names[:names.index("</s>") + 1] if "</s>" in names else names


def test_ctranslate2_gives_the_same_tokens(exported):
  ctranslate2 = pytest.importorskip("ctranslate2")
  ctranslate2.set_log_level(40)
  ctranslate2.converters.TransformersConverter(
      str(exported / "out")).convert(str(exported / "ct2"), force=True)
  tokenizer = transformers.AutoTokenizer.from_pretrained(exported / "out")
  model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
      exported / "out", dtype=torch.float32).eval()
  # CTranslate2 names the rows beyond the tokenizer so.
  names = [*tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))),
           *(f"<extra_id_{i}>" for i in range(
               model.config.vocab_size - len(tokenizer)))]
  tokens = questions(len(tokenizer))
  with torch.inference_mode():
    expected = model.generate(
        input_ids=torch.from_numpy(tokens),
        attention_mask=torch.from_numpy((tokens > 0).astype(int)))
  found = ctranslate2.Translator(
      str(exported / "ct2"), device="cpu", compute_type="float32",
      inter_threads=1).translate_batch(
          [[names[i] for i in row if i] for row in tokens], beam_size=1,
          max_decoding_length=DECODES, min_decoding_length=0,
          return_end_token=True)
  expected = [until_end([names[i] for i in row[1:]])
              for row in expected.tolist()]
  assert any(row[-1] == "</s>" for row in expected)
  assert [until_end(r.hypotheses[0]) for r in found] == expected
