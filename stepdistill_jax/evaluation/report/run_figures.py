"""The papers' figures of many runs: accuracy by share of data and by size.

A line is a method, a point its mean over seeds, a bar its 95% interval. The
teacher is a dashed line. Figures that would have one point a line are not
drawn: a table says as much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import pathlib
import re

from stepdistill_jax.evaluation.report import (
  method_averages,
  run_scores,
)

# Colours that a colour-blind reader tells apart, and markers for print.
_STYLES = {
    "finetune": ("#6e7781", "s"), "distill": ("#c77700", "^"),
    "step_by_step": ("#2f6db3", "o"), "single_task": ("#8250df", "D"),
    "mutual_information": ("#1a7f37", "v"),
    "step_by_step, teacher labels": ("#54aeff", "P"),
}
_SPARE = (("#bf3989", "X"), ("#0a7d91", "*"), ("#7d4e00", "<"),
          ("#57606a", ">"))


def draw_all(
    groups: Sequence[method_averages.Group],
    teachers: Sequence[run_scores.TeacherScore], folder: pathlib.Path,
) -> dict[str, str]:
  """Draws every figure that the runs give.

  Args:
    groups: points, from `run_groups.group`.
    teachers: lines.
    folder: where the PNG files go; made if missing.

  Returns:
    File name to a description of what it shows.
  """
  folder.mkdir(parents=True, exist_ok=True)
  drawn = {}
  for dataset, split in dict.fromkeys((g.dataset, g.split) for g in groups):
    here = [g for g in groups if (g.dataset, g.split) == (dataset, split)]
    lines = {t.teacher: t.accuracy for t in teachers
             if (t.dataset, t.split) == (dataset, split)}
    for size in dict.fromkeys(g.size for g in here):
      drawn |= _draw_if_it_varies(
          [g for g in here if g.size == size], lines, folder,
          f"share_{dataset}_{split}_{size}.png",
          f"{dataset} {split}, {size} student: accuracy by share of the train "
          "data", "share of the train data, %", lambda g: 100 * g.share)
    for share in dict.fromkeys(g.share for g in here):
      drawn |= _draw_if_it_varies(
          [g for g in here if g.share == share and g.parameters], lines,
          folder, f"size_{dataset}_{split}_{100 * share:g}.png",
          f"{dataset} {split}, {100 * share:g}% of the train data: accuracy "
          "by size of the student", "parameters of the student",
          lambda g: g.parameters, log=True)
  return drawn


def _draw_if_it_varies(
    groups, teachers, folder, name, title, label,
    x_of: Callable[[method_averages.Group], float], log: bool = False,
) -> dict[str, str]:
  if len({x_of(g) for g in groups}) < 2:
    return {}
  name = re.sub(r"[^A-Za-z0-9._]+", "_", name)
  from matplotlib import figure

  fig = figure.Figure(figsize=(6.4, 4.2), layout="constrained")
  axes = fig.subplots()
  methods = list(dict.fromkeys(g.method for g in groups))
  for method, (color, marker) in zip(methods, _styles(methods)):
    points = sorted((g for g in groups if g.method == method), key=x_of)
    means = [100 * g.mean for g in points]
    below = [m - 100 * g.ci95[0] if g.ci95 else 0
             for m, g in zip(means, points)]
    above = [100 * g.ci95[1] - m if g.ci95 else 0
             for m, g in zip(means, points)]
    axes.errorbar(
        [x_of(g) for g in points], means,
        yerr=[[max(0, b) for b in below], [max(0, a) for a in above]],
        color=color, marker=marker, capsize=3, linewidth=1.5,
        label=_plain(method))
  for teacher, accuracy in teachers.items():
    axes.axhline(100 * accuracy, color="black", linestyle="--", linewidth=1,
                 label=_plain(f"teacher {teacher}"))
  if log:
    axes.set_xscale("log")
  axes.set(xlabel=label, ylabel="accuracy, %", title=_plain(title))
  axes.title.set_fontsize(9)
  low, high = axes.get_ylim()
  axes.set_ylim(max(0, low), min(100, high))
  axes.grid(alpha=0.3)
  axes.legend(fontsize=8)
  fig.savefig(folder / name, dpi=130)
  return {name: title}


def _plain(text: str) -> str:
  """Matplotlib reads $…$ as mathematics."""
  return text.replace("$", r"\$")


def _styles(methods: Sequence[str]):
  spare = 0
  for method in methods:
    if method in _STYLES:
      yield _STYLES[method]
    else:
      yield _SPARE[spare % len(_SPARE)]
      spare += 1
