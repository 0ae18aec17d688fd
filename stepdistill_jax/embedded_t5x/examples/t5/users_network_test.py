"""Networks that T5X's users build on its layers decode as ours do."""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from stepdistill_jax.embedded_t5x import decoding, models
from stepdistill_jax.embedded_t5x.examples.decoder_only import (
  layers as decoder_only_layers,
  network as decoder_only_network,
)
from stepdistill_jax.embedded_t5x.examples.t5 import layers, network
from tests.support import tiny_models


class _Decoder(network.Decoder):
  """As T5X documents a decoder: each layer counts its positions itself."""

  @nn.compact
  def __call__(self, encoded, decoder_input_tokens, decoder_positions=None,
               decoder_mask=None, encoder_decoder_mask=None,
               deterministic=False, decode=False, max_decode_length=None):
    biases = network.relative_bias(self.config)
    y = self.shared_embedding(decoder_input_tokens.astype("int32"))
    for i in range(self.config.num_decoder_layers):
      y = network.DecoderLayer(
          config=self.config, relative_embedding=biases, name=f"layers_{i}")(
              y, encoded, decoder_mask=decoder_mask,
              encoder_decoder_mask=encoder_decoder_mask,
              deterministic=deterministic, decode=decode,
              max_decode_length=max_decode_length)
    y = layers.LayerNorm(dtype=self.config.dtype, name="decoder_norm")(y)
    return network.logits_of(self.config, self.shared_embedding, y)


class _Encoder(network.Encoder):

  def run_layers(self, x, encoder_mask, deterministic):
    biases = network.relative_bias(self.config)
    for i in range(self.config.num_encoder_layers):
      x = network.EncoderLayer(
          config=self.config, relative_embedding=biases, name=f"layers_{i}")(
              x, encoder_mask, deterministic)
    return x


class _Transformer(network.Transformer):
  encoder_cls = _Encoder
  decoder_cls = _Decoder


@pytest.fixture(scope="module")
def pair():
  """Our T5 and a user's, and parameters of both."""
  config = network.T5Config(
      **{**tiny_models.SIZES, **tiny_models.T5_1_1, "dropout_rate": 0.0})
  vocabulary = tiny_models.make_vocabulary()
  ours, users = (
      models.EncoderDecoderModel(
          module=cls(config), input_vocabulary=vocabulary,
          output_vocabulary=vocabulary, optimizer_def=None)
      for cls in (network.Transformer, _Transformer))
  return ours, users, tiny_models.initial_variables(ours)["params"]


def test_a_users_network_has_the_same_parameters_and_loss(pair):
  ours, users, params = pair
  own = tiny_models.initial_variables(users)["params"]
  jax.tree.map(np.testing.assert_array_equal, own, params)
  batch = tiny_models.make_batch(1)
  losses = [float(jax.jit(lambda p, m=m: m.loss_fn(p, batch, None)[0])(params))
            for m in (ours, users)]
  assert losses[0] == losses[1]


@pytest.mark.parametrize("decode_fn, decodes", [
    (decoding.beam_search, 3), (decoding.temperature_sample, 1)])
def test_a_users_network_decodes_as_ours(pair, decode_fn, decodes):
  ours, users, params = pair
  batch = tiny_models.make_batch(2, rows=3)
  results = []
  for model in (ours, users):
    model._decode_fn = functools.partial(decode_fn)
    results.append(jax.jit(lambda p, m=model: m.predict_batch_with_aux(
        p, batch, num_decodes=decodes, return_all_decodes=True))(params))
  (tokens, aux), (users_tokens, users_aux) = results
  np.testing.assert_array_equal(tokens, users_tokens)
  np.testing.assert_allclose(aux["scores"], users_aux["scores"], rtol=1e-5)


def test_the_cache_is_as_t5x_documents_it():
  attention = layers.MultiHeadDotProductAttention(num_heads=2, head_dim=3)
  x = jax.random.normal(jax.random.PRNGKey(0), (4, 5, 6))
  variables = jax.jit(lambda key: attention.init(
      key, x, x, deterministic=True)["params"])(jax.random.PRNGKey(1))
  variables = {"params": variables}
  whole = jax.jit(lambda v: attention.apply(
      v, x, x, layers.make_causal_mask(x[..., 0]), deterministic=True)
  )(variables)
  params = variables
  _, made = jax.jit(lambda v: attention.apply(
      v, x, x, decode=True, deterministic=True, mutable=["cache"]))(params)
  assert jax.tree.map(jnp.shape, made["cache"]) == {
      "cached_key": (4, 2, 3, 5), "cached_value": (4, 2, 3, 5),
      "cache_index": ()}
  cache = made["cache"]
  decode = jax.jit(lambda cache, x: attention.apply(
      {**params, "cache": cache}, x, x, decode=True, deterministic=True,
      mutable=["cache"]))
  for i in range(5):
    step, changed = decode(cache, x[:, i:i + 1])
    cache = changed["cache"]
    np.testing.assert_allclose(step[:, 0], whole[:, i], atol=1e-6)
  assert int(cache["cache_index"]) == 5
  given = {**made["cache"], "cache_index": np.array(2)}
  _, changed = attention.apply(
      {**params, "cache": given}, x[:, :1], x[:, :1], decode=True,
      deterministic=True, mutable=["cache"])
  assert int(given["cache_index"]) == 2
  assert int(changed["cache"]["cache_index"]) == 3
  assert changed["cache"]["cached_key"][0, 0, 0].astype(bool).tolist() == [
      False, False, True, False, False]
  with pytest.raises(ValueError, match="one position a call"):
    attention.apply({**params, "cache": cache}, x, x, decode=True,
                    deterministic=True, mutable=["cache"])
  with pytest.raises(ValueError, match="different calls"):
    attention.apply(params, x, x, decode=True, prefill=True, mutable=["cache"])


