"""The loss equals the papers' reference pattern in torch.

Their code (Hugging Face): two batches, each padded to its longest, two forward
passes of `T5ForConditionalGeneration`, α·loss + (1−α)·loss.
"""

import dataclasses

from flax import traverse_util
import numpy as np
import pytest

from stepdistill_jax.interop import architecture
from stepdistill_jax.interop.hf import config as hf_config, names as hf_names
from stepdistill_jax.models import weights as weights_lib
from tests.support import student_fixtures as fixtures

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# As the issue of parity asks; two implementations of the same float32
# network differ by about 1e-6.
TOLERANCE = 1e-5


def torch_twin(module, params):
  """The Hugging Face model with the same parameters."""
  fields = {f.name for f in dataclasses.fields(architecture.Architecture)}
  arch = architecture.Architecture(**{
      name: value for name, value in dataclasses.asdict(module.config).items()
      if name in fields})
  config = transformers.T5Config(
      **{**hf_config.from_architecture(arch), "dropout_rate": 0.0})
  config.scale_decoder_outputs = False  # Only tied heads are scaled.
  twin = transformers.T5ForConditionalGeneration(config)
  # T5Config ties the head whatever its value says; v1.1 has one of its own.
  twin.lm_head.weight = torch.nn.Parameter(
      torch.empty_like(twin.lm_head.weight))
  state = {}
  for name, value in traverse_util.flatten_dict(params, sep="/").items():
    tensor = hf_names.hf_tensor(name)
    value = np.array(value, np.float32)
    state[tensor.name] = torch.from_numpy(
        np.ascontiguousarray(value.T) if tensor.transposed else value)
  missing, unexpected = twin.load_state_dict(state, strict=False)
  assert not unexpected
  assert set(missing) <= set(hf_names.EMBEDDING_COPIES)
  twin.encoder.embed_tokens.weight = twin.shared.weight
  twin.decoder.embed_tokens.weight = twin.shared.weight
  return twin


def padded(examples, name, value):
  longest = max(len(e[name]) for e in examples)
  return torch.tensor([
      [*e[name].tolist(), *[value] * (longest - len(e[name]))]
      for e in examples])


def reference_loss(twin, examples, prefix):
  inputs = padded(examples, prefix + "inputs", 0)
  # -100 is what torch's cross entropy leaves out.
  labels = padded(examples, prefix + "targets", -100)
  return twin(input_ids=inputs, attention_mask=(inputs != 0).long(),
              labels=labels).loss


def test_half_and_half_equals_the_reference_formula():
  model = fixtures.tiny_student(
      weights_lib.label_and_rationale(alpha=0.5),
      module=fixtures.tiny_module(num_encoder_layers=2, num_decoder_layers=2))
  examples = fixtures.random_pairs(11, 16)
  batch = fixtures.paired_batch(examples)
  params = fixtures.init_params(model, batch)
  # Logits of random parameters are near 0; make the loss tell them apart.
  params = {**params, "decoder": {**params["decoder"], "logits_dense": {
      "kernel": 5.0 * params["decoder"]["logits_dense"]["kernel"]}}}
  loss, metrics, gradient = fixtures.value_and_grad(model)(params, batch)

  twin = torch_twin(model.module, params)
  label = reference_loss(twin, examples, "")
  rationale = reference_loss(twin, examples, "rationale_")
  expected = 0.5 * label + 0.5 * rationale
  expected.backward()

  np.testing.assert_allclose(
      metrics["loss/label"], label.item(), rtol=TOLERANCE)
  np.testing.assert_allclose(
      metrics["loss/rationale"], rationale.item(), rtol=TOLERANCE)
  np.testing.assert_allclose(loss, expected.item(), rtol=TOLERANCE)
  head = gradient["decoder"]["logits_dense"]["kernel"]
  np.testing.assert_allclose(
      head, twin.lm_head.weight.grad.numpy().T, rtol=1e-3, atol=TOLERANCE)
