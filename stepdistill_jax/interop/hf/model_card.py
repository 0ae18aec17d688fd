"""The README.md of an exported student: how made, how good, how to ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

from stepdistill_jax.interop import (
  architecture,
  run_context,
  run_folder,
  text_templates,
)
from stepdistill_jax.runs import array_reader as t5x_reader
from stepdistill_jax.util import errors, locations
from stepdistill_jax.util.version import __version__

_METHODS = {
    "label": "standard training on labels alone",
    "predict": "training on labels alone, asked with a prefix",
    "explain": "training on rationales alone",
    "rationale": "training on rationales alone",
    "pinto": "the label, of the question and a teacher's rationale",
    "single": "one target that holds the rationale and then the label",
    "step": "distilling step-by-step: label and rationale as two tasks on the "
            "same examples in the same step",
    "mix": "distilling step-by-step with an independently sampled mixture of "
           "the label and the rationale task",
}


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
    licence: the text of the licence files that came with the origin.
    lora_rank: of the adapters that were trained instead of all parameters; 0
      if there were none.
  """

  name: str
  step: int | None
  trained_on: run_folder.TrainedOn | None
  task_name: str | None
  origin: str | None
  scores: Sequence[Score]
  prompt: Mapping[str, Any] | None = None
  licence: str = ""
  lora_rank: int = 0

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

  def makers(self) -> list[str]:
    """The models whose licences may ask for something."""
    teacher = self.trained_on.teacher if self.trained_on else None
    return [n for n in (self.origin, teacher) if n and n != "human"]

  @property
  def is_of_llama(self) -> bool:
    """Whether Llama's community licence is among theirs."""
    return any("llama" in text.lower()
               for text in (*self.makers(), self.licence))

  def model_index(self, task: str) -> list[dict[str, Any]]:
    """The scores as Hugging Face's hub reads them."""
    return [{"name": self.name, "results": [{
        "task": {"type": task},
        "dataset": {"name": s.benchmark, "type": s.benchmark, "split": s.split},
        "metrics": [{"type": "accuracy", "value": round(s.accuracy, 6)}],
    } for s in self.scores]}]

  def text(self, arch: architecture.AnyArchitecture, dtype: str) -> str:
    """The card, Markdown with a YAML header."""
    return text_templates.render(
        "model_card.md", card=self, arch=arch, dtype=dtype, version=__version__,
        method=_METHODS.get(self.trained_on.kind) if self.trained_on else None)


def _read_scores(results: pathlib.Path, checkpoint: str) -> list[Score]:
  """The checkpoint's lines of a `results.json`.

  Raises:
    errors.UserError: it is not such a file, or has no line of this checkpoint.
  """
  with errors.reported(
      OSError, lambda error: f"--results={results}: {error}"), errors.reported(
          (ValueError, KeyError, TypeError, AttributeError), lambda error: (
              f"{results} is no results.json of stepdistill-eval: {error!r}")):
    systems = json.loads(results.read_text(encoding="utf-8"))["systems"]
    scores = [Score(s["benchmark"], s["split"], s["n"], s["accuracy"],
                    tuple(s["ci95"]) if s.get("ci95") else None)
              for s in systems if _is_source(s.get("source", ""), checkpoint)
              and s.get("mode", "generate") == "generate"]
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
      if results else (), prompt=context.prompt(),
      lora_rank=context.bound("LlamaConfig.lora_rank", 0),
      licence=context.licence())
