"""The learning curve, and `report.html` with its tables."""

import pathlib
from typing import Any

from stepdistill_jax.evaluation.report import plots, tables
from stepdistill_jax.quickstart import plan as plan_lib, text
from stepdistill_jax.util import pages

_TEMPLATE = pathlib.Path(__file__).parent / "templates" / "quickstart.html"


def learning_curve(report: dict[str, Any]) -> plots.Plot:
  """Accuracy by number of training stories.

  The means with their intervals, every seed beside them, and the teacher.

  Args:
    report: the contents of `report.json`.
  """
  plan, teacher = report["plan"], report["teacher"]["test_accuracy"]
  blind = 1 / plan["difficulty"]["places"]
  drawn = []
  for method in plan["methods"]:
    rows = sorted((m for m in report["methods"] if m["method"] == method),
                  key=lambda m: m["train_stories"])
    drawn.append(plots.Line(
        text.NAMES[method], [m["train_stories"] for m in rows],
        [m["mean"] for m in rows], [m["ci95"] for m in rows], style=method,
        more=[m["by_seed"] for m in rows]))
  return plots.lines(
      "learning_curve.png",
      "Accuracy on unseen stories by number of training stories",
      "training stories", drawn, ylabel="accuracy on unseen stories, %",
      log=True, levels={
          f"teacher {teacher:.1%}": teacher,
          f"blind guess {blind:.1%}": blind})


def render(report: dict[str, Any], curve: plots.Plot) -> str:
  """Returns the page.

  Args:
    report: the contents of `report.json`.
    curve: see `learning_curve`.
  """
  return pages.render(
      _TEMPLATE, title="Quickstart: distilling step-by-step", report=report,
      curve=curve, text=text, details=[_runs(report), _settings(report)],
      tables=[text.methods_table(report, teacher=True),
              *([_differences(report)] if report["differences"] else [])])


def _differences(report: dict[str, Any]) -> tables.Table:
  return tables.make(
      "step-by-step − fine-tuning, in points", report["differences"], {
          "trained on": text.size_name,
          "difference": lambda d: f"{100 * d['mean']:+.1f}",
          "95% interval": lambda d: text.interval(d["ci95"], signed=True),
          "by seed": text.by_seed, "verdict": text.verdict}, report["how"])


def _runs(report: dict[str, Any]) -> tables.Table:
  return tables.make("Every student", report["runs"], {
      "method": lambda run: text.NAMES[run["method"]],
      "stories": ("train_stories", tables.number), "seed": "seed",
      "accuracy in %": ("accuracy", text.percent),
      "95% interval (stories)": ("ci95", text.interval),
      "no answer": "unparsable", "folder": "model_dir"})


def _settings(report: dict[str, Any]) -> tables.Table:
  plan, teacher = report["plan"], report["teacher"]
  machine = report["machine"]
  pairs = lambda mapping, form="{} {}": ", ".join(
      form.format(*pair) for pair in mapping.items())
  rows = {
      "student": f"{plan_lib.STUDENTS[plan['student']]}, "
      f"{report['parameters']:,} parameters, from random ones; "
      f"{plan['steps']:,} steps",
      "stories": pairs(plan["difficulty"]),
      "teacher": f"simulated; wrong in {plan['teacher']['error_rate']:.0%} "
      "of its finished answers, in rationale and label alike; right in "
      f"{teacher['train_accuracy']:.1%} of those to train on",
      "its completions": f"{teacher['train_completions']:,} to train on: "
      + pairs(teacher["train_statuses"], "{1:,} {0}"),
      "machine": f"{machine['devices']}, {machine['processors']} processors, "
      f"{machine['system']} {machine['machine']}",
      "versions": pairs(report["versions"]), "made": report["created"]}
  return tables.Table("Settings", ("what", "value"), tuple(rows.items()))
