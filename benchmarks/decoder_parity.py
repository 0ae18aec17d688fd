"""Logits of decoders against transformers', for every family.

  python benchmarks/decoder_parity.py

Tiny random checkpoints are made, imported and asked, alone and packed, in
float32, and decoded greedily, against transformers' `generate`; needs torch
and transformers.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import stepdistill_jax  # noqa: F401
from stepdistill_jax.util import runtime

runtime.configure()
runtime.import_tensorflow()

import jax
import jax.numpy as jnp
import numpy as np
from t5x import checkpoints
import torch
import transformers

from stepdistill_jax.data import hugging_face_vocabulary
from stepdistill_jax.interop.hf import importing as import_hf
from stepdistill_jax.models import decoder_model
from stepdistill_jax.models.llama import network
from tests.support import decoder_fixtures as fixtures

GOAL = 1e-5
LENGTH, ROWS, NEW = 40, 3, 24


def compare(name: str) -> tuple[float, float, int, int]:
  """Compares a family.

  Returns:
    The largest differences of logits, alone and in a packed row; how many of
    the tokens that transformers decodes are ours too, and their number.
  """
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    fixtures.write_folder(folder / "hf", name)
    done = import_hf.import_hf(folder / "hf", folder / "t5x", quiet=True)
    params = checkpoints.load_t5x_checkpoint(str(done.checkpoint))["target"]
    other = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "hf", dtype=torch.float32).eval()
    vocabulary = hugging_face_vocabulary.HuggingFaceVocabulary(
        str(folder / "hf" / "tokenizer.json"))
    zero, _ = vocabulary.zero_id, vocabulary.eos_id  # While files are there.
  module = network.Transformer(network.LlamaConfig(
      dtype=jnp.float32, **dataclasses.asdict(done.arch)))
  ids = np.random.default_rng(0).integers(0, zero, (ROWS, LENGTH))
  with torch.no_grad():
    expected = other(torch.from_numpy(ids)).logits.numpy()
  tokens = np.where(ids == 0, zero, ids).astype(np.int32)
  apply = jax.jit(lambda tokens, **features: module.apply(
      {"params": params}, tokens, tokens, **features))
  packed = apply(
      tokens.reshape(1, -1), decoder_segment_ids=np.repeat(
          np.arange(1, ROWS + 1), LENGTH)[None],
      decoder_positions=np.tile(np.arange(LENGTH), ROWS)[None])
  found = []
  for logits in (apply(tokens), packed.reshape(ROWS, LENGTH, -1)):
    logits = np.concatenate(
        [logits[..., zero:zero + 1], logits[..., 1:zero]], axis=-1)
    found.append(float(np.abs(logits - expected).max()))
  return (*found, *_same_tokens(vocabulary, module, params, other, ids))


def _same_tokens(vocabulary, module, params, other, ids) -> tuple[int, int]:
  """Of the greedy continuations of prompts of several lengths."""
  model = decoder_model.StepDistillDecoder(
      module, vocabulary, optimizer_def=None)
  zero, lengths = vocabulary.zero_id, (LENGTH, LENGTH // 2, 1)
  prompts = np.where(ids == 0, zero, ids) * (
      np.arange(LENGTH) < np.array(lengths)[:, None])
  got = np.asarray(jax.jit(model.predict_batch)(params, {
      "encoder_input_tokens": prompts.astype(np.int32),
      "decoder_target_tokens": np.zeros((ROWS, NEW), np.int32)}))
  same = total = 0
  for row, length, tokens in zip(ids, lengths, got):
    with torch.no_grad():
      expected = other.generate(
          torch.from_numpy(row[None, :length]), do_sample=False,
          attention_mask=torch.ones((1, length), dtype=torch.long),
          max_new_tokens=NEW, pad_token_id=0)[0, length:].numpy()
    expected = np.where(expected == 0, zero, expected)
    same += int((tokens[:len(expected)] == expected).sum())
    total += NEW
    same += int((tokens[len(expected):] == 0).sum())  # Nothing after the end.
  return same, total


def main() -> int:
  transformers.logging.set_verbosity_error()
  transformers.utils.logging.disable_progress_bar()
  print(f"{'family':<10} {'alone':>9} {'packed':>9} {'greedy tokens':>14}")
  worst, others = 0.0, 0
  for name in fixtures.FAMILIES:
    alone, packed, same, total = compare(name)
    worst, others = max(worst, alone, packed), others + total - same
    print(f"{name:<10} {alone:>9.1e} {packed:>9.1e} {same:>7} of {total}",
          flush=True)
  met = worst < GOAL and not others
  print(f"largest difference of logits from transformers': {worst:.1e} "
        f"(goal: below {GOAL:.0e}), greedy tokens that differ: {others} "
        f"(goal: 0): {'met' if met else 'missed'}")
  return int(not met)


if __name__ == "__main__":
  sys.exit(main())
