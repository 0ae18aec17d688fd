"""The student: its loss, its weighting schedules, its metrics, its trainer.

Gin files say `from stepdistill_jax import models as students` and bind
`students.StepDistillModel`, `students.label_and_rationale`, ...
"""

from stepdistill_jax.models.data_check import verify_data  # noqa: F401
from stepdistill_jax.models.decoder_model import StepDistillDecoder  # noqa: F401
from stepdistill_jax.models.lora import (
    save_adapters,  # noqa: F401
    train_adapters,  # noqa: F401
)
from stepdistill_jax.models.optimization import (
    clip_by_global_norm,  # noqa: F401
    learning_rate,  # noqa: F401
    optimizer,  # noqa: F401
)
from stepdistill_jax.models.schedules import (
    constant,  # noqa: F401
    cosine,  # noqa: F401
    linear,  # noqa: F401
    step,  # noqa: F401
    steps_of_epochs,  # noqa: F401
)
from stepdistill_jax.models.step_model import StepDistillModel  # noqa: F401
from stepdistill_jax.models.trainer import StepDistillTrainer  # noqa: F401
from stepdistill_jax.models.weights import (
    TaskWeights,  # noqa: F401
    label_and_rationale,  # noqa: F401
    single_task,  # noqa: F401
)
