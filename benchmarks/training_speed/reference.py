"""The reference's side of `benchmarks/throughput.py`: prints one JSON line.

The papers' training pattern, written afresh for current torch: Hugging Face's
T5 or Llama, dynamic padding, two forward passes a step, AdamW.
"""

from __future__ import annotations

import json
import random
import time

import sentencepiece
import torch
import transformers

from benchmarks.training_speed import common
from stepdistill_jax.records import records
from stepdistill_jax.util import locations

EOS, IGNORED = 1, -100


def padded(sequences, value):
  longest = max(map(len, sequences))
  return torch.tensor([s + [value] * (longest - len(s)) for s in sequences])


def t5():
  model = transformers.T5ForConditionalGeneration(transformers.T5Config(
      vocab_size=common.VOCABULARY, d_model=common.EMBED, d_kv=common.HEAD,
      d_ff=common.MLP, num_layers=common.LAYERS, num_heads=common.HEADS,
      feed_forward_proj="gated-gelu", dropout_rate=0.0,
      decoder_start_token_id=0, use_cache=False))
  # v1.1's head is not the embedding's transpose.
  model.lm_head.weight = torch.nn.Parameter(
      model.lm_head.weight.detach().clone())
  model.config.scale_decoder_outputs = False
  return model


def decoder():
  return transformers.LlamaForCausalLM(transformers.LlamaConfig(
      vocab_size=common.VOCABULARY, hidden_size=common.EMBED,
      intermediate_size=common.MLP, num_hidden_layers=common.LAYERS,
      num_attention_heads=common.DECODER_HEADS,
      num_key_value_heads=common.KV_HEADS,
      head_dim=common.HEAD, tie_word_embeddings=False, use_cache=False))


def main() -> None:
  args = common.parse_arguments()
  torch.set_num_threads(args.threads)
  torch.manual_seed(common.SEED)
  pieces = sentencepiece.SentencePieceProcessor(
      model_file=str(locations.t5_vocabulary_path()))

  def encode(text):
    ids = []
    for part in text.split(records.EOS_TEXT):
      ids += [*pieces.encode(part), EOS]
    return ids

  rows = [r for r in records.read_records(
      common.records_dir(), args.dataset, args.teacher, "train")
          if r.label and r.rationale]
  examples = [{
      "": (encode("predict: " + r.inputs), encode(r.label)),
      "explain": (encode("explain: " + r.inputs), encode(r.rationale)),
  } for r in rows]
  order = random.Random(common.SEED)

  def batches():
    while True:
      order.shuffle(examples)
      for start in range(0, len(examples) - args.pairs + 1, args.pairs):
        yield examples[start:start + args.pairs]

  model = (t5 if args.student == "t5" else decoder)().train()
  optimizer = torch.optim.AdamW(
      model.parameters(), lr=common.LEARNING_RATE, weight_decay=0.0)
  flops, real, held = [], [], []

  def loss_of(batch, task):
    if args.student == "t5":
      inputs = padded([e[task][0] for e in batch], 0)
      labels = padded([e[task][1] for e in batch], IGNORED)
      flops.append(common.matmul_flops("t5", *inputs.shape, labels.shape[1]))
      real.append(int((inputs != 0).sum() + (labels != IGNORED).sum()))
      held.append(inputs.numel() + labels.numel())
    else:  # One sequence; its logits are computed at all positions.
      inputs = padded([e[task][0] + e[task][1] for e in batch], 0)
      labels = padded([[IGNORED] * len(e[task][0]) + e[task][1]
                       for e in batch], IGNORED)
      flops.append(common.matmul_flops(
          "decoder", inputs.shape[0], 0, inputs.shape[1]))
      real.append(int((inputs != 0).sum()))
      held.append(inputs.numel())
    return model(input_ids=inputs, attention_mask=(inputs != 0).long(),
                 labels=labels).loss

  def step(batch):
    loss = (common.ALPHA * loss_of(batch, "")
            + (1 - common.ALPHA) * loss_of(batch, "explain"))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

  stream = batches()
  step(next(stream))
  flops.clear(), real.clear(), held.clear()
  start = time.perf_counter()
  for _ in range(args.steps):
    step(next(stream))
  seconds = time.perf_counter() - start

  a = torch.ones((args.pairs * 64, common.EMBED))
  b = torch.ones((common.EMBED, common.VOCABULARY))
  (a @ b).sum()
  begin = time.perf_counter()
  for _ in range(5):
    (a @ b)
  matmul_seconds = (time.perf_counter() - begin) / 5
  print(json.dumps({
      "pairs_per_second": args.pairs * args.steps / seconds,
      "seconds_per_step": seconds / args.steps,
      "flops_per_second": sum(flops) / seconds,
      "filled": sum(real) / sum(held),
      "torch_matmul_flops_per_second":
          2 * a.numel() * common.VOCABULARY / matmul_seconds}))


if __name__ == "__main__":
  main()
