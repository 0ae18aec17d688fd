"""`learning_curve.png`: accuracy by number of training stories."""

from __future__ import annotations

import pathlib
from typing import Any

# Distinct in colour and in grey; by method, so that all figures agree.
COLORS = {"finetune": "#7a7f87", "distill": "#c77b30",
          "step_by_step": "#1f6fb5"}
NAMES = {"finetune": "fine-tuning", "distill": "distillation",
         "step_by_step": "step-by-step"}
_MARKERS = {"finetune": "s", "distill": "^", "step_by_step": "o"}


def draw(report: dict[str, Any], path: pathlib.Path) -> None:
  """Draws the means with their intervals, every seed, and the teacher.

  Args:
    report: the contents of `report.json`.
    path: of the PNG file.
  """
  import matplotlib
  matplotlib.use("Agg")
  from matplotlib import pyplot as plt

  figure, axes = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
  sizes = sorted({m["train_stories"] for m in report["methods"]})
  for place, method in enumerate(report["plan"]["methods"]):
    _draw_method(axes, report, method, shift=1 + 0.03 * (place - 1))
  teacher = report["teacher"]["test_accuracy"]
  places = report["plan"]["difficulty"]["places"]
  for level, name in ((teacher, "teacher"), (1 / places, "blind guess")):
    axes.axhline(100 * level, color="#555", lw=1, ls=":")
    axes.annotate(f"{name} {level:.1%}", (1, 100 * level),
                  xycoords=("axes fraction", "data"), xytext=(-4, 3),
                  textcoords="offset points", ha="right", fontsize=8.5,
                  color="#555")
  axes.set_xscale("log")
  axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
  axes.minorticks_off()
  axes.set_xlim(sizes[0] / 1.35, sizes[-1] * 1.35)
  axes.set_ylim(0, 100)
  axes.set_xlabel("training stories")
  axes.set_ylabel("accuracy on unseen stories (%)")
  axes.grid(axis="y", alpha=0.25)
  for side in ("top", "right"):
    axes.spines[side].set_visible(False)
  axes.legend(frameon=False, loc="upper left")
  figure.savefig(path, dpi=160)
  plt.close(figure)


def _draw_method(axes, report, method: str, shift: float) -> None:
  """One method's line; shifted sideways so that intervals do not overlap."""
  rows = sorted((m for m in report["methods"] if m["method"] == method),
                key=lambda m: m["train_stories"])
  x = [m["train_stories"] * shift for m in rows]
  y = [100 * m["mean"] for m in rows]
  color = COLORS[method]
  axes.plot(x, y, color=color, marker=_MARKERS[method], lw=2,
            label=NAMES[method])
  for at, row in zip(x, rows):
    if row["ci95"]:
      axes.vlines(at, 100 * row["ci95"][0], 100 * row["ci95"][1],
                  color=color, lw=1.5)
    axes.plot([at] * len(row["by_seed"]), [100 * a for a in row["by_seed"]],
              ls="", marker="_", ms=9, color=color, alpha=0.6)
