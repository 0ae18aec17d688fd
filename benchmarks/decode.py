"""Greedy decoding of SVAMP's test split against Hugging Face's `generate`.

One T5 v1.1 (small, or --size=base), the same weights on both sides, the same
CPU or GPU, float32, batch 32 (--batch), at most 64 tokens as in the papers. The
weights are random ones after a short training on SVAMP's labels, so that
answers look like equations and end as they do in use (--train_steps=0: random
weights with a likely end). Both sides get the same token ids; Hugging Face
takes them in the file's order, as a loop over `generate` does,
`stepdistill-eval` in its length-sorted buckets.
Compiling is timed apart; runs alternate, the median counts, and every token
is compared. The last line bounds what any program can reach on the machine:
the matrix products of the real tokens alone, at the rate of a plain product.

    python benchmarks/decode.py --data=DIR --vocabulary=spiece.model

DIR holds `svamp/svamp_train.json` and `svamp/svamp_test.json`. Nothing is
downloaded; a trained student may be given instead with --hf=DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import statistics
import tempfile
import time

CONFIG = """\
from __gin__ import dynamic_registration
import __main__ as train_script
from stepdistill_jax import tasks
from stepdistill_jax import models as students
from stepdistill_jax.data import task_names
from t5x.examples.t5 import network

MIXTURE_OR_TASK_NAME = 'svamp_label_gold'
MODEL = @students.StepDistillModel()
train_script.train.model = %MODEL
task_names.vocabulary_of.mixture_or_task_name = %MIXTURE_OR_TASK_NAME
students.StepDistillModel:
  module = @network.Transformer()
  input_vocabulary = @task_names.vocabulary_of()
  output_vocabulary = @task_names.vocabulary_of()
  optimizer_def = None
network.Transformer.config = @network.T5Config()
network.T5Config:
  vocab_size = {vocab_size}
  emb_dim = {d_model}
  num_heads = {num_heads}
  num_encoder_layers = {num_layers}
  num_decoder_layers = {num_decoder_layers}
  head_dim = {d_kv}
  mlp_dim = {d_ff}
  mlp_activations = ('gelu', 'linear')
  dropout_rate = 0.0
  logits_via_embedding = False
"""
LENGTH = 64
# d_model, layers, heads, d_ff.
SIZES = {"small": (512, 8, 6, 1024), "base": (768, 12, 12, 2048)}


def read_rows(data: pathlib.Path, split: str) -> list[dict]:
  path = data / "svamp" / f"svamp_{split}.json"
  return [json.loads(line) for line in path.read_text().splitlines()]


def device() -> str:
  import torch

  return "cuda" if torch.cuda.is_available() else "cpu"


def train_student(folder: pathlib.Path, rows, encode, args) -> None:
  """Writes a Hugging Face folder: a T5 v1.1 after a short training."""
  import torch
  import transformers

  steps = args.train_steps
  width, layers, heads, mlp = SIZES[args.size]
  torch.manual_seed(0)
  model = transformers.T5ForConditionalGeneration(transformers.T5Config(
      vocab_size=32128, d_model=width, d_kv=64, d_ff=mlp, num_layers=layers,
      num_decoder_layers=layers, num_heads=heads,
      feed_forward_proj="gated-gelu", tie_word_embeddings=False,
      decoder_start_token_id=0, dropout_rate=0.0)).to(device())
  optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
  for step in range(steps):
    batch = [rows[(16 * step + i) % len(rows)] for i in range(16)]
    inputs = pad([encode(row["input"]) for row in batch])
    labels = pad([encode(row["label"]) for row in batch], -100)
    loss = model(input_ids=inputs, attention_mask=(inputs > 0).long(),
                 labels=labels).loss
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    print(f"\rtraining: step {step + 1} of {steps}, loss {loss.item():.2f}",
          end="", flush=True)
  if steps:
    print()
  else:  # Random weights never end: make the end of a sentence likelier.
    with torch.no_grad():
      model.lm_head.weight[1] *= 2.0
  model.save_pretrained(folder)


def pad(sequences, value: int = 0):
  import torch

  return torch.nn.utils.rnn.pad_sequence(
      [torch.tensor(s) for s in sequences], batch_first=True,
      padding_value=value).to(device())


def until_eos(tokens: list[int]) -> tuple[int, ...]:
  return tuple(tokens[:tokens.index(1) + 1] if 1 in tokens else tokens)


def hugging_face_tokens(model, inputs, batch: int) -> list[tuple[int, ...]]:
  import torch

  found = []
  with torch.inference_mode():
    for start in range(0, len(inputs), batch):
      ids = pad(inputs[start:start + batch])
      out = model.generate(
          input_ids=ids, attention_mask=(ids > 0).long(), do_sample=False,
          num_beams=1, max_new_tokens=LENGTH)
      found += [until_eos(row[1:]) for row in out.tolist()]
  return found


def our_tokens(student, inputs) -> list[tuple[int, ...]]:
  found: list = [None] * len(inputs)
  for indices, decoded in student.generate(inputs, LENGTH):
    for index, answer in zip(indices, decoded):
      found[index] = answer.tokens
  return found


def plain_rate() -> float:
  """FLOP/s of a plain jitted product of the encoder's shape, at its best."""
  import jax
  import jax.numpy as jnp

  a, b = jnp.ones((32 * 48, 512)), jnp.ones((512, 1024))
  product = jax.jit(lambda a, b: a @ b)
  product(a, b).block_until_ready()
  seconds = []
  for _ in range(20):
    start = time.perf_counter()
    product(a, b).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2 * a.size * b.shape[1] / min(seconds)


