"""Where a study's students begin: imports of pretrained checkpoints."""

from collections.abc import Callable
import pathlib

from stepdistill_jax.util import errors, locations

_FILE = "student.gin"


def gin_file(student: str, say: Callable[[str], None]) -> str:
  """The gin file of a student, which is fetched and imported if need be.

  Args:
    student: the folder of an import, or a name on the Hugging Face hub.
    say: takes lines about the progress.

  Raises:
    errors.UserError: there is no such student.
  """
  folder = locations.import_folder(student)
  if folder is None:
    file = pathlib.Path(student).expanduser().absolute() / _FILE
    if file.is_file():
      return str(file)
    raise errors.UserError(
        f"{student} is not the folder of an import (it has no {_FILE}): make "
        "it with `stepdistill checkpoint import-hf HF_FOLDER --output=DIR`")
  if locations.initial_checkpoint(student) == student:
    from stepdistill_jax.interop.hf import hub

    say(f"importing {student} -> {folder}")
    hub.import_named(student)
  return str(folder / _FILE)
