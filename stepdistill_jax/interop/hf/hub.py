"""Pretrained students by their names on the Hugging Face hub.

`huggingface_hub` fetches and caches, goes on with what was interrupted, and
takes HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE from the environment.
An import by name lies in a folder that its name leads to, so that
`[students]` of a study and INITIAL_CHECKPOINT_PATH may say the name.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

from stepdistill_jax.interop import import_result
from stepdistill_jax.interop.hf import importing
from stepdistill_jax.util import errors, locations

# What an import reads; weights apart.
_FILES = ("config.json", "generation_config.json", "spiece.model",
          "tokenizer*", "special_tokens_map.json", "added_tokens.json",
          "chat_template*")
_WEIGHTS = (("*.safetensors", "*.safetensors.index.json"),
            ("pytorch_model*.bin", "pytorch_model.bin.index.json"))


def fetch(named: str) -> tuple[pathlib.Path, str]:
  """Fetches a model's files, or finds them in the hub's cache.

  Args:
    named: `ORGANIZATION/NAME`, or with `@REVISION` after it.

  Returns:
    Their folder, and the commit that they are of.

  Raises:
    errors.UserError: there is no such model or revision, it wants a token, or
      the hub cannot be reached and the cache does not have it.
  """
  import huggingface_hub
  from huggingface_hub import constants, errors as hub_errors

  name, _, revision = named.partition("@")
  where, why = constants.ENDPOINT, None
  download = functools.partial(
      huggingface_hub.snapshot_download, name, revision=revision or None)
  try:
    try:
      info = huggingface_hub.HfApi().model_info(
          name, revision=revision or None)
      files = [sibling.rfilename for sibling in info.siblings or ()]
      folder = download(allow_patterns=[*_FILES, *_weights(files)])
    except hub_errors.HfHubHTTPError:
      raise
    except Exception as error:  # Of the library's transport, or it is offline.
      why = error
      folder = download(local_files_only=True)
      if not any(pathlib.Path(folder).glob(patterns[0])
                 for patterns in _WEIGHTS):
        raise FileNotFoundError(f"{folder} has no weights") from error
  except hub_errors.GatedRepoError as error:
    raise errors.UserError(
        f"{name} on {where} asks for consent to its terms: accept them on its "
        "page, and set HF_TOKEN to a token of that account") from error
  except hub_errors.RepositoryNotFoundError as error:
    raise errors.UserError(
        f"{where} has no model {name!r}, or HF_TOKEN does not open it; check "
        "the name, or pass a folder in the Hugging Face format") from error
  except hub_errors.RevisionNotFoundError as error:
    raise errors.UserError(
        f"{name} on {where} has no revision {revision!r}") from error
  except (hub_errors.HfHubHTTPError, OSError, ValueError) as error:
    offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
    raise errors.UserError(
        f"{named} cannot be fetched from {where}{offline} and is not in the "
        f"cache {constants.HF_HUB_CACHE}: "
        f"{errors.first_line(why or error, 120)}; fetch it where there is "
        "network, or pass a folder in the Hugging Face format") from error
  path = pathlib.Path(folder)
  return path, path.name


def _weights(files: list[str]) -> tuple[str, ...]:
  """Patterns of the weights: safetensors where there are any."""
  safe = any(file.endswith(".safetensors") and "/" not in file
             for file in files)
  return _WEIGHTS[0] if safe else _WEIGHTS[1]


def import_named(
    named: str, output: pathlib.Path | None = None, **options: Any
) -> import_result.Imported:
  """Fetches a model and converts it; for arguments see `fetch`, `import_hf`.

  Args:
    named: of `fetch`.
    output: the folder to write; by default the one that its name leads to.
    **options: of `import_hf`.
  """
  folder, commit = fetch(named)
  output = output or locations.import_folder(named)
  return importing.import_hf(
      folder, output, hub=f"{named.partition('@')[0]}@{commit}", **options)
