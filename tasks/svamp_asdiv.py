"""SVAMP and ASDiv together, labelled by a teacher: the unlabeled setting.

ASDiv adds problems to SVAMP's and is not scored on: `gin/datasets/
svamp_asdiv.gin` trains on both and evaluates on SVAMP.
"""

from stepdistill_jax.data import task_registry

task_registry.register_union("svamp_asdiv", teachers=("palm540b", "llama3"))
