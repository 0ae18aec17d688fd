"""Beam search with a length penalty (https://arxiv.org/abs/1609.08144)."""

from __future__ import annotations

from collections.abc import Mapping
import functools
from typing import Any

import flax
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from stepdistill_jax.embedded_t5x import decoding_state as state_lib
from stepdistill_jax.embedded_t5x.decoding_state import NEG_INF_VALUE

Array = Any

NEG_INF = np.array(NEG_INF_VALUE)


def brevity_penalty(alpha: float, length: int | Array) -> Array:
  """What a log-probability is divided by: ((5 + length) / 6) ** alpha."""
  return jnp.power((5.0 + length) / 6.0, alpha)


@flax.struct.dataclass
class BeamState:
  """The loop's variables; beams are in order of rising score.

  Attributes:
    cur_index: position of the last tokens, a scalar.
    live_logprobs: float32 `[batch, beams]`, of sequences going on.
    live_seqs: int32 `[batch, beams, length + 1]`, with the start token.
    finished_scores: float32 `[batch, beams]`, log-probability / penalty.
    finished_seqs: int32 `[batch, beams, length + 1]`.
    finished_flags: bool `[batch, beams]`, False where there is none yet.
    cache: the network's cache of live sequences, `[batch * beams, ...]`.
    initial_index: int `[batch]`, positions that were filled in; or None.
  """

  cur_index: Array
  live_logprobs: Array
  live_seqs: Array
  finished_scores: Array
  finished_seqs: Array
  finished_flags: Array
  cache: Mapping[str, Any]
  initial_index: Array | None = None


def beam_init(
    batch_size: int, beam_size: int, max_decode_len: int,
    cache: Mapping[str, Any], offset: int = 0, live_seqs: Array | None = None,
    initial_index: Array | None = None) -> BeamState:
  """The state that a search begins with; its cache has a beam axis.

  Args:
    max_decode_len: length of the sequences, with the start token.
    cache: of one beam a row.
    offset: position of the batch axis in the cache's arrays.
    live_seqs: int32 `[batch, beams, max_decode_len]`; None is zeros.
    initial_index: int `[batch]`, where prompts were filled in: the cache then
      counts the positions of each row.
  """
  only_first = np.full((batch_size, beam_size), NEG_INF_VALUE, np.float32)
  only_first[:, 0] = 0.0  # All beams start equal: let one go on.
  zeros = jnp.zeros((batch_size, beam_size, max_decode_len), jnp.int32)
  return BeamState(
      cur_index=jnp.zeros((), jnp.int32), live_logprobs=jnp.asarray(only_first),
      live_seqs=zeros if live_seqs is None else live_seqs,
      finished_scores=jnp.full((batch_size, beam_size), NEG_INF_VALUE),
      finished_seqs=zeros,
      finished_flags=jnp.zeros((batch_size, beam_size), jnp.bool_),
      cache=state_lib.cache_map(
          lambda x: state_lib.add_beam_dim(
              x, beam_size, 0 if x.ndim == 1 else offset),
          flax.core.unfreeze(cache), apply_to_index=initial_index is not None),
      initial_index=initial_index)


