"""Tokens of a task's examples, made once and kept beside its records.

    RECORDS_DIR/stepdistill_svamp/palm540b/1.0.0/tokens/
      svamp_step_gold_palm540b-train-0123456789ab/    see `token_files`

The name has a fingerprint of all that the tokens are made from: records,
vocabulary, the task's first step. The choice of records, cuts, EOS, batches
and rows are made when examples are read, so that none of them needs tokens of
its own. The processes of a host share a folder; one makes it, the others wait.
Where the records' folder cannot be written to, it is in the user's cache.

Another's task, or one that is read from SeqIO's cache, is tokenized at each
start: nothing says what its examples are made from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from stepdistill_jax.config import gin_config
from stepdistill_jax.data import (
  fingerprints,
  hugging_face_vocabulary,
  pipelines,
  preprocessors,
  selection,
  sources,
  token_files,
  word_pieces,
)
from stepdistill_jax.records import records
from stepdistill_jax.util import errors, locations, progress, whole_folders

_AT_ONCE = 4096  # Examples.
_FOLDER = "tokens"
_FEW = 5_000  # Examples that are tokenized in a second or two.
_MANY = 50_000  # Examples of another's task: more take a while to tokenize.
# What gin binds of the steps before the tokens.
_BOUND = ("record_weight.", "single_target_separator.")
Columns = Mapping[str, tuple[np.ndarray, np.ndarray]]


def first_step_of(task: seqio.Task) -> functools.partial[Any] | None:
  """What makes the texts of records; None for a task that is not ours."""
  steps = [(getattr(step, "func", step), getattr(step, "keywords", {}))
           for step in task.preprocessors]
  if not isinstance(task.source, sources.RecordsSource) or len(steps) != 4 or (
      [steps[0][0], steps[2][0], steps[3][0]] != [
          preprocessors.tokenized_records, selection.keep_selected,
          preprocessors.append_eos]):
    return None
  step = steps[0][1]["first_step"]
  texts = getattr(getattr(step, "func", step), "texts", None)
  return texts and functools.partial(texts, **getattr(step, "keywords", {}))


def spec_of(task: seqio.Task) -> dict[str, tf.TensorSpec]:
  """The spec of the numbers in examples of a task of ours, once tokenized."""
  made = task.preprocessors[0].keywords["first_step"](
      tf.data.Dataset.from_tensors(dict.fromkeys(records.FIELDS, "")))
  return {
      name: tf.TensorSpec([None], task.output_features[name].dtype)
      if name in task.output_features and spec.dtype == tf.string else spec
      for name, spec in made.element_spec.items()}


def is_at_hand(task: seqio.Task, split: str) -> bool:
  """Whether the tokens of a task of ours are there, or soon made."""
  return (task.source.num_input_examples(split) or 0) <= _FEW or any(
      os.path.isdir(place)
      for place in _places(_made_from(task, split), task, split))


def prepared(task: seqio.Task, split: str) -> token_files.TokenFiles:
  """The tokens of a task of ours, without EOS and not cut.

  Raises:
    errors.UserError: the records are damaged or change meanwhile, or nothing
      can be written.
  """
  about = _made_from(task, split)
  folders, places = _places(about, task, split), []
  for folder in folders:
    try:
      if (found := _open(folder, progress.say)) is not None:
        return found
      places.append(folder.parent)
    except PermissionError as error:  # Another user's, who keeps it.
      progress.say(f"{folder} cannot be read ({error.strerror}): it is made "
                   "elsewhere")
  folder = _writable(places, folders) / folders[0].name
  with _lock(folder):
    if (found := _open(folder)) is not None:  # Another one made it.
      return found
    _remove_stale(folder.parent, task, split, about)
    _make(folder, task, split, about)
  return token_files.TokenFiles(folder)


def _places(about: Mapping[str, Any], task: seqio.Task, split: str
            ) -> tuple[pathlib.Path, pathlib.Path]:
  """Where tokens may be: beside the records, or in the user's cache."""
  digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
  name = f"{task.name}-{split}-{digest}"
  return (pathlib.Path(about["folder"]) / _FOLDER / name,
          locations.cache_home() / _FOLDER / name)


