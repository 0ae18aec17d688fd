"""Objects with named fields, from the file forms that users have.

| form | files |
|---|---|
| JSON Lines, JSON arrays and objects | `.jsonl`, `.json`, also `.gz` |
| tables | `.csv`, `.tsv`, also `.gz` |
| Hugging Face | `.parquet`, `.arrow` (needs `pip install pyarrow`) |
| Hugging Face | folders of `save_to_disk`, and of the Hub (`data/train-…`) |
| TensorFlow Datasets | a prepared folder with `dataset_info.json` |

All are read as a stream of `text_files.Entry`, whose value is the object.
"""

from collections.abc import Iterator, Mapping
import pathlib
import re
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from stepdistill_jax.teacher import text_files
from stepdistill_jax.teacher.importing import table_files
from stepdistill_jax.util import errors, locations

_TABLES = tuple(table_files.DELIMITERS)
_JSON = (".json", ".jsonl", ".ndjson")
_ARROW = (".parquet", ".arrow")
SUFFIXES = (*_JSON, *_TABLES, *_ARROW, ".xml")
# The words by which files tell their splits, as whole words of the name.
_SPLIT_WORDS = {
    "train": "train", "training": "train", "validation": "validation",
    "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test",
}


def split_of(name: str) -> str | None:
  """The split that a file's name tells, or None.

  >>> split_of("esnli_train_1.csv"), split_of("data.csv")
  ('train', None)
  """
  found = {_SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", name.lower())
           if word in _SPLIT_WORDS}
  return found.pop() if len(found) == 1 else None


def files_by_split(
    folder: pathlib.Path, prefer: str = "") -> dict[str, list[pathlib.Path]]:
  """The data files of a folder under the splits that their names tell.

  Args:
    folder: of the files; or one that `datasets.save_to_disk` wrote; or one
      with the Hub's layout: files in `data/`, or in a folder a split.
    prefer: where some names of a folder contain this, the others are left
      out: `r1` of a folder with all three rounds of ANLI.

  Returns:
    split -> files in alphabetical order, so `-00000-of-00002` come in order.

  Raises:
    errors.UserError: there is no such folder, or it has several data sets.
  """
  if not folder.is_dir():
    raise errors.UserError(locations.not_a_folder(folder))
  if (folder / _STATE).is_file():
    state = text_files.read_object(folder / _STATE)
    split = split_of(str(state.get("_split"))) or split_of(folder.name)
    return {split or "train": _saved_files(folder, state)}
  if (folder / "dataset_dict.json").is_file():
    names = text_files.read_object(folder / "dataset_dict.json").get("splits")
    saved = {}
    for name in names if isinstance(names, list) else ():
      if split := split_of(str(name)):
        part = text_files.check_inside(folder, folder / str(name))
        saved[split] = _saved_files(part, text_files.read_object(part / _STATE))
    return saved
  if found := _named_files(folder, prefer):
    return found
  below = {path: files for path in sorted(folder.iterdir()) if path.is_dir()
           and (files := _files_below(path, prefer))}
  if (folder / "data") in below:
    return below[folder / "data"]
  if len(configs := [p for p in below if split_of(p.name) is None]) > 1:
    raise errors.UserError(
        f"{folder} has several data sets: {', '.join(p.name for p in configs)};"
        " give the folder of one of them")
  for files in below.values():
    for split, paths in files.items():
      found.setdefault(split, []).extend(paths)
  return found


_STATE = "state.json"  # In each split's folder that `save_to_disk` wrote.


def _saved_files(
    folder: pathlib.Path, state: Mapping[str, Any]) -> list[pathlib.Path]:
  """The Arrow files of one split that `save_to_disk` wrote."""
  files = state.get("_data_files")
  names = [file.get("filename") for file in files
           if isinstance(file, dict)] if isinstance(files, list) else []
  if not names or not all(isinstance(name, str) for name in names):
    raise errors.UserError(
        f"{folder / _STATE} names no data files; save the data set again")
  if state.get("_indices_files") or state.get("_indices_data_files"):
    raise errors.UserError(
        f"{folder} has an order of rows beside its rows; save it again after "
        "dataset.flatten_indices()")
  paths = [text_files.check_inside(folder, folder / name) for name in names]
  for path in paths:
    if not path.is_file():
      raise errors.UserError(
          f"{path} is missing, which {folder / _STATE} names; copy the whole "
          "folder")
  return paths


def _named_files(
    folder: pathlib.Path, prefer: str) -> dict[str, list[pathlib.Path]]:
  """The files of a folder itself whose names tell their splits."""
  paths = [text_files.check_inside(folder, path)
           for path in sorted(folder.iterdir())
           if path.is_file() and table_files.suffix_of(path) in SUFFIXES]
  if prefer and any(prefer in path.name.lower() for path in paths):
    paths = [path for path in paths if prefer in path.name.lower()]
  found: dict[str, list[pathlib.Path]] = {}
  for path in paths:
    split = split_of(path.name)
    if split is not None:
      found.setdefault(split, []).append(path)
  return found


