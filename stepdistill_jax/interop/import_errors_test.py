"""Wrong folders are refused in one line: tensor, expected, got, what to do."""

import json
import struct

import numpy as np
import pytest
import sentencepiece

from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.interop import streaming
from stepdistill_jax.interop.hf import (
  config as hf_config,
  exporting as export_hf,
  importing as import_hf,
  safetensors_files,
)
from stepdistill_jax.util import errors
from tests.support import hf_fixtures as fixtures

SIZE = 189  # Pieces of the tiny vocabulary, which its sentinels follow.


@pytest.fixture(name="folder")
def _folder(tmp_path):
  fixtures.write_folder(tmp_path / "in", "t5_v1_1")
  return tmp_path / "in"


def refused(folder, *expected):
  """Asserts that a folder is refused with a line that has all of these."""
  with pytest.raises(errors.UserError) as caught:
    import_hf.import_hf(folder, folder.parent / "out", quiet=True)
  message = str(caught.value)
  for text in (str(folder), *expected):
    assert text in message
  assert "\n" not in message
  assert not (folder.parent / "out" / "checkpoint_0").exists()


def change_config(folder, **entries):
  file = folder / "config.json"
  config = {**json.loads(file.read_text()), **entries}
  file.write_text(json.dumps(
      {k: v for k, v in config.items() if v is not ...}))


def change_tensors(folder, change):
  tensors = fixtures.tensors_of(fixtures.FAMILIES["t5_v1_1"])
  change(tensors)
  fixtures.write_safetensors(folder / "model.safetensors", tensors)


def test_missing_tensor(folder):
  change_tensors(folder, lambda t: t.pop(
      "decoder.block.1.layer.1.EncDecAttention.k.weight"))
  refused(folder, "lacks the tensor decoder.block.1.layer.1.EncDecAttention.k",
          "expected of shape (16, 16)")


def test_missing_head(folder):
  change_tensors(folder, lambda t: t.pop("lm_head.weight"))
  refused(folder, "lm_head.weight", "tie_word_embeddings")


def test_missing_embedding(folder):
  change_tensors(folder, lambda t: t.pop("shared.weight"))
  refused(folder, "lacks the tensor shared.weight")


def test_wrong_shape(folder):
  name = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
  change_tensors(folder, lambda t: t.update({name: t[name][:5]}))
  refused(folder, name, "(5, 16)", "expected (24, 16)")


def test_transposed_tensor(folder):
  name = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
  change_tensors(folder, lambda t: t.update(
      {name: np.ascontiguousarray(t[name].T)}))
  refused(folder, name, "(24, 16)", "expected (16, 24)")


@pytest.mark.parametrize("name, reason", [
    ("classifier.weight", "no place"),
    ("encoder.block.0.layer.0.SelfAttention.q.lora_A.weight", "adapter"),
    ("encoder.block.0.layer.0.SelfAttention.q.SCB", "quantized?"),
])
def test_unknown_tensor(folder, name, reason):
  change_tensors(folder, lambda t: t.update({name: np.ones(3, np.float32)}))
  refused(folder, name, reason)


def test_quantized_tensor(folder):
  name = "encoder.block.0.layer.0.SelfAttention.q.weight"
  change_tensors(folder, lambda t: t.update({name: t[name].astype(np.int8)}))
  refused(folder, name, "int8", "expected float32, bfloat16 or float16")


@pytest.mark.parametrize("quantization, method", [
    ({"quant_method": "gptq", "bits": 4}, "gptq"),
    ({"load_in_8bit": True}, "load_in_8bit")])
def test_quantized_config(folder, quantization, method):
  change_config(folder, quantization_config=quantization)
  refused(folder, "quantized", method)


@pytest.mark.parametrize("family, reason", [
    ("umt5", "biases differ by layer"), ("longt5", "local"),
    ("bart", "another architecture"), (None, "another architecture")])
def test_unknown_architecture(folder, family, reason):
  change_config(folder, model_type=family)
  refused(folder, repr(family), reason, "'t5'")


def test_model_without_text_output(folder):
  change_config(folder, architectures=["T5EncoderModel"])
  refused(folder, "T5EncoderModel", "T5ForConditionalGeneration")


@pytest.mark.parametrize("entry", [
    {"relative_attention_num_buckets": 64},
    {"relative_attention_max_distance": 256}, {"layer_norm_epsilon": 1e-5}])
def test_what_the_network_has_not(folder, entry):
  change_config(folder, **entry)
  (name, value), = entry.items()
  refused(folder, name, str(value), "T5X's network has")


