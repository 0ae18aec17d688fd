"""The names of SeqIO tasks, as gin files put them together.

A run file asks for `DATASET`, `TEACHER` and `LABELS`; a method knows which
kind of task it trains on and which it is scored with. So a data set or a
teacher is changed in one place.
"""

from stepdistill_jax.util import errors

GOLD, TEACHER = "gold", "teacher"
# Kinds whose name has the labels alone, the teacher alone, or both.
_LABELED = ("label", "predict")
_EXPLAINED = ("rationale", "explain")
_BOTH = ("step", "mix", "single", "pinto")
KINDS = (*_LABELED, *_EXPLAINED, *_BOTH)


def task_name(
    kind: str, dataset: str, labels: str = GOLD, teacher: str | None = None,
) -> str:
  """The name of a task or mixture, `{dataset}_{kind}_{...}`.

  >>> task_name("step", "svamp", "gold", "palm540b")
  'svamp_step_gold_palm540b'
  >>> task_name("label", "cqa", "teacher", "llama3")
  'cqa_label_llama3'

  Args:
    kind: one of `KINDS`.
    dataset: such as `svamp`.
    labels: `gold`, the human labels, or `teacher`, the teacher's.
    teacher: such as `palm540b`; may be None where neither the rationale nor
      the label is a teacher's.

  Returns:
    The name, whether or not there is such a task.

  Raises:
    errors.UserError: an unknown kind or kind of labels, or no teacher.
  """
  errors.require_known("kind of task", kind, KINDS)
  if labels not in (GOLD, TEACHER):
    raise errors.UserError(
        f"LABELS must be 'gold' (human labels) or 'teacher', got {labels!r}")
  needs_teacher = kind not in _LABELED or labels == TEACHER
  if needs_teacher and not teacher:
    raise errors.UserError(
        f"tasks of kind {kind!r} with {labels} labels come from a teacher; "
        "bind TEACHER, e.g. --gin.TEACHER=\\\"palm540b\\\"")
  label_source = teacher if labels == TEACHER else GOLD
  if kind in _LABELED:
    return f"{dataset}_{kind}_{label_source}"
  if kind in _EXPLAINED:
    return f"{dataset}_{kind}_{teacher}"
  return f"{dataset}_{kind}_{label_source}_{teacher}"