def product_flops(shapes: dict, inputs: int, answers: int) -> float:
  """FLOPs of the matrix products of the real tokens, attention's left out.

  Args:
    shapes: the Hugging Face config.
    inputs: tokens of all questions.
    answers: tokens of all answers.
  """
  joined = shapes["num_heads"] * shapes["d_kv"]
  attention = 4 * shapes["d_model"] * joined
  mlp = 3 * shapes["d_model"] * shapes["d_ff"]
  of_input = (shapes["num_layers"] * (attention + mlp)
              + shapes["num_decoder_layers"] * attention / 2)  # Cross k and v.
  of_answer = (shapes["num_decoder_layers"] * (1.5 * attention + mlp)
               + shapes["d_model"] * shapes["vocab_size"])
  return 2 * (inputs * of_input + answers * of_answer)


def load_ours(hf: pathlib.Path, folder: pathlib.Path, batch: int):
  """The folder's weights as a checkpoint, loaded as `stepdistill-eval` does."""
  from stepdistill_jax.evaluation import checkpoints, model_config
  from stepdistill_jax.interop.hf import importing as import_hf

  import_hf.import_hf(hf, folder, quiet=True)
  shapes = json.loads((hf / "config.json").read_text())
  (folder / "config.gin").write_text(CONFIG.format(**shapes))
  return checkpoints.Checkpoint(
      folder, model_config.ModelConfig(batch_size=batch),
      records_dir=folder).student


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--vocabulary", required=True)
  parser.add_argument("--hf", type=pathlib.Path, default=None)
  parser.add_argument("--size", choices=SIZES, default="small")
  parser.add_argument("--batch", type=int, default=32)
  parser.add_argument("--train_steps", type=int, default=60)
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--limit", type=int, default=None)
  args = parser.parse_args()
  os.environ["STEPDISTILL_VOCAB"] = args.vocabulary
  from stepdistill_jax.util import devices, runtime

  runtime.configure()
  transformers = runtime.import_transformers()
  ours_on = devices.description()  # Starts them, before TensorFlow.
  runtime.import_tensorflow()
  import sentencepiece
  import torch

  print(f"ours on {ours_on}, transformers on {device()}")
  transformers.logging.set_verbosity_error()
  transformers.utils.logging.disable_progress_bar()
  pieces = sentencepiece.SentencePieceProcessor(model_file=args.vocabulary)
  encode = lambda text: [*pieces.encode(text), 1]
  inputs = [encode(row["input"])
            for row in read_rows(args.data, "test")[:args.limit]]
  with tempfile.TemporaryDirectory() as scratch:
    hf = args.hf or pathlib.Path(scratch) / "hf"
    if args.hf is None:
      train_student(hf, read_rows(args.data, "train"), encode, args)
      shutil.copy(args.vocabulary, hf / "spiece.model")
    shapes = json.loads((hf / "config.json").read_text())
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        hf, dtype=torch.float32).eval().to(device())
    ours = load_ours(hf, pathlib.Path(scratch) / "ours", args.batch)
    start = time.perf_counter()
    ours_tokens = our_tokens(ours, inputs)
    first = time.perf_counter() - start
    their_run = lambda: hugging_face_tokens(theirs, inputs, args.batch)
    their_tokens = their_run()  # Warms up too.
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(args.repeats):
      for name, run in (("theirs", their_run),
                        ("ours", lambda: our_tokens(ours, inputs))):
        start = time.perf_counter()
        run()
        seconds[name].append(time.perf_counter() - start)
  same = sum(a == b for a, b in zip(ours_tokens, their_tokens))
  lengths = [len(t) for t in their_tokens]
  print(f"{len(inputs)} questions, answers of {min(lengths)} to "
        f"{max(lengths)} tokens (mean {statistics.mean(lengths):.1f}), batch "
        f"{args.batch}, {torch.get_num_threads()} torch threads, "
        f"{os.cpu_count()} cores")
  rates = {}
  for name, title in (("theirs", f"transformers {transformers.__version__}"),
                      ("ours", "stepdistill-eval")):
    rates[name] = len(inputs) / statistics.median(seconds[name])
    runs = ", ".join(f"{s:.2f}" for s in seconds[name])
    print(f"  {title:<22}{rates[name]:8.1f} examples/s   (runs: {runs} s)")
  print(f"  first run with compilation: {first:.1f} s")
  print(f"{rates['ours'] / rates['theirs']:.1f} times the examples per second "
        f"of Hugging Face generate; {same} of {len(inputs)} answers have the "
        "same tokens")
  bound = plain_rate() / product_flops(
      shapes, sum(map(len, inputs)), sum(lengths)) * len(inputs)
  print(f"the products of the real tokens alone, at {plain_rate() / 1e9:.0f} "
        f"GFLOP/s: {bound:.1f} examples/s, {bound / rates['theirs']:.1f} times "
        "Hugging Face's")


if __name__ == "__main__":
  main()
