"""The papers' pattern in torch on this machine's device; prints a JSON line.

Two forward passes of Hugging Face's T5, each batch padded to its longest,
bfloat16 by autocast, no dropout, AdamW with fused updates where CUDA has them.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
import transformers

from benchmarks.on_device import lengths

# d_model, heads, layers, d_ff of T5 v1.1.
_SIZES = {"tiny": (64, 4, 2, 128), "small": (512, 6, 8, 1024),
          "base": (768, 12, 12, 2048), "large": (1024, 16, 24, 2816)}


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--dataset", choices=lengths.DATASETS, required=True)
  parser.add_argument("--size", choices=_SIZES, required=True)
  parser.add_argument("--steps", type=int, required=True)
  parser.add_argument("--pairs", type=int, default=64)
  args = parser.parse_args()
  device = "cuda" if torch.cuda.is_available() else "cpu"
  embed, heads, layers, mlp = _SIZES[args.size]
  model = transformers.T5ForConditionalGeneration(transformers.T5Config(
      vocab_size=32128, d_model=embed, d_kv=64, d_ff=mlp, num_layers=layers,
      num_heads=heads, feed_forward_proj="gated-gelu", dropout_rate=0.0,
      tie_word_embeddings=False, decoder_start_token_id=0,
      use_cache=False)).to(device).train()
  optimizer = torch.optim.AdamW(
      model.parameters(), lr=5e-5, weight_decay=0.0, fused=device == "cuda")
  examples = lengths.pairs(args.dataset, 4096)
  padded = lambda rows, value: torch.nn.utils.rnn.pad_sequence(
      [torch.tensor(row) for row in rows], batch_first=True,
      padding_value=value).to(device)

  def loss_of(batch, target):
    inputs = padded([e["inputs"] for e in batch], 0)
    with torch.autocast(device, torch.bfloat16):
      return model(input_ids=inputs, attention_mask=(inputs != 0).long(),
                   labels=padded([e[target] for e in batch], -100)).loss

  def step(number):
    first = number * args.pairs % (len(examples) - args.pairs)
    batch = examples[first:first + args.pairs]
    loss = 0.5 * (loss_of(batch, "label") + loss_of(batch, "rationale"))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss

  def finish(loss):
    loss.item()  # Waits for the device.

  for number in range(3):
    finish(step(number))
  start = time.perf_counter()
  for number in range(args.steps):
    loss = step(3 + number)
  finish(loss)
  seconds = time.perf_counter() - start
  print(json.dumps({
      "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
      "torch": torch.__version__, "pairs_per_second":
          args.pairs * args.steps / seconds,
      "peak_bytes": torch.cuda.max_memory_allocated()
                    if device == "cuda" else None}))


if __name__ == "__main__":
  main()
