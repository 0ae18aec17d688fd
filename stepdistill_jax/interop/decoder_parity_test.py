"""Imported decoders compute what transformers computes, in every family.

Equal up to the order of sums in float32: logits are around one and go through
two layers, so 1e-5 is an order of magnitude above what is seen.
"""

import dataclasses
import json

import numpy as np
import pytest

from stepdistill_jax.interop.hf import (
  exporting as export_hf,
  importing as import_hf,
  names as hf_names,
)
from tests.support import decoder_fixtures as fixtures, real_data

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import flax
from flax import traverse_util
import jax
import jax.numpy as jnp
import seqio
from t5x import checkpoints

from stepdistill_jax.data import (
  chat_template,
  chat_template_test as test_messages,
  hugging_face_vocabulary,
)
from stepdistill_jax.evaluation import hugging_face, model_config
from stepdistill_jax.interop.t5x import writer as t5x_writer
from stepdistill_jax.models import decoder_model
from stepdistill_jax.models.llama import network
from stepdistill_jax.records import records

ATOL = 1e-5
STEPS = 12


def load_torch(folder):
  transformers.logging.set_verbosity_error()
  transformers.utils.logging.disable_progress_bar()
  return transformers.AutoModelForCausalLM.from_pretrained(
      folder, dtype=torch.float32).eval()


@pytest.fixture(name="pair", scope="module", params=fixtures.FAMILIES)
def _pair(request, tmp_path_factory):
  """A folder, what it was imported to, our model, parameters, torch's."""
  folder = tmp_path_factory.mktemp(request.param)
  fixtures.write_folder(folder / "hf", request.param, shards=2)
  done = import_hf.import_hf(folder / "hf", folder / "t5x", quiet=True)
  vocabulary = hugging_face_vocabulary.HuggingFaceVocabulary(
      str(folder / "t5x" / "hf" / "tokenizer.json"))
  model = decoder_model.StepDistillDecoder(
      network.Transformer(network.LlamaConfig(
          dtype=jnp.float32, **dataclasses.asdict(done.arch))),
      vocabulary, optimizer_def=None)
  params = checkpoints.load_t5x_checkpoint(str(done.checkpoint))["target"]
  return folder, vocabulary, model, params, load_torch(folder / "hf")


def rows(zero_id):
  """Random ids of Hugging Face's, with many zeros."""
  rng = np.random.default_rng(0)
  ids = rng.integers(0, zero_id, (3, 40))
  ids[rng.random(ids.shape) < 0.3] = 0
  return ids


def ours(ids, zero_id):
  return np.where(ids == 0, zero_id, ids).astype(np.int32)


def test_logits_are_transformers(pair):
  _, vocabulary, model, params, other = pair
  zero = vocabulary.zero_id
  ids = rows(zero)
  tokens = ours(ids, zero)
  got = jax.jit(lambda p, t: model.module.apply({"params": p}, t, t))(
      params, tokens)
  with torch.no_grad():
    expected = other(torch.from_numpy(ids)).logits.numpy()
  assert expected.shape[-1] == zero
  got = np.concatenate([got[..., zero:zero + 1], got[..., 1:zero]], axis=-1)
  np.testing.assert_allclose(got, expected, atol=ATOL, rtol=0)


def test_loss_of_texts_full_of_id_zero_is_transformers(pair):
  _, vocabulary, model, params, other = pair
  zero = vocabulary.zero_id
  ids = rows(zero)
  ids[:, 20:] = np.where(np.arange(20) % 3 == 1, ids[:, 20:], 0)
  labels = np.where(np.arange(40) < 20, -100, ids)
  with torch.no_grad():
    expected = other(torch.from_numpy(ids),
                     labels=torch.from_numpy(labels)).loss.item()
  tokens = ours(ids, zero)
  loss, _ = jax.jit(lambda p: model.loss_fn(p, {
      "encoder_input_tokens": tokens[:, :20],
      "decoder_target_tokens": tokens[:, 20:],
      "decoder_input_tokens": np.pad(
          tokens[:, 20:-1], ((0, 0), (1, 0)))}, None))(params)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_greedy_tokens_are_transformers(pair):
  _, vocabulary, model, params, other = pair
  zero, eos = vocabulary.zero_id, vocabulary.eos_id
  lengths = (40, 17, 1)
  batch = {
      "encoder_input_tokens": np.stack([
          np.where(np.arange(40) < n, row, 0)
          for n, row in zip(lengths, ours(rows(zero), zero))]),
      "decoder_target_tokens": np.zeros((3, STEPS), np.int32)}
  got = np.asarray(jax.jit(model.predict_batch)(params, batch))
  for n, row, tokens in zip(lengths, rows(zero), got):
    with torch.no_grad():
      expected = other.generate(
          torch.from_numpy(row[None, :n]), do_sample=False,
          attention_mask=torch.ones((1, n), dtype=torch.long),
          max_new_tokens=STEPS, pad_token_id=0)[0, n:].numpy()
    expected = ours(expected, zero)
    ends = np.flatnonzero(expected == eos)
    expected = expected[:ends[0] + 1] if ends.size else expected
    assert tokens[:len(expected)].tolist() == expected.tolist()
    assert not tokens[len(expected):].any()


