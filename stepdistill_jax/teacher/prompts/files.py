"""Finding prompt files: this package's own, and a user's."""

import functools
import os
import pathlib
import tomllib

from stepdistill_jax.teacher.prompts import prompt
from stepdistill_jax.util import errors

_OWN_FOLDER = pathlib.Path(__file__).resolve().parent
_ENVIRONMENT = "STEPDISTILL_PROMPTS"


def folders() -> list[pathlib.Path]:
  """Where prompt files are looked for: `$STEPDISTILL_PROMPTS`, then ours.

  Raises:
    errors.UserError: `$STEPDISTILL_PROMPTS` names a folder that is not there.
  """
  found = []
  for name in os.environ.get(_ENVIRONMENT, "").split(os.pathsep):
    if name:
      folder = pathlib.Path(name).expanduser()
      if not folder.is_dir():
        raise errors.UserError(
            f"{_ENVIRONMENT} names {folder}, which is not a folder")
      found.append(folder)
  return found + [_OWN_FOLDER]


def list_prompts() -> list[prompt.Prompt]:
  """All prompts by id; a user's file hides ours of the same name."""
  paths: dict[str, pathlib.Path] = {}
  for folder in reversed(folders()):
    paths.update((path.stem, path) for path in folder.glob("*.toml"))
  return [load_file(paths[name]) for name in sorted(paths)]


def find(name: str, dataset: str) -> prompt.Prompt:
  """Returns the prompt called `name` for a data set.

  Args:
    name: a path to a `.toml` file, a prompt's id (`svamp_few_shot_cot`), or a
      kind (`few_shot_cot`), of which the data set's own is preferred to the
      one for any data set.
    dataset: the name of the data set.

  Raises:
    errors.UserError: there is none, or it is not for this data set.
  """
  if name.endswith(".toml") or os.sep in name:
    found = load_file(pathlib.Path(name).expanduser())
  else:
    prompts = list_prompts()
    by_id = {p.id: p for p in prompts}
    of_kind = [p for p in prompts if p.kind == name and p.serves(dataset)]
    # The data set's own before the one for any.
    of_kind.sort(key=lambda p: dataset not in p.datasets)
    if not (name in by_id or of_kind):
      serving = [p for p in prompts if p.serves(dataset)]
      errors.require_known(
          "prompt", name, {text for p in serving for text in (p.id, p.kind)},
          f"(for data set {dataset!r}; `stepdistill teacher prompt --list` "
          "shows all, and a path ending in .toml is a file of your own)")
    found = by_id.get(name) or of_kind[0]
  if not found.serves(dataset):
    raise errors.UserError(
        f"prompt {found.id!r} is for {', '.join(found.datasets)}, not for "
        f"{dataset!r}; add the name to its datasets, or choose another")
  return found


def load_file(path: pathlib.Path) -> prompt.Prompt:
  """Reads one prompt file.

  Raises:
    errors.UserError: it cannot be read, is not TOML, or not a prompt.
  """
  with errors.reported(OSError, lambda error: (
      f"cannot read prompt file {path}: {error.strerror}")):
    data = path.read_bytes()
  return _parse(path, data)


@functools.lru_cache(maxsize=256)
def _parse(path: pathlib.Path, data: bytes) -> prompt.Prompt:
  with errors.reported(  # TOMLDecodeError and UnicodeDecodeError.
      ValueError, lambda error: f"{path} is not TOML: {error}"):
    table = tomllib.loads(data.decode("utf-8"))
  return prompt.from_table(
      table, prompt_id=path.stem, source=data, where=str(path))
