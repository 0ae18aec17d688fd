"""The plots of a report, as PNG files; drawn with matplotlib, no display."""

from __future__ import annotations

import pathlib
import re
from typing import Any


def draw_all(results: dict[str, Any], folder: pathlib.Path) -> dict[str, str]:
  """Draws the plots of a call.

  Args:
    results: as in `results.json`.
    folder: where the PNG files go; made if missing.

  Returns:
    File name to a description of what it shows.
  """
  import matplotlib

  matplotlib.use("Agg")
  folder.mkdir(parents=True, exist_ok=True)
  drawn = {}
  order = dict.fromkeys(s["benchmark"] for s in results["systems"])
  for benchmark in order:
    group = [s for s in results["systems"] if s["benchmark"] == benchmark]
    name = f"accuracy_{_slug(benchmark)}.png"
    _accuracy(group, folder / name)
    drawn[name] = f"{benchmark}: label accuracy with 95% Wilson intervals"
    if any(s["calibration"] for s in group):
      name = f"reliability_{_slug(benchmark)}.png"
      _reliability([s for s in group if s["calibration"]], folder / name)
      drawn[name] = f"{benchmark}: accuracy by label score (reliability)"
    name = f"length_{_slug(benchmark)}.png"
    _by_range([(s, s["by_length"]["rows"]) for s in group],
              f"input length ({group[0]['by_length']['unit']})",
              folder / name)
    drawn[name] = f"{benchmark}: accuracy by input length"
    if any(s["by_steps"] for s in group):
      name = f"steps_{_slug(benchmark)}.png"
      _by_range([(s, s["by_steps"]) for s in group], "steps", folder / name)
      drawn[name] = f"{benchmark}: accuracy by number of steps"
  return drawn


def _slug(name: str) -> str:
  return re.sub(r"[^A-Za-z0-9]+", "_", name)


def _label(summary) -> str:
  mode = summary["mode"]
  name = summary["name"] if mode == "generate" else (
      f"{summary['name']} ({mode})")
  # Matplotlib reads $…$ as mathematics.
  return name.replace("$", r"\$")[:60]


def _figure(width=6.4, height=3.6):
  from matplotlib import figure

  return figure.Figure(figsize=(width, height), layout="constrained")


def _accuracy(group, path) -> None:
  fig = _figure(height=1.2 + 0.45 * len(group))
  axes = fig.subplots()
  for y, s in enumerate(reversed(group)):
    low, high = s["ci95"]
    accuracy = s["accuracy"]
    axes.barh(y, 100 * accuracy, color="#9aa5b1" if s["kind"] == "teacher"
              else "#2f6db3", height=0.6)
    axes.plot([100 * low, 100 * high], [y, y], color="black", linewidth=1.5)
    # Beside the interval, where there is more room.
    right = high < 0.9
    axes.text(100 * (high if right else low) + (1 if right else -1), y,
              f"{100 * accuracy:.1f}", va="center",
              ha="left" if right else "right",
              color="black" if right else "white")
  axes.set_yticks(range(len(group)), [_label(s) for s in reversed(group)])
  axes.set_xlim(0, 100)
  axes.set_xlabel("accuracy, %")
  fig.savefig(path, dpi=120)


def _reliability(group, path) -> None:
  fig = _figure(4.8, 4.2)
  axes = fig.subplots()
  axes.plot([0, 1], [0, 1], color="#9aa5b1", linestyle="--", linewidth=1)
  for s in group:
    bins = s["calibration"]["bins"]
    axes.plot([b["score"] for b in bins], [b["accuracy"] for b in bins],
              marker="o", label=f"{_label(s)}: ECE "
              f"{s['calibration']['ece']:.3f}")
  axes.set(xlabel="mean score of the bin", ylabel="accuracy of the bin",
           xlim=(0, 1), ylim=(0, 1))
  axes.legend(fontsize=8)
  fig.savefig(path, dpi=120)


def _by_range(group, label, path) -> None:
  fig = _figure()
  axes = fig.subplots()
  names = sorted({r["range"] for _, rows in group for r in rows},
                 key=lambda name: int(re.match(r"\d+", name)[0]))
  for index, (s, rows) in enumerate(group):
    shift = 0.12 * (index - (len(group) - 1) / 2)
    x = [names.index(r["range"]) + shift for r in rows]
    y = [100 * r["accuracy"] for r in rows]
    below = [max(0.0, v - 100 * r["ci95"][0]) for v, r in zip(y, rows)]
    above = [max(0.0, 100 * r["ci95"][1] - v) for v, r in zip(y, rows)]
    axes.errorbar(x, y, yerr=[below, above], marker="o", capsize=3,
                  linewidth=1, label=_label(s))
  axes.set_xticks(range(len(names)), names)
  axes.set(xlabel=label, ylabel="accuracy, %", ylim=(0, 100))
  axes.legend(fontsize=8)
  fig.savefig(path, dpi=120)