def test_a_folder_is_asked_as_the_run_is(pair):
  """`stepdistill-eval --hf`: the same tokens and likelihoods by torch."""
  folder, vocabulary, model, params, other = pair
  theirs = hugging_face.TorchStudent.of(
      other, hugging_face_vocabulary.HuggingFaceVocabulary(
          str(folder / "hf" / "tokenizer.json")), batch_size=3)
  inputs = [vocabulary.encode_prompt(text) for text in fixtures.TEXTS]
  width = max(map(len, inputs))
  prompts = np.stack([np.pad(i, (0, width - len(i))) for i in inputs])
  got = np.asarray(jax.jit(model.predict_batch)(params, {
      "encoder_input_tokens": prompts.astype(np.int32),
      "decoder_target_tokens": np.zeros((3, STEPS), np.int32)}))
  tokens = theirs.generate_tokens(inputs, STEPS)
  assert tokens == [[t for t in row if t] for row in got.tolist()]
  scores = jax.jit(model.score_batch)(params, {
      "encoder_input_tokens": prompts.astype(np.int32),
      "decoder_target_tokens": got,
      "decoder_input_tokens": np.pad(got[:, :-1], ((0, 0), (1, 0))),
      "decoder_loss_weights": (got > 0).astype(np.float32)})
  (order, found), = theirs.log_likelihoods(inputs, tokens)
  np.testing.assert_allclose(found, scores[np.array(order)], rtol=1e-4)
  shapes = dict(hf_names.t5x_kernel(name, tuple(p.shape))
                for name, p in other.named_parameters())
  # Costs are counted alike; what has no such name is no matrix.
  for name, value in traverse_util.flatten_dict(params, sep="/").items():
    if name.endswith("/kernel") and "logits" not in name:  # Fewer rows.
      assert shapes[name] == value.shape, name


def test_texts_have_transformers_ids_and_come_back(pair):
  folder, vocabulary, *_ = pair
  other = transformers.AutoTokenizer.from_pretrained(folder / "hf")
  for text in (*fixtures.TEXTS, "!!", "naïve café\n\n  x"):
    ids = vocabulary.encode(text)
    assert 0 not in ids
    plain = other(text, add_special_tokens=False)["input_ids"]
    assert ids == ours(np.array(plain), vocabulary.zero_id).tolist()
    assert vocabulary.decode(ids) == text
    assert vocabulary.decode([*ids, vocabulary.eos_id, 5]) == text
    assert vocabulary.encode_prompt(text) == ours(
        np.array(other(text + "\n")["input_ids"]),
        vocabulary.zero_id).tolist()
    np.testing.assert_array_equal(vocabulary.encode_tf(text), ids)
  assert vocabulary.eos_id == ours(
      np.array(other.eos_token_id), vocabulary.zero_id)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", fixtures.FAMILIES)
def test_exported_folder_is_what_was_imported(name, dtype, tmp_path):
  import ml_dtypes
  tensors = fixtures.write_folder(
      tmp_path / "hf", name, dtype=np.dtype(
          getattr(ml_dtypes, dtype, dtype)))
  import_hf.import_hf(tmp_path / "hf", tmp_path / "t5x", quiet=True)
  done = export_hf.export_hf(
      tmp_path / "t5x", tmp_path / "back", export_hf.Options(quiet=True))
  from stepdistill_jax.interop.hf import weights as hf_weights
  back = hf_weights.open_folder(done.folder)
  assert back.keys() == tensors.keys()
  for key, tensor in tensors.items():
    got = back[key].read_rows(0, tensor.shape[0])
    assert got.dtype == tensor.dtype and got.tobytes() == tensor.tobytes(), key
  before, after = (json.loads((tmp_path / f / "config.json").read_text())
                   for f in ("hf", "back"))
  for key, value in before.items():
    if key not in ("rope_scaling", "rope_parameters"):
      assert after[key] == value, key
  for file in ("tokenizer.json", "tokenizer_config.json"):
    assert (tmp_path / "hf" / file).read_bytes() == (
        tmp_path / "back" / file).read_bytes()
  ids = torch.arange(30)[None]
  with torch.no_grad():
    torch.testing.assert_close(
        load_torch(tmp_path / "back")(ids).logits,
        load_torch(tmp_path / "hf")(ids).logits, rtol=0, atol=0)


