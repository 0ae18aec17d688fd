"""What the quickstart prints at its end: a table, the effect, three answers."""

from collections.abc import Iterator
from typing import Any

import rich.console

from stepdistill_jax.evaluation.report import tables, text as text_report

NAMES = {"finetune": "fine-tuning", "distill": "distillation",
         "step_by_step": "step-by-step"}


def percent(value: float) -> str:
  return f"{100 * value:.1f}"


def interval(low_high: tuple[float, float] | None, signed: bool = False) -> str:
  """`[40.2, 47.8]`; with signs for differences."""
  if low_high is None:
    return "one seed: no interval"
  form = "+.1f" if signed else ".1f"
  return f"[{100 * low_high[0]:{form}}, {100 * low_high[1]:{form}}]"


def verdict(difference: dict[str, Any]) -> str:
  """What an interval of a difference says."""
  if difference["ci95"] is None:
    return "one seed cannot tell"
  low, high = difference["ci95"]
  if low > 0:
    return "better, beyond chance"
  if high < 0:
    return "worse, beyond chance"
  return "within chance"


def size_name(entry: dict[str, Any]) -> str:
  """`489 stories`, or `all sizes` for the mean over them."""
  if entry["train_stories"] is None:
    return "all sizes together"
  return f"{entry['train_stories']:,} stories"


def by_seed(difference: dict[str, Any]) -> str:
  """A difference's points under each seed."""
  return ", ".join(f"{100 * s:+.1f}" for s in difference["by_seed"])


def sentences(story: str) -> list[str]:
  """The sentences of a story."""
  return [f"{s.strip()} ." for s in story.split(" .") if s.strip()]


def split_question(inputs: str) -> tuple[str, str]:
  """A story, and the question after it."""
  story, found, question = inputs.rpartition(" . ")
  return (f"{story} .", question) if found else ("", inputs)


def methods_table(
    report: dict[str, Any], teacher: bool = False) -> tables.Table:
  """Mean accuracy of each method at each size; the teacher's last."""
  plan, line = report["plan"], report["teacher"]
  cell = lambda mean, ci95: f"{percent(mean)} {interval(ci95)}"
  rows = [(NAMES[method], *(
      cell(m["mean"], m["ci95"]) for m in report["methods"]
      if m["method"] == method)) for method in plan["methods"]]
  sizes = [f"{n:,} stories" for n in report["train_stories"].values()]
  if teacher:
    rows.append(("teacher (cached)", *[
        cell(line["test_accuracy"], line["test_ci95"])] * len(sizes)))
  return tables.Table(
      f"accuracy in % on {plan['test_stories']:,} unseen stories, mean of "
      f"{len(plan['seeds'])} seeds [95% interval]", ("method", *sizes),
      tuple(rows))


def difference_lines(report: dict[str, Any]) -> Iterator[str]:
  """A sentence for each difference, whatever its sign."""
  for d in report["differences"]:
    yield (f"{size_name(d)}: {100 * d['mean']:+.1f} points, 95% interval "
           f"{interval(d['ci95'], signed=True)}, by seed {by_seed(d)} "
           f"({verdict(d)})")


def print_report(report: dict[str, Any], console: rich.console.Console) -> None:
  """Prints the results of a quickstart."""
  console.print()
  text_report.print_table(methods_table(report), console)
  teacher = report["teacher"]
  _say(console, f"teacher: {percent(teacher['test_accuracy'])} "
       f"{interval(teacher['test_ci95'])} on the same stories")
  if report["differences"]:
    console.print()
    console.print("step_by_step − finetune", style="bold")
    for line in difference_lines(report):
      _say(console, f"  {line}")
  for number, example in enumerate(report["examples"], 1):
    console.print()
    console.print(f"unseen story {number}", style="bold")
    _say(console, f"  {example['input']}")
    mark = "right" if example["correct"] else (
        f"wrong: it is {example['label']}")
    _say(console, f"  student (predict): {example['answer']}   ({mark})")
    _say(console, f"  student (explain): {example['rationale']}")


def _say(console: rich.console.Console, line: str) -> None:
  # What models wrote is printed as it is, whatever brackets it has.
  console.print(line, markup=False, highlight=False)
