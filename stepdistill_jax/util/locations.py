"""Where files are: the project's own, the user's records, the vocabulary.

| what | order of search |
|---|---|
| gin files, tasks | the checkout, else beside the installed package |
| records | `--records_dir`, `$STEPDISTILL_RECORDS`, `DATA_HOME/records` |
| imports by name | `DATA_HOME/imports` |
| T5's `spiece.model` | `$STEPDISTILL_VOCAB`, `$STEPDISTILL_DATA/vocab/`,
  `DATA_HOME/vocab/` |

DATA_HOME is `$XDG_DATA_HOME/stepdistill_jax`, by default
`~/.local/share/stepdistill_jax`.
"""

import os
import pathlib
import re

from stepdistill_jax.util import errors, remote_storage

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]


def resource_root() -> pathlib.Path:
  """The folder that `gin/recipes/x.gin` is relative to.

  The checkout's root; in an installed wheel the package's own folder, where
  setup.py puts the gin files.
  """
  checkout = _PACKAGE.parent
  if (checkout / "gin" / "recipes").is_dir():
    return checkout
  return _PACKAGE


def data_home() -> pathlib.Path:
  """The user's folder for records and vocabularies; not created here."""
  base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
  return pathlib.Path(base).expanduser() / "stepdistill_jax"


def cache_home() -> pathlib.Path:
  """The user's folder for what can be made again (compiled programs)."""
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(base).expanduser() / "stepdistill_jax"


def import_folder(name: str) -> pathlib.Path | None:
  """Where an import by its name on the Hugging Face hub is, or would be.

  Args:
    name: `ORGANIZATION/NAME`, or with `@REVISION` after it.

  Returns:
    The folder; None if the text is not such a name, or a path that is there.
  """
  if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", name) or (
      os.path.exists(name)):
    return None
  return data_home() / "imports" / name.replace("/", "--")


def initial_checkpoint(path: str) -> str:
  """The checkpoint of an import by name; any other path as it is."""
  folder = import_folder(path)
  steps = sorted(folder.glob("checkpoint_*")) if folder else []
  return str(steps[-1]) if steps else path


def records_dir() -> pathlib.Path:
  """The folder of distillation records (a TFDS `data_dir`).

  Raises:
    errors.UserError: $STEPDISTILL_RECORDS names an object store's.
  """
  configured = os.environ.get("STEPDISTILL_RECORDS")
  if configured:
    return local(configured, "STEPDISTILL_RECORDS")
  return data_home() / "records"


def absolute(path: str | os.PathLike[str]) -> str:
  """A folder's path from the root, without `~`; object stores' stay."""
  path = os.fspath(path)
  if "://" in path:
    return path.rstrip("/")
  return os.path.abspath(os.path.expanduser(path))


def local(path: str | os.PathLike[str], what: str) -> pathlib.Path:
  """A path that must be on this machine.

  Args:
    path: as the user gave it.
    what: it is, for the error.

  Raises:
    errors.UserError: it names something in an object store.
  """
  if remote_storage.is_remote(path):
    raise errors.UserError(
        f"{what} must be a local path, got {os.fspath(path)}; copy it to this "
        "machine, or mount the bucket")
  return pathlib.Path(path).expanduser()


def not_a_folder(path: str | os.PathLike[str]) -> str:
  """What a path is instead of a folder, for an error."""
  return (f"{path} is a file, not a folder" if os.path.exists(path)
          else f"there is no folder {path}")


def is_dir(path: str | os.PathLike[str]) -> bool:
  """Whether a folder is there, local or remote.

  Where an object store refuses an answer, TensorFlow's `isdir` says no; this
  raises what it said.
  """
  from etils import epath  # Late: `--help` is quick.
  folder = epath.Path(path)
  return (not remote_storage.is_remote(path) or bool(folder.exists())) and (
      bool(folder.is_dir()))


def t5_vocabulary_path() -> pathlib.Path:
  """T5's SentencePiece model.

  Raises:
    errors.UserError: it is in none of the places of the module's table.
  """
  if configured := os.environ.get("STEPDISTILL_VOCAB"):
    candidates = [pathlib.Path(configured).expanduser()]
  else:
    folders = [data_home()]
    if data := os.environ.get("STEPDISTILL_DATA"):
      folders.insert(0, pathlib.Path(data).expanduser())
    candidates = [folder / "vocab" / "spiece.model" for folder in folders]
  for candidate in candidates:
    if candidate.is_file():
      return candidate
  raise errors.UserError(
      "T5's SentencePiece model was not found; looked for "
      + ", ".join(str(c) for c in candidates)
      + "; set STEPDISTILL_VOCAB=/path/to/spiece.model, or pass "
      "--vocabulary=/path/to/spiece.model to `stepdistill teacher import`")
