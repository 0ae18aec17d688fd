"""The plots of all reports, drawn with matplotlib, no display.

Each is a PNG file for a folder and an SVG image for a page, with its data as a
table for those who cannot see it. Legends stand below the axes, over no line.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import io
import itertools
import pathlib
import re
from typing import Any

import pandas as pd

from stepdistill_jax.evaluation.report import tables

# By method, so that all figures agree: colours that a colour-blind reader
# distinguishes, and markers for print.
_STYLES = {
    "finetune": ("#6e7781", "s"), "distill": ("#c77700", "^"),
    "step_by_step": ("#2f6db3", "o"), "single_task": ("#8250df", "D"),
    "mutual_information": ("#1a7f37", "v"),
    "step_by_step, teacher labels": ("#54aeff", "P"),
}
_SPARE = (("#bf3989", "X"), ("#0a7d91", "*"), ("#7d4e00", "<"),
          ("#57606a", ">"))
# Of the axis, between two lines' points of equal x; and between all of them.
_DODGE, _MOST_DODGE = 0.02, 0.06


@dataclasses.dataclass(frozen=True)
class Plot:
  """A figure and what it shows.

  Attributes:
    name: of its PNG file.
    title: what it shows, in one line.
    table: its data.
    figure: matplotlib's.
  """

  name: str
  title: str
  table: tables.Table
  figure: Any

  def save(self, folder: pathlib.Path) -> None:
    """Writes the PNG file."""
    self.figure.savefig(folder / self.name, dpi=130)

  @functools.cached_property
  def svg(self) -> str:
    """The figure as a data URL; the same bytes for the same data."""
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": self.name}):
      self.figure.savefig(file, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/svg+xml;base64,{encoded}"


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of a plot.

  Attributes:
    label: in the legend.
    x: of its points; numbers, or names of the axis's places.
    y: of its points, as shares for accuracies.
    ci95: an interval for each point, or None.
    style: name whose colour and marker to take, such as a method.
    more: values to mark beside each point, such as single seeds'.
  """

  label: str
  x: Sequence[Any]
  y: Sequence[float]
  ci95: Sequence[Sequence[float] | None] = ()
  style: str = ""
  more: Sequence[Sequence[float]] = ()


def lines(
    name: str, title: str, xlabel: str, drawn: Sequence[Line], *,
    ylabel: str = "accuracy, %", percent: bool = True, log: bool = False,
    places: Sequence[str] | None = None, levels: Mapping[str, float] = {},
    full_height: bool = True, x_format: str = ",.10g", diagonal: bool = False,
) -> Plot:
  """Draws lines with intervals.

  Args:
    name: of the PNG file.
    title: what the plot shows.
    xlabel: of the axis.
    drawn: the lines.
    ylabel: of the axis.
    percent: y is a share in [0, 1], drawn in percent.
    log: for a logarithmic x axis.
    places: names along the axis, where x has names.
    levels: name to y of horizontal lines.
    full_height: the y axis shows all values that there can be.
    x_format: of x in the table.
    diagonal: draws y = x.
  """
  longest = max(len(line.label) for line in drawn)
  columns = 2 if longest < 26 else 1
  fig, axes = _figure(3.6 + 0.2 * (len(drawn) + len(levels)) / columns)
  scale = 100.0 if percent else 1.0
  position = places.index if places else float
  every_x = sorted({x for line in drawn for x in map(position, line.x)})
  styles = _styles(line.style for line in drawn)
  for number, (line, (color, marker)) in enumerate(zip(drawn, styles)):
    shift = min(_DODGE, _MOST_DODGE / len(drawn)) * (
        number - (len(drawn) - 1) / 2)
    x = _dodged([position(x) for x in line.x], every_x, shift, log)
    y = [scale * value for value in line.y]
    errors = [[max(0.0, sign * (value - scale * ci[end])) if ci else 0.0
               for value, ci in zip(y, line.ci95)]
              for end, sign in ((0, 1), (1, -1))]
    axes.errorbar(
        x, y, yerr=errors if line.ci95 else None, color=color, marker=marker,
        capsize=3, linewidth=1.5, label=_plain(line.label), clip_on=False)
    for at, values in zip(x, line.more):
      axes.plot([at] * len(values), [scale * value for value in values],
                linestyle="", marker="_", markersize=9, color=color, alpha=0.6)
  for number, (label, level) in enumerate(levels.items()):
    axes.axhline(scale * level, color="black", linewidth=1,
                 linestyle=("--", ":")[number % 2], label=_plain(label))
  if diagonal:
    axes.plot([0, 1], [0, 1], color="#6e7781", linestyle="--", linewidth=1,
              label="accuracy = score")
  if log:
    axes.set_xscale("log")
  if places:
    axes.set_xticks(range(len(places)), places)
  elif len(every_x) <= 6:
    axes.set_xticks(every_x, [format(x, x_format) for x in every_x])
    axes.minorticks_off()
  low, high = (0, scale) if full_height else axes.get_ylim()
  axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(max(0, low), min(scale, high)))
  axes.grid(axis="y", alpha=0.3)
  fig.legend(loc="outside lower center", ncols=columns, fontsize=9,
             frameon=False)
  return Plot(name, title, _lines_table(
      title, xlabel, ylabel, drawn, levels, scale, x_format), fig)


