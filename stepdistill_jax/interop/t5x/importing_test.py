"""T5X's two layouts into each other; what `inspect` and `verify` say."""

import json
import shutil

import ml_dtypes
import msgpack
import numpy as np
import pytest
import tensorstore as ts

from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.interop import inspect_checkpoint
from stepdistill_jax.interop.hf import importing as import_hf
from stepdistill_jax.interop.t5x import importing as import_t5x
from stepdistill_jax.runs import array_reader as t5x_reader
from stepdistill_jax.util import errors
from tests.support import hf_fixtures as fixtures

LAYOUTS = ("orbax", "legacy")


@pytest.fixture(name="sources", scope="module")
def _sources(tmp_path_factory):
  """The same checkpoint in both layouts, at step 7."""
  folder = tmp_path_factory.mktemp("sources")
  fixtures.write_folder(folder / "hf", "t5_v1_1")
  for layout in LAYOUTS:
    import_hf.import_hf(folder / "hf", folder / layout, step=7, layout=layout,
                        quiet=True)
  return folder


def contents(folder):
  checkpoint = t5x_reader.open_checkpoint(folder)
  return {n: (a.dtype.name, a.shape, a.read(...).tobytes())
          for n, a in checkpoint.arrays.items()}


@pytest.mark.parametrize("to_layout", LAYOUTS)
@pytest.mark.parametrize("from_layout", LAYOUTS)
def test_every_layout_into_every_other(
    sources, tmp_path, from_layout, to_layout):
  done = import_t5x.import_t5x(
      str(sources / from_layout), tmp_path / "out", layout=to_layout,
      quiet=True)
  assert done.checkpoint.name == "checkpoint_7"
  assert t5x_reader.open_checkpoint(done.checkpoint).layout == to_layout
  assert contents(done.checkpoint) == contents(sources / from_layout)
  # And as training restores it.
  from t5x import checkpoints
  state = checkpoints.load_t5x_checkpoint(str(done.checkpoint))
  np.testing.assert_array_equal(
      state["target"]["token_embedder"]["embedding"],
      t5x_reader.open_checkpoint(sources / from_layout).parameters[
          "token_embedder/embedding"].read(...))


def write_legacy(folder, arrays, step=3, *, inline=(), two_bytes="bfloat16",
                 chunk=5):
  """Writes a checkpoint as T5X did, with all that it could differ in.

  Args:
    folder: of the checkpoint.
    arrays: name -> value.
    step: of it.
    inline: names of arrays that are within the index.
    two_bytes: how bfloat16 is stored: so, or as `uint16` (version 2).
    chunk: rows and columns of a chunk.
  """
  folder.mkdir(parents=True)
  tree = {}
  entries = {**arrays, "state/step": np.int32(step)}
  for name, value in entries.items():
    *parents, leaf = name.split("/")
    node = tree
    for key in parents:
      node = node.setdefault(key, {})
    value = np.asarray(value)
    if name in inline or not value.shape:
      node[leaf] = msgpack.ExtType(1, msgpack.packb(
          (value.shape, value.dtype.name, value.tobytes())))
      continue
    stored = value.view(np.uint16) if (
        value.dtype == ml_dtypes.bfloat16 and two_bytes == "uint16") else value
    chunks = [min(chunk, n) for n in value.shape]
    store = ts.open({
        "driver": "zarr", "kvstore": {
            "driver": "file", "path": str(folder / name.replace("/", "."))},
        "metadata": {"compressor": {"id": "gzip", "level": 1},
                     "chunks": chunks}},
        dtype=ts.dtype(stored.dtype), shape=value.shape, create=True).result()
    store.write(stored).result()
    # Where it once was written: on other people's storage.
    node[leaf] = {
        "driver": "cast", "dtype": "float32", "base": {
            "driver": "zarr", "dtype": stored.dtype.name,
            "kvstore": {"driver": "gcs", "bucket": "b", "path":
                        f"runs/checkpoint_3/{name.replace('/', '.')}/"},
            "metadata": {"shape": list(value.shape), "chunks": chunks}}}
  (folder / "checkpoint").write_bytes(
      msgpack.packb({"version": 3, "optimizer": tree}))


