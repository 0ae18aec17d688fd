"""SeqIO tasks and mixtures, one file a data set.

Importing this package registers the tasks of the known data sets and of all
records in the records folder; see `stepdistill_jax.data.task_registry` for
their names. No data is read before a task is used.
"""

from stepdistill_jax.data import task_registry

from tasks import anli1
from tasks import anli2
from tasks import anli3
from tasks import asdiv
from tasks import cqa
from tasks import esnli
from tasks import gsm8k
from tasks import svamp
from tasks import svamp_asdiv
from tasks import tracking

task_registry.register_found_records()
