"""What a task's examples are made from, as digests."""

from __future__ import annotations

import hashlib
import os
import pathlib
from typing import Any

import seqio

from stepdistill_jax.data import hugging_face_vocabulary

# Larger data is identified by its file names and sizes alone.
_MAX_HASHED_BYTES = 256 * 2**20


def files_of(task: seqio.Task, split: str) -> list[pathlib.Path]:
  """The local files of a split's records, sorted."""
  return [pathlib.Path(f) for f in sorted(task.source.list_shards(split))
          if os.path.isfile(f)]


def digest_of(files: list[list[pathlib.Path]]) -> str:
  """SHA-256 of names, sizes and contents of files, a list for each task."""
  digest = hashlib.sha256()
  for of_task in files:
    small = sum(f.stat().st_size for f in of_task) <= _MAX_HASHED_BYTES
    for file in of_task:
      digest.update(f"{file.name} {file.stat().st_size}\n".encode())
      if small:
        digest.update(file.read_bytes())
  return digest.hexdigest()


def vocabularies_of(*tasks: seqio.Task) -> list[str]:
  """SHA-256 of the vocabulary files of tasks, sorted.

  With a decoder's tokenizer, also that of what it makes of a question.
  """
  found = set()
  for feature in (f for t in tasks for f in t.output_features.values()):
    vocabulary = feature.vocabulary
    decoders = hugging_face_vocabulary.followed(vocabulary)
    file = (decoders.tokenizer_file if decoders else
            str(getattr(vocabulary, "sentencepiece_model_file", "")))
    if os.path.isfile(file):
      found.add(hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest())
    if decoders:
      found.add(hashlib.sha256(
          decoders.prompt_text("?").encode("utf-8")).hexdigest())
  return sorted(found)


def of_task(task: seqio.Task) -> dict[str, Any]:
  """Digests of all that a task's examples are made from, for its cache."""
  return {"files_sha256": {split: digest_of([files_of(task, split)])
                           for split in task.splits},
          "vocabularies_sha256": vocabularies_of(task)}
