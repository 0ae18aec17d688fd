"""What an answer costs: parameters, FLOPs, tokens, examples a second.

FLOPs count the matrix products of a forward pass (two operations for each
multiplication), from the parameters' shapes: every kernel works once on each
token that passes it, attention once on each pair of positions.
"""

from collections.abc import Mapping, Sequence
import math
import pathlib
import re
import tomllib
from typing import Any

from stepdistill_jax.evaluation import statistics

# What is known of others' models.
MODELS = tomllib.loads(
    pathlib.Path(__file__).with_name("models.toml").read_text("utf-8"))
_PIECES_PER_WORD = 1.4  # T5's pieces in SVAMP and ANLI rows, about.


def flops_per_example(
    shapes: Mapping[str, Sequence[int]], input_tokens: float,
    output_tokens: float,
) -> float:
  """FLOPs of encoding an input and decoding an output with cached keys.

  Args:
    shapes: parameter name (`encoder/layers_0/mlp/wo/kernel`) to its shape, in
      T5X's naming.
    input_tokens: length of the input, EOS included.
    output_tokens: decoded tokens, EOS included.

  Returns:
    The number of floating-point operations.
  """
  total = 0.0
  has_head = any("logits_dense" in name for name in shapes)
  # A decoder alone reads its input as it reads its answer.
  has_encoder = any(name.startswith("encoder/") for name in shapes)
  read_tokens = output_tokens if has_encoder else input_tokens + output_tokens
  for name, shape in shapes.items():
    size = math.prod(shape)
    if name.endswith("/embedding"):
      # A lookup is free; as the output layer it is a product.
      total += 0 if has_head else 2 * size * output_tokens
      continue
    if not name.endswith("/kernel"):
      continue
    in_encoder = name.startswith("encoder/")
    # Keys and values of the encoder's output are computed once.
    cross_cache = re.search(
        r"encoder_decoder_attention/(key|value)/kernel$", name)
    tokens = input_tokens if in_encoder or cross_cache else read_tokens
    if "logits_dense" in name:
      tokens = output_tokens
    total += 2 * size * tokens
    if name.endswith("/query/kernel"):
      # Scores and weighted sums: two products over all pairs of positions.
      width = shape[-1]
      layers = shape[1] if len(shape) > 2 else 1  # Scanned: [in, layer, out].
      if in_encoder:
        pairs = input_tokens * input_tokens
      elif "encoder_decoder_attention" in name:
        pairs = output_tokens * input_tokens
      else:
        pairs = read_tokens * (read_tokens + 1) / 2
      total += 4 * width * layers * pairs
  return total


def of_student(system, answers: Sequence[Any], label_timing,
               rationale_timing, mode: str) -> dict[str, Any]:
  """The cost entry of a student in `results.json`."""
  cost: dict[str, Any] = {
      "examples_per_second": label_timing.examples_per_second,
      "seconds": label_timing.seconds,
      "compile_seconds": label_timing.compile_seconds,
      "scored_now": label_timing.examples,
  }
  if label_timing.examples < len(answers):
    cost["note"] = (f"{len(answers) - label_timing.examples} answers are "
                    "those of an earlier, interrupted call")
  if mode == "generate":
    cost["input_tokens"] = statistics.mean([a.input_tokens for a in answers])
    cost["label_tokens_per_example"] = statistics.mean(
        [a.tokens for a in answers])
    cost["rationale_tokens_per_example"] = statistics.mean(
        [a.rationale_tokens for a in answers])
    cost["rationale_examples_per_second"] = (
        rationale_timing.examples_per_second)
  shapes = system.parameter_shapes()
  if shapes:
    cost["parameters"] = sum(map(math.prod, shapes.values()))
    if mode == "generate":
      cost["flops_per_example"] = flops_per_example(
          shapes, statistics.mean([a.input_tokens for a in answers]),
          cost["label_tokens_per_example"])
  return cost


def of_teacher(teacher: str, words: Sequence[int]) -> dict[str, Any]:
  """The cost entry of a cached teacher; {} where its size is not known.

  Args:
    teacher: its name in records.
    words: for each example, of all that it read and wrote, without the examples
      of its prompt.
  """
  parameters = next(
      (n for name, n in MODELS["parameters"].items()
       if teacher.startswith(name)), None)
  mean = statistics.mean(words)
  if parameters is None or mean is None:
    return {}
  return {
      "parameters": int(parameters),
      # A decoder-only model: two operations a parameter and token.
      "flops_per_example": 2 * parameters * mean * _PIECES_PER_WORD,
      "note": "2 FLOPs a parameter and token; tokens from words, without "
              "the prompt's examples",
  }
