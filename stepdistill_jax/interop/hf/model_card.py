"""The README.md of an exported student: how made, how good, how to ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

from stepdistill_jax.embedded_t5x.checkpoint_files import (
  array_reader as t5x_reader,
)
from stepdistill_jax.interop import run_context, run_folder
from stepdistill_jax.util import errors, locations
from stepdistill_jax.util.version import __version__

_METHODS = {
    "label": "standard training on labels alone",
    "predict": "training on labels alone, asked with a prefix",
    "explain": "training on rationales alone",
    "rationale": "training on rationales alone",
    "single": "one target that holds the rationale and then the label",
    "step": "distilling step-by-step: label and rationale as two tasks on the "
            "same examples in the same step",
    "mix": "distilling step-by-step with an independently sampled mixture of "
           "the label and the rationale task",
}


# (class of transformers, lines of `ask`)
_ASK = ("AutoModelForSeq2SeqLM", (
    '  inputs = tokenizer(text, return_tensors="pt")',
    "  return tokenizer.decode(model.generate(**inputs)[0], "
    "skip_special_tokens=True)"))
_CONTINUE = (
    "  out = model.generate(**inputs)[0, inputs['input_ids'].shape[1]:]",
    "  return tokenizer.decode(out, skip_special_tokens=True)")
_ASK_CHAT = ("AutoModelForCausalLM", (
    '  inputs = tokenizer.apply_chat_template([{"role": "user", "content": '
    'text}],',
    "      add_generation_prompt=True, return_dict=True, "
    'return_tensors="pt")', *_CONTINUE))


def _ask_decoder(suffix: str) -> tuple[str, tuple[str, ...]]:
  return "AutoModelForCausalLM", (
      f"  inputs = tokenizer(text + {suffix!r}, return_tensors=\"pt\")",
      *_CONTINUE)


@dataclasses.dataclass(frozen=True)
class Score:
  """A line of a model card's table."""

  benchmark: str
  split: str
  n: int
  accuracy: float
  interval: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Card:
  """What a model card says.

  Attributes:
    name: the model's.
    step: of training.
    trained_on: the task, or None for a model that was only imported.
    task_name: its full name.
    origin: the checkpoint that training began from, if it is known.
    scores: from a `results.json`.
    prompt: of a decoder: arguments of `HuggingFaceVocabulary`.
  """

  name: str
  step: int | None
  trained_on: run_folder.TrainedOn | None
  task_name: str | None
  origin: str | None
  scores: Sequence[Score]
  prompt: Mapping[str, Any] | None = None

  @property
  def prefix(self) -> str:
    return self.trained_on.prefix if self.trained_on else ""

  @property
  def explain_prefix(self) -> str | None:
    return self.trained_on.explain_prefix if self.trained_on else None

  def task_specific_params(self) -> dict[str, Any]:
    """The prefixes, for `config.json`; `stepdistill-eval --hf` reads them."""
    # Transformers 4's `pipeline` would else search with 4 beams.
    params: dict[str, Any] = {"text2text-generation": {"num_beams": 1}}
    if self.prompt is not None:
      params = {"prompt": dict(self.prompt)}
    if self.trained_on is None:
      return params
    params["predict"] = {"prefix": self.prefix}
    if self.trained_on.answer_after_rationale:
      params["predict"]["answer_after_rationale"] = True
    if self.explain_prefix is not None:
      params["explain"] = {"prefix": self.explain_prefix}
    return params

  def text(self, arch, dtype: str) -> str:
    """The card, Markdown with a YAML header."""
    parts = [self._header(), f"# {self.name}", self._made(arch, dtype),
             self._scores(), self._usage(), self._duties()]
    return "\n\n".join(part for part in parts if part) + "\n"

  def _task(self) -> tuple[str, str]:
    """What Hugging Face calls such a model: (task, family)."""
    if self.prompt is None:
      return "text2text-generation", "t5"
    return "text-generation", "decoder"

  def _header(self) -> str:
    task, family = self._task()
    lines = ["---", "library_name: transformers", f"pipeline_tag: {task}",
             f"tags: [{family}, stepdistill_jax"
             + (", distilling-step-by-step" if self.explain_prefix else "")
             + "]"]
    if self.scores:
      results = [{
          "task": {"type": task},
          "dataset": {"name": s.benchmark, "type": s.benchmark,
                      "split": s.split},
          "metrics": [{"type": "accuracy", "value": round(s.accuracy, 6)}],
      } for s in self.scores]
      # JSON is YAML, and quotes whatever a name may hold.
      lines.append("model-index: " + json.dumps(
          [{"name": self.name, "results": results}]))
    return "\n".join([*lines, "---"])

  def _made(self, arch, dtype: str) -> str:
    lines = ["## How it was made", ""]
    if self.trained_on is None:
      lines.append("Converted from a T5X checkpoint; nothing is recorded "
                   "about its training.")
    else:
      method = _METHODS.get(self.trained_on.kind)
      lines.append(f"- Method: {method or 'a T5X run'} "
                   f"(task `{self.task_name}`)")
      lines.append(f"- Data set: {self.trained_on.dataset}")
      if self.trained_on.teacher:
        lines.append(f"- Teacher: {self.trained_on.teacher}")
    if self.origin:
      lines.append(f"- Initial checkpoint: {self.origin}")
    if self.step is not None:
      lines.append(f"- Step: {self.step:,}")
    lines += [
        f"- Network: {arch.kind}, {arch.in_words()}",
        f"- Weights: {dtype}",
        f"- Exported by stepdistill_jax {__version__}"]
    return "\n".join(lines)

  def _duties(self) -> str:
    """What licences of the models that it comes from may ask for."""
    teacher = self.trained_on.teacher if self.trained_on else None
    names = [n for n in (self.origin, teacher) if n and n != "human"]
    if self.prompt is None or not names:
      return ""
    lines = [
        "## Licences", "",
        f"It comes from {' and '.join(names)}: their licences hold for it, "
        "and what they ask of models made with them is yours to do."]
    if any("llama" in name.lower() for name in names):
      lines.append(
          "Llama's community licence asks, of whoever distributes a model that "
          "was made with Llama or its outputs, for a name that begins with "
          '"Llama", for "Built with Llama" to be shown, and for a copy of the '
          "licence to go with it.")
    return "\n".join(lines)

  def _scores(self) -> str:
    if not self.scores:
      return ""
    lines = ["## Scores", "",
             "| benchmark | split | examples | accuracy | 95% interval |",
             "|---|---|---|---|---|"]
    for s in self.scores:
      interval = ("" if s.interval is None else
                  f"{100 * s.interval[0]:.2f} to {100 * s.interval[1]:.2f}")
      lines.append(f"| {s.benchmark} | {s.split} | {s.n:,} | "
                   f"{100 * s.accuracy:.2f} | {interval} |")
    return "\n".join(lines)

  def _usage(self) -> str:
    calls = [f'print(ask({self.prefix!r} + question))'
             + ("  # the answer" if self.explain_prefix else "")]
    notes = []
    if self.trained_on is None:
      notes.append("What stands before a question depends on how the model "
                   "was trained, which is not recorded here.")
    elif self.prefix:
      notes.append(f"Put `{self.prefix}` (with the space) before the question.")
    else:
      notes.append("It was trained without a prefix: give it the question "
                   "alone.")
    if self.explain_prefix is not None:
      calls.append(f'print(ask({self.explain_prefix!r} + question))'
                   "  # the rationale")
      notes.append(
          f"With `{self.explain_prefix}` it writes a rationale. The two are "
          "independent: the answer costs no rationale, and the rationale does "
          "not determine the answer.")
    if self.trained_on is not None and self.trained_on.answer_after_rationale:
      notes.append("It writes a rationale first; the answer follows "
                   "`The answer is`.")
    model_class, ask = _ASK if self.prompt is None else (
        _ASK_CHAT if self.prompt.get("chat") else _ask_decoder(
            self.prompt.get("prompt_suffix", "\n")))
    code = "\n".join([
        "```python",
        "import transformers",
        "",
        'folder = "."  # this folder',
        "tokenizer = transformers.AutoTokenizer.from_pretrained(folder)",
        f"model = transformers.{model_class}.from_pretrained(folder)",
        "",
        "def ask(text):",
        *ask,
        "",
        'question = "..."',
        *calls,
        "```"])
    return "\n\n".join(["## How to ask it", " ".join(notes), code])


