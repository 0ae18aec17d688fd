"""Tests of the T5 network against itself and against Hugging Face's."""

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stepdistill_jax  # noqa: F401  Makes t5x importable.
from stepdistill_jax.embedded_t5x import test_utils
from stepdistill_jax.embedded_t5x.examples.t5 import layers
from stepdistill_jax.embedded_t5x.examples.t5 import network
from stepdistill_jax.interop import hf_names

# float32 through two layers: 1e-6 relative to logits of size 10 at most.
TOLERANCE = dict(rtol=0, atol=1e-5)

VARIANTS = {
    "1.0": dict(mlp_activations=("relu",), logits_via_embedding=True),
    "1.1": dict(mlp_activations=("gelu", "linear"),
                logits_via_embedding=False),
    "gated_tied": dict(mlp_activations=("gelu", "linear"),
                       logits_via_embedding=True),
}


def _network(**config):
  module = network.Transformer(network.T5Config(
      **{**test_utils.SIZES, **VARIANTS["1.1"], **config}))
  tokens = jnp.ones((1, 4), jnp.int32)
  init = jax.jit(lambda key: module.init(
      key, tokens, tokens, tokens, enable_dropout=False))
  return module, init(jax.random.PRNGKey(0))["params"]


def _logits(module, params, batch):
  return jax.jit(lambda p, b: module.apply(
      {"params": p}, b["encoder_input_tokens"], b["decoder_input_tokens"],
      b["decoder_target_tokens"], b.get("encoder_segment_ids"),
      b.get("decoder_segment_ids"), enable_dropout=False))(params, batch)


def _as_hugging_face(params, config, variant):
  """A `T5ForConditionalGeneration` with the same weights."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  tied = VARIANTS[variant]["logits_via_embedding"]
  gated = len(VARIANTS[variant]["mlp_activations"]) == 2
  model = transformers.T5ForConditionalGeneration(transformers.T5Config(
      vocab_size=config["vocab_size"], d_model=config["emb_dim"],
      d_kv=config["head_dim"], d_ff=config["mlp_dim"],
      num_layers=config["num_encoder_layers"],
      num_decoder_layers=config["num_decoder_layers"],
      num_heads=config["num_heads"], dropout_rate=0.0,
      feed_forward_proj="gated-gelu" if gated else "relu",
      tie_word_embeddings=tied, pad_token_id=0, decoder_start_token_id=0))
  state = {}
  for path, value in traverse_util.flatten_dict(params, sep="/").items():
    tensor = hf_names.hf_tensor(path)
    value = np.asarray(value)
    state[tensor.name] = torch.tensor(value.T if tensor.transposed else value)
  missing, unexpected = model.load_state_dict(state, strict=False)
  assert not unexpected
  assert all("embed_tokens" in name or tied and "lm_head" in name
             for name in missing), missing
  model.tie_weights()
  return model.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_greedy_decoding_equal_hugging_face(variant):
  torch = pytest.importorskip("torch")
  model = test_utils.make_model(network, VARIANTS[variant])
  params = test_utils.initial_variables(model, 1)["params"]
  theirs = _as_hugging_face(params, test_utils.SIZES, variant)
  batch = test_utils.make_batch(5)
  encoder = torch.tensor(batch["encoder_input_tokens"]).long()
  with torch.no_grad():
    expected = theirs(
        input_ids=encoder, attention_mask=(encoder > 0).long(),
        decoder_input_ids=torch.tensor(
            batch["decoder_input_tokens"]).long()).logits.numpy()
    decoded = theirs.generate(
        input_ids=encoder, attention_mask=(encoder > 0).long(),
        max_new_tokens=test_utils.DECODER_LENGTH, num_beams=1,
        do_sample=False).numpy()[:, 1:]
  real = batch["decoder_target_tokens"] > 0
  np.testing.assert_allclose(
      _logits(model.module, params, batch)[real], expected[real], **TOLERANCE)

  from t5x import decoding
  model._decode_fn = decoding.temperature_sample
  ours = np.asarray(jax.jit(model.predict_batch)(params, batch))
  np.testing.assert_array_equal(ours[:, :decoded.shape[1]], decoded)


def test_packed_rows_equal_examples_alone():
  module, params = _network()
  packed = test_utils.make_batch(2, packed=True)
  unpacked = test_utils.unpack(packed)
  together = _logits(module, params, packed)
  alone = _logits(module, params, unpacked)
  np.testing.assert_allclose(
      together[packed["decoder_target_tokens"] > 0],
      alone[unpacked["decoder_target_tokens"] > 0], **TOLERANCE)


@pytest.mark.parametrize("beams", [1, 3])
def test_decoding_step_by_step_equals_all_at_once(beams):
  """With forced tokens; each row's beams share its encoder cache."""
  module, params = _network()
  batch = test_utils.make_batch(3)
  inputs, encoder = batch["decoder_input_tokens"], batch["encoder_input_tokens"]
  length = inputs.shape[1]
  encoded = module.apply(
      {"params": params}, encoder, enable_dropout=False, method=module.encode)
  at_once = module.apply(
      {"params": params}, encoded, encoder, inputs, np.ones_like(inputs),
      enable_dropout=False, method=module.decode)
  _, variables = module.apply(
      {"params": params}, encoded, encoder, inputs, inputs,
      enable_dropout=False, decode=True, mutable=["cache"],
      method=module.decode)
  expand = lambda x: np.repeat(x, beams, axis=0)
  shared = ("cross_key", "cross_value", "cache_index")
  cache = jax.tree_util.tree_map_with_path(
      lambda path, x: x if path[-1].key in shared else expand(x),
      variables["cache"])

  @jax.jit
  def step(cache, token):
    logits, variables = module.apply(
        # What stands for the encoder's output is not looked at any more.
        {"params": params, "cache": cache}, jnp.full_like(
            expand(encoded), np.nan), expand(encoder), token, token,
        enable_dropout=False, decode=True, max_decode_length=length,
        mutable=["cache"], method=module.decode)
    return logits, variables["cache"]

  for i in range(length):
    logits, cache = step(cache, expand(inputs[:, i:i + 1]))
    np.testing.assert_allclose(
        logits[:, 0], expand(at_once[:, i]), **TOLERANCE)


