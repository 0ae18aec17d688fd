"""A teacher's raw cache as a system: parsed by the rules of the call."""

from collections.abc import Iterator
import dataclasses
import pathlib

from stepdistill_jax.answers import answer_forms, parsing, rules as rules_lib
from stepdistill_jax.evaluation import examples, store as store_lib, systems
from stepdistill_jax.records import datasets, records
from stepdistill_jax.teacher import completions
from stepdistill_jax.teacher.importing import cache_joining, joining
from stepdistill_jax.util import disk_lists


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

  def skips(self, example_set: examples.ExampleSet) -> str | None:
    """Why the cache has no line for a benchmark, or None."""
    if not any(m["dataset"] == example_set.benchmark for _, m in self._caches):
      return f"{self.source} has no completions of {example_set.benchmark}"
    if any(_parsed(item, parser).label
           for item, parser in self._completions(example_set)):
      return None
    return (f"{self.source} has no labels of {example_set.benchmark}, split "
            f"{example_set.split}: the teacher's accuracy was not measured")

  def answer(
      self, example_set: examples.ExampleSet,
      store: store_lib.AnswerStore | None = None,
  ) -> list[systems.Answers]:
    """Parses the completion of every example; see `systems.System`."""
    del store  # Parsing again is faster than looking up.
    # Rationales and labels; of each question, those that nothing asked for yet.
    said = disk_lists.DiskList()
    waiting: dict[str, list[int]] = {
        records.input_hash(e.inputs): [] for e in example_set.examples}
    for item, parser in self._completions(example_set):
      question = records.input_hash(item.row.inputs)
      if question in waiting:
        waiting[question].append(len(said))
        parsed = _parsed(item, parser) if item.output is not None else None
        said.append(None if parsed is None else [
            parsed.rationale, parsed.label])

    def said_of(example: examples.Example) -> list[str] | None:
      # A question that stands twice in a split has its own completions.
      numbers = waiting[records.input_hash(example.inputs)]
      return said[numbers.pop(0)] if numbers else None

    found = systems.teachers_answers(
        self.teacher, example_set, said_of, "completion in the cache")
    more = sum(map(len, waiting.values()))
    warnings = (f"{more} further completions in the cache are of questions "
                "that have one; they are left out",)
    return [dataclasses.replace(
        found, warnings=found.warnings + warnings * bool(more),
        cost={**found.cost, **self._tokens(example_set)})]

  def _tokens(self, example_set: examples.ExampleSet) -> dict[str, float]:
    """Tokens a row, all its samples together, as the server counted them."""
    names = {"input_tokens": "prompt_tokens",
             "label_tokens_per_example": "completion_tokens"}
    usages = {}  # A line may stand twice in a cache.
    for path, manifest in self._caches:
      if manifest["dataset"] == example_set.benchmark:
        for line in completions.read_completions(path):
          if isinstance(line.value, dict):
            usage = line.value.get("usage") or {}
            usages[line.value.get("id"), line.value.get("sample")] = [
                usage.get(counted) for counted in names.values()]
    rows = len({row for row, _ in usages})
    found = {}
    for name, column in zip(names, zip(*usages.values())):
      counts = [count for count in column if isinstance(count, int)]
      if counts:
        found[name] = sum(counts) / rows
    return found

  def _completions(
      self, example_set: examples.ExampleSet,
  ) -> Iterator[tuple[joining.Joined, parsing.Parser]]:
    """Yields what was asked and answered, and how it is read."""
    spec = example_set.dataset or datasets.get(example_set.benchmark)
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
      form = cache_joining.Form.of(manifest, str(path / completions.MANIFEST))
      for item in cache_joining.join(spec, path, form):
        if item.row is not None:  # Else no example can ask for it.
          yield item, parser


def _parsed(item: joining.Joined, parser: parsing.Parser) -> parsing.Parsed:
  """Rationale and label; of several samples they are chosen already."""
  return item.parsed or cache_joining.parse(parser, item)
