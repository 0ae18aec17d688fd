"""Hugging Face → T5X → Hugging Face, bit by bit, for every family."""

import json

import ml_dtypes
import numpy as np
import pytest

from stepdistill_jax.interop.hf import (
  exporting as export_hf,
  importing as import_hf,
  names as hf_names,
  weights as hf_weights,
)
from stepdistill_jax.runs import array_reader as t5x_reader
from tests.support import hf_fixtures as fixtures


def read_all(folder):
  return {name: tensor.read_rows(0, tensor.shape[0])
          for name, tensor in hf_weights.open_folder(folder).items()}


def assert_same_weights(folder, tensors, tied):
  """Bit-equal, but for copies that an export leaves out."""
  left_out = {*hf_names.EMBEDDING_COPIES, *hf_names.UNUSED}
  if tied:
    left_out.add(hf_names.HEAD)
  exported = read_all(folder)
  assert set(exported) == set(tensors) - left_out
  for name, tensor in exported.items():
    assert tensor.dtype == tensors[name].dtype, name
    assert tensor.tobytes() == tensors[name].tobytes(), name


@pytest.mark.parametrize("family", fixtures.FAMILIES)
@pytest.mark.parametrize(
    "dtype", [np.float32, ml_dtypes.bfloat16, np.float16],
    ids=["float32", "bfloat16", "float16"])
def test_weights_come_back_bit_by_bit(tmp_path, family, dtype):
  tensors = fixtures.write_folder(
      tmp_path / "in", family, dtype=dtype, shards=3 if family == "mt5" else 1)
  imported = import_hf.import_hf(
      tmp_path / "in", tmp_path / "t5x", quiet=True)
  export_hf.export_hf(imported.checkpoint, tmp_path / "out",
                      export_hf.Options(quiet=True))
  assert_same_weights(tmp_path / "out", tensors, tied=family == "t5_v1_0")
  before = json.loads((tmp_path / "in" / "config.json").read_text())
  after = json.loads((tmp_path / "out" / "config.json").read_text())
  changed = {"architectures", "torch_dtype", "task_specific_params"}
  assert {k: after[k] for k in before if k not in changed} == {
      k: v for k, v in before.items() if k not in changed}
  for name in ("spiece.model", "tokenizer_config.json"):
    if (tmp_path / "in" / name).exists():
      assert (tmp_path / "out" / name).read_bytes() == (
          tmp_path / "in" / name).read_bytes()


@pytest.mark.parametrize("layout", ["orbax", "legacy"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "source"])
def test_layouts_and_dtypes(tmp_path, layout, dtype):
  tensors = fixtures.write_folder(
      tmp_path / "in", "t5_v1_1", dtype=ml_dtypes.bfloat16)
  imported = import_hf.import_hf(
      tmp_path / "in", tmp_path / "t5x", dtype=dtype, layout=layout, step=7,
      quiet=True)
  checkpoint = t5x_reader.open_checkpoint(imported.checkpoint)
  assert checkpoint.step == 7
  stored = "bfloat16" if dtype == "source" else dtype
  assert {a.dtype.name for a in checkpoint.parameters.values()} == {stored}
  export_hf.export_hf(tmp_path / "t5x", tmp_path / "out",
                      export_hf.Options(quiet=True))
  assert_same_weights(tmp_path / "out", tensors, tied=False)


def test_padded_vocabulary_comes_off_again(tmp_path):
  tensors = fixtures.write_folder(tmp_path / "in", "unpadded")
  imported = import_hf.import_hf(
      tmp_path / "in", tmp_path / "t5x", pad_vocabulary=128, quiet=True)
  assert imported.arch.vocab_size == 384
  parameters = t5x_reader.open_checkpoint(tmp_path / "t5x").parameters
  embedding = parameters["token_embedder/embedding"].read(...)
  head = parameters["decoder/logits_dense/kernel"].read(...)
  assert embedding.shape == (384, 16) and head.shape == (16, 384)
  # Padding repeats the padding token, so it never wins an argmax.
  np.testing.assert_array_equal(embedding[341:], embedding[:1].repeat(43, 0))
  np.testing.assert_array_equal(head[:, 341:], head[:, :1].repeat(43, 1))
  export_hf.export_hf(tmp_path / "t5x", tmp_path / "out",
                      export_hf.Options(quiet=True))
  assert_same_weights(tmp_path / "out", tensors, tied=False)


def test_small_blocks_and_shards_change_nothing(tmp_path, monkeypatch):
  tensors = fixtures.write_folder(tmp_path / "in", "unpadded", shards=2)
  monkeypatch.setattr(
      "stepdistill_jax.interop.streaming.BLOCK_BYTES", 1000)
  import_hf.import_hf(tmp_path / "in", tmp_path / "t5x", pad_vocabulary=128,
                      quiet=True)
  chunk = t5x_reader.open_checkpoint(tmp_path / "t5x").parameters[
      "token_embedder/embedding"].chunk
  assert chunk == (16, 16)  # 384 rows of 64 bytes in 25 blocks or fewer.
  export_hf.export_hf(
      tmp_path / "t5x", tmp_path / "out",
      export_hf.Options(quiet=True, max_shard_bytes=20_000))
  files = sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
  assert len(files) > 2 and files[0].startswith("model-00001-of-")
  assert_same_weights(tmp_path / "out", tensors, tied=False)