def beam_search(
    inputs: Array, cache: Mapping[str, Any],
    tokens_to_logits: state_lib.TokensToLogits, eos_id: int,
    num_decodes: int = 4, alpha: float = 0.6,
    max_decode_len: int | None = None, max_decode_step: int = -1,
    min_log_prob: float = NEG_INF_VALUE, decode_rng: Array | None = None,
    cache_offset: int = 0, initial_index: Array | None = None
) -> tuple[Array, Array]:
  """The `num_decodes` best sequences of each row.

  Nonzero `inputs` are a prompt: they are fed instead of chosen tokens, and
  stand in the output. `inputs[:, 0]` is the start token and does not. The
  search ends when no live sequence can still beat the finished ones.

  Args, besides those of `sampling.temperature_sample`:
    alpha: exponent of the length penalty; 0 for none.
    max_decode_len: longest output; None means `length`.
    max_decode_step: most steps of the search; negative for no limit.
    min_log_prob: the search ends when no live sequence has a higher
      log-probability.

  Returns:
    int32 `[batch, num_decodes, max_decode_len]` and float32 scores
    `[batch, num_decodes]`, the best last.
  """
  del decode_rng
  inputs, beams = jnp.asarray(inputs), num_decodes
  batch, length = inputs.shape
  limit = (max_decode_len or length) + 1  # The start token comes first.
  forced = inputs
  live_seqs = jnp.zeros((batch, beams, limit), jnp.int32)
  prompt_length = jnp.zeros(batch, jnp.int32)
  if initial_index is not None:
    # All rows start at column 0 with their prompt's last token.
    prompt_length = initial_index
    last_token = _align(inputs, right=True)[:, -1]
    forced = jnp.zeros_like(inputs)
    live_seqs = live_seqs.at[:, :, 0].set(last_token[:, None])

  state = beam_init(
      batch, beams, limit, cache, cache_offset, live_seqs, initial_index)
  state = state.replace(cache=state_lib.cache_map(
      lambda x: state_lib.flatten_beam_dim(
          x, 0 if x.ndim == 2 else cache_offset),
      state.cache, apply_to_index=initial_index is not None))

  def goes_on(state: BeamState) -> Array:
    in_room = state.cur_index + jnp.min(prompt_length) < limit - 1
    in_steps = (max_decode_step <= 0) | (state.cur_index < max_decode_step)
    # Log-probabilities only fall, so this bounds all that can still finish.
    longest = brevity_penalty(alpha, limit)
    best_live = state.live_logprobs[:, -1] / longest
    worst_finished = jnp.where(
        jnp.all(state.finished_flags, axis=1),
        jnp.min(state.finished_scores, axis=1), NEG_INF_VALUE)
    settled = jnp.all(worst_finished > best_live)
    hopeless = (state.cur_index > 0) & jnp.all(
        best_live < min_log_prob / longest)
    return in_room & in_steps & ~settled & ~hopeless

  step = functools.partial(
      _one_step, tokens_to_logits=tokens_to_logits, eos_id=eos_id, alpha=alpha,
      forced=forced, prompt_length=prompt_length, cache_offset=cache_offset)
  state = lax.while_loop(goes_on, step, state)

  # Rows where nothing finished give what they have.
  finished = jnp.any(state.finished_flags, axis=1, keepdims=True)
  seqs = jnp.where(finished[..., None], state.finished_seqs, state.live_seqs)
  scores = jnp.where(finished, state.finished_scores, state.live_logprobs)
  seqs = seqs[:, :, 1:]
  if initial_index is not None:
    prompts = state_lib.add_beam_dim(
        _align(inputs.at[:, 0].set(0), right=True), beams)
    seqs = jnp.concatenate([prompts, seqs], axis=-1)
    seqs = _align(seqs, right=False)[:, :, :limit - 1]
  return seqs, scores


