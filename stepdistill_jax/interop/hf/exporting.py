"""T5X → a Hugging Face folder that needs no code of ours."""

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
  import_result,
  run_context,
  streaming,
  tokenizers,
)
from stepdistill_jax.interop.hf import (
  config as hf_config,
  decoder_config,
  model_card,
  names as hf_names,
  safetensors_files,
)
from stepdistill_jax.runs import array_reader as t5x_reader, restore_choice
from stepdistill_jax.util import errors

# How a decoder is asked whose tasks have SentencePiece's vocabulary: EOS ends
# a prompt and the parts of it.
_SENTENCEPIECE_PROMPT = {
    "chat": False, "system": "", "prompt_suffix": "</s>", "joint": "</s>"}
MAX_SHARD_BYTES = 5 * 10**9  # As the library of that name has it.


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor to be written.

  Attributes:
    name: Hugging Face's.
    array: T5X's.
    transposed: whether it is the array's transpose.
    shape: the tensor's; rows beyond it are vocabulary padding.
    dtype: the tensor's.
    zero_row: of the array's rows (columns, if transposed) the one that is the
      tensor's row 0; see `importing.Copy.moves_zero`.
    adapter: A, B and a factor: the array and factor·A·B are the tensor's
      transpose; see `models.lora`.
  """

  name: str
  array: t5x_reader.Array
  transposed: bool
  shape: tuple[int, ...]
  dtype: np.dtype
  zero_row: int = 0
  adapter: tuple[t5x_reader.Array, t5x_reader.Array, float] | None = None

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize

  @property
  def rows_at_once(self) -> int:
    """Rows to read at once: whole chunks, so that none is read twice."""
    rows = self.shape[0]
    chunk = self.array.chunk[-1 if self.transposed else 0]
    step = streaming.rows_per_block(
        rows, max(1, math.prod(self.shape[1:]) * self.array.dtype.itemsize))
    return max(chunk, step // chunk * chunk)

  def read_rows(self, start: int, stop: int) -> np.ndarray:
    rows = self._stored_rows(start, stop)
    if self.zero_row and start == 0:
      rows = np.concatenate([
          self._stored_rows(self.zero_row, self.zero_row + 1), rows[1:]])
    return rows

  def _stored_rows(self, start: int, stop: int) -> np.ndarray:
    if not self.transposed:
      return self.array.read(slice(start, stop))
    columns = self.array.read((slice(None), slice(start, stop)))
    if self.adapter is not None:
      first, second, factor = self.adapter
      columns = columns + factor * (
          first.read(slice(None))
          @ second.read((slice(None), slice(start, stop))))
    return columns.T


def _cast(name: str, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """Casts; raises UserError where a finite value becomes infinite."""
  if values.dtype == dtype:
    return values
  with np.errstate(over="ignore"):
    cast = values.astype(dtype)
  if dtype == np.float16 and not np.isfinite(cast).all():
    if np.isfinite(values.astype(np.float32)).all():
      raise errors.UserError(
          f"the tensor {name} has values beyond float16's 65,504 (up to "
          f"{np.abs(values).max():.3g}); use --dtype=bfloat16")
  return cast


def plan(
    arch: architecture.AnyArchitecture,
    parameters: Mapping[str, t5x_reader.Array], *,
    dtype: np.dtype | None, original_dtypes: Mapping[str, str],
    vocab_size: int, zero_row: int = 0,
    lora_factor: float = 1.0) -> list[Tensor]:
  """Lists what will be written, in the order of computation.

  Args:
    arch: the model's.
    parameters: T5X's names -> arrays.
    dtype: of all tensors; None for the original ones.
    original_dtypes: Hugging Face's names -> what they had when imported.
    vocab_size: rows of the vocabulary to keep.
    zero_row: see Tensor.
    lora_factor: of adapters, where the checkpoint has some.
  """
  tensors = []
  for name, shape in architecture.parameter_shapes(arch).items():
    counterpart = hf_names.hf_tensor(name, arch.kind)
    shape = counterpart.shape(shape)
    of_vocabulary = counterpart.name in (
        hf_names.EMBEDDING, hf_names.DECODER_EMBEDDING, hf_names.HEAD)
    if of_vocabulary:
      shape = (vocab_size, *shape[1:])
    array = parameters[name]
    original = original_dtypes.get(counterpart.name, array.dtype.name)
    tensors.append(Tensor(
        counterpart.name, array, counterpart.transposed, shape,
        np.dtype(original) if dtype is None else dtype,
        zero_row if of_vocabulary else 0,
        _adapter(parameters, name, lora_factor)))
  return tensors


def _adapter(
    parameters: Mapping[str, t5x_reader.Array], name: str, factor: float
) -> tuple[t5x_reader.Array, t5x_reader.Array, float] | None:
  """What is added to a kernel, if it has an adapter."""
  module = name.removesuffix("/kernel")
  first, second = (parameters.get(f"{module}/{a}") for a in hf_names.ADAPTERS)
  if module == name or first is None or second is None:
    return None
  return first, second, factor


def shard(tensors: Sequence[Tensor],
          max_bytes: int) -> dict[str, list[Tensor]]:
  """Groups tensors into files of at most `max_bytes`, where one fits."""
  groups: list[list[Tensor]] = [[]]
  for tensor in tensors:
    if groups[-1] and sum(
        t.nbytes for t in groups[-1]) + tensor.nbytes > max_bytes:
      groups.append([])
    groups[-1].append(tensor)
  if len(groups) == 1:
    return {"model.safetensors": groups[0]}
  return {f"model-{i:05}-of-{len(groups):05}.safetensors": group
          for i, group in enumerate(groups, start=1)}


def _task(tensor: Tensor, writer: safetensors_files.Writer) -> streaming.Task:
  def run(advance) -> None:
    for start, stop in streaming.row_ranges(
        tensor.shape[0], tensor.rows_at_once):
      block = tensor.read_rows(start, stop)
      streaming.require_finite(block, f"the tensor {tensor.name}", start)
      # Casts and transposes are copies: of a few rows at a time.
      step = streaming.rows_per_block(
          stop - start, max(1, block.nbytes // (stop - start)))
      for inner, inner_stop in streaming.row_ranges(stop - start, step):
        writer.write_rows(
            tensor.name, start + inner,
            _cast(tensor.name, block[inner:inner_stop], tensor.dtype))
      advance(block.nbytes)
      del block

  return streaming.Task(tensor.name, tensor.array.nbytes, run)


def _write_weights(
    folder: pathlib.Path, shards: Mapping[str, Sequence[Tensor]],
    identity: Mapping[str, Any], quiet: bool) -> None:
  journal = streaming.Journal(folder / streaming.JOURNAL_FILE, identity)
  streaming.check_free_space(folder, sum(
      t.nbytes for group in shards.values() for t in group
      if t.name not in journal.done))
  writers = {file: safetensors_files.Writer(
      folder / file, {t.name: (t.shape, t.dtype) for t in group})
             for file, group in shards.items()}
  tasks = [_task(tensor, writers[file])
           for file, group in shards.items() for tensor in group]
  streaming.run(tasks, journal, "export", quiet=quiet)
  for writer in writers.values():
    writer.close()
  if len(shards) > 1:
    index = {
        "metadata": {"total_size": sum(
            t.nbytes for group in shards.values() for t in group)},
        "weight_map": {t.name: file for file, group in shards.items()
                       for t in group}}
    _write_json(folder / "model.safetensors.index.json", index)


def _write_json(file: pathlib.Path, value: Any) -> None:
  file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n",
                  encoding="utf-8")


def _generation_config(
    context: run_context.Context, max_new_tokens: int,
    decoder_eos: int | None) -> dict[str, Any]:
  """Greedy, to the end-of-sequence token.

  Without `max_new_tokens`, transformers would stop after 20 tokens.

  Args:
    context: of the checkpoint.
    max_new_tokens: where generation stops at the latest.
    decoder_eos: a decoder's end token, None for a T5.
  """
  # Penalties, beams and samples of the checkpoint's own are left out: scores
  # are of greedy answers.
  base = {k: v for k, v in context.base_generation_config.items()
          if k.endswith("_token_id") and not k.startswith("forced_")}
  if decoder_eos is not None:
    ends = base.get("eos_token_id", decoder_eos)
    ends = [*ends] if isinstance(ends, list) else [ends]
    if decoder_eos not in ends:
      ends.append(decoder_eos)
    return {"pad_token_id": ends[0], **base,
            "eos_token_id": ends if len(ends) > 1 else ends[0],
            "do_sample": False, "max_new_tokens": max_new_tokens}
  return {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
          "do_sample": False, "num_beams": 1,
          "max_new_tokens": max_new_tokens, **base}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """What a person may choose.

  Attributes:
    dtype: a key of `import_result.DTYPES`; `original` is that of the imported
      checkpoint, else that of the parameters.
    family: `t5` or `mt5`; None as it was imported, else t5.
    vocab_size: rows to keep; None takes padding off that import added.
    tokenizer: a Hugging Face folder or a SentencePiece model; None looks
      around the checkpoint.
    records_dir: where a data set's own vocabulary is.
    results: a `results.json` for the model card.
    name: of the model; None for the output folder's.
    max_new_tokens: where generation stops at the latest.
    max_shard_bytes: a larger model is written as several files.
    quiet: shows no progress.
    strict: refuse a folder whose latest checkpoint is not what was written,
      instead of taking the one before it.
  """

  dtype: str = "original"
  family: str | None = None
  vocab_size: int | None = None
  tokenizer: pathlib.Path | None = None
  records_dir: pathlib.Path | None = None
  results: pathlib.Path | None = None
  name: str | None = None
  max_new_tokens: int = 256
  max_shard_bytes: int = MAX_SHARD_BYTES
  quiet: bool = False
  strict: bool = False


@dataclasses.dataclass(frozen=True)
class Exported:
  """What was written: the folder, its numbers and bytes."""

  folder: pathlib.Path
  arch: architecture.AnyArchitecture
  parameters: int
  nbytes: int


def _vocab_size(arch, context: run_context.Context,
                tokenizer: tokenizers.Tokenizer, chosen: int | None) -> int:
  """Rows of the vocabulary that are exported."""
  origin = context.origin or {}
  if tokenizer.file is not None:  # Without row 0, which is padding.
    size = origin.get("vocab_size") or arch.last_token
    if chosen not in (None, size):
      raise errors.UserError(
          f"--vocab_size={chosen}: a decoder keeps the {size} rows of its "
          "tokenizer")
    return size
  if chosen is None and origin.get("padded_vocab_size") == arch.vocab_size:
    chosen = origin["vocab_size"]
  size = arch.vocab_size if chosen is None else chosen
  needed = tokenizers.vocabulary_size(tokenizer)
  if not needed <= size <= arch.vocab_size:
    raise errors.UserError(
        f"a vocabulary of {size} rows was asked for; expected at least the "
        f"tokenizer's {needed} and at most the checkpoint's "
        f"{arch.vocab_size}" + (
            "" if needed <= arch.vocab_size else
            ": this is not the model's tokenizer"))
  return size


def _tokenizer(context: run_context.Context,
               options: Options) -> tokenizers.Tokenizer:
  if options.tokenizer is None:
    return context.tokenizer(options.records_dir)
  path = options.tokenizer
  if path.is_dir():
    config = tokenizer_files.read_json(
        path / hf_config.CONFIG_FILE, may_lack=True)
    return tokenizers.find(
        path, {"model_type": options.family or "t5", "vocab_size": 0, **config})
  if not path.is_file():
    raise errors.UserError(
        f"--tokenizer={path} is neither a folder nor a SentencePiece model")
  return tokenizers.Tokenizer(path.read_bytes(), tokenizers.T5_EXTRA_IDS)


def export_hf(checkpoint: str | os.PathLike[str], output: pathlib.Path,
              options: Options = Options()) -> Exported:
  """Writes a checkpoint as a Hugging Face folder.

  Args:
    checkpoint: `MODEL_DIR/checkpoint_STEP`, or MODEL_DIR for its latest.
    output: the folder to write.
    options: see there.

  Raises:
    errors.UserError: the checkpoint is not a T5 or decoder, its tokenizer is
      not known, or the folder cannot be written.
  """
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise errors.UserError(
        f"{output} exists and is not an empty folder; give another --output")
  source = t5x_reader.open_checkpoint(restore_choice.choose(
      checkpoint, strict=options.strict).checkpoint)
  context = run_context.find(source.path)
  parameters = source.parameters
  arch = architecture_of(source, context)
  tokenizer = _tokenizer(context, options)
  decoder = isinstance(arch, architecture.DecoderArchitecture)
  if decoder:
    _check_decoders_tokenizer(tokenizer, context, source.path)
  vocab_size = _vocab_size(arch, context, tokenizer, options.vocab_size)
  family = options.family or (context.origin or {}).get("family")
  zero_row = vocab_size if tokenizer.file is not None else 0
  tensors = plan(
      arch, parameters, dtype=import_result.DTYPES[options.dtype],
      vocab_size=vocab_size,
      original_dtypes=(context.imported or {}).get("dtypes", {}),
      zero_row=zero_row, lora_factor=_lora_factor(context))
  arch = dataclasses.replace(arch, vocab_size=vocab_size)
  eos = 1 if tokenizer.file is None else tokenizer_files.eos_id(tokenizer.file)
  if isinstance(arch, architecture.DecoderArchitecture):
    config = decoder_config.from_architecture(
        arch, family, tensors[0].dtype.name, context.base_config, eos)
  else:
    config = hf_config.from_architecture(
        arch, family or "t5", tensors[0].dtype.name, context.base_config)
  card = model_card.describe(
      source, context, options.results, options.name or output.name,
      options.records_dir)
  if decoder and tokenizer.file is None:
    card = dataclasses.replace(card, prompt=_SENTENCEPIECE_PROMPT)
  config["task_specific_params"] = card.task_specific_params()

  output = output.resolve()
  partial = output.with_name(f"partial_{output.name}")
  streaming.make_folder(partial)
  _write_weights(partial, shard(tensors, options.max_shard_bytes), {
      "source": source.path, "step": source.step,
      "tensors": [[t.name, t.shape, t.dtype.name] for t in tensors],
      "max_shard_bytes": options.max_shard_bytes}, options.quiet)
  tokenizers.write(partial, tokenizer, context.hf_folder, decoder=decoder)
  generation = _generation_config(
      context, options.max_new_tokens, eos if decoder else None)
  if decoder and tokenizer.file is None:  # What the network never predicts.
    generation["suppress_tokens"] = [
        0, *range(arch.last_token + 1, vocab_size)]
  _write_json(partial / "generation_config.json", generation)
  _write_json(partial / hf_config.CONFIG_FILE, config)
  (partial / "README.md").write_text(
      card.text(arch, tensors[0].dtype.name), encoding="utf-8")
  (partial / streaming.JOURNAL_FILE).unlink()
  if output.exists():
    output.rmdir()
  os.replace(partial, output)
  return Exported(output, arch, sum(math.prod(t.shape) for t in tensors),
                  sum(t.nbytes for t in tensors))


def _check_decoders_tokenizer(
    tokenizer: tokenizers.Tokenizer, context: run_context.Context,
    where: str) -> None:
  """Raises UserError for a tokenizer that a decoder has not."""
  if tokenizer.file is not None:
    return
  if (context.origin or {}).get("family") in architecture.DECODER_FAMILIES:
    raise errors.UserError(
        f"{where} was imported with a tokenizer.json; expected that, or "
        "another by --tokenizer=FOLDER, not a SentencePiece model")
  if tokenizer.spiece is None:
    raise errors.UserError(
        f"{where} is a decoder of bytes, with which transformers has none; "
        "`stepdistill-eval --checkpoint` scores it as it is")


def architecture_of(
    source: t5x_reader.Checkpoint, context: run_context.Context
) -> architecture.AnyArchitecture:
  """The model's dimensions, by its arrays and what lies around them.

  Raises:
    errors.UserError: it is not a T5 or decoder, or its heads are not known.
  """
  shapes = {name: array.shape for name, array in source.parameters.items()
            if not name.endswith(hf_names.ADAPTERS)}
  if not architecture.is_decoder(shapes):
    return architecture.infer(
        shapes, context.mlp_activations or _imported_activations(context),
        context.dropout_rate, where=source.path)
  arch = context.decoder_architecture()
  if arch is None:
    if not context.base_config:
      raise errors.UserError(
          f"the decoder {source.path} has no {run_context.CONFIG_FILE} beside "
          "it and was not imported: its heads cannot be seen in its arrays")
    base = hf_config.to_architecture(
        context.base_config,
        hf_config.Head((context.origin or {}).get("head", "own")))
    arch = dataclasses.replace(base, num_tokens=base.vocab_size)
  arch = dataclasses.replace(
      arch, vocab_size=shapes["token_embedder/embedding"][0])
  architecture.check_tree(arch, shapes, source.path)
  return arch


def _lora_factor(context: run_context.Context) -> float:
  rank = context.bound("LlamaConfig.lora_rank", 0)
  return context.bound("LlamaConfig.lora_alpha", 16.0) / rank if rank else 1.0


def _imported_activations(
    context: run_context.Context) -> tuple[str, ...] | None:
  base = context.base_config
  return hf_config.to_architecture(
      base, hf_config.Head.OWN).mlp_activations if base else None
