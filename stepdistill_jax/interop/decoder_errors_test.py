"""Decoders that are not supported are refused in a line, by name."""

import json

import pytest

import stepdistill_jax as sd
from stepdistill_jax.interop.hf import (
  decoder_config,
  exporting as export_hf,
  importing as import_hf,
)
from stepdistill_jax.util import errors
from tests.support import decoder_fixtures as fixtures, hf_fixtures, real_data


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("decoder")
  fixtures.write_folder(folder, "llama3_1")
  return folder


def refused(folder, tmp_path, expected):
  with pytest.raises(errors.UserError) as caught:
    import_hf.import_hf(folder, tmp_path / "out", quiet=True)
  message = str(caught.value)
  assert expected in message and str(folder) in message and "\n" not in message
  assert not (tmp_path / "out" / "checkpoint_0").exists()


@pytest.mark.parametrize("change,expected", [
    ({"model_type": "mixtral"}, "mixtures of experts (MoE)"),
    ({"model_type": "qwen3_moe"}, "mixtures of experts (MoE)"),
    ({"model_type": "mistral"}, "looks through sliding windows"),
    ({"model_type": "gemma3_text"}, "most of its layers look through sliding "
     "windows, and its norms and embeddings are scaled in Gemma's way"),
    ({"model_type": "gpt2"}, "'qwen2' (Qwen 2.5) or 'qwen3'"),
    ({"architectures": ["LlamaForSequenceClassification"]},
     "expected LlamaForCausalLM"),
    ({"quantization_config": {"quant_method": "awq"}}, "quantized"),
    ({"use_sliding_window": True}, "its sliding window is in use"),
    ({"layer_types": ["full_attention", "sliding_attention"]},
     "1 layers are of type 'sliding_attention'"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
     "scaled by 'yarn', which is not supported; expected default, linear"),
    ({"rope_scaling": {"type": "linear"}}, "`factor` is None"),
    ({"rope_scaling": {"type": "linear", "factor": float("nan")}},
     "`factor` is nan, expected a positive float"),
    ({"rope_theta": float("inf")}, "`rope_theta` is inf, expected a positive"),
    ({"rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
     "`low_freq_factor` is 4, expected less than `high_freq_factor`, 4"),
    ({"partial_rotary_factor": 0.5}, "`partial_rotary_factor` is 0.5"),
    ({"attention_bias": True}, "`attention_bias` is true"),
    ({"mlp_bias": True}, "`mlp_bias` is True"),
    ({"hidden_act": "gelu"}, "`hidden_act` is 'gelu'"),
    ({"num_attention_heads": "4"}, "`num_attention_heads` is '4', expected a"),
    ({"vocab_size": 100}, "expected (100, 24)"),
    ({"intermediate_size": 48}, "mlp.gate_proj.weight is of shape (40, 24)"),
    ({"tie_word_embeddings": True}, "lm_head.weight differs from"),
])
def test_configurations(folder, tmp_path, change, expected):
  file = folder / "config.json"
  config = file.read_text()
  file.write_text(json.dumps({**json.loads(config), **change}))
  try:
    refused(folder, tmp_path, expected)
  finally:
    file.write_text(config)


@pytest.mark.parametrize("change,expected", [
    (lambda t: t.pop("model.layers.1.self_attn.k_proj.weight"),
     "lacks the tensor model.layers.1.self_attn.k_proj.weight"),
    (lambda t: t.pop("model.embed_tokens.weight"),
     "lacks the tensor model.embed_tokens.weight"),
    (lambda t: t.pop("lm_head.weight"), "lacks the tensor lm_head.weight"),
    (lambda t: t.update({"model.layers.0.mlp.gate_proj.qweight":
                         t["model.norm.weight"]}), "quantized"),
    (lambda t: t.update({"model.layers.0.self_attn.q_proj.lora_A.weight":
                         t["model.norm.weight"]}), "merge the adapter")])
def test_tensors(tmp_path, change, expected):
  folder = tmp_path / "hf"
  tensors = fixtures.write_folder(folder, "llama3_1")
  change(tensors)
  hf_fixtures.write_safetensors(folder / "model.safetensors", tensors)
  refused(folder, tmp_path, expected)


@pytest.mark.parametrize("name,expected", [
    ("tokenizer.json", "has no tokenizer.json")])
def test_a_folder_without_its_tokenizer(tmp_path, name, expected):
  fixtures.write_folder(tmp_path / "hf", "qwen3")
  (tmp_path / "hf" / name).unlink()
  refused(tmp_path / "hf", tmp_path, expected)


def test_a_llama_that_transformers_would_not_load():
  arch = decoder_config.to_architecture({
      "model_type": "llama", "vocab_size": 8, "hidden_size": 10,
      "num_attention_heads": 4, "head_dim": 2, "intermediate_size": 8,
      "num_hidden_layers": 1}, tied=True)
  with pytest.raises(errors.UserError, match="width, 10, .* its 4 heads"):
    decoder_config.from_architecture(arch, None, "float32", {}, eos_id=1)


def test_frequencies_that_old_files_keep_are_left_out(tmp_path):
  tensors = fixtures.write_folder(tmp_path / "hf", "llama3_1")
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = (
      tensors["model.norm.weight"])
  hf_fixtures.write_safetensors(
      tmp_path / "hf" / "model.safetensors", tensors)
  import_hf.import_hf(tmp_path / "hf", tmp_path / "out", quiet=True)


def test_an_imported_decoder_keeps_its_kind_of_tokenizer(
    folder, tmp_path):
  done = import_hf.import_hf(folder, tmp_path / "in", quiet=True)
  spiece = real_data.write_tiny_vocabulary(tmp_path / "spiece.model")
  stated = tmp_path / "in" / "config.gin"
  for options in (export_hf.Options(tokenizer=spiece, quiet=True),
                  export_hf.Options(quiet=True)):
    with pytest.raises(errors.UserError) as caught:
      export_hf.export_hf(done.checkpoint, tmp_path / "out", options)
    assert "was imported with a tokenizer.json" in str(caught.value)
    assert not (tmp_path / "out").exists()
    stated.write_text(  # As the embedded benchmark's runs have it.
        "VOCABULARY = @seqio.SentencePieceVocabulary()\n"
        f"SentencePieceVocabulary.sentencepiece_model_file = {str(spiece)!r}\n")


@pytest.mark.parametrize("text, expected", [
    ('{"eos_token_id": "2"}', "eos_token_id is '2'; expected ids from 0 to"),
    ('{"eos_token_id": [2, 1.5]}', "eos_token_id is [2, 1.5]"),
    ('{"eos_token_id": [2, 9999]}', "eos_token_id is [2, 9999]"),
    ('{"eos_token_id": true}', "eos_token_id is True"),
    ("{", "is not valid JSON"), ("[1]", "holds no JSON object")])
def test_end_tokens_that_are_none(tmp_path, text, expected):
  folder = tmp_path / "damaged"
  fixtures.write_folder(folder, "qwen3")
  (folder / "generation_config.json").write_text(text)
  refused(folder, tmp_path, expected)


def test_an_import_is_no_model_to_ask(folder, tmp_path):
  import_hf.import_hf(folder, tmp_path / "student", quiet=True)
  with pytest.raises(errors.UserError, match="pass the Hugging Face folder"):
    sd.load(tmp_path / "student")