def streamed(name: str, dataset: tf.data.Dataset, keys: list[str],
             total: int | None) -> token_files.TokenFiles:
  """The examples of any data set, in files that end with this process.

  Args:
    name: of the task, for messages.
    dataset: of examples.
    keys: their features to keep, numbers of rank 1.
    total: about how many there are, if known.

  Raises:
    errors.UserError: they have no end, there are none, or nothing can be
      written.
  """
  spec = dataset.element_spec
  if dataset.cardinality().numpy() == tf.data.INFINITE_CARDINALITY:
    raise errors.UserError(
        f"task {name} has no end: leave `repeat` out of its preprocessors; "
        "training goes through its examples again and again")
  if random := pipelines.unseeded(dataset):
    progress.say(
        f"{name}: its preprocessors draw random numbers without a seed "
        f"({', '.join(random)}): a run that goes on, and another host, has "
        "other examples; take seeds from seqio.map_over_dataset(num_seeds=1)")
  if (total or 0) > _MANY:
    progress.say(
        f"{name}: its {total:,} examples are tokenized at every start, as "
        "only tasks of this package's preprocessors keep their tokens")
  batches = dataset.map(
      lambda example: {key: example[key] for key in keys},
      num_parallel_calls=tf.data.AUTOTUNE).ragged_batch(_AT_ONCE)
  folder = pathlib.Path(tempfile.mkdtemp(prefix="stepdistill-tokens-"))
  try:
    _write(folder / name, (
        ({key: _flat(batch[key]) for key in keys},
         np.zeros(len(_flat(batch[keys[0]])[1]), np.int64))
        for batch in batches.prefetch(tf.data.AUTOTUNE)),
           {key: spec[key].dtype.as_numpy_dtype().dtype.str for key in keys},
           name, total, {})
    return token_files.TokenFiles(folder / name)
  finally:  # Open files stay readable.
    shutil.rmtree(folder, ignore_errors=True)


def _made_from(task: seqio.Task, split: str) -> dict[str, Any]:
  """All that a task's tokens depend on."""
  texts = first_step_of(task)
  assert texts is not None
  folder = records.version_dir(
      task.source.resolve()[0], task.source.dataset, task.source.resolve()[1])
  return {
      "format": token_files.FORMAT, "task": task.name, "split": split,
      "folder": str(folder.absolute()), "records": _files(task, split),
      "vocabularies": fingerprints.vocabularies_of(task),
      "first_step": [texts.func.__name__, sorted(texts.keywords.items())],
      "bindings": sorted(
          (key, value) for key, value in gin_config.bindings().items()
          if any(name in key for name in _BOUND))}


def _files(task: seqio.Task, split: str) -> list[list[Any]]:
  """Names, sizes and times of a split's files: fast for any number."""
  return [[file.name, file.stat().st_size, file.stat().st_mtime_ns]
          for file in fingerprints.files_of(task, split)]


def _open(folder: pathlib.Path, say: Callable[[str], None] = lambda line: None
          ) -> token_files.TokenFiles | None:
  """Opens a folder of tokens; says it where that is damaged.

  Raises:
    PermissionError: it is there, and cannot be read.
  """
  if not os.path.isdir(folder):  # `Path.is_dir` raises in another's folder.
    return None
  try:
    return token_files.TokenFiles(folder)
  except token_files.DamagedError as error:
    say(f"{folder} is damaged ({error}): it is made anew")
    return None


def _writable(places: Iterable[pathlib.Path],
              folders: Iterable[pathlib.Path]) -> pathlib.Path:
  """The first of `places` that can be written to, of all that folders have."""
  for place in places:
    with contextlib.suppress(OSError):
      place.mkdir(parents=True, exist_ok=True)
      if os.access(place, os.W_OK | os.X_OK):
        return place
  raise errors.UserError(
      "tokens can be written neither to "
      f"{' nor to '.join(str(folder.parent) for folder in folders)}; "
      "set XDG_CACHE_HOME to a folder that can be written to")


@contextlib.contextmanager
def _lock(folder: pathlib.Path) -> Iterator[None]:
  """Held by the one process of a host that makes a folder of tokens.

  Where locks do not reach (another host, a user whose lock cannot be opened),
  two make it, each under a name of its own, and the first that is whole serves
  both.
  """
  with contextlib.ExitStack() as stack:
    file = None
    for mode in ("rb", "wb"):  # Another user's is read; NFS wants to write.
      with contextlib.suppress(OSError):
        file = stack.enter_context(
            open(folder.with_name(f".{folder.name}.lock"), mode))
    if file is None:
      yield
      return
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      progress.say(
          f"waiting for another process that tokenizes {folder.name}")
      fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # A file system without locks.
      pass
    yield


def _remove_stale(place: pathlib.Path, task: seqio.Task, split: str,
                  about: Mapping[str, Any]) -> None:
  """Removes tokens of records that no longer exist; says so."""
  for folder in place.glob(f"{task.name}-{split}-*"):
    try:
      of = token_files.read_about(folder)["made_from"]
    except PermissionError:
      continue
    except (token_files.DamagedError, KeyError):
      of = {"folder": about["folder"]}  # It was said.
    if of["folder"] == about["folder"] and of.get("records") != (
        about["records"]):
      if "records" in of:
        progress.say(f"the records of {task.name} have changed since they "
                     f"were tokenized: {folder} is removed, and made anew")
      shutil.rmtree(folder, ignore_errors=True)