def _one_step(
    state: BeamState, *, tokens_to_logits, eos_id, alpha, forced,
    prompt_length, cache_offset) -> BeamState:
  """Extends all live sequences by a token."""
  batch, beams, _ = state.live_seqs.shape
  index = state.cur_index
  token = lax.dynamic_slice_in_dim(state.live_seqs, index, 1, axis=2)
  logits, cache = tokens_to_logits(state_lib.DecodingState(
      cur_index=index, sequences=state_lib.flatten_beam_dim(state.live_seqs),
      cur_token=state_lib.flatten_beam_dim(token), cache=state.cache))

  # Twice as many as beams: if the best half all finish, half is left alive.
  candidates = 2 * beams
  log_probs, parents, tokens = _best_extensions(
      logits, state.live_logprobs, candidates)
  prompt_token = lax.dynamic_index_in_dim(
      forced, index + 1, axis=1).astype(jnp.int32)  # [batch, 1]
  in_prompt = prompt_token != 0
  # In a prompt all beams would be equal: one goes on.
  log_probs = jnp.where(
      in_prompt, jnp.where(jnp.arange(candidates) == 0, 0.0, NEG_INF_VALUE),
      log_probs)
  tokens = jnp.where(in_prompt, prompt_token, tokens)
  seqs = state_lib.gather_beams(state.live_seqs, parents)
  seqs = lax.dynamic_update_slice_in_dim(
      seqs, tokens[:, :, None], index + 1, axis=2)
  ends = tokens == eos_id

  live_logprobs, alive = _top_ascending(
      log_probs + ends * NEG_INF_VALUE, beams)
  if beams > 1:
    in_beams = state_lib.cache_gather_beams(
        state_lib.cache_map(
            lambda x: state_lib.unflatten_beam_dim(
                x, batch, beams, cache_offset), cache),
        state_lib.gather_beams(parents, alive), offset=cache_offset)
    cache = state_lib.cache_map(
        lambda x: state_lib.flatten_beam_dim(x, cache_offset), in_beams)

  penalty = brevity_penalty(alpha, prompt_length[:, None] + index + 1)
  scores = log_probs / penalty + ~ends * NEG_INF_VALUE
  finished_scores, best = _top_ascending(
      jnp.concatenate([state.finished_scores, scores], axis=1), beams)
  finished_seqs, finished_flags = state_lib.gather_beams(
      (jnp.concatenate([state.finished_seqs, seqs], axis=1),
       jnp.concatenate([state.finished_flags, ends], axis=1)), best)
  return BeamState(
      cur_index=index + 1, live_logprobs=live_logprobs,
      live_seqs=state_lib.gather_beams(seqs, alive),
      finished_scores=finished_scores, finished_seqs=finished_seqs,
      finished_flags=finished_flags, cache=flax.core.unfreeze(cache),
      initial_index=state.initial_index)


def _best_extensions(
    logits: Array, live_logprobs: Array, k: int) -> tuple[Array, Array, Array]:
  """The k best (beam, token) pairs of each row, best first.

  Normalizing changes no order within a beam, so the k best logits of each
  beam are enough: log-probabilities of the whole vocabulary are never
  written.

  Args:
    logits: `[batch * beams, vocab]`.
    live_logprobs: `[batch, beams]`.

  Returns:
    `[batch, k]` each: log-probability of the sequence, beam, token.
  """
  batch, beams = live_logprobs.shape
  k_each = min(k, logits.shape[-1])
  values, tokens = state_lib.top_k(logits, k_each)  # [batch * beams, k_each]
  values = values - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
  values = values.reshape(batch, beams, k_each) + live_logprobs[:, :, None]
  log_probs, flat = lax.top_k(values.reshape(batch, beams * k_each), k)
  tokens = jnp.take_along_axis(
      tokens.reshape(batch, beams * k_each), flat, axis=1)
  return log_probs, flat // k_each, tokens


def _top_ascending(x: Array, k: int) -> tuple[Array, Array]:
  """Values and indices of the k largest of each row, the largest last."""
  values, indices = lax.top_k(x, k)
  return values[:, ::-1], indices[:, ::-1]


def _align(tokens: Array, *, right: bool) -> Array:
  """Moves each row's tokens to the right or the left end; 0 fills.

  >>> _align(jnp.array([[0, 5, 6, 0]]), right=True).tolist()
  [[0, 0, 5, 6]]
  """
  real = tokens != 0
  # The zeros of one end go to the other.
  shift = jnp.argmax(real[..., ::-1], -1) if right else -jnp.argmax(real, -1)
  length = tokens.shape[-1]
  source = (jnp.arange(length) - shift[..., None]) % length
  return jnp.take_along_axis(tokens, source, axis=-1)
