"""SeqIO tasks and mixtures, one file a data set.

Importing this package, as `stepdistill_jax.tasks` or as `tasks`, registers the
tasks of the known data sets and of all records in the records folder; see
`stepdistill_jax.data.task_registry` for their names. No data is read before a
task is used.
"""

from stepdistill_jax.data import task_registry
from stepdistill_jax.tasks import anli1
from stepdistill_jax.tasks import anli2
from stepdistill_jax.tasks import anli3
from stepdistill_jax.tasks import asdiv
from stepdistill_jax.tasks import cqa
from stepdistill_jax.tasks import esnli
from stepdistill_jax.tasks import gsm8k
from stepdistill_jax.tasks import svamp
from stepdistill_jax.tasks import svamp_asdiv
from stepdistill_jax.tasks import tracking

task_registry.register_found_records()