def parameters(sources, dtype=np.float32):
  checkpoint = t5x_reader.open_checkpoint(sources / "orbax")
  return {f"target/{n}": a.read(...).astype(dtype)
          for n, a in checkpoint.parameters.items()}


@pytest.mark.parametrize("dtype, two_bytes", [
    (np.float32, ""), (ml_dtypes.bfloat16, "bfloat16"),
    (ml_dtypes.bfloat16, "uint16")])
def test_the_older_layout_with_all_its_variants(
    sources, tmp_path, dtype, two_bytes):
  arrays = parameters(sources, dtype)
  state = {"state/param_states/x/v": np.arange(12, dtype=np.float32)}
  write_legacy(tmp_path / "in" / "checkpoint_3", {**arrays, **state},
               inline=["target/encoder/encoder_norm/scale"],
               two_bytes=two_bytes)
  import_t5x.import_t5x(str(tmp_path / "in"), tmp_path / "out", quiet=True)
  expected = {n: (a.dtype.name, a.shape, a.tobytes())
              for n, a in {**arrays, "state/step": np.int32(3)}.items()}
  assert contents(tmp_path / "out") == expected
  import_t5x.import_t5x(str(tmp_path / "in"), tmp_path / "all",
                        optimizer_state=True, dtype="bfloat16", step=9,
                        quiet=True)
  found = contents(tmp_path / "all")
  assert found["state/step"][2] == np.int32(9).tobytes()
  assert found["state/param_states/x/v"][2] == state[
      "state/param_states/x/v"].tobytes()
  assert {v[0] for n, v in found.items() if n.startswith("target/")} == {
      "bfloat16"}


def remove_array(folder):
  shutil.rmtree(folder / "target.encoder.encoder_norm.scale")


