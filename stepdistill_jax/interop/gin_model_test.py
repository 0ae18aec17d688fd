"""The gin file of an import makes the model that was imported."""

import dataclasses

import pytest

from stepdistill_jax.interop import architecture, gin_model, rebuilding
from tests.support import real_data as testing

# What a run file sets.
RUN = "\nDROPOUT_RATE = 0.25\nMIXTURE_OR_TASK_NAME = 'task'\n"


@pytest.fixture(name="rebuilt")
def _rebuilt(tmp_path):
  """Architecture -> the model of its gin file."""
  spiece = testing.write_tiny_vocabulary(tmp_path / "spiece.model")

  def rebuilt(arch, byte_tokens=False):
    file = tmp_path / "config.gin"
    file.write_text(gin_model.model_text(
        arch, title="Test.", file=str(file), checkpoint="/nowhere",
        vocabulary=gin_model.byte_vocabulary(125) if byte_tokens else
        gin_model.sentencepiece_vocabulary(str(spiece), 100)) + RUN)
    return rebuilding.rebuild_model(file, tmp_path)[0]

  return rebuilt


def assert_is(model, arch):
  config = model.module.config
  for name, value in dataclasses.asdict(arch).items():
    assert getattr(config, name) == value, name


def test_all_published_sizes_are_there():
  assert sorted(gin_model.published_sizes()) == sorted([
      *(f"t5_1_0/{s}" for s in ("small", "base", "large", "3B", "11B")),
      *(f"{family}/{s}" for family in ("t5_1_1", "mt5", "byt5")
        for s in ("small", "base", "large", "xl", "xxl"))])


@pytest.mark.parametrize("name", gin_model.published_sizes())
def test_published_sizes_are_t5xs_files(rebuilt, name):
  arch = dataclasses.replace(
      gin_model.published_sizes()[name], dropout_rate=0.25)
  assert gin_model.known_file(arch) == f"t5x/examples/t5/{name}.gin"
  model = rebuilt(arch, byte_tokens=name.startswith("byt5/"))
  assert_is(model, arch)
  assert model.input_vocabulary.vocab_size == (
      384 if name.startswith("byt5/") else 289)


@pytest.mark.parametrize("change", [
    {"vocab_size": 32100}, {"num_decoder_layers": 3}, {"head_dim": 32},
    {"mlp_activations": ("silu", "linear")}, {"logits_via_embedding": True}])
def test_another_size_is_written_out(rebuilt, change):
  arch = dataclasses.replace(architecture.Architecture(
      32128, 512, 6, 64, 1024, 8, 8, ("gelu", "linear"), False, 0.25),
                             **change)
  assert gin_model.known_file(arch) is None
  assert_is(rebuilt(arch), arch)
