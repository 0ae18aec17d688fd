"""What the folder around a checkpoint says of it: tokenizer, method, origin."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import os
import pathlib
from typing import Any

from etils import epath

from stepdistill_jax.data import tokenizer_files
from stepdistill_jax.interop import (
  architecture,
  gin_model,
  import_result,
  tokenizers,
)
from stepdistill_jax.runs import run_record
from stepdistill_jax.util import errors, locations

CONFIG_FILE = "config.gin"


@dataclasses.dataclass(frozen=True)
class Context:
  """A checkpoint's surroundings; everything in it may be missing.

  Attributes:
    run_folder: the folder that the checkpoint is in.
    bindings: literals of its `config.gin`; see `gin_model.read_literals`.
    imported: `import.json` of the checkpoint itself, if it was imported.
    origin: `import.json` of the checkpoint that the run began from; the same
      as `imported` if that is there.
    hf_folder: config and tokenizer that were kept with `origin`.
  """

  run_folder: epath.Path
  bindings: Mapping[str, Any]
  imported: Mapping[str, Any] | None
  origin: Mapping[str, Any] | None
  hf_folder: epath.Path | None

  @property
  def mlp_activations(self) -> tuple[str, ...] | None:
    value = self.bindings.get("T5Config.mlp_activations")
    return None if value is None else tuple(value)

  @property
  def dropout_rate(self) -> float:
    for name in ("T5Config.dropout_rate", "DROPOUT_RATE"):
      if isinstance(self.bindings.get(name), (int, float)):
        return float(self.bindings[name])
    return 0.1

  def decoder_architecture(self) -> architecture.DecoderArchitecture | None:
    """A decoder's dimensions as the run's configuration states them."""
    names = {field.name: f"LlamaConfig.{field.name}" for field in
             dataclasses.fields(architecture.DecoderArchitecture)}
    stated = {name: self.bound(key) for name, key in names.items()
              if key in self.bindings}
    if self.imported is not None or not stated:
      return None
    if "mlp_activations" in stated:
      stated["mlp_activations"] = tuple(stated["mlp_activations"])
    return architecture.DecoderArchitecture(**stated)

  def bound(self, name: str, default: Any = None) -> Any:
    """A binding's value, where it is a literal or a macro of one."""
    value = self.bindings.get(name, default)
    if isinstance(value, str) and value.startswith("%"):
      return self.bindings.get(value[1:], default)
    return value

  def prompt(self) -> dict[str, Any] | None:
    """How a decoder was asked, as `HuggingFaceVocabulary` takes it."""
    family = (self.origin or {}).get("family")
    if "TOKENIZER" not in self.bindings and (
        family not in architecture.DECODER_FAMILIES):
      return None
    return {
        "chat": self.bound("HuggingFaceVocabulary.chat") is True,
        "system": str(self.bound("HuggingFaceVocabulary.system") or ""),
        "prompt_suffix": str(self.bound(
            "HuggingFaceVocabulary.prompt_suffix", "\n"))}

  def task_name(self, records_dir: pathlib.Path | None = None) -> str | None:
    """The SeqIO task or mixture that the run was trained on, if it was."""
    name = self.bindings.get("MIXTURE_OR_TASK_NAME")
    if self.imported is not None or not isinstance(name, str):
      return None
    if not name.startswith(("@", "%")):
      return name
    # The methods' gin files put the name together; our engine writes it down.
    written = self._run_data().get("task")
    return written if isinstance(written, str) else self._rebuilt(
        records_dir)[1]

  def _run_data(self) -> Mapping[str, Any]:
    """What `run.json` says of the training data; empty without one."""
    data = run_record.peek(self.run_folder).get("data")
    return data if isinstance(data, dict) else {}

  def records_dir(self) -> pathlib.Path:
    """Where the run's records are: as it wrote down, if they still are."""
    folders = self._run_data().get("folders")
    for folder in folders if isinstance(folders, list) else ():
      # RECORDS/stepdistill_DATASET/TEACHER/VERSION
      parents = pathlib.Path(str(folder)).parents
      if len(parents) > 2 and parents[2].is_dir():
        return parents[2]
    return locations.records_dir()

  def _rebuilt(self, records_dir: pathlib.Path | None):
    """The run's model and the name of its task."""
    try:
      return _rebuild(self.run_folder / CONFIG_FILE,
                      pathlib.Path(records_dir or self.records_dir()))
    except errors.UserError as error:
      raise errors.UserError(
          f"{error}; --records_dir=DIR names the run's records, "
          "--tokenizer=PATH its vocabulary") from error

  @property
  def base_config(self) -> Mapping[str, Any]:
    return self._hf_json("config.json")

  @property
  def base_generation_config(self) -> Mapping[str, Any]:
    return self._hf_json("generation_config.json")

  def licence(self) -> str:
    """The licence files that came with an imported checkpoint, or ""."""
    return "\n".join(
        (self.hf_folder / name).read_bytes().decode("utf-8", "replace")
        for name in tokenizers.LICENCES
        if self.hf_folder and (self.hf_folder / name).is_file())

  def _hf_json(self, name: str) -> Mapping[str, Any]:
    if self.hf_folder is None:
      return {}
    return tokenizer_files.read_json(self.hf_folder / name, may_lack=True)

  def tokenizer(self, records_dir: pathlib.Path | None = None
                ) -> tokenizers.Tokenizer:
    """The model's vocabulary: as the run's configuration says, else origin's.

    Args:
      records_dir: where the vocabularies of records are.

    Raises:
      errors.UserError: it is nowhere to be found.
    """
    stated = self._stated_tokenizer()
    if stated is not None:
      return stated
    file = self.bindings.get("TOKENIZER")
    if isinstance(file, str) and pathlib.Path(file).is_file():
      return tokenizers.Tokenizer(None, 0, pathlib.Path(file))
    if self.imported is None and (self.run_folder / CONFIG_FILE).is_file():
      return _tokenizer_of_vocabulary(
          self._rebuilt(records_dir)[0].output_vocabulary,
          self.run_folder / CONFIG_FILE)
    if self.hf_folder is not None:
      return tokenizers.find(self.hf_folder, self.base_config)
    raise errors.UserError(
        f"the vocabulary of {self.run_folder} is not known: it has no "
        f"{CONFIG_FILE} and was not imported; pass --tokenizer=DIR (a Hugging "
        "Face folder), or --tokenizer=/path/to/spiece.model")

  def _stated_tokenizer(self) -> tokenizers.Tokenizer | None:
    """The vocabulary, if the configuration names its file."""
    file = self.bindings.get("SentencePieceVocabulary.sentencepiece_model_file")
    kind = str(self.bindings.get("VOCABULARY")).split(".")[-1]
    if kind == "ByteVocabulary()":
      return tokenizers.Tokenizer(
          None, self.bindings.get("ByteVocabulary.extra_ids", 0))
    if (kind != "SentencePieceVocabulary()" or not isinstance(file, str)
        or not pathlib.Path(file).is_file()):
      return None
    return tokenizers.Tokenizer(
        pathlib.Path(file).read_bytes(),
        self.bindings.get("SentencePieceVocabulary.extra_ids", 0))