def test_a_decoder_of_sentencepiece_pieces_is_asked_alike(tmp_path):
  """As the embedded benchmark's: EOS ends prompts, 0 is never predicted."""
  spiece = real_data.write_tiny_vocabulary(tmp_path / "spiece.model")
  pieces = seqio.SentencePieceVocabulary(str(spiece), 0)
  config = network.LlamaConfig(
      vocab_size=pieces.vocab_size + 8, num_tokens=pieces.vocab_size - 1,
      emb_dim=24, num_heads=4, num_kv_heads=2, num_layers=2, head_dim=8,
      mlp_dim=40)
  model = decoder_model.StepDistillDecoder(
      network.Transformer(config), pieces, optimizer_def=None)
  params = model.get_initial_variables(jax.random.PRNGKey(0), {})["params"]
  head = params["decoder"]["logits_dense"]["kernel"]
  params = flax.core.unfreeze(params)
  # Tempting: what is no token, and now and then the end.
  params["decoder"]["logits_dense"]["kernel"] = head.at[:, 0].mul(9).at[
      :, pieces.vocab_size + 3].mul(9).at[:, 1].mul(3)
  write_checkpoint(tmp_path / "run", params)
  (tmp_path / "run" / "config.gin").write_text(
      "VOCABULARY = @seqio.SentencePieceVocabulary()\n"
      f"SentencePieceVocabulary.sentencepiece_model_file = {str(spiece)!r}\n"
      + "".join(f"LlamaConfig.{name} = {getattr(config, name)!r}\n"
                for name in ("vocab_size", "num_tokens", "emb_dim", "num_heads",
                             "num_kv_heads", "num_layers", "head_dim",
                             "mlp_dim")))
  done = export_hf.export_hf(
      tmp_path / "run", tmp_path / "out", export_hf.Options(quiet=True))
  prompt = json.loads((done.folder / "config.json").read_text())[
      "task_specific_params"]["prompt"]
  vocabulary = hugging_face_vocabulary.HuggingFaceVocabulary(
      str(done.folder / "tokenizer.json"), **prompt)
  texts = [f"predict: Is it {n}?{records.EOS_TEXT}two  words" for n in range(9)]
  inputs = [[token for part in text.split(records.EOS_TEXT)
             for token in [*pieces.encode(part), 1]] for text in texts]
  assert [vocabulary.encode_prompt(text) for text in texts] == inputs
  auto = transformers.AutoTokenizer.from_pretrained(done.folder)
  assert [auto(text.replace(records.EOS_TEXT, "</s>") + "</s>")["input_ids"]
          for text in texts] == inputs
  theirs = hugging_face.TorchStudent.of(
      load_torch(done.folder), vocabulary, batch_size=4)
  tokens = theirs.generate_tokens(inputs, STEPS)
  width = max(map(len, inputs))
  prompts = np.stack([np.pad(i, (0, width - len(i))) for i in inputs])
  got = np.asarray(jax.jit(model.predict_batch)(params, {
      "encoder_input_tokens": prompts.astype(np.int32),
      "decoder_target_tokens": np.zeros((9, STEPS), np.int32)}))
  assert tokens == [[t for t in row if t] for row in got.tolist()]
  assert {len(row) for row in tokens} > {STEPS}
  known = [row for row in tokens if pieces.unk_id not in row]
  assert known  # Unknowns are shown differently.
  assert [vocabulary.decode(row) for row in known] == [
      pieces.decode(row) for row in known]
  scores = jax.jit(model.score_batch)(params, {
      "encoder_input_tokens": prompts.astype(np.int32),
      "decoder_target_tokens": got,
      "decoder_input_tokens": np.pad(got[:, :-1], ((0, 0), (1, 0))),
      "decoder_loss_weights": (got > 0).astype(np.float32)})
  found = {i: value for order, values in theirs.log_likelihoods(
      inputs, tokens) for i, value in zip(order, values)}
  np.testing.assert_allclose(
      [found[i] for i in range(9)], scores, rtol=1e-4)


def test_pipeline_answers_greedily(tmp_path):
  fixtures.write_folder(tmp_path / "hf", "qwen3")
  import_hf.import_hf(tmp_path / "hf", tmp_path / "t5x", quiet=True)
  export_hf.export_hf(tmp_path / "t5x", tmp_path / "back",
                      export_hf.Options(quiet=True, max_new_tokens=5))
  ask = transformers.pipeline("text-generation", str(tmp_path / "back"))
  first, second = (ask("Stop! 3 apples", return_full_text=False)
                   for _ in range(2))
  assert first == second and isinstance(first[0]["generated_text"], str)


