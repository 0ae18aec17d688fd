"""Sampling one token after the other, greedily or at a temperature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
from jax import lax
import jax.numpy as jnp

from stepdistill_jax.embedded_t5x import decoding_state as state_lib
from stepdistill_jax.embedded_t5x.binary_search import topk_mask, topp_mask
from stepdistill_jax.embedded_t5x.decoding_state import NEG_INF_VALUE
from stepdistill_jax.util import errors

Array = Any

# At and below this, sampling is greedy: 1/temperature would overflow.
MIN_TEMPERATURE = 1e-4


@flax.struct.dataclass
class SamplingLoopState:
  """The loop's variables; callbacks see and may change them.

  Rows are `batch * num_decodes`.

  Attributes:
    cur_index: int `[rows]`, position of the last token.
    sequences: int `[rows, length + 2]`; the first column is the start token,
      the last takes what rows write that ran out of room.
    cur_token: int `[rows, 1]`, the last token.
    log_prob: float32 `[rows]`, of the tokens sampled so far.
  """

  step: Array
  cur_index: Array
  sequences: Array
  cache: Mapping[str, Any]
  cur_token: Array
  ended: Array
  rng: Array
  log_prob: Array


StateCallbackFn = Callable[[SamplingLoopState], SamplingLoopState]
LogitCallbackFn = Callable[[Array, SamplingLoopState], Array]


def is_tracer(value: Any) -> bool:
  """False if a value is known when the program is traced."""
  return isinstance(value, jax.core.Tracer)


def temperature_sample(
    inputs: Array, cache: Mapping[str, Any],
    tokens_to_logits: state_lib.TokensToLogits, eos_id: int,
    decode_rng: Array | None = None, num_decodes: int = 1,
    temperature: float | Array = 1.0, topk: int = 1, topp: float = 0.0,
    cache_offset: int = 0, initial_index: Array | None = None,
    max_decode_steps: int | Array | None = None,
    max_decode_steps_hard_limit: int | None = None,
    rescale_log_probs: bool = True,
    state_callback_fn: StateCallbackFn | None = None,
    logit_callback_fn: LogitCallbackFn | None = None) -> tuple[Array, Array]:
  """Samples sequences; by default (`topk=1`) greedily.

  Nonzero `inputs` are a prompt: they are fed instead of sampled tokens, and
  stand in the output. `inputs[:, 0]` is the start token and does not; where
  there is an `initial_index` it may be any token.

      inputs = [[0, 5, 6, 0, 0, 0],     output = [[5, 6, a, b, 1, 0],
                [0, 8, 0, 0, 0, 0]]               [8, c, 1, 0, 0, 0]]

  Here 1 is `eos_id`. A row ends with the first `eos_id` that is sampled, or
  when it is full; the loop stops when all rows have ended.

  Args:
    inputs: int `[batch, length]`.
    cache: the network's cache. If it already holds the prompt,
      `initial_index` says how far.
    decode_rng: key for sampling; None means key 0.
    num_decodes: sequences sampled for each row.
    temperature: logits are divided by it; near 0 is greedy. A scalar, or
      `[batch]` for a temperature of each row.
    topk: sample from the k most likely tokens; 0 from all.
    topp: sample from the most likely tokens that together have this
      probability; 0 from all. Not together with `topk`.
    cache_offset: position of the batch axis in the cache's arrays (1 where
      layers are scanned).
    initial_index: int `[batch]`, the prompt's last position, where `cache`
      holds what is before it.
    max_decode_steps: most tokens to sample after the prompt, or None.
    max_decode_steps_hard_limit: static bound on `max_decode_steps`.
    rescale_log_probs: log-probabilities are those after temperature, top-k
      and top-p (with `topk=1` all 0); False gives the network's own.
    state_callback_fn: called with the loop's state before each step and at
      the end.
    logit_callback_fn: called with logits and state; returns the logits to
      sample from.

  Returns:
    int `[batch, num_decodes, length]` and log-probabilities
    `[batch, num_decodes]`, the most likely last.

  Raises:
    ValueError: both `topk` and `topp`, or more steps than `length`.
  """
  if not (is_tracer(topk) or is_tracer(topp)) and topk and topp:
    raise errors.InvalidValue(
        f"temperature_sample takes topk or topp, not both; got topk={topk}, "
        f"topp={topp}")
  batch, length = inputs.shape
  rng = jax.random.PRNGKey(0) if decode_rng is None else decode_rng
  if max_decode_steps is not None and max_decode_steps_hard_limit:
    max_decode_steps = jnp.minimum(
        max_decode_steps, max_decode_steps_hard_limit)
  if (max_decode_steps is not None and not is_tracer(max_decode_steps)
      and max_decode_steps > length):
    raise errors.InvalidValue(
        f"max_decode_steps={max_decode_steps} is more than the {length} "
        "positions of the inputs")

  temperature = jnp.asarray(temperature)
  if num_decodes > 1:
    expand = lambda x, offset=0: state_lib.flat_batch_beam_expand(
        x, num_decodes, offset)
    cache = state_lib.cache_map(
        lambda x: expand(x, 0 if x.ndim == 1 else cache_offset), cache,
        apply_to_index=initial_index is not None)
    inputs = expand(inputs)
    if initial_index is not None:
      initial_index = expand(initial_index)
    if temperature.ndim:
      temperature = expand(temperature)

  def sample(logits, key):
    return _sample_token(
        logits, key, temperature, topk, topp, rescale_log_probs)

  sequences, log_prob = _sampling_loop(
      inputs, cache, tokens_to_logits, eos_id, rng, sample, initial_index,
      max_decode_steps, state_callback_fn, logit_callback_fn)
  sequences = state_lib.unflatten_beam_dim(sequences, batch, num_decodes)
  log_prob = state_lib.unflatten_beam_dim(log_prob, batch, num_decodes)
  order = jnp.argsort(log_prob, axis=-1)
  return (jnp.take_along_axis(sequences, order[:, :, None], axis=1),
          jnp.take_along_axis(log_prob, order, axis=1))


def _sampling_loop(
    inputs, cache, tokens_to_logits, eos_id, rng, sample, initial_index,
    max_decode_steps, state_callback_fn, logit_callback_fn):
  """Runs until all rows have ended: sequences `[rows, length]`, log_prob."""
  rows, length = inputs.shape
  sequences = jnp.pad(inputs, ((0, 0), (0, 2)))
  if initial_index is None:
    index, token = jnp.zeros(rows, jnp.int32), jnp.zeros((rows, 1), jnp.int32)
  else:
    index = initial_index
    token = jnp.take_along_axis(sequences, index[:, None], axis=1)
  if max_decode_steps is None:
    last = length
  else:
    prompt_length = jnp.maximum(index, jnp.sum(inputs[:, 1:] != 0, axis=1))
    last = jnp.minimum(length, prompt_length + max_decode_steps)
  state = SamplingLoopState(
      step=jnp.zeros((), jnp.int32), cur_index=index, sequences=sequences,
      cache=flax.core.unfreeze(cache), cur_token=token,
      ended=jnp.zeros((rows, 1), jnp.bool_), rng=rng,
      log_prob=jnp.zeros(rows, jnp.float32))

  def one_step(state: SamplingLoopState) -> SamplingLoopState:
    if state_callback_fn is not None:
      state = state_callback_fn(state)
    key, next_rng = jax.random.split(state.rng)
    logits, cache = tokens_to_logits(state_lib.DecodingState(
        cur_index=state.cur_index, sequences=state.sequences[:, :-2],
        cur_token=state.cur_token, cache=state.cache))
    if logit_callback_fn is not None:
      logits = logit_callback_fn(logits, state)
    token, log_prob = sample(logits, key)

    ended = state.ended[:, 0]
    # Rows that are full write into the last column, again and again.
    index = jnp.minimum(state.cur_index, last)
    prompt = jnp.take_along_axis(
        state.sequences, index[:, None] + 1, axis=1)[:, 0]
    sampled = prompt == 0
    token = jnp.where(ended, 0, jnp.where(sampled, token, prompt))
    log_prob = jnp.where(sampled & ~ended, log_prob, 0.0)
    sequences = state.sequences.at[jnp.arange(rows), index + 1].set(token)
    ended |= (sampled & (token == eos_id)) | (index >= last - 1)
    return SamplingLoopState(
        step=state.step + 1, cur_index=index + 1, sequences=sequences,
        cache=flax.core.unfreeze(cache), cur_token=token[:, None],
        ended=ended[:, None], rng=next_rng,
        log_prob=state.log_prob + log_prob)

  state = lax.while_loop(
      lambda state: ~jnp.all(state.ended), one_step, state)
  if state_callback_fn is not None:
    state = state_callback_fn(state)
  return state.sequences[:, 1:-1], state.log_prob


def _sample_token(
    logits, key, temperature, topk, topp, rescale_log_probs
) -> tuple[Array, Array]:
  """A token of each row and its log-probability, both `[rows]`."""

  def log_prob_of(token, logits):
    token_logit = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    return token_logit - jax.nn.logsumexp(logits, axis=-1)

  def greedy():
    token = state_lib.top_k(logits, 1)[1][:, 0]
    if rescale_log_probs:
      return token, jnp.zeros(token.shape, jnp.float32)
    return token, log_prob_of(token, logits)

  def at_temperature():
    scaled = logits / jnp.maximum(temperature, MIN_TEMPERATURE).reshape(-1, 1)
    if is_tracer(topk) or topk:
      scaled = jnp.where(
          jnp.asarray(topk) > 0, topk_mask(scaled, topk, NEG_INF_VALUE),
          scaled)
    if is_tracer(topp) or topp:
      scaled = topp_mask(scaled, topp, NEG_INF_VALUE)
    token = jax.random.categorical(key, scaled).astype(jnp.int32)
    return token, log_prob_of(token, scaled if rescale_log_probs else logits)

  if not is_tracer(topk) and topk == 1 and not is_tracer(topp) and not topp:
    return greedy()  # The most likely token alone is left, whatever the noise.
  cold = temperature <= MIN_TEMPERATURE
  if cold.ndim == 0:
    return lax.cond(cold, greedy, at_temperature)
  return jax.tree.map(
      lambda a, b: jnp.where(cold, a, b), greedy(), at_temperature())
