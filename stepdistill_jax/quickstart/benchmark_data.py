"""Stories, the teacher's cache, records and vocabulary, as the plan says.

    OUTPUT/teacher_cache/{test,validation,train}/   what the teacher wrote
    OUTPUT/records/stepdistill_tracking/            records and vocabulary
    OUTPUT/teacher_audit.html                       what they are worth
"""

import dataclasses
import pathlib
import shutil
from typing import Any

from stepdistill_jax.quickstart import (
  plan as plan_lib,
  runs,
  tracking,
  tracking_teacher,
  tracking_vocabulary,
)
from stepdistill_jax.records import records
from stepdistill_jax.teacher import filters
from stepdistill_jax.teacher.audit import audit, report as audit_report
from stepdistill_jax.teacher.importing import formats as importing


@dataclasses.dataclass(frozen=True)
class BenchmarkData:
  """What a quickstart trains on.

  Attributes:
    records_dir: the records' folder, for `--tfds_data_dir`.
    import_info: what the import counted, as in its `import.json`.
    audit_page: what the audit found.
    made: False if all of it was there already.
  """

  records_dir: pathlib.Path
  import_info: dict[str, Any]
  audit_page: pathlib.Path
  made: bool


def prepare(output_dir: pathlib.Path, plan: plan_lib.Plan) -> BenchmarkData:
  """Makes the data, unless an earlier call with this plan did.

  Args:
    output_dir: the quickstart's folder, claimed for this plan.
    plan: decides every byte of it.
  """
  records_dir = runs.records_dir(output_dir)
  key = tracking.DATASET, tracking_teacher.TEACHER
  # The records are renamed into place last: where they are, all is.
  made = not (records.version_dir(records_dir, *key)
              / "dataset_info.json").is_file()
  if made:
    _make(output_dir / "teacher_cache", records_dir, plan)
  audit_page = output_dir / "teacher_audit.html"
  if made or not audit_page.is_file():
    audit_page.write_text(audit_report.html_page(*audit.audit(
        records_dir, *key, vocabulary=records.vocabulary_path(
            records_dir, tracking.DATASET))), "utf-8")
  return BenchmarkData(
      records_dir, records.import_info(records_dir, *key), audit_page, made)


def _make(cache_dir: pathlib.Path, records_dir: pathlib.Path,
          plan: plan_lib.Plan) -> None:
  # The test split first: it then depends on no other split's size.
  stories = tracking.draw_splits(plan.data_seed, {
      "test": plan.test_stories, "validation": plan.validation_stories,
      "train": plan.train_stories}, plan.difficulty)
  tracking_vocabulary.write(
      records.vocabulary_path(records_dir, tracking.DATASET),
      stories["train"])
  shutil.rmtree(cache_dir, ignore_errors=True)  # Of an interrupted call.
  tracking_teacher.write_caches(
      cache_dir, stories, plan.teacher, seed=plan.data_seed,
      difficulty=plan.difficulty)
  importing.import_cache(cache_dir, output=records_dir)


def count_train_stories(
    records_dir: pathlib.Path, plan: plan_lib.Plan) -> dict[float, int]:
  """How many training stories each of the plan's shares has."""
  total = records.split_sizes(
      records_dir, tracking.DATASET, tracking_teacher.TEACHER)["train"]
  return {share: filters.share_size(total, share) for share in plan.shares}
