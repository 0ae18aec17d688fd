"""A small SeqIO task for tests of the engine: `t5x_testing_reverse`.

The input is a word, the target the same word backwards. It is generated here
and read as bytes, so it needs no file. Examples are distinct by construction.
"""

from __future__ import annotations

import functools
import hashlib

import seqio
import tensorflow as tf

VOCABULARY = seqio.ByteVocabulary()
FEATURES = {"inputs": seqio.Feature(VOCABULARY),
            "targets": seqio.Feature(VOCABULARY)}
SIZES = {"train": 64, "validation": 12, "test": 10}


def _word(split: str, index: int) -> str:
  """2 to 9 letters a-f that depend on the split and the index only."""
  digest = hashlib.sha256(f"{split} {index}".encode()).digest()
  return "".join(chr(97 + b % 6) for b in digest[1:3 + digest[0] % 8])


def _dataset(split: str, shuffle_files: bool = False, seed=None):
  del shuffle_files, seed
  words = [_word(split, i) for i in range(SIZES[split])]
  return tf.data.Dataset.from_tensor_slices(
      {"inputs": words, "targets": [w[::-1] for w in words]})


def exact_match(targets, predictions):
  """Percentage of predictions that equal their targets."""
  correct = sum(t == p for t, p in zip(targets, predictions))
  return {"exact_match": 100.0 * correct / max(len(targets), 1)}


def mean_score(targets, scores):
  """Mean log likelihood of the targets."""
  return {"mean_score": float(sum(scores) / max(len(targets), 1))}


def register() -> None:
  """Registers the tasks, once."""
  if "t5x_testing_reverse" in seqio.TaskRegistry.names():
    return
  add = functools.partial(
      seqio.TaskRegistry.add,
      source=seqio.FunctionDataSource(
          _dataset, splits=list(SIZES), num_input_examples=SIZES),
      preprocessors=[seqio.preprocessors.tokenize,
                     seqio.preprocessors.append_eos],
      output_features=FEATURES)
  add("t5x_testing_reverse", metric_fns=[exact_match, mean_score])
  add("t5x_testing_no_metrics")
  seqio.MixtureRegistry.add(
      "t5x_testing_mixture",
      [("t5x_testing_reverse", 1.0), ("t5x_testing_no_metrics", 1.0)])


register()