@functools.cache
def _rebuild(config_file: epath.Path, records_dir: pathlib.Path):
  """Rebuilds a run's model: (model, name of its task). Imports jax."""
  from stepdistill_jax.util import runtime
  runtime.configure()
  runtime.import_tensorflow()
  from stepdistill_jax.interop import rebuilding
  return rebuilding.rebuild_model(config_file, records_dir)


def _tokenizer_of_vocabulary(
    vocabulary, config_file: epath.Path) -> tokenizers.Tokenizer:
  extra_ids = getattr(vocabulary, "extra_ids", 0) or 0
  file = getattr(vocabulary, "sentencepiece_model_file", None)
  if file:
    run_record.check_vocabulary(config_file.parent, file)
    return tokenizers.Tokenizer(pathlib.Path(file).read_bytes(), extra_ids)
  if type(vocabulary).__name__ == "ByteVocabulary":
    return tokenizers.Tokenizer(None, extra_ids)
  raise errors.UserError(
      f"{config_file}: a vocabulary of class {type(vocabulary).__name__} has "
      "no counterpart in transformers; pass --tokenizer=DIR")


def _import_json(folder: epath.Path) -> Mapping[str, Any] | None:
  file = folder / import_result.PROVENANCE_FILE
  if not file.is_file():
    return None
  found = tokenizer_files.read_json(file)
  for key, kind in (("vocab_size", int), ("padded_vocab_size", int),
                    ("dtypes", dict), ("family", str), ("source", str)):
    if not isinstance(found.get(key, kind()), kind):
      raise errors.UserError(
          f"{file}: `{key}` is {found[key]!r}; it was not written by an import")
  return found


def find(path: str | os.PathLike[str]) -> Context:
  """Reads the surroundings of `MODEL_DIR/checkpoint_STEP`.

  Raises:
    errors.UserError: a file there is damaged.
  """
  path = os.fspath(path)
  checkpoint = epath.Path(path)
  folder = checkpoint.parent
  config = folder / CONFIG_FILE
  bindings = gin_model.read_literals(config) if config.is_file() else {}
  imported = origin = _import_json(folder)
  if imported is not None and (
      checkpoint.name != f"checkpoint_{imported.get('step')}"):
    imported = None  # The run was trained in the folder of an import.
  origin_folder = folder if origin is not None else None
  initial = bindings.get("INITIAL_CHECKPOINT_PATH")
  if origin is None and isinstance(initial, str) and (
      "://" in path or "://" not in initial):  # Offline, a local run is enough.
    origin_folder = epath.Path(locations.absolute(initial)).parent
    origin = _import_json(origin_folder)
  hf_folder = None
  if origin is not None and (origin_folder / import_result.HF_FOLDER).is_dir():
    hf_folder = origin_folder / import_result.HF_FOLDER
  return Context(folder, bindings, imported, origin, hf_folder)
