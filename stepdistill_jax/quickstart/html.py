"""`report.html`: one file, no resource from elsewhere, all texts escaped."""

from __future__ import annotations

import base64
import html
import pathlib
import string
from typing import Any

from stepdistill_jax.evaluation.report import html as html_report
from stepdistill_jax.quickstart import learning_curve, text

_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_EVALUATION_CSS = pathlib.Path(html_report.__file__).parent / (
    "templates/report.css")


def render(report: dict[str, Any], figure: pathlib.Path) -> str:
  """Returns the page.

  Args:
    report: the contents of `report.json`.
    figure: the learning curve's PNG file.
  """
  plan = report["plan"]
  image = base64.b64encode(figure.read_bytes()).decode("ascii")
  template = (_TEMPLATES / "report.html").read_text("utf-8")
  return string.Template(template).substitute(
      css=_EVALUATION_CSS.read_text("utf-8"), headline=_headline(report),
      image=image, methods=_methods(report), differences=_differences(report),
      how=html.escape(report["how"]), examples="\n".join(
          map(_example, report["examples"])),
      runs=_runs(report), settings=_settings(report),
      budget=html.escape(plan["budget"]))


def _headline(report: dict[str, Any]) -> str:
  """The effect in one sentence."""
  if not report["differences"]:
    return ""
  d = report["differences"][-1]
  low_high = text.interval(d["ci95"], signed=True)
  return (f"<strong>step-by-step − fine-tuning: {100 * d['mean']:+.1f} "
          f"points</strong> <span>95% interval {low_high}, over all sizes: "
          f"{html.escape(text.verdict(d))}</span>")


def _table(caption: str, head: list[str], rows: list[list[str]]) -> str:
  """A table of escaped texts; the first cell of a row is its header."""
  body = "\n".join(
      f'<tr><th scope="row">{html.escape(first)}</th>'
      + "".join(f"<td>{html.escape(cell)}</td>" for cell in rest) + "</tr>"
      for first, *rest in rows)
  columns = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in head)
  return (f'<div class="scroll"><table><caption>{html.escape(caption)}'
          f"</caption><thead><tr>{columns}</tr></thead><tbody>\n{body}\n"
          "</tbody></table></div>")


def _methods(report: dict[str, Any]) -> str:
  plan = report["plan"]
  rows = [
      [learning_curve.NAMES[method]] + [
          f"{text.percent(m['mean'])} {text.interval(m['ci95'])}"
          for m in report["methods"] if m["method"] == method]
      for method in plan["methods"]]
  teacher = report["teacher"]
  rows.append(["teacher (cached)"] + [
      f"{text.percent(teacher['test_accuracy'])} "
      f"{text.interval(teacher['test_ci95'])}"] * len(plan["shares"]))
  return _table(
      f"Accuracy in % on {plan['test_stories']:,} unseen stories: mean of "
      f"{len(plan['seeds'])} seeds [95% interval]",
      ["trained on"] + [f"{n:,} stories" for n in
                        report["train_stories"].values()], rows)


def _differences(report: dict[str, Any]) -> str:
  if not report["differences"]:
    return ""
  return _table(
      "step-by-step − fine-tuning, in points",
      ["trained on", "difference", "95% interval", "by seed", "verdict"],
      [[text.size_name(d), f"{100 * d['mean']:+.1f}",
        text.interval(d["ci95"], signed=True),
        ", ".join(f"{100 * s:+.1f}" for s in d["by_seed"]), text.verdict(d)]
       for d in report["differences"]])


def _example(example: dict[str, Any]) -> str:
  """A story whose sentences are marked where the rationale quotes them."""
  story, question = _split_question(example["input"])
  quoted = set(_sentences(example["rationale"] or ""))
  marked = " ".join(
      f"<mark>{html.escape(s)}</mark>" if s in quoted else html.escape(s)
      for s in _sentences(story))
  outcome = "right" if example["correct"] else "wrong"
  truth = "" if example["correct"] else (
      f" (it is {html.escape(example['label'])})")
  return (
      f'<article><p class="story">{marked}</p>'
      f'<p class="question">{html.escape(question)}</p><dl>'
      f'<dt>answers</dt><dd class="{outcome}">'
      f"{html.escape(example['answer'] or '')}{truth}</dd>"
      f"<dt>explains</dt><dd>{html.escape(example['rationale'] or '')}</dd>"
      "</dl></article>")


def _split_question(inputs: str) -> tuple[str, str]:
  story, found, question = inputs.rpartition(" . ")
  return (f"{story} .", question) if found else ("", inputs)


def _sentences(story: str) -> list[str]:
  return [f"{s.strip()} ." for s in story.split(" .") if s.strip()]


def _runs(report: dict[str, Any]) -> str:
  return _table(
      "Every student", ["method", "stories", "seed", "accuracy in %",
                        "95% interval (stories)", "no answer", "folder"],
      [[learning_curve.NAMES[run["method"]], f"{run['train_stories']:,}",
        str(run["seed"]), text.percent(run["accuracy"]),
        text.interval(run["ci95"]), str(run["unparsable"]), run["model_dir"]]
       for run in report["runs"]])


def _settings(report: dict[str, Any]) -> str:
  plan, teacher = report["plan"], report["teacher"]
  statuses = ", ".join(
      f"{count:,} {name}" for name, count in teacher["train_statuses"].items())
  rows = [
      ["student", f"T5 v1.1, {report['parameters']:,} parameters, from random "
       f"ones; {plan['steps']:,} steps"],
      ["stories", ", ".join(f"{name} {value}" for name, value in
                            plan["difficulty"].items())],
      ["teacher", f"simulated; wrong in {plan['teacher']['error_rate']:.0%} "
       "of its finished answers, in rationale and label alike; right in "
       f"{teacher['train_accuracy']:.1%} of those to train on"],
      ["its completions", f"{teacher['train_completions']:,} to train on: "
       f"{statuses}"],
      ["machine", f"{report['machine']['devices']}, "
       f"{report['machine']['processors']} processors, "
       f"{report['machine']['system']} {report['machine']['machine']}"],
      ["versions", ", ".join(
          f"{name} {version}" for name, version in
          report["versions"].items())],
      ["made", report["created"]],
  ]
  return _table("Settings", ["what", "value"], rows)
