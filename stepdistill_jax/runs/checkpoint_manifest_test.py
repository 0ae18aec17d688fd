import shutil

import pytest

from stepdistill_jax.runs import checkpoint_manifest

FILES = {"state/_METADATA": b"{}", "state/a/0.0": bytes(range(256)) * 9,
         "state/b/0.0": bytes(range(255, -1, -1)) * 9, "empty": b""}


@pytest.fixture(name="checkpoint")
def _checkpoint(tmp_path):
  for name, data in FILES.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(data)
  checkpoint_manifest.write(tmp_path)
  return tmp_path


def found(checkpoint):
  return [(p.file, p.what) for p in checkpoint_manifest.verify(checkpoint)]


def test_nothing_wrong(checkpoint):
  assert checkpoint_manifest.has_manifest(checkpoint)
  assert found(checkpoint) == []


@pytest.mark.parametrize("name", [n for n, data in FILES.items() if data])
def test_every_flipped_bit_is_found(checkpoint, name):
  data = bytearray(FILES[name])
  for position in range(0, 8 * len(data), 131 if len(data) > 2 else 1):
    data[position // 8] ^= 1 << position % 8
    (checkpoint / name).write_bytes(data)
    assert found(checkpoint) == [(name, "checksum")]
    data[position // 8] ^= 1 << position % 8


def test_every_flipped_bit_of_the_manifest_is_found(checkpoint):
  manifest = checkpoint / checkpoint_manifest.MANIFEST_FILE
  good = manifest.read_bytes()
  for position in range(0, 8 * len(good), 7):
    data = bytearray(good)
    data[position // 8] ^= 1 << position % 8
    manifest.write_bytes(data)
    assert found(checkpoint), position
  manifest.write_bytes(good)
  assert found(checkpoint) == []


def test_missing_cut_off_and_swapped_files(checkpoint):
  (checkpoint / "empty").unlink()
  (checkpoint / "state/_METADATA").write_bytes(b"{")
  shutil.move(checkpoint / "state/a/0.0", checkpoint / "c")
  shutil.move(checkpoint / "state/b/0.0", checkpoint / "state/a/0.0")
  shutil.move(checkpoint / "c", checkpoint / "state/b/0.0")
  assert sorted(found(checkpoint)) == [
      ("empty", "missing"), ("state/_METADATA", "size"),
      ("state/a/0.0", "checksum"), ("state/b/0.0", "checksum")]


def test_an_added_file_is_found(checkpoint):
  for name in ("0.1", ".nfs0001", ".DS_Store"):  # The last two nobody reads.
    (checkpoint / "state/a" / name).write_bytes(b"x")
  assert found(checkpoint) == [("state/a/0.1", "unlisted")]


@pytest.mark.parametrize("text", [
    "", "[]", '{"algorithm": "xxh3_128", "files": {"../x": {}}}',
    '{"algorithm": "none", "files": {}}'])
def test_a_damaged_manifest_is_a_problem(checkpoint, text):
  (checkpoint / checkpoint_manifest.MANIFEST_FILE).write_text(text)
  assert found(checkpoint) == [
      (checkpoint_manifest.MANIFEST_FILE, "unreadable")]


def test_a_manifest_that_was_cut_off_while_written_is_none(checkpoint):
  manifest = checkpoint / checkpoint_manifest.MANIFEST_FILE
  shutil.move(manifest, str(manifest) + ".partial")
  assert not checkpoint_manifest.has_manifest(checkpoint)
  checkpoint_manifest.write(checkpoint)
  assert found(checkpoint) == []
