"""The public Python API: `import stepdistill_jax as sd`.

The names here are attributes of the package, imported when first used.

>>> import stepdistill_jax as sd
>>> student = sd.load("runs/svamp")
>>> questions = ["Mary had 3 pears and ate 1. How many are left?"]
>>> answers, rationales = student.predict(questions), student.explain(questions)
>>> len(answers), len(rationales), student.score(questions, answers)[0] <= 0
(1, 1, True)
"""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import itertools
import os
import pathlib
from typing import Any

from stepdistill_jax.answers import answer_matching
from stepdistill_jax.config import setting_checks
from stepdistill_jax.data import batching
from stepdistill_jax.evaluation import (
  examples,
  model_config,
  questions,
  systems,
)
from stepdistill_jax.records import records
from stepdistill_jax.teacher import text_files
from stepdistill_jax.util import errors, locations, runtime

# A row's attention grows with its square; the papers cut inputs at 1,024.
MAX_INPUT_TOKENS = batching.LADDER[-1]
# The named problems of a text, beside those of `text_files`.
EMPTY = "empty"
NOT_TEXT = "not_text"
NUL_CHARACTERS = "nul_characters"  # UTF-16 without its mark, mostly.
_BYTES_OF_A_TOKEN = 64  # No vocabulary's pieces are longer.

StrPath = str | os.PathLike[str]


class Student:
  """A trained student, asked in Python; `load` makes one.

  Its parameters are loaded with the first question, and stay.

  Attributes:
    name: the run's folder and step, or the Hugging Face folder.
    max_input_tokens: longer texts are refused.
  """

  def __init__(self, system: questions.Model,
               max_input_tokens: int = MAX_INPUT_TOKENS):
    self._system = system
    self.name = system.name
    self.max_input_tokens = max_input_tokens

  def __repr__(self) -> str:
    return f"Student({self.name!r})"

  @property
  def explains(self) -> bool:
    """Whether the student was trained to give rationales."""
    return self._system.explains

  def predict(self, texts: Iterable[str]) -> list[str | None]:
    """Answers texts, in batches of like length.

    Args:
      texts: questions, without prefix.

    Returns:
      An answer to each, in their order; None where a student that writes its
      rationale first came to no answer.

    Raises:
      errors.UserError: a text is empty, too long or not text.
    """
    return [answer.text for answer in self.answers(texts).answers]

  def explain(self, texts: Iterable[str]) -> list[str | None]:
    """The student's rationales; arguments and order as in `predict`.

    Raises:
      errors.UserError: also where it was not trained on rationales.
    """
    return [answer.rationale
            for answer in self.answers(texts, explain=True).answers]

  def score(self, texts: Iterable[str], answers: Iterable[str]) -> list[float]:
    """How likely the student finds given answers.

    Args:
      texts: questions, without prefix.
      answers: one for each.

    Returns:
      The natural logarithm of each answer's probability, its EOS included.

    Raises:
      errors.UserError: see `predict`; or there is not one answer for each text.
    """
    texts, answers = self._listed(texts), _listed(answers, "answers")
    if len(texts) != len(answers):
      raise errors.UserError(
          f"score has {len(texts)} texts and {len(answers)} answers; pass one "
          "answer for each text")
    for i, answer in enumerate(answers):
      if not isinstance(answer, str) or not text_files.is_encodable(answer):
        raise errors.UserError(f"answers[{i}] is not text: {answer!r:.60}")
    asked = self._questions(texts)
    found: dict[int, float] = {}
    for indices, scores in self._system.student.log_likelihoods(
        [asked.encode(text, asked.prefix) for text in texts],
        [questions.encode(asked.vocabulary, text) for text in answers]):
      found.update(zip(indices, scores, strict=True))
    return [found[i] for i in range(len(texts))]

  def answers(self, texts: Iterable[str], *, explain: bool = False
              ) -> systems.Answers:
    """Answers with their scores and, where asked for, rationales.

    Args:
      texts: questions, without prefix.
      explain: also ask for rationales.

    Returns:
      The answers in the texts' order, and how many of them are cut. `score`
      is the probability that the student gives its answer.

    Raises:
      errors.UserError: see `predict` and `explain`.
    """
    if explain:
      self.require_explains()
    texts = self._listed(texts)
    if not texts:
      return systems.Answers(())
    (given,) = self._system.ask(
        self._questions(texts, "auto" if explain else "no"))
    if not given.answer_after_rationale:
      return given
    return dataclasses.replace(given, answers=tuple(
        dataclasses.replace(
            answer, text=answer_matching.after_rationale(answer.text or ""),
            rationale=answer.text if explain else None)
        for answer in given.answers))

  def problem_of(self, text: Any) -> str:
    """Why a text cannot be asked, as a named problem; empty if it can."""
    if not isinstance(text, str):
      return NOT_TEXT
    if not text.strip():
      return EMPTY
    if "\0" in text:
      return NUL_CHARACTERS
    if not text_files.is_encodable(text):
      return text_files.INVALID_UTF8
    if len(text) > self.max_input_tokens * _BYTES_OF_A_TOKEN or (
        len(text) >= self.max_input_tokens // 2
        and self._tokens(text) > self.max_input_tokens):
      return text_files.TOO_LONG
    return ""

  def require_explains(self) -> None:
    """Raises errors.UserError if it was not trained on rationales."""
    if not self.explains:
      raise errors.UserError(
          f"{self.name} was not trained to give rationales; ask a student of "
          "the method step_by_step, or leave the rationale out")

  def identity(self) -> dict[str, Any]:
    """What tells the student and the way it is asked from others."""
    asked = self._questions(())
    return {**self._system.identity(), "prefix": asked.prefix,
            "label_length": asked.label_length,
            "max_input_tokens": self.max_input_tokens}

  def _tokens(self, text: str) -> int:
    asked = self._questions(())
    return len(asked.encode(text, asked.prefix))

  def _listed(self, texts: Iterable[str]) -> list[str]:
    """The texts as a list; raises UserError if one cannot be asked."""
    texts = _listed(texts, "texts")
    for i, text in enumerate(texts):
      if problem := self.problem_of(text):
        raise errors.UserError(
            f"texts[{i}] cannot be asked: {problem} (a text of at most "
            f"{self.max_input_tokens:,} tokens is expected): {text!r:.60}")
    return texts

  def _questions(self, texts: Sequence[str], rationales: str = "no") -> Any:
    rows = tuple(examples.Example(str(i), text, label="")
                 for i, text in enumerate(texts))
    return self._system.questions(
        examples.ExampleSet("texts", "predict", "", rows), rationales)