@pytest.mark.parametrize("value", [..., 0, -1, "512", True, 2.5])
def test_bad_dimension(folder, value):
  change_config(folder, d_model=value)
  refused(folder, "d_model", "expected a positive int")


@pytest.mark.parametrize("value, near", [
    ("gelu", "gelu_new"), ("gated-swiglu", "gated-silu")])
def test_unknown_activation(folder, value, near):
  change_config(folder, feed_forward_proj=value)
  refused(folder, repr(value), near)


def test_head_that_t5x_cannot_have(folder):
  change_config(folder, tie_word_embeddings=True)
  refused(folder, "lm_head.weight differs from shared.weight")


def test_two_embeddings(folder):
  change_tensors(folder, lambda t: t.update(
      {"decoder.embed_tokens.weight": t["shared.weight"] + 1}))
  refused(folder, "decoder.embed_tokens.weight differs from shared.weight")


def test_no_config(folder):
  (folder / "config.json").unlink()
  refused(folder, "has no config.json")


def test_damaged_config(folder):
  (folder / "config.json").write_text("{")
  refused(folder, "not valid JSON")


def test_no_folder(folder):
  refused(folder / "nothing", "there is no folder")


def test_no_weights(folder):
  (folder / "model.safetensors").unlink()
  (folder / "tf_model.h5").write_bytes(b"")
  refused(folder, "has no weights", "tf_model.h5 is of a format")


def test_cut_off_weights(folder):
  file = folder / "model.safetensors"
  file.write_bytes(file.read_bytes()[:-100])
  refused(folder, "cut off", "lm_head.weight")


@pytest.mark.parametrize("data, reason", [
    (b"", "no safetensors file"), (b"\xff" * 100, "no safetensors file"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    (struct.pack("<Q", 2) + b"{]" + b" " * 90, "model.safetensors")])
def test_no_safetensors_file(folder, data, reason):
  (folder / "model.safetensors").write_bytes(data)
  refused(folder, reason)


@pytest.mark.parametrize("entry", [
    {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]},
    {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
    {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
    {"dtype": "I4", "shape": [2], "data_offsets": [0, 8]},
    {"dtype": "F32", "shape": [2]}, [], {"dtype": "F32", "shape": "x",
                                         "data_offsets": [0, 8]}])
def test_lying_header(folder, entry):
  header = json.dumps({"x": entry}).encode()
  (folder / "model.safetensors").write_bytes(
      struct.pack("<Q", len(header)) + header + b"\0" * 8)
  refused(folder)


def test_missing_shard(folder):
  (folder / "model.safetensors").unlink()
  fixtures.write_sharded(
      folder, fixtures.tensors_of(fixtures.FAMILIES["t5_v1_1"]), 3)
  (folder / "model-00002-of-00003.safetensors").unlink()
  refused(folder, "lacks the shard model-00002-of-00003.safetensors")


@pytest.mark.parametrize("file", ["../x.safetensors", "/etc/passwd", "a/b"])
def test_shards_stay_in_their_folder(folder, file):
  (folder / "model.safetensors.index.json").write_text(
      json.dumps({"weight_map": {"shared.weight": file}}))
  (folder.parent / "x.safetensors").write_bytes(
      (folder / "model.safetensors").read_bytes())
  refused(folder, file, "not in its folder")


def test_no_tokenizer(folder):
  (folder / "spiece.model").unlink()
  (folder / "tokenizer_config.json").unlink()
  change_config(folder, vocab_size=384 + 128)
  change_tensors(folder, lambda t: t.update({
      n: np.concatenate([t[n], t[n][:128]])
      for n in ("shared.weight", "lm_head.weight")}))
  refused(folder, "no tokenizer", "spiece.model")


def test_tokenizer_of_another_model(folder):
  (folder / "tokenizer_config.json").write_text(
      json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 5000}))
  refused(folder, "the embedding only 384 rows")


def test_output_that_exists(folder, tmp_path):
  import_hf.import_hf(folder, tmp_path / "out", quiet=True)
  with pytest.raises(errors.UserError, match="exists already"):
    import_hf.import_hf(folder, tmp_path / "out", quiet=True)


def test_the_command_ends_with_code_2(folder, tmp_path, capsys):
  (folder / "config.json").unlink()
  code = cli.main(["checkpoint", "import-hf", str(folder),
                   f"--output={tmp_path / 'out'}"])
  printed = capsys.readouterr()
  assert code == 2 and not printed.out
  assert printed.err.count("\n") == 1 and printed.err.startswith("error: ")


