"""A model with its parameters, asked in batches: decodes and likelihoods.

Written against T5X's interface, so it runs on either engine.
"""

from collections.abc import Callable, Iterator, Sequence
import copy
import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np
from t5x import decoding

from stepdistill_jax.data import batching
from stepdistill_jax.evaluation.model_config import Decoded, Timing


class Student:
  """A model, its parameters on devices, and the programs compiled for it.

  Args:
    model: a student.
    params: its parameters.
    params_axes: their PartitionSpecs, as the partitioner gives them.
    partitioner: a `t5x.partitioning` partitioner.
    batch_size: rows, or `auto`.
  """

  def __init__(self, model, params, params_axes, partitioner,
               batch_size: int | str = batching.AUTO):
    self._model = model
    self._params = params
    self._params_axes = params_axes
    self._partitioner = partitioner
    self._batch_size = batch_size
    self._platform = partitioner.mesh.devices.flat[0].platform
    self._programs: dict[tuple, Callable[..., Any]] = {}

  def generate(
      self, inputs: Sequence[Sequence[int]], length: int, beam: int = 1,
      timing: Timing | None = None,
  ) -> Iterator[tuple[tuple[int, ...], list[Decoded]]]:
    """Decodes an answer to each input.

    Args:
      inputs: token ids of each, EOS included.
      length: most tokens to decode, EOS included.
      beam: 1 decodes greedily, more by beam search.
      timing: added to.

    Yields:
      Indices of a batch's inputs, and what was decoded for them.
    """
    timing = Timing() if timing is None else timing
    eos_id = self._model.output_vocabulary.eos_id
    for batch in self._plan([len(tokens) for tokens in inputs]):
      features = _features(
          [inputs[i] for i in batch.indices], None, batch.rows, batch.length,
          length)
      tokens, log_probs = self._run(
          ("generate", beam), functools.partial(self._generate, beam=beam),
          features, timing)
      decoded = [
          Decoded(_until_eos(row, eos_id), float(log_prob))
          for row, log_prob in zip(tokens, log_probs)][:len(batch.indices)]
      timing.examples += len(decoded)
      timing.tokens += sum(len(d.tokens) for d in decoded)
      if beam > 1:  # Beam search gives length-normalized scores.
        decoded = self._rescore(
            [inputs[i] for i in batch.indices], decoded, timing)
      yield batch.indices, decoded

  def log_likelihoods(
      self, inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]],
      timing: Timing | None = None,
  ) -> Iterator[tuple[tuple[int, ...], list[float]]]:
    """The log-probability of each target given its input.

    Args:
      inputs: token ids of each, EOS included.
      targets: likewise.
      timing: added to.

    Yields:
      Indices of a batch's pairs, and their natural log-probabilities.
    """
    timing = Timing() if timing is None else timing
    for batch in self._plan([len(tokens) for tokens in inputs]):
      chosen = [targets[i] for i in batch.indices]
      length = batching.bucket_length(max(map(len, chosen)))
      features = _features([inputs[i] for i in batch.indices], chosen,
                           batch.rows, batch.length, length)
      scores = self._run(("score",), self._model.score_batch, features, timing)
      timing.examples += len(chosen)
      yield batch.indices, [float(s) for s in scores[:len(chosen)]]

  def _rescore(self, inputs, decoded, timing) -> list[Decoded]:
    result: list[Decoded] = list(decoded)
    spent = dataclasses.replace(timing)
    for indices, scores in self.log_likelihoods(
        inputs, [d.tokens for d in decoded], timing):
      for index, score in zip(indices, scores):
        result[index] = Decoded(decoded[index].tokens, score)
    timing.examples = spent.examples
    return result

  def _plan(self, lengths: Sequence[int]) -> list[batching.Batch]:
    return batching.plan(
        lengths, self._batch_size, self._platform,
        # Devices that a batch is split over.
        multiple=int(self._partitioner.mesh.shape.get("data", 1)))

  def _generate(self, params, batch, beam):
    model = copy.copy(self._model)
    # Beam search of width 1 is not greedy: it may go on past an end token.
    model._decode_fn = decoding.beam_search if beam > 1 else (
        functools.partial(decoding.temperature_sample, temperature=0.0,
                          topk=1, rescale_log_probs=False))
    tokens, aux = model.predict_batch_with_aux(
        params, batch, num_decodes=beam, return_all_decodes=False)
    return tokens, aux["scores"]

  def _run(self, name, function, features, timing):
    """Runs a program, compiled when its shapes are first seen."""
    shapes = tuple(sorted((k, v.shape) for k, v in features.items()))
    batch = self._partitioner.shard_batch(features) if hasattr(
        self._partitioner, "shard_batch") else features
    program = self._programs.get((name, shapes))
    if program is None:
      start = time.perf_counter()
      partitioned = self._partitioner.partition(
          function,
          in_axis_resources=(self._params_axes,
                             self._partitioner.data_partition_spec),
          out_axis_resources=None)
      program = self._partitioner.compile(partitioned, self._params, batch)
      self._programs[name, shapes] = program
      timing.compile_seconds += time.perf_counter() - start
    start = time.perf_counter()
    result = jax.device_get(program(self._params, batch))
    timing.seconds += time.perf_counter() - start
    return result


def _features(
    inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]] | None,
    rows: int, input_length: int, target_length: int,
) -> dict[str, np.ndarray]:
  """Pads token lists to model features.

  Rows that are missing repeat the first one, so that they end when it does.

  Returns:
    int32 `encoder_input_tokens` [rows, input_length], `decoder_input_tokens`
    and `decoder_target_tokens` [rows, target_length]; float32
    `decoder_loss_weights`, 0 on padding.
  """
  encoder = _pad(inputs, rows, input_length)
  decoder = (np.zeros((rows, target_length), np.int32) if targets is None
             else _pad(targets, rows, target_length))
  return {
      "encoder_input_tokens": encoder,
      "decoder_target_tokens": decoder,
      # Shifted right: each position sees the target before it.
      "decoder_input_tokens": np.pad(decoder, ((0, 0), (1, 0)))[:, :-1],
      "decoder_loss_weights": (decoder > 0).astype(np.float32),
  }


def _pad(sequences, rows: int, length: int) -> np.ndarray:
  padded = np.zeros((rows, length), np.int32)
  for i, tokens in enumerate(sequences):
    padded[i, :len(tokens)] = tokens
  padded[len(sequences):] = padded[0]
  return padded


def _until_eos(tokens: np.ndarray, eos_id: int) -> tuple[int, ...]:
  ends = np.flatnonzero(tokens == eos_id)
  tokens = tokens[:ends[0] + 1] if ends.size else tokens
  return tuple(int(t) for t in tokens)
