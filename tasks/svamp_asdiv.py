"""SVAMP and ASDiv together, labelled by a teacher: the unlabeled setting.

ASDiv adds problems to SVAMP's and is not scored on: `gin/datasets/
svamp_asdiv.gin` trains on both and evaluates on SVAMP. Any other teacher with
records of both of them has the tasks, too; see `register_found_records`.
"""

from stepdistill_jax.data import task_registry

task_registry.register_declared("svamp_asdiv")