def cut_index(folder):
  data = (folder / "checkpoint").read_bytes()
  (folder / "checkpoint").write_bytes(data[:len(data) // 2])


def other_shape(folder):
  """Another array's files under its name."""
  remove_array(folder)
  shutil.copytree(folder / "target.token_embedder.embedding",
                  folder / "target.encoder.encoder_norm.scale")


@pytest.mark.parametrize("break_it, expected", [
    (remove_array, "lacks the array target.encoder.encoder_norm.scale"),
    (cut_index, "damaged or cut off"),
    (other_shape, r"is of shape \(384, 16\); its index says \(16,\)"),
    (lambda f: (f / "checkpoint").write_bytes(b"model_checkpoint_path: x"),
     "of a TensorFlow checkpoint"),
    (lambda f: (f / "checkpoint").write_bytes(b"\x01"), "damaged or cut off"),
    (lambda f: (f / "checkpoint").unlink(), "no checkpoint at"),
])
def test_damage_is_reported_in_a_line(sources, tmp_path, break_it, expected):
  write_legacy(tmp_path / "checkpoint_3", parameters(sources))
  break_it(tmp_path / "checkpoint_3")
  with pytest.raises(errors.UserError, match=expected) as caught:
    import_t5x.import_t5x(str(tmp_path / "checkpoint_3"), tmp_path / "out",
                          quiet=True)
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "out" / "checkpoint_3").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("damage", [
    lambda file: file.unlink(), lambda file: file.write_bytes(b"<html>")])
def test_a_lost_chunk_is_not_taken_for_zeros(
    sources, tmp_path, layout, damage):
  """As after a download that was cut off."""
  shutil.copytree(sources / layout, tmp_path / "in")
  for manifest in (tmp_path / "in").rglob("checksums.json"):
    manifest.unlink()  # Others' have none; it would tell at once.
  damage(next((tmp_path / "in").rglob("*logits_dense.kernel/0.0")))
  with pytest.raises(
      errors.UserError, match="array target/decoder/logits_dense/kernel") as e:
    import_t5x.import_t5x(str(tmp_path / "in"), tmp_path / "out", quiet=True)
  assert "\n" not in str(e.value)
  assert not (tmp_path / "out" / "checkpoint_7").exists()


@pytest.mark.parametrize("change, expected", [
    (lambda a: a.pop("target/decoder/layers_1/mlp/wo/kernel"),
     r"lacks the parameter decoder/layers_1/mlp/wo/kernel, expected of shape"),
    (lambda a: a.update({"target/decoder/layers_1/mlp/wo/kernel":
                         np.zeros((3, 16), np.float32)}),
     r"is of shape \(3, 16\), expected \(24, 16\)"),
    (lambda a: a.update({"target/extra/kernel": np.zeros(3, np.float32)}),
     "parameters that a T5 has not: extra/kernel"),
    (lambda a: [a.pop(n) for n in list(a) if n.startswith("target/encoder")],
     "of a decoder alone")])
def test_another_architecture(sources, tmp_path, change, expected):
  arrays = parameters(sources)
  change(arrays)
  write_legacy(tmp_path / "checkpoint_3", arrays)
  with pytest.raises(errors.UserError, match=expected):
    import_t5x.import_t5x(str(tmp_path / "checkpoint_3"), tmp_path / "out",
                          quiet=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inspect_reads_no_weights(sources, tmp_path, layout, capsys):
  shutil.copytree(sources / layout, tmp_path / "in")
  # Chunks are the files whose names are numbers; without them, all is shown.
  chunks = [f for f in (tmp_path / "in").rglob("*")
            if f.is_file() and f.name.replace(".", "").isdigit()
            and "step" not in f.parent.name]
  assert len(chunks) > 20
  for file in chunks:
    file.unlink()
  found = inspect_checkpoint.inspect(str(tmp_path / "in"))
  assert found["step"] == 7 and found["parameters"] == sum(
      a.size for a in parameters(sources).values())
  assert found["bytes"] == 4 * found["parameters"] + 4
  by_name = {a["name"]: a for a in found["arrays"]}
  assert by_name["target/token_embedder/embedding"] == {
      "name": "target/token_embedder/embedding", "shape": [384, 16],
      "dtype": "float32", "bytes": 384 * 16 * 4}
  assert found["model"]["gated_mlp"]
  assert cli.main(["checkpoint", "inspect", str(tmp_path / "in")]) == 0
  printed = capsys.readouterr().out
  assert "step 7" in printed and "384 x 16" in printed
  assert "2 + 2 layers, width 16, 2 heads of 8" in printed


def test_inspect_a_hugging_face_folder_and_a_file(sources, capsys):
  for path in ("hf", "hf/model.safetensors"):
    assert cli.main(["checkpoint", "inspect", "--json",
                     str(sources / path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"name": "lm_head.weight", "shape": [384, 16], "dtype": "float32",
            "bytes": 384 * 16 * 4} in found["arrays"]


def test_verify(sources, tmp_path, capsys):
  shutil.copytree(sources / "orbax", tmp_path / "in")
  assert cli.main(["checkpoint", "verify", str(tmp_path / "in")]) == 0
  assert capsys.readouterr().out.endswith("checkpoint_7: good\n")
  file = next((tmp_path / "in").rglob("*embedding/0.0"))
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)
  assert cli.main(["checkpoint", "verify", str(tmp_path / "in")]) == 1
  printed = capsys.readouterr().out
  assert "BAD" in printed and "embedding/0.0" in printed


@pytest.mark.parametrize("command", ["inspect", "verify"])
@pytest.mark.parametrize("path", ["nothing", "empty"])
def test_where_there_is_no_checkpoint(tmp_path, capsys, command, path):
  (tmp_path / "empty").mkdir()
  assert cli.main(["checkpoint", command, str(tmp_path / path)]) == 2
  assert capsys.readouterr().err.count("\n") == 1