def test_prefilled_rows_go_on_where_each_prompt_ends():
  attention = decoder_only_layers.MultiHeadDotProductAttention(
      num_heads=2, head_dim=4)
  x = jax.random.normal(jax.random.PRNGKey(2), (2, 6, 8))
  bias = jax.random.normal(jax.random.PRNGKey(3), (1, 2, 6, 6))
  mask = layers.make_causal_mask(x[..., 0])
  params = {"params": jax.jit(lambda key: attention.init(
      key, x, x, deterministic=True)["params"])(jax.random.PRNGKey(4))}

  def run(variables, *arrays, **options):
    return jax.jit(lambda v: attention.apply(
        v, *arrays, deterministic=True, mutable=["cache"], **options)
    )(variables)

  whole, _ = run(params, x, x, mask, bias)
  _, state = run(params, x, x, decode=True)
  lengths = jnp.array([3, 1])
  _, state = run({**params, **state}, x, x, mask, bias, prefill=True,
                 prefill_lengths=lengths)
  np.testing.assert_array_equal(state["cache"]["cache_index"], lengths)
  assert not state["cache"]["cached_key"][1, ..., 1:].any()
  now = x[jnp.arange(2), lengths][:, None]
  step, state = run({**params, **state}, now, now, None, bias, decode=True)
  for row, at in enumerate((3, 1)):
    np.testing.assert_allclose(step[row, 0], whole[row, at], atol=1e-6)


class _LanguageModel(nn.Module):
  """A decoder-only network as T5X documents it."""

  config: Any

  @nn.compact
  def __call__(self, decoder_input_tokens, decoder_target_tokens,
               decoder_segment_ids=None, decoder_positions=None,
               decoder_causal_attention=None, *, enable_dropout=True,
               decode=False, max_decode_length=None, prefill=None,
               prefill_lengths=None):
    cfg = self.config
    biases = decoder_only_layers.RelativePositionBiases(
        num_buckets=32, max_distance=128, num_heads=cfg.num_heads,
        dtype=cfg.dtype, name="relpos_bias",
        embedding_init=nn.initializers.variance_scaling(
            1.0, "fan_avg", "uniform"))
    mask = None if decode else layers.make_decoder_mask(
        decoder_target_tokens, cfg.dtype, decoder_causal_attention,
        decoder_segment_ids)
    embedding = network.token_embedder(cfg)
    y = embedding(decoder_input_tokens.astype("int32"))
    for i in range(cfg.num_layers):
      y = decoder_only_network.DecoderLayer(
          config=cfg, relative_embedding=biases, name=f"layers_{i}")(
              y, decoder_mask=mask, deterministic=not enable_dropout,
              decode=decode, max_decode_length=max_decode_length,
              prefill=prefill, prefill_lengths=prefill_lengths)
    y = layers.LayerNorm(dtype=cfg.dtype, name="decoder_norm")(y)
    return network.logits_of(cfg, embedding, y)


def test_a_users_decoder_only_network_decodes_as_ours():
  config = decoder_only_network.TransformerConfig(
      vocab_size=32, emb_dim=12, num_heads=2, num_layers=2, head_dim=6,
      mlp_dim=24, dropout_rate=0.0)
  vocabulary = seqio.PassThroughVocabulary(32, eos_id=1)
  batch = {
      "decoder_input_tokens": np.array(
          [[0, 9, 4, 6, 3, 0, 0, 0], [0, 7, 5, 0, 0, 0, 0, 0]]),
      "decoder_causal_attention": np.array(
          [[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]])}
  results, params = [], None
  for cls in (decoder_only_network.Decoder, _LanguageModel):
    model = models.DecoderOnlyModel(
        cls(config), vocabulary, None, inputs_bidirectional_attention=True)
    if params is None:
      params = jax.jit(lambda key, m=model: m.get_initial_variables(
          key, {"decoder_input_tokens": (2, 8)})["params"])(
              jax.random.PRNGKey(0))
    results.append(jax.jit(lambda p, m=model: m.predict_batch_with_aux(
        p, batch, num_decodes=2, return_all_decodes=True,
        decoder_params={"rescale_log_probs": False}))(params))
  (tokens, aux), (users_tokens, users_aux) = results
  np.testing.assert_array_equal(tokens, users_tokens)
  np.testing.assert_allclose(aux["scores"], users_aux["scores"], rtol=1e-5)
