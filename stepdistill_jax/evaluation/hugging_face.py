"""Students in the Hugging Face format, run by `transformers` in torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import pathlib
import time
from typing import Any

import numpy as np

from stepdistill_jax.data import batching
from stepdistill_jax.evaluation import model_config, questions
from stepdistill_jax.interop.hf import names as hf_names
from stepdistill_jax.util import errors, runtime


def require_folder(path: str | pathlib.Path) -> pathlib.Path:
  """Returns the path of a folder in the Hugging Face format.

  Raises:
    errors.UserError: there is no such folder, or no `config.json` in it.
  """
  folder = pathlib.Path(path).expanduser()
  if not (folder / "config.json").is_file():
    what = "config.json" if folder.is_dir() else "such folder"
    raise errors.UserError(
        f"no Hugging Face model at {folder}: there is no {what}; pass a folder "
        "as `save_pretrained` writes it")
  return folder


class HuggingFaceStudent(questions.Model):
  """A folder that transformers' Auto classes load, T5 or decoder, as a system.

  The prefixes are `--prefix`, else those that its `config.json` names under
  `task_specific_params` (`predict` and `explain`, each with a `prefix`), else
  none. Under `predict` it also says whether the label ends the text, as that
  of an exported single-task student.

  Args:
    path: the folder.
    config: how the model is asked.
    name: for tables; the folder's name by default.
    progress: called with (done, total, what) as answers come.

  Raises:
    errors.UserError: no such folder, or `transformers` is not installed.
  """

  kind = "hf"

  def __init__(self, path: str | pathlib.Path,
               config: model_config.ModelConfig, *,
               name: str | None = None, progress=None):
    self._path = require_folder(path)
    super().__init__(
        name or self._path.resolve().name, str(path), config, progress)
    hf_config, self.vocabulary = _load_tokenizer(self._path)
    tasks = {task: settings for task, settings in (
        getattr(hf_config, "task_specific_params", None) or {}).items()
             if isinstance(settings, dict)}
    predict = tasks.get("predict", {})
    self.prefix = predict.get("prefix", "")
    self.explain_prefix = tasks.get("explain", {}).get("prefix")
    self.answer_after_rationale = bool(predict.get("answer_after_rationale"))

  def _load(self) -> TorchStudent:
    model = _load_model(self._path)
    _check_vocabulary(self._path, model, self.vocabulary)
    return TorchStudent.of(model, self.vocabulary, self._config.batch_size)

  def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
    """Parameter name to shape, as T5X has them."""
    return dict(
        hf_names.t5x_kernel(name, tuple(parameter.shape))
        for name, parameter in self.student.model.named_parameters())

  def identity(self) -> dict[str, Any]:
    """What distinguishes this student from others, for stored answers."""
    files = sorted(p for p in self._path.iterdir() if p.is_file())
    return {"kind": self.kind, "files": [
        [p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files]}


class _Vocabulary:
  """A Hugging Face tokenizer under the names of a seqio vocabulary."""

  def __init__(self, tokenizer):
    self._tokenizer = tokenizer
    self.eos_id = tokenizer.eos_token_id

  def __len__(self) -> int:
    return len(self._tokenizer)

  def encode(self, text: str) -> list[int]:
    return self._tokenizer(text, add_special_tokens=False)["input_ids"]

  def decode(self, tokens: Sequence[int]) -> str:
    return self._tokenizer.decode(tokens, skip_special_tokens=True)


class TorchStudent:
  """The torch counterpart of `student.Student`.

  Args:
    model: a transformers encoder-decoder model.
    batch_size: rows, or `auto`.
  """

  def __init__(self, model, batch_size: int | str = batching.AUTO):
    self.model = model
    self._batch_size = batch_size
    self._pad = model.config.pad_token_id or 0
    self._eos = model.config.eos_token_id

  @classmethod
  def of(cls, model, vocabulary, batch_size) -> TorchStudent:
    if model.config.is_encoder_decoder:
      return cls(model, batch_size)
    return TorchDecoder(model, batch_size, vocabulary)

  def generate(
      self, inputs: Sequence[Sequence[int]], length: int, beam: int = 1,
      timing=None,
  ) -> Iterator[tuple[tuple[int, ...], list[Any]]]:
    """As `student.Student.generate`."""
    timing = timing or model_config.Timing()
    for batch in self._plan(inputs):
      chosen = [inputs[i] for i in batch.indices]
      start = time.perf_counter()
      tokens = self.generate_tokens(chosen, length, beam)
      timing.seconds += time.perf_counter() - start
      timing.examples += len(chosen)
      timing.tokens += sum(map(len, tokens))
      scores = self._log_likelihoods(chosen, tokens)
      yield batch.indices, [
          model_config.Decoded(tuple(t), s) for t, s in zip(tokens, scores)]

  def generate_tokens(self, inputs, length: int, beam: int = 1
                      ) -> list[list[int]]:
    """Decodes one batch; tokens up to the EOS, which is kept."""
    import torch

    ids = _pad(inputs, self._pad)
    with torch.inference_mode():
      out = self.model.generate(
          input_ids=torch.from_numpy(ids),
          attention_mask=torch.from_numpy(_mask(inputs)),
          max_new_tokens=length, num_beams=beam, do_sample=False)
    return [_until(row[1:], self._eos) for row in out.tolist()]

  def log_likelihoods(
      self, inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]],
      timing=None,
  ) -> Iterator[tuple[tuple[int, ...], list[float]]]:
    """As `student.Student.log_likelihoods`."""
    timing = timing or model_config.Timing()
    for batch in self._plan(inputs):
      start = time.perf_counter()
      scores = self._log_likelihoods([inputs[i] for i in batch.indices],
                                     [targets[i] for i in batch.indices])
      timing.seconds += time.perf_counter() - start
      timing.examples += len(scores)
      yield batch.indices, scores

  def _log_likelihoods(self, inputs, targets) -> list[float]:
    import torch

    labels = torch.from_numpy(_pad(targets, self._pad))
    mask = torch.from_numpy(_mask(targets))
    start = torch.full(
        (len(labels), 1), self.model.config.decoder_start_token_id)
    with torch.inference_mode():
      logits = self.model(
          input_ids=torch.from_numpy(_pad(inputs, self._pad)),
          attention_mask=torch.from_numpy(_mask(inputs)),
          decoder_input_ids=torch.cat([start, labels[:, :-1]], dim=1)).logits
      log_probs = torch.log_softmax(logits.float(), -1).gather(
          -1, labels[..., None])[..., 0]
    return (log_probs * mask).sum(-1).tolist()

  def _plan(self, inputs) -> list[batching.Batch]:
    return batching.plan([len(tokens) for tokens in inputs], self._batch_size)


class TorchDecoder(TorchStudent):
  """The same for a decoder, whose vocabulary has 0 for padding alone."""

  def __init__(self, model, batch_size, vocabulary):
    super().__init__(model, batch_size)
    self._pad, self._eos, self._zero = 0, vocabulary.eos_id, vocabulary.zero_id

  def generate_tokens(self, inputs, length: int, beam: int = 1
                      ) -> list[list[int]]:
    import torch

    # Prompts end together, as their answers follow them.
    ids = _pad([i[::-1] for i in inputs], 0)[:, ::-1]
    with torch.inference_mode():
      out = self.model.generate(
          input_ids=torch.from_numpy(self._theirs(ids)),
          attention_mask=torch.from_numpy((ids > 0).astype(np.int64)),
          max_new_tokens=length, num_beams=beam, do_sample=False,
          eos_token_id=0 if self._eos == self._zero else self._eos,
          pad_token_id=0)
    new = out[:, ids.shape[1]:].numpy()
    return [_until(row, self._eos)
            for row in np.where(new == 0, self._zero, new).tolist()]

  def _log_likelihoods(self, inputs, targets) -> list[float]:
    import torch

    ids = _pad([[*i, *t] for i, t in zip(inputs, targets)], 0)
    with torch.inference_mode():
      logits = self.model(
          input_ids=torch.from_numpy(self._theirs(ids)),
          attention_mask=torch.from_numpy((ids > 0).astype(np.int64))).logits
      never = self.model.generation_config.suppress_tokens
      logits[..., never or []] = -1e9  # Of padding too: 0 times it is 0.
      log_probs = torch.log_softmax(logits[:, :-1].float(), -1).gather(
          -1, torch.from_numpy(self._theirs(ids))[:, 1:, None])[..., 0].numpy()
    at = np.arange(1, ids.shape[1])[None]
    first = np.array([[len(i)] for i in inputs])
    last = np.array([[len(i) + len(t)] for i, t in zip(inputs, targets)])
    return (log_probs * ((at >= first) & (at < last))).sum(-1).tolist()

  def _theirs(self, ids: np.ndarray) -> np.ndarray:
    return np.where(ids == self._zero, 0, ids)


_TOKENIZER_FILES = (
    "tokenizer.json", "spiece.model", "sentencepiece.bpe.model",
    "tokenizer.model", "vocab.json", "vocab.txt")


def _load_tokenizer(path: pathlib.Path):
  transformers = runtime.import_transformers()
  transformers.logging.set_verbosity_error()
  # Without its file transformers makes a tokenizer that knows no word.
  if not any((path / name).is_file() for name in _TOKENIZER_FILES):
    raise errors.UserError(
        f"{path} has no tokenizer: none of {', '.join(_TOKENIZER_FILES)} is "
        "there; copy it from where the model was made")
  with errors.reported((OSError, ValueError, KeyError, TypeError),
                       lambda error: f"{path}: {errors.first_line(error)}"):
    config = transformers.AutoConfig.from_pretrained(path)
    if not config.is_encoder_decoder:
      return config, _decoders_vocabulary(path, config)
    return (config,
            _Vocabulary(transformers.AutoTokenizer.from_pretrained(path)))


def _decoders_vocabulary(path: pathlib.Path, config):
  """Prompts as the student was trained with, if its config.json says."""
  from stepdistill_jax.data import hugging_face_vocabulary
  prompt = (getattr(config, "task_specific_params", None) or {}).get("prompt")
  return hugging_face_vocabulary.HuggingFaceVocabulary(
      str(path / "tokenizer.json"), **(prompt or {}))


def _load_model(path: pathlib.Path):
  import torch
  import transformers

  transformers.utils.logging.disable_progress_bar()
  # Its readers raise errors of several packages.
  with errors.reported(
      Exception, lambda error: f"{path}: {errors.first_line(error)}"):
    config = transformers.AutoConfig.from_pretrained(path)
    loader = (transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder
              else transformers.AutoModelForCausalLM)
    model, found = loader.from_pretrained(
        path, dtype=torch.float32, output_loading_info=True)
  # They would be random numbers.
  missing = sorted(map(str, found.get("missing_keys") or ()))
  if missing:
    raise errors.UserError(
        f"{path}: the weights of {len(missing)} parameters of its config.json "
        f"are not there (such as {missing[0]}); they are of another model")
  # Answers are the most likely tokens, without the folder's penalties.
  model.generation_config = transformers.GenerationConfig(**{
      name: value for name, value in model.generation_config.to_dict().items()
      if name == "suppress_tokens" or name.endswith("_token_id")
      and not name.startswith("forced_")})
  return model.eval()


def _check_vocabulary(path: pathlib.Path, model, vocabulary) -> None:
  """Refuses a tokenizer with ids beyond the embedding."""
  rows = model.get_input_embeddings().num_embeddings
  if not model.config.is_encoder_decoder:
    return  # Its vocabulary compares itself with config.json.
  if len(vocabulary) > rows:
    raise errors.UserError(
        f"{path}: the embedding has {rows} rows, but the tokenizer has "
        f"{len(vocabulary)} pieces; one of them is of another model")


def _pad(sequences, value: int) -> np.ndarray:
  padded = np.full((len(sequences), max(map(len, sequences))), value, np.int64)
  for row, tokens in zip(padded, sequences):
    row[:len(tokens)] = tokens
  return padded


def _mask(sequences) -> np.ndarray:
  lengths = np.array([[len(tokens)] for tokens in sequences])
  return (np.arange(lengths.max()) < lengths).astype(np.int64)


def _until(tokens: list[int], eos: int) -> list[int]:
  return tokens[:tokens.index(eos) + 1] if eos in tokens else tokens