def _lines_table(title, xlabel, ylabel, drawn, levels, scale, x_format):
  rows = [
      {"line": line.label, "x": x if isinstance(x, str) else format(
          x, x_format), "y": f"{scale * y:.4g}", "ci95": ci95}
      for line in drawn for x, y, ci95 in zip(
          line.x, line.y, line.ci95 or [None] * len(line.x))]
  rows += [{"line": label, "x": "all", "y": f"{scale * y:.4g}", "ci95": None}
           for label, y in levels.items()]
  columns = {"line": "line", xlabel: "x", ylabel: "y"}
  if any(line.ci95 for line in drawn):
    columns["95%"] = ("ci95", tables.interval)
  return tables.make(title, rows, columns)


def of_results(results: Mapping[str, Any]) -> Iterator[Plot]:
  """Draws the plots of an evaluation.

  Args:
    results: as in `results.json`.
  """
  for benchmark in dict.fromkeys(s["benchmark"] for s in results["systems"]):
    group = [s for s in results["systems"] if s["benchmark"] == benchmark]
    slug = re.sub(r"[^A-Za-z0-9]+", "_", benchmark)
    metric = group[0].get("metric", "accuracy")
    yield _bars(f"{metric}_{slug}.png", (
        f"{benchmark}: label accuracy with 95% Wilson intervals"
        if metric == "accuracy" else
        f"{benchmark}: {metric} with 95% bootstrap intervals"), group)
    if metric != "accuracy":
      continue  # Texts are not right or wrong: there is nothing else to draw.
    scored = [s for s in group if s["calibration"]]
    if scored:
      yield lines(
          f"reliability_{slug}.png",
          f"{benchmark}: accuracy by label score (reliability)",
          "mean score of the bin", [
              Line(f"{tables.label_of(s)}: ECE {s['calibration']['ece']:.3f}",
                   *([b[key] for b in s["calibration"]["bins"]]
                     for key in ("score", "accuracy"))) for s in scored],
          ylabel="accuracy of the bin", percent=False, diagonal=True,
          x_format=".4g")
    unit = group[0]["by_length"]["unit"]
    for name, rows_of, label, title in (
        ("length", lambda s: s["by_length"]["rows"], f"input length ({unit})",
         "input length"),
        ("steps", lambda s: s["by_steps"], "steps", "number of steps")):
      if name == "length" or any(map(rows_of, group)):
        yield by_range(
            f"{name}_{slug}.png", f"{benchmark}: accuracy by {title}", label,
            [(tables.label_of(s), rows_of(s)) for s in group])


