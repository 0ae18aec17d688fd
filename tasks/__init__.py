"""SeqIO tasks and mixtures, one file a data set.

Importing this package, as `stepdistill_jax.tasks` or as `tasks`, registers the
tasks of the known data sets and of all records in the records folder; see
`stepdistill_jax.data.task_registry` for their names. No data is read before a
task is used.
"""

import pathlib

from stepdistill_jax.data import task_registry
from stepdistill_jax.records import declared
from stepdistill_jax.tasks import (
    anli1,  # noqa: F401
    anli2,  # noqa: F401
    anli3,  # noqa: F401
    asdiv,  # noqa: F401
    cqa,  # noqa: F401
    esnli,  # noqa: F401
    gsm8k,  # noqa: F401
    svamp,  # noqa: F401
    svamp_asdiv,  # noqa: F401
    tracking,  # noqa: F401
)

# Those whose TOML file has no module beside it, for imports by name.
for _name in declared.tables():
  if not (pathlib.Path(__file__).parent / f"{_name}.py").is_file():
    task_registry.register_declared(_name)
task_registry.register_found_records()
