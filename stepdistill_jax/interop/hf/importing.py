"""Hugging Face → T5X.

What it writes:

```
OUTPUT/
  checkpoint_0/   parameters and step, as `t5x` restores them
  model.gin       the model: T5X's file for its size, or all of it
  student.gin     the same for our recipes
  hf/             the folder's config and tokenizer, for `export-hf`
  import.json     what was imported from where
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from stepdistill_jax.data import tokenizer_files
from stepdistill_jax.interop import (
  architecture,
  gin_decoder,
  gin_model,
  import_result,
  special_tokens,
  streaming,
  tokenizers,
)
from stepdistill_jax.interop.hf import (
  config as hf_config,
  names as hf_names,
  weights as hf_weights,
)
from stepdistill_jax.interop.t5x import writer as t5x_writer
from stepdistill_jax.util import errors
from stepdistill_jax.util.version import __version__

# Parameters with the vocabulary as an axis: which.
_VOCABULARY_AXIS = {"token_embedder/embedding": 0,
                    "decoder/logits_dense/kernel": 1}
_DECODERS_MULTIPLE = 128  # Of the vocabulary's size, for TPUs.


@dataclasses.dataclass(frozen=True)
class Copy:
  """How a parameter comes about.

  Attributes:
    name: T5X's.
    tensor: the Hugging Face tensor that it is made of.
    hf_name: that tensor's name.
    transposed: whether the parameter is its transpose.
    shape: the parameter's.
    padded_rows: rows that are added to the tensor's, for the vocabulary.
    moves_zero: whether row 0 goes after the tensor's last, and what is padding
      is 0: a decoder's vocabulary, see `HuggingFaceVocabulary`.
  """

  name: str
  tensor: hf_weights.Tensor
  hf_name: str
  transposed: bool
  shape: tuple[int, ...]
  padded_rows: int = 0
  moves_zero: bool = False

  def read_rows(self, start: int, stop: int) -> np.ndarray:
    """Rows of the tensor, and of the padding after it.

    Padding repeats row 0, that of the padding token. So its logit never
    exceeds one that is there, and the argmax, which takes the first of equal
    ones, stays what it was.
    """
    rows = self.tensor.shape[0]
    if self.moves_zero:
      return self._read_moved(start, stop)
    if stop <= rows:
      return self.tensor.read_rows(start, stop)
    padding = np.repeat(
        self.tensor.read_rows(0, 1), stop - max(start, rows), axis=0)
    return padding if start >= rows else np.concatenate(
        [self.tensor.read_rows(start, rows), padding])

  def _read_moved(self, start: int, stop: int) -> np.ndarray:
    rows, dtype = self.tensor.shape[0], self.tensor.dtype
    block = np.zeros((stop - start, *self.tensor.shape[1:]), dtype)
    first, last = max(start, 1), min(stop, rows)
    if first < last:
      block[first - start:last - start] = self.tensor.read_rows(first, last)
    if start <= rows < stop:
      block[rows - start] = self.tensor.read_rows(0, 1)[0]
    return block


def _equal(first: hf_weights.Tensor, second: hf_weights.Tensor) -> bool:
  """Compares two tensors bit by bit, a block at a time."""
  if (first.shape, first.dtype) != (second.shape, second.dtype):
    return False
  step = streaming.rows_per_block(
      first.shape[0], max(1, first.nbytes // max(1, first.shape[0])))
  return all(
      first.read_rows(start, stop).tobytes()
      == second.read_rows(start, stop).tobytes()
      for start, stop in streaming.row_ranges(first.shape[0], step))


def _embedding(
    tensors: Mapping[str, hf_weights.Tensor], decoder: bool, where) -> str:
  """Returns the embedding's name; its copies must be equal."""
  known = (hf_names.DECODER_EMBEDDING,) if decoder else (
      hf_names.EMBEDDING, *hf_names.EMBEDDING_COPIES)
  names = [n for n in known if n in tensors]
  if not names:
    raise errors.UserError(f"{where} lacks the tensor {known[0]}")
  for other in names[1:]:
    if not _equal(tensors[names[0]], tensors[other]):
      raise errors.UserError(
          f"{where}: {other} differs from {names[0]}; T5X has one embedding "
          "for both stacks")
  return names[0]


