"""Imported checkpoints compute what transformers computes, in every family.

Equal up to the order of sums in float32: logits are around one and go through
few layers, so 1e-5 is an order of magnitude above what is seen.
"""

import dataclasses
import functools

import numpy as np
import pytest

from stepdistill_jax.interop.hf import importing as import_hf, names as hf_names
from tests.support import hf_fixtures as fixtures

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import jax
import jax.numpy as jnp
import seqio
from t5x import checkpoints, decoding, models
from t5x.examples.t5 import network

ATOL = 1e-5
# Distances beyond 128, where all share the last bucket of positions.
LENGTH = 150
DECODES = 12


def write_with_ends(folder, family):
  """Writes a checkpoint whose outputs end now and then.

  A random head gives the end token once in 384 times; a longer vector for it
  is far from the others in both directions.
  """
  tensors = fixtures.write_folder(folder, family)
  tied = hf_names.HEAD not in tensors or family == "t5_v1_0"
  for name in ([hf_names.EMBEDDING, hf_names.HEAD, *hf_names.EMBEDDING_COPIES]
               if tied else [hf_names.HEAD]):
    if name in tensors:
      tensors[name] = tensors[name].copy()
      tensors[name][1] *= 4.0
  fixtures.write_safetensors(folder / "model.safetensors", tensors)


def load_torch(folder):
  transformers.logging.set_verbosity_error()
  transformers.utils.logging.disable_progress_bar()
  return transformers.AutoModelForSeq2SeqLM.from_pretrained(
      folder, dtype=torch.float32).eval()


def model_of(arch, decode_fn=decoding.temperature_sample):
  config = network.T5Config(dtype=jnp.float32, **dataclasses.asdict(arch))
  vocabulary = seqio.PassThroughVocabulary(arch.vocab_size, eos_id=1)
  return models.EncoderDecoderModel(
      network.Transformer(config), vocabulary, vocabulary, optimizer_def=None,
      decode_fn=decode_fn)


# Cached: several families have one architecture, and compiling takes seconds.
@functools.cache
def compiled_forward(arch):
  """(params, batch) -> (encoded, logits)."""
  module = model_of(arch).module

  def forward(params, batch):
    encoded = module.apply(
        {"params": params}, batch["encoder_input_tokens"],
        enable_dropout=False, method=module.encode)
    logits = module.apply(
        {"params": params}, batch["encoder_input_tokens"],
        batch["decoder_input_tokens"], batch["decoder_target_tokens"],
        enable_dropout=False)
    return encoded, logits

  return jax.jit(forward)


@functools.cache
def compiled_decode(arch, beam):
  """(params, batch) -> tokens."""
  model = model_of(arch, decoding.beam_search if beam > 1 else
                   decoding.temperature_sample)
  # Alpha 0 favors neither short nor long outputs; T5X's default of 0.6 and
  # transformers' of 1.0 are of different formulas.
  decoder_params = {"alpha": 0.0} if beam > 1 else {"temperature": 0.0}
  return jax.jit(lambda params, batch: model.predict_batch_with_aux(
      params, batch, decoder_params=decoder_params, num_decodes=beam)[0])


def load_params(imported):
  state = checkpoints.load_t5x_checkpoint(str(imported.checkpoint))
  return state["target"]


def batch_of(vocab_size, rows=3, length=LENGTH, seed=0):
  rng = np.random.default_rng(seed)
  inputs = rng.integers(3, vocab_size, (rows, length), np.int32)
  for row in range(1, rows):
    inputs[row, rng.integers(5, length):] = 0  # Padding.
  targets = rng.integers(3, vocab_size, (rows, length), np.int32)
  shifted = np.concatenate([np.zeros((rows, 1), np.int32), targets[:, :-1]], 1)
  return {"encoder_input_tokens": inputs, "decoder_target_tokens": targets,
          "decoder_input_tokens": shifted}


def until_end(row):
  row = list(map(int, row))
  return row[:row.index(1) + 1] if 1 in row else row


@pytest.fixture(scope="module", params=fixtures.FAMILIES)
def both(request, tmp_path_factory):
  """The same checkpoint in transformers, and imported."""
  folder = tmp_path_factory.mktemp(request.param)
  write_with_ends(folder / "hf", request.param)
  imported = import_hf.import_hf(folder / "hf", folder / "t5x", quiet=True)
  return load_torch(folder / "hf"), imported


def torch_inputs(batch):
  inputs = torch.from_numpy(batch["encoder_input_tokens"]).long()
  return {"input_ids": inputs, "attention_mask": (inputs > 0).long()}


def test_encoder_and_decoder(both):
  reference, imported = both
  batch = batch_of(imported.arch.vocab_size)
  with torch.inference_mode():
    expected = reference(**torch_inputs(batch), decoder_input_ids=(
        torch.from_numpy(batch["decoder_input_tokens"]).long()))
  encoded, logits = compiled_forward(imported.arch)(
      load_params(imported), batch)
  real = batch["encoder_input_tokens"] > 0
  np.testing.assert_allclose(
      np.asarray(encoded)[real],
      expected.encoder_last_hidden_state.numpy()[real], atol=ATOL, rtol=0)
  assert np.abs(logits).max() > 0.5  # The comparison means something.
  np.testing.assert_allclose(logits, expected.logits.numpy(), atol=ATOL, rtol=0)


def decode_both(both, beam):
  """Decodes a batch with both; tokens up to the end token."""
  reference, imported = both
  batch = batch_of(imported.arch.vocab_size, rows=24, length=20, seed=1)
  batch["decoder_input_tokens"] = np.zeros((24, DECODES), np.int32)
  mine = compiled_decode(imported.arch, beam)(load_params(imported), batch)
  with torch.inference_mode():
    expected = reference.generate(
        **torch_inputs(batch), max_new_tokens=DECODES, num_beams=beam,
        do_sample=False, length_penalty=0.0, early_stopping="never")
  return batch, [until_end(row) for row in mine], [
      until_end(row[1:]) for row in expected.tolist()]


def test_greedy(both):
  _, mine, expected = decode_both(both, beam=1)
  assert any(row[-1] == 1 and len(row) < DECODES for row in expected)
  assert mine == expected


def log_likelihood(reference, inputs, row):
  with torch.inference_mode():
    logits = reference(
        **inputs, decoder_input_ids=torch.tensor([[0, *row[:-1]]])).logits
  scores = torch.log_softmax(logits[0].double(), -1)
  return float(scores[range(len(row)), row].sum())


def test_beam(both):
  """Equal, but where T5X's rule finds a better output.

  An end token counts in T5X if it is among the 2 * beam best continuations, in
  transformers only if it is among the `beam` best.
  """
  batch, mine, expected = decode_both(both, beam=4)
  inputs = torch_inputs(batch)
  different = [i for i in range(len(mine)) if mine[i] != expected[i]]
  assert len(different) < len(mine) / 3
  for i in different:
    row_inputs = {name: value[i:i + 1] for name, value in inputs.items()}
    assert mine[i][-1] == 1
    assert log_likelihood(both[0], row_inputs, mine[i]) > log_likelihood(
        both[0], row_inputs, expected[i])
