"""Runs averaged over their seeds, and the differences between methods."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np
import pandas as pd

from stepdistill_jax.evaluation import effect, scored
from stepdistill_jax.evaluation.report import run_facts
from stepdistill_jax.interop import run_folder

BASELINE = "finetune"
_ASKED = ["benchmark", "split", "mode"]
_POINT = ["dataset", "split", "method", "optimizer", "size", "share", "teacher"]
# What a comparison of two methods keeps equal.
_SETTING = ["dataset", "split", "size", "share", "optimizer"]


def summarize(results: Sequence[scored.Scored]) -> list[dict[str, Any]]:
  """Means over seeds, for runs with a `method` in common.

  A checkpoint's summary carries `method`: `{"name", "key", "seed", "run",
  "step", "identities"}`, where the key is a hash of its configuration without
  seed and folders. Several checkpoints of one run are points of a curve, not
  seeds: there the runs are put together step by step. A copy of a run, by its
  identities, is that run.

  Args:
    results: of one call, on the same examples.

  Returns:
    One dict a group of two runs or more, as in `results.json`.
  """
  runs = pd.DataFrame([
      {"system": r.summary["name"], "values": r.values,
       **r.summary["method"], **{name: r.summary[name] for name in _ASKED}}
      for r in results if r.summary.get("method")])
  found: list[dict[str, Any]] = []
  if runs.empty:
    return found
  runs["run"] = runs["run"].map(first_copies(results))
  runs = runs.drop_duplicates([*_ASKED, "key", "run", "step"], keep="last")
  for asked, here in runs.groupby(_ASKED, sort=False):
    sets = []
    for _, members in here.groupby("key", sort=False):
      is_curve = members["run"].duplicated().any()
      sets += [seeds for _, seeds in members.groupby(
          members["step"] if is_curve else np.zeros(len(members)))
               if len(seeds) > 1]
    estimates = effect.estimate_all(
        [np.array(list(s["values"]), np.float64) for s in sets])
    found += [{
        **dict(zip(_ASKED, asked)), "method": seeds["name"].iloc[0],
        "steps": sorted(set(seeds["step"].tolist())),
        "systems": seeds["system"].tolist(), "n_seeds": len(seeds),
        **dataclasses.asdict(estimate)}
              for seeds, estimate in zip(sets, estimates)]
  return found


def first_copies(results: Sequence[scored.Scored]) -> dict[str, str]:
  """Returns each checkpoint's run, and the run that it is a copy of."""
  methods = [r.summary["method"] for r in results if r.summary.get("method")]
  return run_folder.first_copies(
      {m["run"]: m.get("identities", ()) for m in methods})


def _full_names(runs: pd.DataFrame) -> pd.Series:
  """Each run's method, with what distinguishes it from the others there."""
  names = runs["method"]
  texts = {"optimizer": (runs["optimizer"], _POINT[:2], ""),
           "teacher": (runs["teacher"].fillna(""), _POINT[:4], ""),
           **{name: (runs["settings"].map(lambda s, n=name: str(s.get(n))),
                     _POINT, f"{name}=") for name in run_facts.SETTINGS}}
  for text, keys, prefix in texts.values():
    several = text.groupby(
        [runs[key] for key in keys], dropna=False).transform("nunique") > 1
    names = names + (", " + prefix + text).where(several & (text != ""), "")
  several = runs["note"].groupby(
      [*(runs[key] for key in _POINT), names], dropna=False).transform(
          "nunique") > 1
  names = names + (", " + runs["note"]).where(several, "")
  return names


def group(runs: pd.DataFrame,
          groups_of: Mapping[str, tuple[str, str]] | None = None
          ) -> pd.DataFrame:
  """Groups runs by everything but the seed.

  Args:
    runs: see `runs_table.collect`, one row a run and split.
    groups_of: name of a run's folder -> (its group's name, what tells that
      from others), where that is known: a run's configuration does not show
      all differences.

  Returns:
    A row each, in the order of a table, with the columns
      dataset, split, size, parameters, share, optimizer: as of the runs;
      method: with what distinguishes it from the others;
      accuracies: seed (or the run's place, where it has none) to accuracy;
      mean: of the accuracies;
      standard_error: of the mean, see `effect`; None where unknown;
      ci95: over seeds and examples, see `effect`; over examples by Wilson for
        one run whose method has no other seed; None where neither is known;
      ci_of: `seeds and examples`, `examples`, or empty;
      paths: of the runs;
      correct: seed to the answers, as of the runs.
  """
  of = [(groups_of or {}).get(pathlib.Path(path).name, ("", ""))
        for path in runs["path"]]
  runs = runs.assign(group=[name for name, _ in of], note=[n for _, n in of])
  runs = runs.assign(full_name=_full_names(runs))
  found: list[dict[str, Any]] = []
  for _, here in runs.groupby(_POINT[:2], sort=False):
    points = [_by_seed(members) for _, members in here.groupby(
        [*_POINT, "full_name", "group"], sort=False, dropna=False)]
    arrays = [_answers(list(p["correct"])) for p in points]
    estimates = iter(effect.estimate_all([a for a in arrays if a is not None]))
    found += [_summarize(point, None if array is None else next(estimates))
              for point, array in zip(points, arrays)]
  return pd.DataFrame(sorted(found, key=lambda g: (
      g["dataset"], g["split"], g["parameters"] or 0, g["share"],
      g["method"])), dtype=object)


def _by_seed(members: pd.DataFrame) -> pd.DataFrame:
  """The runs with their seeds as index; two runs of one seed both count."""
  again = members["seed"].isna() | members["seed"].duplicated()
  places = [f"run {place}" for place in range(len(members))]
  return members.set_axis(members["seed"].mask(again, places).to_list())


def _answers(given: Sequence[Mapping[str, bool] | None]) -> np.ndarray | None:
  """Answers to the same examples, float64 `[seeds, examples]`, else None."""
  if not all(given) or len({frozenset(answers) for answers in given}) > 1:
    return None
  return np.array([[answers[i] for i in given[0]] for answers in given],
                  np.float64)


def _summarize(
    runs: pd.DataFrame, found: effect.Estimate | None) -> dict[str, Any]:
  first = runs.iloc[0]
  error, ci95 = (found.standard_error, found.ci95) if found else (None, None)
  ci_of = "seeds and examples" if ci95 else ""
  if ci95 is None and len(runs) == 1 and first["ci95"] is not None:
    ci95, ci_of = first["ci95"], "examples"
  return {
      "dataset": first["dataset"], "split": first["split"],
      "method": first["full_name"],
      **{name: first[name] for name in (
          "size", "parameters", "share", "optimizer")},
      "accuracies": runs["accuracy"].to_dict(),
      "mean": found.mean if found else float(
          np.mean(runs["accuracy"].to_list())),
      "standard_error": error, "ci95": ci95, "ci_of": ci_of,
      "paths": tuple(map(str, runs["path"])),
      "correct": runs["correct"].to_dict()}


def differences(groups: pd.DataFrame) -> list[dict[str, Any]]:
  """Every method against fine-tuning in its setting.

  Args:
    groups: see `group`.

  Returns:
    One dict each: `group` and `baseline`, rows of `groups`; `difference` of
    the means, over seeds that both ran where there are; `ci95` over paired
    seeds and examples, see `effect`, None without two seeds or the answers,
    or where all of these are alike; `paired`, whether there were answers; and
    `seeds`, how many were paired.
  """
  rows = list(groups.itertuples())
  setting = lambda g: tuple(getattr(g, name) for name in _SETTING)
  is_baseline = lambda g: g.method in (BASELINE, f"{BASELINE}, {g.optimizer}")
  baselines = {setting(g): g for g in rows if is_baseline(g)}
  pairs = [(g, baselines[setting(g)]) for g in rows
           if setting(g) in baselines and not is_baseline(g)]
  values = [_paired_answers(*pair) for pair in pairs]
  # A method's differences scatter over seeds alike in all its settings.
  together: dict[tuple, list[int]] = {}
  for place, (g, _) in enumerate(pairs):
    if values[place] is not None:
      together.setdefault((g.dataset, g.split, g.method), []).append(place)
  ci95 = {place: estimate.ci95 for places in together.values()
          for place, estimate in zip(places, effect.estimate_all(
              [values[place] for place in places], least=-1.0))}
  found = []
  for place, (one, baseline) in enumerate(pairs):
    seeds = [s for s in one.accuracies if s in baseline.accuracies]
    mean = float(np.mean([one.accuracies[s] - baseline.accuracies[s]
                          for s in seeds])) if seeds else (
                              one.mean - baseline.mean)
    found.append({"group": one, "baseline": baseline, "difference": mean,
                  "ci95": ci95.get(place), "paired": values[place] is not None,
                  "seeds": len(seeds)})
  return found


def _paired_answers(one: Any, baseline: Any) -> np.ndarray | None:
  """The difference of the answers to the same examples by seeds of both."""
  seeds = [s for s in one.correct if s in baseline.correct]
  both = _answers([group.correct[s] for group in (one, baseline)
                   for s in seeds])
  if not seeds or both is None:
    return None
  return both[:len(seeds)] - both[len(seeds):]