def _files_below(
    folder: pathlib.Path, prefer: str) -> dict[str, list[pathlib.Path]]:
  """Those of a subfolder, which may itself be named after its split."""
  if found := _named_files(folder, prefer):
    return found
  split = split_of(folder.name)
  paths = [] if split is None else [
      text_files.check_inside(folder, path) for path in sorted(folder.iterdir())
      if path.is_file() and table_files.suffix_of(path) in (
          *_TABLES, *_ARROW, ".jsonl")]
  return {split: paths} if split and paths else {}


def read_objects(path: pathlib.Path) -> Iterator[text_files.Entry]:
  """Yields a file's objects.

  Raises:
    errors.UserError: the file cannot be read, or has an unknown suffix.
  """
  suffix = table_files.suffix_of(path)
  if suffix in _JSON:
    yield from text_files.read_entries(path)
  elif suffix in _TABLES:
    yield from table_files.read_entries(path)
  elif suffix in _ARROW:
    yield from _read_arrow(path)
  elif suffix == ".xml":
    yield from _read_problems(path)
  else:
    raise errors.UserError(
        f"{path} has the unknown suffix {suffix!r}; known: "
        + ", ".join(SUFFIXES))


def _read_arrow(path: pathlib.Path) -> Iterator[text_files.Entry]:
  with errors.reported(
      ImportError, f"reading {path} needs pyarrow: `pip install pyarrow`, or "
      "export the data set as .jsonl"):
    import pyarrow
    import pyarrow.ipc
    import pyarrow.parquet
  number = 0
  with errors.reported(
      (pyarrow.ArrowException, OSError), lambda error: (
          f"{path} cannot be read after row {number}: "
          f"{errors.first_line(error)}")):
    if table_files.suffix_of(path) == ".parquet":
      batches = pyarrow.parquet.ParquetFile(path).iter_batches(1024)
    else:
      batches = _arrow_batches(path, pyarrow)
    for batch in batches:
      for value in batch.to_pylist():
        number += 1
        yield text_files.Entry(value, "", path, number, "row")


def _arrow_batches(path: pathlib.Path, pyarrow: Any) -> Iterator[Any]:
  """Both of Arrow's forms: a stream, as `datasets` writes, and a file."""
  source = pyarrow.memory_map(str(path))
  with path.open("rb") as file:
    is_file = file.read(6) == b"ARROW1"
  if not is_file:
    yield from pyarrow.ipc.open_stream(source)
    return
  reader = pyarrow.ipc.open_file(source)
  for number in range(reader.num_record_batches):
    yield reader.get_batch(number)


def read_tfds(folder: pathlib.Path, split: str) -> Iterator[text_files.Entry]:
  """Yields a split of a prepared TFDS folder.

  Raises:
    errors.UserError: it is not such a folder, or has no such split.
  """
  import tensorflow_datasets as tfds  # Loads TensorFlow.

  with errors.reported(
      (ValueError, AssertionError, OSError), lambda error: (
          f"{folder} cannot be read as a TFDS data set: "
          f"{errors.first_line(error)}")):
    builder = tfds.builder_from_directory(folder)
    dataset = builder.as_dataset(split=split, shuffle_files=False)
    # The order of the source, on which positions rest.
    for number, example in enumerate(dataset.as_numpy_iterator(), 1):
      yield text_files.Entry(
          _plain(example), "", folder, number, f"{split} example")


def tfds_splits(folder: pathlib.Path) -> list[str]:
  """The names of a prepared TFDS folder's splits; [] if it is not one."""
  path = folder / "dataset_info.json"
  if not path.is_file():
    return []
  splits = text_files.read_object(path).get("splits")
  # Those of Hugging Face have a file of that name too, with an object there.
  return [split["name"] for split in splits if isinstance(split, dict)
          and isinstance(split.get("name"), str)] if isinstance(
              splits, list) else []


def _plain(value: Any) -> Any:
  """TFDS's numpy values as JSON's: texts, numbers, lists, objects."""
  if isinstance(value, dict):
    return {name: _plain(item) for name, item in value.items()}
  if isinstance(value, bytes):
    return value.decode("utf-8", errors="surrogateescape")
  if hasattr(value, "tolist"):
    value = value.tolist()
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  return value


def _read_problems(path: pathlib.Path) -> Iterator[text_files.Entry]:
  """Yields ASDiv's `Problem` elements as objects of their children's texts."""
  number, tail = 0, b""
  parser = ElementTree.XMLPullParser(events=("end",))
  with text_files.undamaged(path) as file, errors.reported(
      (ElementTree.ParseError, expat.ExpatError),
      lambda error: f"{path} is not XML: {error}"):
    while chunk := file.read(2**16):
      # Entities can blow a small file up to gigabytes; ASDiv has none. The
      # mark may lie across two chunks.
      seen, tail = tail + chunk, chunk[-8:]
      if b"<!DOCTYPE" in seen or b"<!ENTITY" in seen:
        raise errors.UserError(
            f"{path} declares XML entities; ASDiv.xml has none: fetch it from "
            "its own repository")
      parser.feed(chunk)
      for _, element in parser.read_events():
        if element.tag == "Problem":
          number += 1
          fields = {child.tag: child.text or "" for child in element}
          yield text_files.Entry(fields, "", path, number, "problem")
          element.clear()
    parser.close()