def _padded(size: int, multiple: int) -> int:
  return -(-size // multiple) * multiple


def plan(
    config: Mapping[str, Any], tensors: Mapping[str, hf_weights.Tensor],
    where, pad_vocabulary: int = 1,
) -> tuple[architecture.AnyArchitecture, hf_config.Head, list[Copy]]:
  """Decides what is made of which tensor, and checks that all is there.

  Args:
    config: the `config.json`.
    tensors: those of the folder.
    where: the folder, for errors.
    pad_vocabulary: the vocabulary's size becomes a multiple of it, a
      decoder's of 128 if it is 1.

  Returns:
    The architecture with the padded vocabulary, where its head comes from,
    and a Copy for each parameter, in the order of computation.

  Raises:
    errors.UserError: a tensor is missing, unknown, or of another shape or
      kind of dtype than expected.
  """
  decoder = hf_config.is_decoder(config)
  embedding = _embedding(tensors, decoder, where)
  own_head = tensors.get(hf_names.HEAD)
  head = hf_config.head(
      config, own_head is not None,
      own_head is not None and config.get("tie_word_embeddings") is not False
      and _equal(own_head, tensors[embedding]),
      os.path.join(where, hf_config.CONFIG_FILE))
  arch = hf_config.to_architecture(
      config, head, os.path.join(where, hf_config.CONFIG_FILE))
  padded = _padded(arch.vocab_size, pad_vocabulary)
  if decoder:  # One row more, as id 0 is padding.
    padded = _padded(
        arch.vocab_size + 1, _DECODERS_MULTIPLE if pad_vocabulary == 1
        else pad_vocabulary)
  known = {hf_names.EMBEDDING, *hf_names.EMBEDDING_COPIES, *hf_names.UNUSED,
           hf_names.HEAD}
  copies = []
  for name, shape in architecture.parameter_shapes(arch).items():
    counterpart = hf_names.hf_tensor(name, arch.kind)
    hf_name = counterpart.name
    known.add(hf_name)
    if hf_name == hf_names.EMBEDDING or (
        hf_name == hf_names.HEAD and head is hf_config.Head.COPIED):
      hf_name = embedding
    expected = counterpart.shape(shape)
    if hf_name not in tensors:
      raise errors.UserError(
          f"{where} lacks the tensor {hf_name}, expected of shape {expected}")
    tensor = tensors[hf_name]
    if tensor.shape != expected:
      raise errors.UserError(
          f"{where}: the tensor {hf_name} is of shape {tensor.shape}, expected "
          f"{expected} by its {hf_config.CONFIG_FILE}")
    hf_weights.check_float(hf_name, tensor)
    extra = 0
    if name in _VOCABULARY_AXIS:
      extra = padded - arch.vocab_size
      axis = _VOCABULARY_AXIS[name]
      shape = (*shape[:axis], padded, *shape[axis + 1:])
    copies.append(Copy(name, tensor, hf_name, counterpart.transposed, shape,
                       extra, decoder and extra > 0))
  _refuse_unknown(tensors, known, arch.kind, where)
  if isinstance(arch, architecture.DecoderArchitecture):
    arch = dataclasses.replace(arch, num_tokens=arch.vocab_size)
  return dataclasses.replace(arch, vocab_size=padded), head, copies


def _refuse_unknown(tensors, known: set[str], kind: str, where) -> None:
  unknown = sorted(
      name for name in set(tensors) - known
      if kind == "T5" or not hf_names.DECODER_UNUSED.fullmatch(name))
  if not unknown:
    return
  quantized = [n for n in unknown if n.endswith(
      (".SCB", ".absmax", ".qweight", ".qzeros", ".scales", "_scale",
       ".quant_map", ".weight_format"))]
  adapter = [n for n in unknown if "lora_" in n]
  reason = ("is the checkpoint quantized?" if quantized else
            "merge the adapter into the weights first" if adapter else
            "the network has no place for them")
  raise errors.UserError(
      f"{where} has {len(unknown)} tensors that a {kind} has not, such as "
      f"{(quantized or adapter or unknown)[0]}: {reason}")


def _identity(folder: pathlib.Path, copies: Sequence[Copy],
              dtype: str, pad_vocabulary: int) -> dict[str, Any]:
  """What the result depends on, for resuming."""
  files = sorted({copy.tensor.file for copy in copies})
  return {
      "source": str(folder.resolve()), "dtype": dtype,
      "pad_vocabulary": pad_vocabulary,
      "files": [[f.name, f.stat().st_size, f.stat().st_mtime_ns]
                for f in files]}


def _task(copy: Copy, writer: t5x_writer.CheckpointWriter,
          dtype: np.dtype | None) -> streaming.Task:
  tensor = copy.tensor
  dtype = tensor.dtype if dtype is None else dtype
  rows = tensor.shape[0] + copy.padded_rows
  row_bytes = math.prod(tensor.shape[1:]) * max(
      dtype.itemsize, tensor.dtype.itemsize)
  step = streaming.rows_per_block(rows, row_bytes)
  chunk = (*copy.shape[:-1], step) if copy.transposed else (
      step, *copy.shape[1:])
  create = writer.declare(f"target/{copy.name}", copy.shape, dtype, chunk)

  def run(advance) -> None:
    store, writes = create(), streaming.InFlight()
    for start, stop in streaming.row_ranges(rows, step):
      block = copy.read_rows(start, stop)
      nbytes = block.nbytes
      streaming.require_finite(
          block, f"{tensor.file}: the tensor {copy.hf_name}", start)
      block = block.astype(dtype, copy=False)
      if copy.transposed:
        writes.add(store[:, start:stop].write(block.T))
      else:
        writes.add(store[start:stop].write(block))
      del block
      advance(nbytes)
    writes.wait()

  return streaming.Task(copy.name, tensor.nbytes, run)


def import_hf(
    folder: pathlib.Path, output: pathlib.Path, *, step: int = 0,
    dtype: str = "float32", pad_vocabulary: int = 1, layout: str = "orbax",
    quiet: bool = False, hub: str = "") -> import_result.Imported:
  """Converts a Hugging Face folder into a T5X checkpoint.

  Args:
    folder: with config.json, weights, and a tokenizer.
    output: the folder to write; see the module.
    step: that the checkpoint gets. A run's TRAIN_STEPS count from it.
    dtype: `float32`, `bfloat16`, or `source` for what the tensors have.
    pad_vocabulary: the vocabulary's size becomes a multiple of it.
    layout: one of `t5x_writer.LAYOUTS`.
    quiet: shows no progress.
    hub: the name and commit on the hub that the folder was fetched from.

  Raises:
    errors.UserError: see `plan`; or the output cannot be written.
  """
  config = hf_config.read(folder)
  tensors = hf_weights.open_folder(folder)
  arch, head, copies = plan(config, tensors, str(folder), pad_vocabulary)
  tokenizer = tokenizers.find(folder, config)
  pieces = tokenizers.vocabulary_size(
      tokenizer, f"the tokenizer of {folder}")
  if pieces > config["vocab_size"]:
    raise errors.UserError(
        f"{folder}: the tokenizer has {pieces} ids, but the embedding only "
        f"{config['vocab_size']} rows; they are of different models")
  if tokenizer.file is None:  # Else the file has all of them.
    special_tokens.check(folder, tokenizer.spiece, tokenizer.extra_ids)
  else:
    tokenizer_files.end_ids(tokenizer.file)  # Raises for what is none.
  writer = t5x_writer.CheckpointWriter(output, step, layout)
  journal = writer.journal(
      _identity(folder, copies, dtype, pad_vocabulary))
  tasks = [_task(copy, writer, import_result.DTYPES[dtype]) for copy in copies]
  total = sum(task.nbytes for task in tasks)
  streaming.check_free_space(writer.partial, sum(
      math.prod(c.shape)
      * (import_result.DTYPES[dtype] or c.tensor.dtype).itemsize
      for c, task in zip(copies, tasks) if task.name not in journal.done))
  streaming.run(tasks, journal, "import", quiet=quiet)
  tokenizers.keep(folder, output / import_result.HF_FOLDER, tokenizer)
  kept = (output / import_result.HF_FOLDER).resolve()
  title = (f"{hub or folder.resolve().name}, imported from Hugging Face's "
           "format.")
  spiece, no_recipe = None, ""
  if isinstance(arch, architecture.DecoderArchitecture):
    model_file = gin_decoder.write(
        output, arch, checkpoint=writer.final, title=title,
        tokenizer=kept / tokenizers.JSON_FILE)
  else:
    if tokenizer.spiece is not None:
      spiece = kept / tokenizers.SPIECE_FILE
    no_recipe = gin_model.why_no_recipe(
        arch, 0 if spiece is None else pieces - tokenizer.extra_ids)
    model_file = gin_model.write(
        output, arch, checkpoint=writer.final, title=title,
        vocabulary=gin_model.byte_vocabulary(tokenizer.extra_ids)
        if spiece is None else gin_model.sentencepiece_vocabulary(
            str(spiece), tokenizer.extra_ids),
        spiece=spiece, no_recipe=no_recipe)
  provenance = {
      "schema_version": 1,
      "stepdistill_jax": __version__,
      "source": str(folder.resolve()),
      "hub": hub,
      "step": step,
      "family": config["model_type"],
      "head": head.value,
      "vocab_size": config["vocab_size"],
      "padded_vocab_size": arch.vocab_size,
      "extra_ids": tokenizer.extra_ids,
      "dtypes": {copy.hf_name: copy.tensor.dtype.name for copy in copies},
  }
  (output / import_result.PROVENANCE_FILE).write_text(
      json.dumps(provenance, indent=1) + "\n", encoding="utf-8")
  return import_result.Imported(writer.finish(), model_file, arch,
                  sum(math.prod(c.shape) for c in copies), total,
                  no_recipe, spiece)
