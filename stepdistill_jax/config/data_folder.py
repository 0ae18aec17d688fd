"""SeqIO's folder of TFDS data sets, for as long as a block runs."""

from collections.abc import Iterator
import contextlib
import os


@contextlib.contextmanager
def tfds_data_dir(folder: str | os.PathLike[str] | None) -> Iterator[None]:
  """Overrides the data folder of all TFDS tasks; None leaves it as it is.

  SeqIO has one such folder a process: a run that left its own would decide
  what later runs, and the scoring after a run, read.
  """
  import seqio  # Late: `--help` is quick.
  before = seqio.utils._get_data_dir_override(None)
  if folder is not None:
    seqio.set_tfds_data_dir_override(os.fspath(folder))
  try:
    yield
  finally:
    seqio.set_tfds_data_dir_override(before)