@pytest.mark.parametrize("config, has_head, equal, expected", [
    # transformers 4: tying scales.
    ({}, False, False, hf_config.Head.TIED),
    ({"tie_word_embeddings": True}, True, True, hf_config.Head.TIED),
    ({"tie_word_embeddings": False}, True, False, hf_config.Head.OWN),
    # Equal by accident, but not scaled: still its own.
    ({"tie_word_embeddings": False}, True, True, hf_config.Head.OWN),
    # transformers 5 always writes true, and looks at the weights.
    ({"tie_word_embeddings": True, "scale_decoder_outputs": False},
     True, False, hf_config.Head.OWN),
    ({"tie_word_embeddings": True, "scale_decoder_outputs": False},
     False, False, hf_config.Head.COPIED),
    ({"tie_word_embeddings": True, "scale_decoder_outputs": True},
     False, False, hf_config.Head.TIED),
    ({"model_type": "mt5", "tie_word_embeddings": True,
      "transformers_version": "5.1.0"}, True, False, hf_config.Head.OWN),
    ({"model_type": "mt5", "tie_word_embeddings": True,
      "transformers_version": "4.30.0"}, True, True, hf_config.Head.TIED),
    ({"model_type": "mt5"}, True, False, hf_config.Head.OWN),
])
def test_heads_of_both_versions_of_transformers(
    config, has_head, equal, expected):
  assert hf_config.head(
      {"model_type": "t5", **config}, has_head, equal) is expected


def test_writer_and_reader_agree_with_the_library(tmp_path):
  safetensors_numpy = pytest.importorskip("safetensors.numpy")
  tensors = {"b": np.arange(12, dtype=np.float32).reshape(3, 4),
             "a": np.arange(5, dtype=np.float16)}
  fixtures.write_safetensors(tmp_path / "mine", tensors)
  theirs = safetensors_numpy.load_file(tmp_path / "mine")
  assert {k: v.tolist() for k, v in theirs.items()} == {
      k: v.tolist() for k, v in tensors.items()}
  safetensors_numpy.save_file(tensors, tmp_path / "theirs")
  slots = safetensors_files.read_header(tmp_path / "theirs")
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(
        safetensors_files.read_rows(
            tmp_path / "theirs", slots[name], 1, 3), tensor[1:3])


@pytest.mark.parametrize("entry, expected", [
    ({"model_type": ["t5"]}, "expected a text"),
    ({"architectures": 5}, "expected a list"),
    ({"feed_forward_proj": 3}, "expected a text"),
    ({"dropout_rate": "x"}, "expected a number"),
    ({"quantization_config": True}, "expected an object"),
    ({"tie_word_embeddings": "no"}, "expected true or false"),
    ({"num_layers": 10**7}, "expected at most 1000")])
def test_entries_of_another_kind(folder, entry, expected):
  change_config(folder, **entry)
  refused(folder, "config.json", *entry, expected)


def test_entries_that_are_null_or_not_of_a_release(folder, tmp_path):
  change_config(folder, dropout_rate=None, transformers_version="main")
  (folder / "tokenizer_config.json").write_text('{"tokenizer_class": null}')
  import_hf.import_hf(folder, tmp_path / "out", quiet=True)


@pytest.mark.parametrize("file, text, expected", [
    ("spiece.model", "<html>", "no SentencePiece model"),
    ("spiece.model", "", "no SentencePiece model"),
    ("tokenizer_config.json", "[1]", "holds no JSON object"),
    ("tokenizer_config.json", '{"extra_ids": "x"}', "expected a number"),
    ("model.safetensors.index.json", "[]", "no index of shards"),
    ("model.safetensors.index.json", "{}", "no index of shards")])
def test_damaged_small_files(folder, file, text, expected):
  (folder / file).write_text(text)
  refused(folder, expected)


@pytest.mark.parametrize("model, expected", [
    ("[]", "holds no JSON object"), ('{"model": 5}', "missing model"),
    ('{"model": {"unk_id": 2, "vocab": [["<pad>", 0], 5]}}',
     "is it damaged?")])
def test_damaged_tokenizer_json(folder, model, expected):
  (folder / "spiece.model").unlink()
  (folder / "tokenizer.json").write_text(model)
  refused(folder, expected)


@pytest.mark.parametrize("file, text, expected", [
    ("import.json", "[]", "holds no JSON object"),
    ("import.json", '{"step": 0, "vocab_size": "x"}', "not written by"),
    ("hf/config.json", "{", "not valid JSON"),
    ("config.gin", "x = = 3", "no gin file")])
