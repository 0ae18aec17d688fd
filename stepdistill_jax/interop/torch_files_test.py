"""Weights in torch's older files: the same, and nothing else is loaded."""

import json
import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from stepdistill_jax.interop.hf import importing as import_hf
from stepdistill_jax.runs import array_reader as t5x_reader
from stepdistill_jax.util import errors
from tests.support import hf_fixtures as fixtures

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")

DTYPES = {"float32": np.float32, "float16": np.float16,
          "bfloat16": ml_dtypes.bfloat16}


def to_torch(tensors):
  return {name: torch.from_numpy(
      tensor.view(np.int16 if tensor.itemsize == 2 else np.int32).copy()).view(
          getattr(torch, tensor.dtype.name))
          for name, tensor in tensors.items()}


def contents(folder):
  arrays = t5x_reader.open_checkpoint(folder).arrays
  return {name: (a.dtype, a.read(...).tobytes()) for name, a in arrays.items()}


def folders(tmp_path, dtype="float32"):
  """One with safetensors, and one without weights; the tensors."""
  for name in ("safetensors", "torch"):
    tensors = fixtures.write_folder(
        tmp_path / name, "t5_v1_1", dtype=DTYPES[dtype])
  (tmp_path / "torch" / "model.safetensors").unlink()
  import_hf.import_hf(tmp_path / "safetensors", tmp_path / "expected",
                      dtype="source", quiet=True)
  return tmp_path / "torch", tensors


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_file(tmp_path, dtype):
  folder, tensors = folders(tmp_path, dtype)
  torch.save(to_torch(tensors), folder / "pytorch_model.bin")
  import_hf.import_hf(folder, tmp_path / "out", dtype="source", quiet=True)
  assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_a_file_from_before_torch_1_6(tmp_path):
  folder, tensors = folders(tmp_path)
  torch.save(to_torch(tensors), folder / "pytorch_model.bin",
             _use_new_zipfile_serialization=False)
  assert not zipfile.is_zipfile(folder / "pytorch_model.bin")
  import_hf.import_hf(folder, tmp_path / "out", dtype="source", quiet=True)
  assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_shards_and_strides(tmp_path):
  """Tensors that are views into others, as `save_pretrained` may write."""
  folder, tensors = folders(tmp_path)
  weights = {name: tensor.T.contiguous().T if tensor.ndim == 2 else tensor
             for name, tensor in to_torch(tensors).items()}
  weight_map = {}
  for i in range(2):
    file = f"pytorch_model-{i + 1:05}-of-00002.bin"
    names = list(weights)[i::2]
    torch.save({name: weights[name] for name in names}, folder / file)
    weight_map.update(dict.fromkeys(names, file))
  (folder / "pytorch_model.bin.index.json").write_text(
      json.dumps({"metadata": {}, "weight_map": weight_map}))
  import_hf.import_hf(folder, tmp_path / "out", dtype="source", quiet=True)
  assert contents(tmp_path / "out") == contents(tmp_path / "expected")


class Program:
  """What a malicious file holds: a call that unpickling makes."""

  def __init__(self, file):
    self._file = str(file)

  def __reduce__(self):
    return os.mkdir, (self._file,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_program_in_a_file_is_not_run(tmp_path, zipped):
  folder, tensors = folders(tmp_path)
  torch.save({**to_torch(tensors), "x": Program(tmp_path / "ran")},
             folder / "pytorch_model.bin",
             _use_new_zipfile_serialization=zipped)
  with pytest.raises(errors.UserError, match="holds more than tensors") as got:
    import_hf.import_hf(folder, tmp_path / "out", quiet=True)
  assert "\n" not in str(got.value)
  assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("change, message", [
    (lambda data: data[:len(data) // 2], "damaged or cut off"),
    (lambda data: b"", "damaged or cut off"),
    (lambda data: b"<html>not found</html>", "damaged or cut off"),
    (lambda data: pickle.dumps(["a"], protocol=2),
     "no mapping of names to tensors|damaged or cut off|more than tensors")])
def test_damaged_files(tmp_path, change, message):
  folder, tensors = folders(tmp_path)
  file = folder / "pytorch_model.bin"
  torch.save(to_torch(tensors), file)
  file.write_bytes(change(file.read_bytes()))
  with pytest.raises(errors.UserError, match=message) as got:
    import_hf.import_hf(folder, tmp_path / "out", quiet=True)
  assert str(file) in str(got.value) and "\n" not in str(got.value)


def test_quantized_tensors(tmp_path):
  folder, tensors = folders(tmp_path)
  weights = to_torch(tensors)
  weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.int8)
  torch.save(weights, folder / "pytorch_model.bin")
  with pytest.raises(errors.UserError, match="lm_head.weight is of dtype int8"):
    import_hf.import_hf(folder, tmp_path / "out", quiet=True)
