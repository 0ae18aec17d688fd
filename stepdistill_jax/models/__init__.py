"""The student: its loss, its weighting schedules, its metrics, its trainer.

Gin files say `from stepdistill_jax import models as students` and bind
`students.StepDistillModel`, `students.label_and_rationale`, ...
"""

from stepdistill_jax.models.data_check import verify_data
from stepdistill_jax.models.schedules import constant
from stepdistill_jax.models.schedules import cosine
from stepdistill_jax.models.schedules import linear
from stepdistill_jax.models.schedules import step
from stepdistill_jax.models.schedules import steps_of_epochs
from stepdistill_jax.models.step_model import StepDistillModel
from stepdistill_jax.models.trainer import StepDistillTrainer
from stepdistill_jax.models.weights import label_and_rationale
from stepdistill_jax.models.weights import single_task
from stepdistill_jax.models.weights import TaskWeights
