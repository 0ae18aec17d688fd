"""A teacher's raw cache as a system: parsed by the rules of the call."""

import itertools
import pathlib

from stepdistill_jax.answers import answer_forms, parsing, rules as rules_lib
from stepdistill_jax.evaluation import (
  cost as cost_lib,
  examples as examples_lib,
  store as store_lib,
  systems as systems_lib,
)
from stepdistill_jax.records import datasets, records
from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.importing import cache_joining, joining

# What was asked and answered, and how it is read.
_Completion = tuple[joining.Joined, parsing.Parser]


class TeacherCache:
  """The completions of a cache folder, joined to the examples by content.

  Args:
    folder: a cache, or a folder of caches (of several splits or data sets).
    rules: `strict` or `reference`, see `teacher.parsing`.
    name: for tables; `teacher NAME` by default.

  Raises:
    errors.UserError: no cache there.
  """

  kind = "teacher"

  def __init__(self, folder: str | pathlib.Path, rules: str = "strict",
               name: str | None = None):
    self._caches = [
        (path, completions.read_manifest(path))
        for path in completions.find_caches(folder)]
    self.teacher = self._caches[0][1]["teacher"]
    self.name = name or f"teacher {self.teacher}"
    self.source = str(folder)
    self._rules = rules

  def skips(self, example_set: examples_lib.ExampleSet) -> str | None:
    """Why the cache has no line for a benchmark, or None."""
    if not any(m["dataset"] == example_set.benchmark for _, m in self._caches):
      return f"{self.source} has no completions of {example_set.benchmark}"
    found = self._completions(example_set, _dataset(example_set))
    if any(_parsed(item, parser).label for item, parser in itertools.chain(
        *found.values())):
      return None
    return (f"{self.source} has no labels of {example_set.benchmark}, split "
            f"{example_set.split}: the teacher's accuracy was not measured")

  def answer(
      self, example_set: examples_lib.ExampleSet,
      store: store_lib.AnswerStore | None = None,
  ) -> list[systems_lib.Answers]:
    """Parses the completion of every example; see `systems.System`."""
    del store  # Parsing again is faster than looking up.
    spec = _dataset(example_set)
    found = self._completions(example_set, spec)
    answers, texts, missing = [], [], 0
    for example in example_set.examples:
      # A question that stands twice in a split has its own completions.
      waiting = found.get(records.input_hash(example.inputs), [])
      item, parser = waiting.pop(0) if waiting else (None, None)
      if item is None or item.output is None:
        missing += 1
        answers.append(systems_lib.Answer(example.id, None))
        continue
      parsed = _parsed(item, parser)
      texts.append(f"{example.inputs} {parsed.rationale} {parsed.label}")
      answers.append(systems_lib.Answer(
          example.id, parsed.label, rationale=parsed.rationale or None))
    warnings = []
    if missing:
      warnings.append(
          f"{missing} of {len(answers)} examples have no completion in the "
          "cache; they count as wrong")
    asked = {records.input_hash(e.inputs) for e in example_set.examples}
    if more := sum(len(found.get(question, ())) for question in asked):
      warnings.append(
          f"{more} further completions in the cache are of questions that have "
          "one; they are left out")
    return [systems_lib.Answers(
        tuple(answers), tuple(warnings),
        {**cost_lib.of_teacher(self.teacher, texts),
         **self._tokens(example_set)})]

  def _tokens(self, example_set: examples_lib.ExampleSet) -> dict[str, float]:
    """Tokens a row, all its samples together, as the server counted them."""
    # A line may stand twice in a cache.
    usages = {
        (line.value.get("id"), line.value.get("sample")):
            line.value.get("usage") or {}
        for path, manifest in self._caches
        if manifest["dataset"] == example_set.benchmark
        for line in completions.read_completions(path)
        if isinstance(line.value, dict)}
    rows = len({row for row, _ in usages})
    found = {}
    for name, counted in (("input_tokens", "prompt_tokens"),
                          ("label_tokens_per_example", "completion_tokens")):
      counts = [usage[counted] for usage in usages.values()
                if isinstance(usage.get(counted), int)]
      if counts:
        found[name] = sum(counts) / rows
    return found

  def _completions(
      self, example_set: examples_lib.ExampleSet, spec: datasets.Dataset,
  ) -> dict[str, list[_Completion]]:
    """Hash of the inputs to its completions."""
    found: dict[str, list[_Completion]] = {}
    for path, manifest in self._caches:
      # Validation rows may have been held out from train.
      may_hold = {example_set.split, *(
          ["train"] if example_set.split == "validation" else [])}
      if manifest["dataset"] != example_set.benchmark or (
          manifest["split"] not in may_hold):
        continue
      parser = rules_lib.get_parser(
          spec, self._rules,
          form=manifest.get("reads") or answer_forms.CHAIN_OF_THOUGHT)
      form = cache_joining.Form.of(
          manifest, str(path / completions.MANIFEST))
      for item in cache_joining.join(spec, path, form):
        if item.row is not None:  # Else no example can ask for it.
          found.setdefault(records.input_hash(item.row.inputs), []).append(
              (item, parser))
    return found


def _parsed(item: joining.Joined, parser: parsing.Parser) -> parsing.Parsed:
  """Rationale and label; of several samples they are chosen already."""
  return item.parsed or cache_joining.parse(parser, item)


def _dataset(example_set: examples_lib.ExampleSet) -> datasets.Dataset:
  return example_set.dataset or datasets.get(example_set.benchmark)