def test_exports_of_damaged_folders(folder, tmp_path, file, text, expected):
  import_hf.import_hf(folder, tmp_path / "t5x", quiet=True)
  (tmp_path / "t5x" / file).write_text(text)
  with pytest.raises(errors.UserError, match=expected) as caught:
    export_hf.export_hf(tmp_path / "t5x", tmp_path / "out")
  assert file in str(caught.value) and "\n" not in str(caught.value)


def test_exports_to_where_no_folder_can_be(folder, tmp_path):
  import_hf.import_hf(folder, tmp_path / "t5x", quiet=True)
  (tmp_path / "file").write_text("")
  for output in (tmp_path / "file", tmp_path / "file" / "x", folder):
    with pytest.raises(errors.UserError, match=str(tmp_path)):
      export_hf.export_hf(tmp_path / "t5x", output)
  assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("files, named", [
    ({"added_tokens.json": {"{": 300, "}": 301}}, ("'{' (300)", "'}' (301)")),
    ({"tokenizer.json": {"added_tokens": [
        {"content": "<extra_id_0>", "id": SIZE + 99},
        {"content": "\n", "id": SIZE + 100}]}}, ("1 tokens", "'\\n'")),
    ({"tokenizer_config.json": {"extra_ids": 100, "added_tokens_decoder": {
        "0": {"content": "<pad>"}, "290": {"content": "<think>"}}}},
     ("'<think>' (290)",)),
    # A sentinel that transformers feeds under another id than SeqIO.
    ({"added_tokens.json": {"<extra_id_0>": SIZE}}, ("'<extra_id_0>'",)),
])
def test_added_tokens(folder, files, named):
  for name, value in files.items():
    (folder / name).write_text(json.dumps(value))
  refused(folder, "added to the tokenizer", *named)


def test_listed_tokens_that_are_there_all_the_same(folder):
  pieces = sentencepiece.SentencePieceProcessor(
      model_file=str(folder / "spiece.model"))
  (folder / "added_tokens.json").write_text(json.dumps({
      "<pad>": 0, "</s>": 1, "<unk>": 2, pieces.id_to_piece(9): 9,
      "<extra_id_0>": SIZE + 99, "<extra_id_99>": SIZE}))
  import_hf.import_hf(folder, folder.parent / "out", quiet=True)
  assert (folder.parent / "out" / "hf" / "added_tokens.json").is_file()


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("entry, value", [
    ("eos_token_id", 2), ("eos_token_id", [1, 2]), ("pad_token_id", 1),
    ("decoder_start_token_id", 2)])
def test_other_special_ids(folder, file, entry, value):
  path = folder / file
  entries = json.loads(path.read_text()) if path.is_file() else {}
  path.write_text(json.dumps({**entries, entry: value}))
  refused(folder, f"{file}: {entry} is {value}")


def test_a_vocabulary_with_other_special_ids(folder):
  with (folder / "spiece.model").open("wb") as file:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e", "f g h"]), model_writer=file,
        vocab_size=20, hard_vocab_limit=False, unk_id=0, bos_id=1, eos_id=2,
        pad_id=-1, minloglevel=2)
  refused(folder, "pad, EOS and unknown ids -1, 2, 0")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name, where", [
    ("encoder.block.0.layer.1.DenseReluDense.wo.weight", (3, 0)),
    ("shared.weight", (383, 15)), ("decoder.final_layer_norm.weight", (7,))])
def test_weights_that_are_not_finite(folder, name, where, value):
  def spoil(tensors):
    tensors[name][where] = value

  change_tensors(folder, spoil)
  refused(folder, f"model.safetensors: the tensor {name} has 1 values that "
          "are not finite", "broken")


def test_verify_finds_values_that_are_not_finite(
    folder, tmp_path, monkeypatch, capsys):
  def spoil(tensors):
    tensors["shared.weight"] = tensors["shared.weight"].copy()
    tensors["shared.weight"][3, 2] = np.nan

  for change, exit_code, said in (
      (lambda tensors: None, 0, ": good"),
      (spoil, 1, "target/token_embedder/embedding has 1 values that are not "
       "finite")):
    change_tensors(folder, change)
    out = tmp_path / f"out{exit_code}"
    with monkeypatch.context() as patched:
      patched.setattr(streaming, "require_finite", lambda *args: None)
      import_hf.import_hf(folder, out, quiet=True)
    assert cli.main(["checkpoint", "verify", str(out)]) == exit_code
    assert said in capsys.readouterr().out