def _listed(texts: Iterable[str], name: str) -> list[str]:
  """A list of an iterator, an array or a table's column, too."""
  if isinstance(texts, str) or not isinstance(texts, Iterable):
    raise errors.UserError(
        f"{name} is one {type(texts).__name__}, expected a list of str: "
        "[text]")
  return list(texts)


def load(
    path: StrPath, *, records_dir: StrPath | None = None,
    max_input_tokens: int = MAX_INPUT_TOKENS,
    progress: Callable[[int, int, str], None] | None = None,
    **model_settings: Any,
) -> Student:
  """Loads a trained student, a T5 or a decoder.

  Args:
    path: a run's folder (its newest good checkpoint), one `checkpoint_STEP`,
      or a folder in the Hugging Face format, such as `export-hf` writes.
    records_dir: of distillation records, for a vocabulary that lies there; by
      default where the run had them, if they still are there.
    max_input_tokens: longer texts are refused.
    progress: called with (done, total, what) as answers come.
    **model_settings: of `ModelConfig`, such as `batch_size=8` or `beam=4`.

  Raises:
    errors.UserError: there is no student there, or its vocabulary is missing.
  """
  known = [f.name for f in dataclasses.fields(model_config.ModelConfig)]
  for name in model_settings:
    errors.require_known("setting", name, known)
  setting_checks.whole_number("max_input_tokens", max_input_tokens)
  config = model_config.ModelConfig(**model_settings)
  runtime.configure()
  if (pathlib.Path(path).expanduser() / "config.json").is_file():
    runtime.import_transformers()  # Before TensorFlow, if that is needed.
    from stepdistill_jax.evaluation import hugging_face

    return Student(hugging_face.HuggingFaceStudent(
        os.fspath(path), config, progress=progress), max_input_tokens)
  from stepdistill_jax.interop import run_folder
  from stepdistill_jax.util import devices

  run_folder.require_folder(path)
  devices.description()  # Starts them, before TensorFlow.
  runtime.import_tensorflow()
  from stepdistill_jax.evaluation import checkpoints

  return Student(checkpoints.Checkpoint(
      path, config, records_dir=_folder(records_dir) if records_dir else None,
      progress=progress), max_input_tokens)


def load_records(
    dataset: str, teacher: str | None = None, split: str = "train", *,
    records_dir: StrPath | None = None, limit: int | None = None,
) -> list[records.Record]:
  """Reads distillation records.

  Args:
    dataset: such as `svamp`.
    teacher: whose; the first by name by default.
    split: `train`, `validation` or `test`.
    records_dir: the folder of all records; by default the commands'.
    limit: only the first so many.

  Raises:
    errors.UserError: there are no such records.
  """
  if limit is not None:
    setting_checks.whole_number("limit", limit)
  folder = _folder(records_dir)
  teacher = examples.choose_teacher(dataset, folder, teacher)
  return list(itertools.islice(
      records.read_records(folder, dataset, teacher, split), limit))


def evaluate(
    student: Student | StrPath, benchmarks: str = "all", *,
    split: str = "test", limit: int | None = None, rules: str = "strict",
    records_dir: StrPath | None = None, output: StrPath | None = None,
) -> dict[str, Any]:
  """Scores a student on benchmarks, as `stepdistill-eval` does.

  Args:
    student: of `load`, or what `load` takes.
    benchmarks: names with commas between, or `all` that have records.
    split: `train`, `validation` or `test`.
    limit: only the first so many examples of each.
    rules: `strict`, or `reference` for the papers' rule.
    records_dir: the folder of all records; by default the commands'.
    output: folder of `results.json` and the reports; None writes nothing.

  Returns:
    The contents of `results.json`, and the rows of `examples.jsonl` under
    `examples`.

  Raises:
    errors.UserError: no such student, benchmark or split.
  """
  if not isinstance(student, Student):
    student = load(student, records_dir=records_dir)
  from stepdistill_jax.evaluation import evaluate as evaluate_lib, scoring

  return scoring.score_system(
      student._system, evaluate_lib.EvalConfig(
          benchmarks=benchmarks, split=split, limit=limit, rules=rules),
      _folder(records_dir), os.fspath(output) if output else None)


def _folder(records_dir: StrPath | None) -> pathlib.Path:
  return pathlib.Path(records_dir or locations.records_dir()).expanduser()
