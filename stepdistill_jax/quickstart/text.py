"""What the quickstart prints at its end: a table, the effect, three answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import rich.console
import rich.table

from stepdistill_jax.quickstart import learning_curve


def percent(value: float) -> str:
  return f"{100 * value:.1f}"


def interval(low_high: tuple[float, float] | None, signed: bool = False
             ) -> str:
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


def difference_lines(report: dict[str, Any]) -> Iterator[str]:
  """A sentence for each difference, whatever its sign."""
  for d in report["differences"]:
    yield (f"{size_name(d)}: {100 * d['mean']:+.1f} points, 95% interval "
           f"{interval(d['ci95'], signed=True)}, by seed "
           + ", ".join(f"{100 * s:+.1f}" for s in d["by_seed"])
           + f" ({verdict(d)})")


def print_report(
    report: dict[str, Any], console: rich.console.Console) -> None:
  """Prints the results of a quickstart."""
  console.print()
  console.print(_table(report))
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


def _table(report: dict[str, Any]) -> rich.table.Table:
  plan = report["plan"]
  table = rich.table.Table(
      title=f"accuracy in % on {plan['test_stories']:,} unseen stories, mean "
      f"of {len(plan['seeds'])} seeds [95% interval]", title_justify="left")
  table.add_column("method")
  for size in report["train_stories"].values():
    table.add_column(f"{size:,} stories", justify="right")
  for method in plan["methods"]:
    cells = [f"{percent(m['mean'])} {interval(m['ci95'])}"
             for m in report["methods"] if m["method"] == method]
    table.add_row(learning_curve.NAMES[method], *cells)
  return table


def _say(console: rich.console.Console, line: str) -> None:
  # Texts of models are printed as they are, whatever brackets they have.
  console.print(line, markup=False, highlight=False)