def write_checkpoint(folder, params):
  writer = t5x_writer.CheckpointWriter(folder, 0)
  for name, value in traverse_util.flatten_dict(params, sep="/").items():
    writer.declare(f"target/{name}", value.shape, value.dtype, value.shape)(
        ).write(np.asarray(value)).result()
  writer.finish()


def test_merged_adapters_have_the_unmerged_students_logits(pair, tmp_path):
  folder, vocabulary, model, params, _ = pair
  module = network.Transformer(model.module.config.replace(
      lora_rank=3, lora_alpha=6.0))
  ids = rows(vocabulary.zero_id)
  tokens = ours(ids, vocabulary.zero_id)
  made = flax.core.unfreeze(module.init(
      jax.random.PRNGKey(0), tokens, tokens)["params"])
  adapters = {
      name: np.random.default_rng(i).normal(0, 0.1, value.shape).astype(
          np.float32)
      for i, (name, value) in enumerate(
          traverse_util.flatten_dict(made).items())
      if name[-1].startswith("lora_")}
  assert len(adapters) == 28  # Two of seven matrices in two layers.
  params = traverse_util.unflatten_dict(
      {**traverse_util.flatten_dict(params), **adapters})
  expected = np.asarray(jax.jit(
      lambda p, t: module.apply({"params": p}, t, t))(params, tokens))
  write_checkpoint(tmp_path / "run", params)
  (tmp_path / "run" / "config.gin").write_text(
      f"TOKENIZER = {str(folder / 't5x/hf/tokenizer.json')!r}\n"
      f"INITIAL_CHECKPOINT_PATH = {str(folder / 't5x/checkpoint_0')!r}\n"
      + "".join(f"LlamaConfig.{name} = {value!r}\n" for name, value in {
          **dataclasses.asdict(module.config), "dtype": "float32",
          "lora_base_dtype": "float32"}.items()))
  export_hf.export_hf(
      tmp_path / "run", tmp_path / "out", export_hf.Options(quiet=True))
  with torch.no_grad():
    got = load_torch(tmp_path / "out")(torch.from_numpy(ids)).logits.numpy()
  zero = vocabulary.zero_id
  expected = np.concatenate(
      [expected[..., zero:zero + 1], expected[..., 1:zero]], axis=-1)
  np.testing.assert_allclose(got, expected, atol=ATOL, rtol=0)


def test_penalties_of_a_folder_change_no_answer(tmp_path):
  """Qwen's penalize repetition, which scores of checkpoints do not."""
  hf, back = tmp_path / "hf", tmp_path / "back"
  fixtures.write_folder(hf, "qwen2_5")
  ids = torch.from_numpy(rows(256))

  def ask(model):
    return model.generate(ids, attention_mask=torch.ones_like(ids),
                          max_new_tokens=STEPS, do_sample=False).tolist()

  plain = ask(load_torch(hf))
  file = hf / "generation_config.json"
  file.write_text(json.dumps({
      **json.loads(file.read_text()), "repetition_penalty": 5.0}))
  assert ask(load_torch(hf)) != plain
  student = hugging_face.HuggingFaceStudent(hf, model_config.ModelConfig())
  assert ask(student.student.model) == plain
  import_hf.import_hf(hf, tmp_path / "t5x", quiet=True)
  export_hf.export_hf(
      tmp_path / "t5x", back, export_hf.Options(quiet=True))
  assert ask(load_torch(back)) == plain


@pytest.mark.parametrize("name", ["llama3_1", "qwen2_5", "smollm2"])
@pytest.mark.parametrize("turns", [1, 2, 4])
def test_chats_are_transformers(name, turns, tmp_path):
  import datetime
  fixtures.write_folder(tmp_path, name)
  other = transformers.AutoTokenizer.from_pretrained(tmp_path)
  template = chat_template.read(tmp_path, now=datetime.datetime.now())
  for prompt in (False, True):
    messages = test_messages.MESSAGES[:turns]
    assert template.render(messages, add_generation_prompt=prompt) == (
        other.apply_chat_template(
            messages, add_generation_prompt=prompt, tokenize=False))
  vocabulary = hugging_face_vocabulary.HuggingFaceVocabulary(
      str(tmp_path / "tokenizer.json"), chat=True, system="Be short.")
  # Its date is fixed: a student is asked as it was taught.
  text = chat_template.read(tmp_path).render(
      [{"role": "system", "content": "Be short."},
       {"role": "user", "content": "Stop!"}], add_generation_prompt=True)
  assert vocabulary.encode_prompt("Stop!") == ours(np.array(
      other(text, add_special_tokens=False)["input_ids"]),
                                                   vocabulary.zero_id).tolist()