def _read_scores(results: pathlib.Path, checkpoint: str) -> list[Score]:
  """The checkpoint's lines of a `results.json`.

  Raises:
    errors.UserError: it is no such file, or has no line of this checkpoint.
  """
  try:
    systems = json.loads(results.read_text(encoding="utf-8"))["systems"]
    mine = [s for s in systems
            if _is_source(s.get("source", ""), checkpoint)]
    scores = [Score(s["benchmark"], s["split"], s["n"], s["accuracy"],
                    tuple(s["ci95"]) if s.get("ci95") else None)
              for s in mine if s.get("mode", "generate") == "generate"]
  except OSError as error:
    raise errors.UserError(f"--results={results}: {error}") from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.UserError(
        f"{results} is no results.json of stepdistill-eval: {error!r}"
    ) from error
  if not scores:
    sources = sorted({str(s.get("source")) for s in systems})
    raise errors.UserError(
        f"{results} has no scores of {checkpoint}; it has those of "
        f"{', '.join(sources) or 'nothing'}")
  return scores


def _is_source(source: str, checkpoint: str) -> bool:
  if not source:
    return False

  def resolved(path: str) -> str:
    path = locations.absolute(path)
    return path if "://" in path else os.path.realpath(path)

  checkpoint = resolved(checkpoint)
  return resolved(source) in (checkpoint, os.path.dirname(checkpoint))


def describe(
    source: t5x_reader.Checkpoint, context: run_context.Context,
    results: pathlib.Path | None, name: str,
    records_dir: pathlib.Path | None = None) -> Card:
  """Gathers what a model card says.

  Args:
    source: the checkpoint.
    context: its surroundings.
    results: a `results.json`, or None.
    name: the model's.
    records_dir: the run's records; None looks around the run.
  """
  initial = (context.origin or {}).get("source") or context.bindings.get(
      "INITIAL_CHECKPOINT_PATH")
  task_name = context.task_name(records_dir)
  return Card(
      name=name, step=source.step, task_name=task_name,
      trained_on=run_folder.parse_task_name(task_name) if task_name else None,
      # Its name alone: where it was on a machine does not belong in a card.
      origin=pathlib.PurePath(initial).name if isinstance(initial, str)
      else None,
      scores=_read_scores(results, source.path)
      if results else (), prompt=context.prompt())
