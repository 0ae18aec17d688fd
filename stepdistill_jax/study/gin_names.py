"""The gin files that the names in a study stand for."""

from collections.abc import Iterable, Sequence
import pathlib

from stepdistill_jax.config import gin_config
from stepdistill_jax.util import errors

_TEACHER_LABELS = "_teacher"  # After a method: the teacher's labels.
_T5 = "t5_1_1"
_NOT_SIZES = (_T5, "decoder", "scanned")
# Methods whose loss has α, and those that train on human labels alone.
_WITH_ALPHA = ("step_by_step", "step_by_step_mixture", "mutual_information")
_WITHOUT_TEACHER = ("finetune",)


def _stems(kind: str) -> list[str]:
  """Names of the gin files of a kind: the project's, and gin/KIND/ here."""
  return sorted({path.stem for folder in gin_config.search_paths()
                 for path in pathlib.Path(folder, "gin", kind).glob("*.gin")})


def _find(name: str) -> pathlib.Path | None:
  return next((path for folder in gin_config.search_paths()
               if (path := pathlib.Path(folder, name)).is_file()), None)


def method_names() -> list[str]:
  """Methods, and those that can take a teacher's labels with `_teacher`."""
  stems = _stems("methods")
  return [*stems, *(f"{stem}{_TEACHER_LABELS}" for stem in stems
                    if stem in (*_WITH_ALPHA, "single_task"))]


def sizes() -> list[str]:
  """Students: `base` for T5 v1.1's, `llama3_1_8b` for a decoder's."""
  return sorted(stem.removeprefix(f"{_T5}_") for stem in _stems("models")
                if stem not in _NOT_SIZES)


def check(datasets: Iterable[str], methods: Iterable[str],
          names_of_sizes: Iterable[str], where: str,
          other_methods: Sequence[str] = ()) -> None:
  """Raises UserError for a name that there is not, with near ones."""
  for kind, names, known in (
      ("data set", datasets, _stems("datasets")),
      ("method", methods, [*method_names(), *other_methods]),
      ("size", names_of_sizes, sizes())):
    for name in names:
      errors.require_known(kind, name, known, where=where)


def check_run(run: str, where: str) -> None:
  """The same of a file in gin/runs."""
  errors.require_known("run", run, _stems("runs"), where=where)


def needs_teacher(method: str) -> bool:
  """Whether a method learns anything of a teacher."""
  return method not in _WITHOUT_TEACHER


def has_alpha(method: str) -> bool:
  """Whether a method's loss has α."""
  return method.removesuffix(_TEACHER_LABELS) in _WITH_ALPHA


def is_decoder(size: str) -> bool:
  """Whether a size is a decoder's."""
  if _find(f"gin/models/{_T5}_{size}.gin"):
    return False
  return "models.llama" in _find(f"gin/models/{size}.gin").read_text("utf-8")


def gin_files(dataset: str, method: str, size: str, run: str = ""
              ) -> tuple[list[str], list[str]]:
  """The gin files of a run, and what is bound after them.

  A recipe where there is one and `run` names no other; else a model, a run, a
  data set and a method put together.
  """
  for recipe in (f"gin/recipes/{dataset}_{method}_{size}.gin",
                 f"gin/recipes/decoder/{dataset}_{method}_{size}.gin"):
    if not run and _find(recipe):
      return [recipe], []
  labels = ["LABELS = 'teacher'"] if method.endswith(_TEACHER_LABELS) and (
      not _find(f"gin/methods/{method}.gin")) else []
  if _find(f"gin/models/{_T5}_{size}.gin"):
    models = [f"gin/models/{_T5}.gin", f"gin/models/{_T5}_{size}.gin"]
    run = run or ("paper_xxl" if size == "xxl" else "paper")
  elif is_decoder(size):
    models = ["gin/models/decoder.gin", f"gin/models/{size}.gin"]
    run = run or "synthetic"
  else:
    models = [f"gin/models/{_T5}.gin", f"gin/models/{size}.gin"]
    run = run or "paper"
  name = method.removesuffix(_TEACHER_LABELS) if labels else method
  return [*models, f"gin/runs/{run}.gin", f"gin/datasets/{dataset}.gin",
          f"gin/methods/{name}.gin"], labels