def test_embedding_gather_equals_one_hot():
  ids = np.array([[0, 3, 63, 64, -1]])  # The last two are out of range.
  outputs = []
  for one_hot in (False, True):
    embed = layers.Embed(num_embeddings=64, features=5, one_hot=one_hot)
    variables = embed.init(jax.random.PRNGKey(0), ids)
    value, grad = jax.value_and_grad(lambda v: jnp.sum(
        jnp.sin(embed.apply(v, ids))))({"params": variables["params"]})
    outputs.append((value, grad["params"]["embedding"]))
  np.testing.assert_array_equal(outputs[0][0], outputs[1][0])
  np.testing.assert_allclose(outputs[0][1], outputs[1][1], atol=1e-7)


def test_bias_of_a_decoding_row_is_a_row_of_all():
  biases = layers.RelativePositionBiases(
      num_buckets=32, max_distance=128, num_heads=3, dtype=jnp.float32)
  length = 150  # Beyond the last bucket.
  variables = biases.init(jax.random.PRNGKey(0), 2, 2)
  full = biases.apply(variables, length, length, False)
  index = np.array([0, 1, 31, 149])
  rows = biases.apply(
      variables, length, index, method=biases.decoding_row)
  for row, i in zip(rows, index):
    one = biases.apply(variables, length, i, method=biases.decoding_row)
    np.testing.assert_array_equal(row, one[0])
    np.testing.assert_allclose(
        row[:, 0, :i + 1], full[0, :, i, :i + 1], atol=1e-6)


def test_dropout_draws_once_a_row():
  module, params = _network(dropout_rate=0.5)
  batch = test_utils.make_batch(0)
  apply = lambda seed: module.apply(
      {"params": params}, batch["encoder_input_tokens"],
      rngs={"dropout": jax.random.PRNGKey(seed)}, method=module.encode)
  a, b, c = apply(0), apply(0), apply(1)
  np.testing.assert_array_equal(a, b)
  assert not np.array_equal(a, c)


def test_wrong_calls_say_what_to_do():
  module, params = _network()
  batch = test_utils.make_batch(0, packed=True)
  with pytest.raises(ValueError, match=r"\[batch, length\], got shape \(3,\)"):
    module.apply({"params": params}, jnp.ones(3), method=module.encode)
  with pytest.raises(ValueError, match="pack=False"):
    module.apply(
        {"params": params}, jnp.ones((8, 12, 16)),
        batch["encoder_input_tokens"], batch["decoder_input_tokens"],
        batch["decoder_input_tokens"], batch["encoder_segment_ids"],
        decode=True, mutable=["cache"], method=module.decode)
  with pytest.raises(ValueError, match="activation"):
    layers.MlpBlock(activations=(3,)).init(
        jax.random.PRNGKey(0), jnp.ones((1, 2, 4)))


def test_masks():
  segments = jnp.array([[1, 1, 1, 2, 2, 0]])
  mask = layers.make_decoder_mask(
      segments, jnp.int32, jnp.array([[1, 1, 0, 0, 0, 0]]), segments)
  np.testing.assert_array_equal(mask[0, 0], [
      [1, 1, 0, 0, 0, 0],
      [1, 1, 0, 0, 0, 0],
      [1, 1, 1, 0, 0, 0],
      [0, 0, 0, 1, 0, 0],
      [0, 0, 0, 1, 1, 0],
      [0, 0, 0, 0, 0, 0]])
  assert layers.combine_masks(None, None) is None
  assert layers.combine_biases(None) is None
  with pytest.raises(ValueError, match="one rank"):
    layers.combine_masks(mask, mask[0])
