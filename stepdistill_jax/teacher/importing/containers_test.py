"""Folders as `datasets`, the Hub and people have them."""

import json

import pytest

from stepdistill_jax.teacher.importing import containers
from stepdistill_jax.util import errors

pa = pytest.importorskip("pyarrow")


def write_arrow(path, numbers, *, stream=True):
  path.parent.mkdir(parents=True, exist_ok=True)
  table = pa.table({"n": list(numbers), "b": [True for _ in numbers]})
  make = pa.ipc.new_stream if stream else pa.ipc.new_file
  with make(str(path), table.schema) as writer:
    writer.write_table(table, max_chunksize=2)


def save_to_disk(folder, parts, split="train", **more):
  """What `datasets.Dataset.save_to_disk` writes."""
  names = [f"data-{i:05d}-of-{len(parts):05d}.arrow"
           for i in range(len(parts))]
  for name, numbers in zip(names, parts):
    write_arrow(folder / name, numbers)
  (folder / "state.json").write_text(json.dumps({
      "_data_files": [{"filename": name} for name in names], "_split": split,
      **more}))
  (folder / "dataset_info.json").write_text(json.dumps({
      "splits": {"train": {"name": "train", "num_examples": 4}}}))


def read(folder):
  return {split: [e.value["n"] for path in paths
                  for e in containers.read_objects(path)]
          for split, paths in containers.files_by_split(folder).items()}


def test_a_saved_data_set(tmp_path):
  save_to_disk(tmp_path / "mine", [[1, 2, 3], [4]])
  assert read(tmp_path / "mine") == {"train": [1, 2, 3, 4]}
  assert containers.tfds_splits(tmp_path / "mine") == []
  save_to_disk(tmp_path / "other_dev", [[5]], split=None)
  assert read(tmp_path / "other_dev") == {"validation": [5]}
  save_to_disk(tmp_path / "nothing", [[5]], split=None)
  assert read(tmp_path / "nothing") == {"train": [5]}


def test_a_saved_dict_of_data_sets(tmp_path):
  for split, number in (("train", 1), ("validation", 2), ("test", 3)):
    save_to_disk(tmp_path / split, [[number]], split=split)
  (tmp_path / "dataset_dict.json").write_text(
      '{"splits": ["train", "validation", "test"]}')
  assert read(tmp_path) == {"train": [1], "validation": [2], "test": [3]}


@pytest.mark.parametrize("damage, message", [
    (lambda d: (d / "data-00001-of-00002.arrow").unlink(),
     "data-00001-of-00002.arrow is missing, which .*state.json names"),
    (lambda d: (d / "state.json").write_text("{"), "state.json is damaged"),
    (lambda d: (d / "state.json").write_text("{}"), "names no data files"),
    (lambda d: (d / "state.json").write_text(
        '{"_data_files": [{"filename": "../x.arrow"}]}'), "leads out of"),
    (lambda d: save_to_disk(d, [[1], [2]], _indices_files=[{"filename": "i"}]),
     "flatten_indices"),
])
def test_a_damaged_one_is_refused(tmp_path, damage, message):
  save_to_disk(tmp_path / "mine", [[1, 2], [3]])
  damage(tmp_path / "mine")
  with pytest.raises(errors.UserError, match=message):
    read(tmp_path / "mine")


def test_the_hubs_layouts(tmp_path):
  hub = tmp_path / "hub"
  for name, number in (("train-00000-of-00002", 1), ("train-00001-of-00002", 2),
                       ("test-00000-of-00001", 3)):
    write_arrow(hub / "data" / f"{name}.arrow", [number])
  (hub / "README.md").write_text("# train")
  assert read(hub) == {"train": [1, 2], "test": [3]}
  # As the Hub converts: a folder a split.
  write_arrow(tmp_path / "main" / "train" / "0000.arrow", [1])
  write_arrow(tmp_path / "main" / "test" / "0000.arrow", [2], stream=False)
  assert read(tmp_path / "main") == {"train": [1], "test": [2]}
  # Several data sets in one folder are not taken for one.
  for config in ("main", "socratic"):
    write_arrow(tmp_path / "all" / config / "train-0.arrow", [1])
  with pytest.raises(errors.UserError, match="several data sets: main, soc"):
    read(tmp_path / "all")


@pytest.mark.parametrize("stream", [True, False])
def test_both_forms_of_arrow_files(tmp_path, stream):
  write_arrow(tmp_path / "a.arrow", range(7), stream=stream)
  assert [e.value for e in containers.read_objects(tmp_path / "a.arrow")] == [
      {"n": n, "b": True} for n in range(7)]
  (tmp_path / "b.arrow").write_bytes(b"ARROW1 and no more")
  with pytest.raises(errors.UserError, match="b.arrow cannot be read"):
    list(containers.read_objects(tmp_path / "b.arrow"))