def _make(folder: pathlib.Path, task: seqio.Task, split: str,
          about: Mapping[str, Any]) -> None:
  total = task.source.num_input_examples(split)
  counts: list[int] = []

  by_words = {name: words for name, feature in task.output_features.items()
              if (words := _words(feature.vocabulary)) is not None}
  dataset = pipelines.build(lambda: _tokenized(task, split, by_words))

  def batches() -> Iterator[tuple[Columns, np.ndarray]]:
    for batch in dataset:
      counts.append(int(batch.pop("records")))
      ids = batch.pop("id").numpy()
      yield {
          key: by_words[key].encode(**{k: v.numpy() for k, v in value.items()})
          if isinstance(value, dict) else _flat(value)
          for key, value in batch.items()}, ids
      if sum(counts) == total and _files(task, split) != about["records"]:
        raise errors.UserError(
            f"the records in {about['folder']} changed while they were "
            "tokenized; start again when their import is done")
    if sum(counts) != total:
      raise errors.UserError(
          f"{about['folder']} has {sum(counts):,} records of {split}, not the "
          f"{total:,} that were written; import these records anew")

  def dtype(key: str, spec: Any) -> str:
    if key not in task.output_features or isinstance(
        spec, tf.TensorSpec) and not spec.dtype.is_integer:
      return str(spec.dtype.as_numpy_dtype().dtype.newbyteorder("<").str)
    size = task.output_features[key].vocabulary.vocab_size
    return "<u2" if size <= 2**16 else "<i4"

  dtypes = {key: dtype(key, spec) for key, spec in dataset.element_spec.items()
            if key not in ("id", "records")}
  with errors.reported(tf.errors.OpError, lambda error: (
      f"the records in {about['folder']} cannot be read "
      f"({errors.one_line(error.message)}); import these records anew")):
    _write(folder, batches(), dtypes, task.name, total, {"made_from": about})


def _words(vocabulary: seqio.Vocabulary) -> word_pieces.WordPieces | None:
  if hugging_face_vocabulary.followed(vocabulary) is not None:
    return None
  return word_pieces.WordPieces.of(vocabulary)


def _tokenized(task: seqio.Task, split: str,
               by_words: Mapping[str, Any]) -> tf.data.Dataset:
  """Batches of a task's examples: tokens [any, (length)], numbers [any, n].

  Those of features in `by_words` are split into words.
  """
  texts = first_step_of(task)
  assert texts is not None
  fields = {name: tf.io.FixedLenFeature([], tf.string, "")
            for name in records.FIELDS}
  features = task.output_features

  def tokenize(serialized: tf.Tensor) -> dict[str, Any]:
    example = texts(tf.io.parse_example(serialized, fields))
    keep = example["targets"] != ""
    made = {"records": tf.size(keep)}
    for name, value in example.items():
      if name == "id":
        made[name] = selection.fingerprints(tf.boolean_mask(value, keep))
      elif value.dtype != tf.string:
        made[name] = tf.boolean_mask(value, keep)
      elif name in features:
        value = tf.boolean_mask(value, keep)
        if name in by_words:
          made[name] = by_words[name].split(value)
          continue
        vocabulary = features[name].vocabulary
        made[name] = preprocessors.encode(name, value, vocabulary)
        if hugging_face_vocabulary.followed(vocabulary) is not None:
          made[f"{name}_pretokenized"] = tf.RaggedTensor.from_row_lengths(
              tf.io.decode_raw(tf.strings.reduce_join(value), tf.uint8),
              tf.strings.length(value))
    return made

  return task.source.serialized(split).batch(_AT_ONCE).map(
      tokenize, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  ).prefetch(tf.data.AUTOTUNE)


def _flat(value: Any) -> tuple[np.ndarray, np.ndarray]:
  """The values of a batch, flat, and the number of each example's."""
  if isinstance(value, tf.RaggedTensor):
    return value.flat_values.numpy(), value.row_lengths().numpy()
  value = value.numpy()
  return value.reshape(-1), np.full(len(value), value.shape[1], np.int64)


def _write(folder: pathlib.Path, batches: Iterable[tuple[Columns, np.ndarray]],
           dtypes: Mapping[str, str], name: str, total: int | None,
           about: Mapping[str, Any]) -> None:
  """Writes a folder of tokens."""
  what = f"tokens of {name}"
  with (errors.reported(OSError, lambda error: (
      f"cannot write the {what} to {folder.parent}: {error.strerror}; it "
      "takes about a third of the records' bytes")),
        whole_folders.written(folder) as temporary,
        progress.Bars("examples") as bars,
        token_files.Writer(temporary, dtypes) as writer):
    for columns, ids in batches:
      writer.add(columns, ids)
      bars.update(writer.count, total, what)
    if not writer.count:
      raise errors.UserError(
          f"task {name}: no example is left" + (
              " of its records; `stepdistill teacher audit` says why"
              if about else ": its preprocessors leave all of them out"))
    writer.finish(about)