def by_range(
    name: str, title: str, label: str,
    rows: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> Plot:
  """Accuracy by ranges of a number, such as `3–5`, for each system."""
  places = sorted({row["range"] for _, ranges in rows for row in ranges},
                  key=lambda text: int(re.match(r"\d+", text)[0]))
  return lines(name, title, label, [
      Line(system, *([row[key] for row in ranges]
                     for key in ("range", "accuracy", "ci95")))
      for system, ranges in rows], places=places)


def of_runs(groups: pd.DataFrame, teachers: pd.DataFrame) -> Iterator[Plot]:
  """Draws accuracy by share of data and by size, as the papers have it.

  A line is a method, a point its mean over seeds, a bar its 95% interval. The
  teacher is a dashed line. Figures that would have one point a line are not
  drawn: a table says as much.

  Args:
    groups: see `averages.group`.
    teachers: see `runs_table.collect`.
  """
  for (dataset, split), here in groups.groupby(
      ["dataset", "split"], sort=False):
    levels = {f"teacher {t.teacher}": t.accuracy for t in teachers.itertuples()
              if (t.dataset, t.split) == (dataset, split)}
    for size, points in here.groupby("size", sort=False):
      yield from _if_it_varies(
          points, "share", levels, f"share_{dataset}_{split}_{size}.png",
          f"{dataset} {split}, {size} student: accuracy by share of the train "
          "data", "share of the train data, %", 100)
    for share, points in here.groupby("share", sort=False):
      yield from _if_it_varies(
          points[points["parameters"].notna()], "parameters", levels,
          f"size_{dataset}_{split}_{100 * share:g}.png",
          f"{dataset} {split}, {100 * share:g}% of the train data: accuracy "
          "by size of the student", "parameters of the student", 1)


def _if_it_varies(points, column, levels, name, title, label, scale):
  if points[column].nunique() < 2:
    return
  drawn = []
  for method, rows in points.groupby("method", sort=False):
    rows = rows.sort_values(column, kind="stable")
    drawn.append(Line(
        method, [scale * x for x in rows[column]], rows["mean"].to_list(),
        rows["ci95"].to_list(), style=method))
  yield lines(
      re.sub(r"[^A-Za-z0-9._]+", "_", name), title, label, drawn,
      levels=levels, log=column == "parameters", full_height=False,
      x_format=",.4g" if column == "share" else ",.3g")


def _bars(name: str, title: str, group: Sequence[Mapping[str, Any]]) -> Plot:
  """A bar for each system, with its interval."""
  fig, axes = _figure(height=1.2 + 0.45 * len(group))
  for y, s in enumerate(reversed(group)):
    metric, value, (low, high) = tables.quality(s)
    axes.barh(y, 100 * value, color="#9aa5b1" if s["kind"] == "teacher"
              else "#2f6db3", height=0.6)
    axes.plot([100 * low, 100 * high], [y, y], color="black", linewidth=1.5)
    # Beside the interval, where there is more room.
    right = high < 0.9
    axes.text(100 * (high if right else low) + (1 if right else -1), y,
              f"{100 * value:.1f}", va="center",
              ha="left" if right else "right",
              color="black" if right else "white")
  axes.set_yticks(range(len(group)), [
      _plain(tables.label_of(s)) for s in reversed(group)])
  axes.set(xlim=(0, 100), xlabel=f"{metric}, %")
  return Plot(name, title, tables.make(title, group, {
      "system": tables.label_of,
      f"{metric} %": lambda s: tables.percent(tables.quality(s)[1]),
      "95%": lambda s: tables.interval(tables.quality(s)[2])}), fig)


def _figure(height: float) -> tuple[Any, Any]:
  from matplotlib import figure

  # As narrow as its letters are still read on a phone.
  fig = figure.Figure(figsize=(5.2, height), layout="constrained")
  axes = fig.subplots()
  axes.spines[["top", "right"]].set_visible(False)
  return fig, axes


def _plain(text: str) -> str:
  """A label as it is: matplotlib reads $…$ as mathematics."""
  return text.replace("$", r"\$")[:60]


def _styles(names: Iterable[str]) -> Iterator[tuple[str, str]]:
  names = list(names)
  spare = itertools.cycle(
      [*_SPARE, *(_STYLES[name] for name in _STYLES if name not in names)])
  return (_STYLES.get(name) or next(spare) for name in names)


def _dodged(x: Sequence[float], every_x: Sequence[float], shift: float,
            log: bool) -> list[float]:
  """Points moved sideways, so that intervals do not overlap."""
  if log:
    return [value * (every_x[-1] / every_x[0]) ** shift for value in x]
  return [value + shift * (every_x[-1] - every_x[0]) for value in x]
