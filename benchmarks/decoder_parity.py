"""Logits of decoders against transformers', for every family.

  python benchmarks/decoder_parity.py

Tiny random checkpoints are made, imported and asked, alone and packed, in
float32; needs torch and transformers.
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

from stepdistill_jax.interop.hf import importing as import_hf
from stepdistill_jax.models.llama import network
from tests.support import decoder_fixtures as fixtures

GOAL = 1e-5
LENGTH, ROWS = 40, 3


def differences(name: str) -> tuple[float, float]:
  """Largest differences of logits, alone and in a packed row."""
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    fixtures.write_folder(folder / "hf", name)
    done = import_hf.import_hf(folder / "hf", folder / "t5x", quiet=True)
    params = checkpoints.load_t5x_checkpoint(str(done.checkpoint))["target"]
    other = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "hf", dtype=torch.float32).eval()
  module = network.Transformer(network.LlamaConfig(
      dtype=jnp.float32, **dataclasses.asdict(done.arch)))
  zero = done.arch.num_tokens
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
  return found[0], found[1]


def main() -> int:
  transformers.logging.set_verbosity_error()
  transformers.utils.logging.disable_progress_bar()
  print(f"{'family':<10} {'alone':>9} {'packed':>9}")
  worst = 0.0
  for name in fixtures.FAMILIES:
    alone, packed = differences(name)
    worst = max(worst, alone, packed)
    print(f"{name:<10} {alone:>9.1e} {packed:>9.1e}", flush=True)
  print(f"largest difference of logits from transformers': {worst:.1e} "
        f"(goal: below {GOAL:.0e}) {'met' if worst < GOAL else 'missed'}")
  return int(worst >= GOAL)


if __name__ == "__main__":
  sys.exit(main())
