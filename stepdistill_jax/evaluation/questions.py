"""Asking a student: questions to tokens, tokens to answers.

Three ways of asking, each with its own log of answers: `generate` the label,
`score` every choice, and, for students that were taught rationales, `explain`
(decode a rationale, and the likelihood of the teacher's).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import gc
import itertools
import math
from typing import Any

import numpy as np

from stepdistill_jax.evaluation import (
  cost,
  examples as examples_lib,
  model_config,
  store as store_lib,
  systems,
)
from stepdistill_jax.records import records
from stepdistill_jax.util import disk_lists, errors

Progress = Callable[[int, int, str], None]
_TOGETHER = 20_000  # Questions whose tokens are in memory.


@dataclasses.dataclass(frozen=True)
class Questions:
  """The examples of a set, as one student reads them.

  Attributes:
    example_set: what is asked.
    vocabulary: a seqio vocabulary, the student's.
    prefix: before each question when the label is asked for.
    explain_prefix: likewise for the rationale; None to not ask for it.
    labels: a closed set of answers, for benchmarks without one of their own.
    label_length: most tokens of a label, with what may stand before it.
  """

  example_set: examples_lib.ExampleSet
  vocabulary: Any
  prefix: str = ""
  explain_prefix: str | None = None
  labels: tuple[str, ...] = ()
  label_length: int = 64

  @property
  def name(self) -> str:
    return f"{self.example_set.benchmark} {self.example_set.split}"

  def choices(self, example: examples_lib.Example) -> tuple[str, ...]:
    """The distinct answers that `score` weighs against each other."""
    found = self.example_set.spec.choices(example.inputs) or self.labels
    return tuple(dict.fromkeys(found))

  def encode(self, text: str, prefix: str = "") -> list[int]:
    """The ids of an input: a question, as the student reads it."""
    if hasattr(self.vocabulary, "encode_prompt"):  # A decoder's.
      return list(self.vocabulary.encode_prompt(prefix + text))
    return encode(self.vocabulary, prefix + text)


def encode(vocabulary, text: str) -> list[int]:
  """A text as token ids with EOS; its parts are encoded apart.

  Two texts with the letters `</s>` between them (premise, hypothesis) get the
  EOS id there, as the tasks' preprocessor gives them.
  """
  tokens: list[int] = []
  for part in text.split(records.EOS_TEXT):
    tokens += [*vocabulary.encode(part), vocabulary.eos_id]
  return tokens


class Model:
  """A system that runs a student, which can be asked anything.

  Attributes:
    name: for tables.
    source: its folder.
    vocabulary: a seqio vocabulary, the student's.
    prefix: before a question, as it was trained.
    explain_prefix: before a question for a rationale; None where the student
      was not trained on such.
    answer_after_rationale: the label follows a rationale in the text.
  """

  kind: str
  vocabulary: Any
  prefix: str = ""
  explain_prefix: str | None = None
  answer_after_rationale: bool = False

  def __init__(
      self, name: str, source: str, config: model_config.ModelConfig,
      progress: Progress | None):
    self.name, self.source = name, source
    self._config = config
    self._progress = progress or (lambda done, total, what: None)
    self._student: Any = None

  @property
  def explains(self) -> bool:
    """Whether it was trained to give rationales."""
    return self.explain_prefix is not None or self.answer_after_rationale

  @property
  def student(self) -> Any:
    """The model with its parameters: `student.Student` or the like."""
    if self._student is None:
      self._student = self._load()
    return self._student

  def _load(self) -> Any:
    raise NotImplementedError

  def parameter_shapes(self) -> Mapping[str, Sequence[int]]:
    """Parameter name to shape, as T5X has them."""
    raise NotImplementedError

  def identity(self) -> dict[str, Any]:
    """What distinguishes this student from others, for stored answers."""
    raise NotImplementedError

  def close(self) -> None:
    """Frees the parameters."""
    self._student = None
    gc.collect()

  def closed_labels(
      self, example_set: examples_lib.ExampleSet) -> tuple[str, ...]:
    """A closed set of answers, for benchmarks without one of their own."""
    return ()

  def questions(self, example_set: examples_lib.ExampleSet,
                rationales: str | None = None) -> Questions:
    """An example set as this student reads it.

    Args:
      example_set: the questions; they need no labels.
      rationales: as in `ModelConfig`, whose value it has by default.
    """
    config = self._config
    rationales = rationales or config.rationales
    explain = self.explain_prefix
    if rationales != model_config.AUTO:
      explain = None if rationales == "no" else explain or "explain: "
    length = config.label_length or example_set.spec.decode_length
    return Questions(
        example_set, self.vocabulary,
        prefix=(self.prefix if config.prefix == model_config.AUTO
                else config.prefix),
        explain_prefix=explain, labels=self.closed_labels(example_set),
        label_length=length + (
            config.rationale_length if self.answer_after_rationale else 0))

  def answer(
      self, example_set: examples_lib.ExampleSet,
      store: store_lib.AnswerStore | None = None,
  ) -> list[systems.Answers]:
    """Asks the student; see `systems.System`."""
    return self.ask(self.questions(example_set), store)

  def ask(
      self, asked: Questions, store: store_lib.AnswerStore | None = None,
  ) -> list[systems.Answers]:
    """Asks in each of the config's modes.

    Args:
      asked: the questions.
      store: takes up answers, and gives those that it has.

    Returns:
      Answers in the order of the examples, once for each mode.

    Raises:
      errors.UserError: nothing but `score` is wanted, and there are no choices.
    """
    asking = _Asking(self, asked, store or store_lib.AnswerStore())
    modes, warnings = list(self._config.modes), ()
    if "score" in modes and not all(
        asked.choices(e) for e in asked.example_set.examples):
      reason = (f"{asked.name} has no closed set of answers that "
                "--mode=score could weigh")
      if modes == ["score"]:
        raise errors.UserError(f"{reason}; use --mode=generate")
      modes.remove("score")
      warnings = (reason,)
    return [
        dataclasses.replace(answers, warnings=(*warnings, *answers.warnings))
        for answers in map(asking.answers, modes)]


class _Asking:
  """One system's answers to one set of questions."""

  def __init__(self, system: Model, questions: Questions,
               store: store_lib.AnswerStore):
    self._system, self._questions, self._store = system, questions, store
    self._config, self._progress = system._config, system._progress
    self._identity = system.identity()

  def answers(self, mode: str) -> systems.Answers:
    """Labels, and rationales where the questions ask for them."""
    label_timing, rationale_timing = (model_config.Timing() for _ in range(2))
    q = self._questions
    examples = q.example_set.examples
    logs = {"answers": self._score(label_timing) if mode == "score" else (
        self._decode("label", q.prefix, q.label_length, label_timing))}
    likelihoods = None
    if q.explain_prefix is not None and mode == "generate":
      logs["rationales"] = self._decode(
          "rationale", q.explain_prefix, self._config.rationale_length,
          rationale_timing)
      likelihoods = self._teacher_likelihoods(q.explain_prefix)
    answers = disk_lists.DiskList(of=systems.Answer)
    cut: dict[str, int | None] = {"inputs": 0, **dict.fromkeys(logs, 0)}
    for example in examples:
      rows = {what: log.get(example) for what, log in logs.items()}
      label, said = rows["answers"], rows.get("rationales", {})
      weighed = likelihoods.get(example) if (
          likelihoods and example.rationale) else {}
      answers.append(systems.Answer(
          example.id, label["text"], score=label["score"],
          tokens=label["tokens"], input_tokens=label["input_tokens"],
          rationale=said.get("text"), rationale_tokens=said.get("tokens"),
          rationale_log_prob=weighed.get("log_prob"),
          rationale_target_tokens=weighed.get("target_tokens")))
      for what, row in rows.items():
        if mode == "generate" and cut[what] is not None:
          # An earlier version did not note it.
          cut[what] = cut[what] + (not row["ended"]) if "ended" in row else None
    return systems.Answers(
        answers, mode=mode, settings=self._settings(), cut=cut,
        answer_after_rationale=self._system.answer_after_rationale,
        warnings=tuple(self._cut_warnings(cut)),
        cost={**cost.of_student(
            self._system, answers, label_timing, rationale_timing, mode),
              **self._latency(mode)})

  def _latency(self, mode: str) -> dict[str, Any]:
    """Seconds of one answer at a time, without compiling; {} if not asked."""
    q = self._questions
    examples = q.example_set.examples
    if not self._config.latency or mode != "generate":
      return {}
    chosen = np.unique(np.linspace(
        0, len(examples) - 1, self._config.latency).astype(int))
    seconds = []
    for at in chosen:
      timing = model_config.Timing()
      for _ in self._system.student.generate(
          [q.encode(examples[at].inputs, q.prefix)], q.label_length,
          self._config.beam, timing):
        pass
      seconds.append(timing.seconds)
    return {"latency_s": np.quantile(seconds, [0.5, 0.95]).tolist(),
            "latency_questions": len(seconds)}

  def _cut_warnings(self, cut) -> Iterator[str]:
    """Says how many answers have no end; inputs are asked whole."""
    total = len(self._questions.example_set.examples)
    for what, length, setting in (
        ("answers", self._questions.label_length, "label_length"),
        ("rationales", self._config.rationale_length, "rationale_length")):
      if cut.get(what):
        yield (f"{cut[what]} of {total} {what} are cut: they had not ended "
               f"after {length} tokens (--gin.ModelConfig.{setting}=...)")

  def _settings(self) -> dict[str, Any]:
    """Of the call, with what `auto` stood for."""
    q = self._questions
    return {**dataclasses.asdict(self._config), "prefix": q.prefix,
            "explain_prefix": q.explain_prefix,
            "label_length": q.label_length}

  def _log(self, what: str, **settings) -> store_lib.AnswerLog:
    identity = {**self._identity, "what": what,
                "compute_dtype": self._config.compute_dtype, **settings}
    return self._store.open(
        f"{self._system.name} {self._questions.name} {what}", identity)

  def _open_examples(
      self, log, what,
      only: Callable[[examples_lib.Example], Any] = lambda example: True,
  ) -> Iterator[list[examples_lib.Example]]:
    """Yields the examples that the log has no row of, some at a time."""
    examples = self._questions.example_set.examples
    self._total = self._done = 0
    self._what = what
    for example in filter(only, examples):
      self._total += 1
      self._done += log.get(example) is not None
    self._report(0)
    found = (e for e in filter(only, examples) if log.get(e) is None)
    while some := list(itertools.islice(found, _TOGETHER)):
      yield some

  def _report(self, more: int) -> None:
    self._done += more
    self._progress(
        self._done, self._total,
        f"{self._system.name}: {self._questions.name}, {self._what}")

  def _decode(self, what, prefix, length, timing) -> store_lib.AnswerLog:
    """Decodes a label or a rationale for each example."""
    q, beam = self._questions, self._config.beam
    log = self._log(what, prefix=prefix, length=length, beam=beam)
    for examples in self._open_examples(log, f"{what}s"):
      inputs = [q.encode(e.inputs, prefix) for e in examples]
      for indices, decoded in self._system.student.generate(
          inputs, length, beam, timing):
        log.append(
            [{"text": q.vocabulary.decode(list(d.tokens)),
              "score": math.exp(min(0.0, d.log_prob)), "tokens": len(d.tokens),
              "ended": q.vocabulary.eos_id in d.tokens,
              "input_tokens": len(inputs[i])}
             for i, d in zip(indices, decoded)],
            [examples[i] for i in indices])
        self._report(len(indices))
    return log

  def _score(self, timing) -> store_lib.AnswerLog:
    """Takes the likeliest of the choices of each example.

    The score is its share of the probability of all choices.
    """
    q = self._questions
    log = self._log("choices", prefix=q.prefix, labels=q.labels)
    asked = 0
    for examples in self._open_examples(log, "choices"):
      pairs = [(i, choice) for i, e in enumerate(examples)
               for choice in q.choices(e)]
      inputs = [q.encode(e.inputs, q.prefix) for e in examples]
      waiting: dict[int, dict[str, float]] = {i: {} for i, _ in pairs}
      for indices, scores in self._system.student.log_likelihoods(
          [inputs[i] for i, _ in pairs],
          [encode(q.vocabulary, choice) for _, choice in pairs], timing):
        for at, log_prob in zip(indices, scores):
          example, choice = pairs[at]
          waiting[example][choice] = log_prob
        whole = [i for i, found in waiting.items()
                 if len(found) == len(q.choices(examples[i]))]
        log.append(
            [{**_best_choice(waiting.pop(i)), "tokens": 0,
              "input_tokens": len(inputs[i])} for i in whole],
            [examples[i] for i in whole])
        self._report(len(whole))
      asked += len(examples)
    timing.examples = asked
    return log

  def _teacher_likelihoods(self, prefix) -> store_lib.AnswerLog:
    """Weighs the teacher's rationales."""
    q = self._questions
    taught = lambda example: example.rationale
    log = self._log("teacher rationale", prefix=prefix, fingerprint=(
        store_lib.text_key("\0".join(sorted(
            e.rationale for e in filter(taught, q.example_set.examples))))))
    for examples in self._open_examples(log, "perplexity", taught):
      targets = [encode(q.vocabulary, e.rationale) for e in examples]
      for indices, scores in self._system.student.log_likelihoods(
          [q.encode(e.inputs, prefix) for e in examples], targets):
        log.append(
            [{"log_prob": s, "target_tokens": len(targets[i])}
             for i, s in zip(indices, scores)],
            [examples[i] for i in indices])
        self._report(len(indices))
    return log


def _best_choice(log_probs: Mapping[str, float]) -> dict[str, Any]:
  """The likeliest choice, and its share of the probability of all."""
  best = max(log_probs, key=lambda choice: log_probs[choice])
  top = log_probs[best]
  total = sum(math.exp(value - top) for value in log_probs.values())
  return {"text": best, "score": 1.0 / total}
