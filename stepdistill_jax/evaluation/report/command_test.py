"""Tests of `stepdistill report` on folders as runs and evaluations leave them.

The runs' `config.gin` have the form that gin writes; no model is trained.
"""

import json
import re
import shutil

from matplotlib.backends import backend_agg
import numpy as np
import pandas as pd
import pytest

from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.evaluation import effect, statistics
from stepdistill_jax.evaluation.report import (
  averages,
  plots,
  run_facts,
  run_report,
)
from stepdistill_jax.util import errors

KIND = {"finetune": "label", "step_by_step": "step", "distill": "label"}
DIMENSIONS = {"small": (512, 8, 1024), "base": (768, 12, 2048)}


def write_run(folder, method="step_by_step", size="small", share=1.0, seed=0,
              extra=""):
  embed, layers, mlp = DIMENSIONS[size]
  folder.mkdir(parents=True)
  (folder / "config.gin").write_text(f"""
from __gin__ import dynamic_registration
from stepdistill_jax.data import task_names

# Macros:
# ==============================================================================
ALPHA = 0.5
DATASET = 'svamp'
LABELS = '{'teacher' if method == 'distill' else 'gold'}'
MIXTURE_OR_TASK_NAME = @train_task/task_names.task_name()
RANDOM_SEED = {seed}
TEACHER = 'palm540b'

# Parameters for task_names.task_name:
# ==============================================================================
task_names.task_name.dataset = %DATASET
task_names.task_name.teacher = %TEACHER
train_task/task_names.task_name.kind = '{KIND[method]}'
train_task/task_names.task_name.labels = %LABELS
eval_task/task_names.task_name.kind = 'predict'
preprocessors.choose_train_share.share = {share}

# Parameters for network.T5Config:
# ==============================================================================
network.T5Config.emb_dim = {embed}
network.T5Config.head_dim = 64
network.T5Config.logits_via_embedding = False
network.T5Config.mlp_activations = ('gelu', 'linear')
network.T5Config.mlp_dim = {mlp}
network.T5Config.num_decoder_layers = {layers}
network.T5Config.num_encoder_layers = {layers}
network.T5Config.num_heads = 6
network.T5Config.vocab_size = 32128
optimizers.chain.transformations = \\
    [@optax.clip_by_global_norm(), @optax.adamw()]
{extra}""")
  return folder


def system(run, accuracy, step=100, n=200):
  correct = round(accuracy * n)
  return {"kind": "checkpoint", "name": run.name, "mode": "generate",
          "source": str(run / f"checkpoint_{step}"), "benchmark": "svamp",
          "split": "test", "accuracy": correct / n, "n": n,
          "ci95": list(statistics.wilson_interval(correct, n))}


def write_results(folder, systems, teacher_n=200):
  folder.mkdir(parents=True, exist_ok=True)
  teacher = {"kind": "teacher", "name": "teacher palm540b", "mode": "generate",
             "benchmark": "svamp", "split": "test",
             "accuracy": 0.74 if teacher_n == 200 else 0.5, "n": teacher_n,
             "source": ""}
  (folder / "results.json").write_text(
      json.dumps({"schema_version": 1, "systems": [*systems, teacher]}))
  (folder / "examples.jsonl").write_text("".join(
      json.dumps({"system": s["name"], "benchmark": s["benchmark"],
                  "split": s["split"], "mode": "generate", "id": f"id{i}",
                  "correct": i < round(s["accuracy"] * s["n"])}) + "\n"
      for s in systems for i in range(s["n"])))


@pytest.fixture
def runs(tmp_path):
  """Two methods at three shares, two sizes at all data, three seeds."""
  systems = []
  for method, gain in (("finetune", 0.0), ("step_by_step", 0.05)):
    for size, better in (("small", 0.0), ("base", 0.1)):
      for share in ((0.25, 0.5, 1.0) if size == "small" else (1.0,)):
        for seed in range(3):
          run = write_run(
              tmp_path / f"{method}_{size}_{share}_{seed}", method, size,
              share, seed)
          systems.append(system(
              run, 0.3 + 0.2 * share + gain + better + 0.01 * seed))
  write_results(tmp_path / "scores", systems)
  return tmp_path


def test_texts_have_no_accuracy(tmp_path, capsys):
  """An exact match of summaries is 0% of nearly all."""
  run = write_run(tmp_path / "run", "finetune")
  scored = {**system(run, 0.0), "metric": "rougeL",
            "text_metrics": {"values": {}}}
  other = system(write_run(tmp_path / "other", "step_by_step"), 0.5)
  write_results(tmp_path / "scores", [scored, other])
  assert cli.main(["report", str(tmp_path),
                   f"--output={tmp_path / 'report'}"]) == 0
  said = capsys.readouterr().out
  assert "svamp has texts, which are compared by rougeL" in said
  assert "50.00" in said and " 0.00" not in said


def test_runs_that_have_not_ended_are_listed(tmp_path, capsys):
  run = write_run(tmp_path / "a", "finetune", "small")
  (run / "run.json").write_text(json.dumps({
      "starts": [{"step": 0}], "config": {"TRAIN_STEPS": "400"}}))
  (run / "checkpoint_200").mkdir()
  (run / "checkpoint_200" / "checkpoint").write_text("")
  (run / "inference_eval").mkdir()
  (run / "inference_eval" / "svamp-metrics.jsonl").write_text("".join(
      json.dumps({"step": step, "accuracy": accuracy}) + "\n"
      for step, accuracy in ((100, 62.5), (200, 50.0))) + "[]\n{\"step\": 3,")
  arguments = ["report", str(tmp_path), f"--output={tmp_path / 'out'}"]
  assert cli.main([*arguments, "--json"]) == 0
  found, = json.loads(capsys.readouterr().out)["unfinished"]
  assert found == {"path": str(run), "state": "stopped", "step": 200,
                   "of": 400, "best": .625, "best_step": 100}
  (run / "run.lock").write_text('{"pid": 1, "beat": 3}')
  assert cli.main(arguments) == 0
  assert "running" in capsys.readouterr().out
  # Without a score too, and with nothing else to report.
  (run / "inference_eval" / "svamp-metrics.jsonl").unlink()
  assert cli.main([*arguments, "--json"]) == 0
  report = json.loads(capsys.readouterr().out)
  assert report["unfinished"][0]["best"] is None and report["runs"] == []


def test_facts_are_read_from_the_configuration(tmp_path):
  facts = run_facts.read(write_run(
      tmp_path / "a", "distill", "base", share=0.125, seed=4,
      extra="students.StepDistillModel.aggregation = 'token_sum'\n"))
  assert facts["method"] == "distill, token sum"
  assert [facts[name] for name in (
      "dataset", "teacher", "size", "share", "seed")] == [
          "svamp", "palm540b", "base", 0.125, 4]


@pytest.mark.parametrize("method, kind, expected", [
    ("distill", "vanilla", "synthetic_vanilla"),
    ("distill", "chain_of_density", "synthetic_chain_of_density"),
    # A method file behind a recipe of synthetic data.
    ("finetune", "vanilla", "finetune"),
    ("distill", "cot_reason", "distill")])
def test_kinds_of_synthetic_data_have_their_names(
    tmp_path, method, kind, expected):
  run = write_run(tmp_path / "a", method,
                  extra=f"SYNTHETIC_KIND = '{kind}'\n")
  assert run_facts.method_of(run / "config.gin") == expected


def test_a_decoder_has_its_size(tmp_path):
  run = write_run(tmp_path / "a")
  text = (run / "config.gin").read_text()
  (run / "config.gin").write_text("".join(
      line for line in text.splitlines(keepends=True)
      if "T5Config" not in line) + """
network.LlamaConfig.emb_dim = 2048
network.LlamaConfig.head_dim = 64
network.LlamaConfig.logits_via_embedding = True
network.LlamaConfig.lora_rank = 8
network.LlamaConfig.mlp_dim = 8192
network.LlamaConfig.num_heads = 32
network.LlamaConfig.num_kv_heads = 8
network.LlamaConfig.num_layers = 16
network.LlamaConfig.vocab_size = 128257
""")
  facts = run_facts.read(run)
  assert facts["size"] == "llama3_2_1b" and facts["method"] == (
      "step_by_step, LoRA 8")
  # 1,235.8 million as published, and padding's row.
  assert facts["parameters"] == 1_235_814_400 + 2048


@pytest.mark.parametrize("size,parameters", [("small", 77e6)])
def test_parameters_are_counted_from_dimensions(tmp_path, size, parameters):
  facts = run_facts.read(write_run(tmp_path / "a", size=size))
  assert abs(facts["parameters"] / parameters - 1) < 0.01  # Norms are left out.


def test_literal_task_names_serve_too(tmp_path):
  run = tmp_path / "run"
  run.mkdir()
  (run / "config.gin").write_text(
      "MIXTURE_OR_TASK_NAME = 'tracking_step_simulated_simulated'\n"
      "train_script.train.random_seed = 7\n")
  facts = run_facts.read(run)
  assert facts["method"] == "step_by_step, teacher labels"
  assert [facts[name] for name in ("dataset", "seed", "size")] == [
      "tracking", 7, "unknown"]


def test_groups_over_seeds_and_paired_differences(runs):
  report = run_report.make([runs])
  assert len(report.groups) == 8 and not report.skipped
  groups = list(report.groups.itertuples())
  assert all(len(g.accuracies) == 3 for g in groups)
  # Each accuracy of `runs`, as answers: the first ones are right.
  answers = lambda accuracies: np.array(
      [np.arange(200) < round(200 * a) for a in accuracies], float)
  pooled = effect.pooled_seed_variance(
      [answers(g.accuracies.values()) for g in groups])
  for group in groups:
    expected = effect.estimate(answers(group.accuracies.values()), *pooled)
    assert group.ci95 == pytest.approx(expected.ci95, rel=1e-12)
    assert group.standard_error == pytest.approx(expected.standard_error)
    assert group.ci_of == "seeds and examples"
  assert len(report.differences) == 4
  for difference in report.differences:
    assert difference["seeds"] == 3
    assert difference["difference"] == pytest.approx(0.05)
    # Equal gains at all seeds: what is left is chance over the examples.
    gain = answers(difference["group"].accuracies.values()) - answers(
        difference["baseline"].accuracies.values())
    assert difference["ci95"] == pytest.approx(
        effect.estimate(gain, 0.0, 8, least=-1.0).ci95)
  assert report.teachers[["teacher", "accuracy"]].values.tolist() == [
      ["palm540b", 0.74]]


def test_runs_that_differ_in_more_than_their_seed_are_not_averaged(tmp_path):
  changes = ("", "TEACHER = 'llama3'", "BATCH_SIZE = 8",
             "BATCH_SIZE = 8\nRANDOM_SEED = 1")
  write_results(tmp_path / "scores", [
      system(write_run(tmp_path / f"run{i}", extra=change), 0.4)
      for i, change in enumerate(changes)])
  groups = run_report.make([tmp_path]).groups
  assert {g.method: list(g.accuracies) for g in groups.itertuples()} == {
      "step_by_step, palm540b, BATCH_SIZE=None": [0],
      "step_by_step, palm540b, BATCH_SIZE=8": [0, 1],
      "step_by_step, llama3": [0]}


def test_groups_that_are_known_are_not_averaged(tmp_path):
  # Of a difference that no method's name and no setting shows.
  write_results(tmp_path / "scores", [
      system(write_run(tmp_path / f"{name}{seed}", seed=seed, extra=extra),
             accuracy)
      for name, accuracy, extra in (
          ("a", 0.2, ""), ("b", 0.6, "network.T5Config.dropout_rate = 0.3"))
      for seed in (0, 1)])
  groups = run_report.make([tmp_path], {
      f"{name}{seed}": (name, f"the {name}") for name in "ab"
      for seed in (0, 1)}).groups
  assert {g.method: (g.mean, list(g.accuracies))
          for g in groups.itertuples()} == {
              "step_by_step, the a": (pytest.approx(0.2), [0, 1]),
              "step_by_step, the b": (pytest.approx(0.6), [0, 1])}


def test_runs_that_were_moved_with_their_scores_are_found(tmp_path):
  here, there = tmp_path / "here", tmp_path / "on another machine"
  write_results(here / "scores/a", [
      system(write_run(here / "runs/a"), 0.4)])
  here.rename(there)
  group, = run_report.make([there / "scores"]).groups.itertuples()
  assert group.mean == pytest.approx(0.4)
  assert group.paths == (str(there / "runs/a"),)
  # Another run of that name is none of these scores.
  (there / "runs").rename(there / "others")
  with pytest.raises(errors.UserError, match="no scored run"):
    run_report.make([there / "scores"])


def test_schedules_and_optimizers_by_name_are_other_settings(tmp_path):
  changes = ("", "LEARNING_RATE_SCHEDULE = 'linear'\nRANDOM_SEED = 1",
             "LEARNING_RATE_SCHEDULE = 'cosine'", "WARMUP_STEPS = 5",
             "OPTIMIZER = 'lion'", "OPTIMIZER = 'adamw'\nRANDOM_SEED = 2")
  write_results(tmp_path / "scores", [
      system(write_run(tmp_path / f"run{i}", extra=change), 0.4)
      for i, change in enumerate(changes)])
  groups = run_report.make([tmp_path]).groups
  name = "step_by_step, LEARNING_RATE_SCHEDULE={}, WARMUP_STEPS={}".format
  # What runs had before these were macros is what the macros' defaults are.
  assert {g.method: list(g.accuracies) for g in groups.itertuples()} == {
      name("linear", 0): [0, 1, 2], name("cosine", 0): [0],
      name("linear", 5): [0], "step_by_step, lion": [0]}


def test_fine_tuning_with_adafactor_is_the_baseline_of_adafactor(tmp_path):
  adafactor = "OPTIMIZER = @adafactor.Adafactor()\n"
  write_results(tmp_path / "scores", [
      system(write_run(tmp_path / f"{method}{extra[:1]}", method, extra=extra),
             accuracy)
      for method, extra, accuracy in (
          ("finetune", "", 0.3), ("finetune", adafactor, 0.4),
          ("step_by_step", adafactor, 0.5))])
  difference, = run_report.make([tmp_path]).differences
  assert difference["baseline"].method == "finetune, Adafactor"
  assert difference["difference"] == pytest.approx(0.1)


def test_what_all_runs_have_is_not_part_of_a_methods_name(tmp_path):
  adafactor = "OPTIMIZER = @adafactor.Adafactor()\n"
  write_results(tmp_path / "scores", [
      system(write_run(tmp_path / method, method, extra=adafactor), accuracy)
      for method, accuracy in (("finetune", 0.4), ("step_by_step", 0.5))])
  difference, = run_report.make([tmp_path]).differences
  assert (difference["group"].method, difference["baseline"].method) == (
      "step_by_step", "finetune")


def test_without_the_answers_there_is_no_interval_over_seeds(runs):
  (runs / "scores" / "examples.jsonl").unlink()
  report = run_report.make([runs])
  assert {(g.ci95, g.ci_of) for g in report.groups.itertuples()} == {(None, "")}
  assert {d["ci95"] for d in report.differences} == {None}
  assert any("examples.jsonl has no answers" in s for s in report.skipped)


def test_runs_on_other_examples_have_no_interval_over_seeds(tmp_path):
  write_results(tmp_path / "scores", [
      system(write_run(tmp_path / f"run{seed}", seed=seed), 0.5, n=200 - seed)
      for seed in range(2)])
  group, = run_report.make([tmp_path]).groups.itertuples()
  assert len(group.accuracies) == 2 and group.ci95 is None


def test_methods_that_answer_alike_are_said_to(tmp_path):
  write_results(tmp_path / "scores", [
      system(write_run(tmp_path / f"{method}{seed}", method, seed=seed), 0.0)
      for method in ("finetune", "step_by_step") for seed in range(2)])
  report = run_report.make([tmp_path])
  (difference,) = report.differences
  assert difference["paired"] and difference["ci95"] is None
  run_report.write(report, tmp_path / "out")
  assert "no answers differ" in (tmp_path / "out/report.md").read_text()


def test_figures_axes_stay_within_0_and_100(runs):
  groups = run_report.make([runs]).groups
  groups["ci95"] = [(0.0, 1.0)] * len(groups)
  drawn = list(plots.of_runs(groups, pd.DataFrame()))
  assert [axes.get_ylim() for plot in drawn for axes in plot.figure.axes] == [
      (0, 100)] * 2


def test_legends_stand_outside_the_axes(runs):
  report = run_report.make([runs])
  for plot in plots.of_runs(report.groups, report.teachers):
    backend_agg.FigureCanvasAgg(plot.figure).draw()  # Lays it out.
    legend, = plot.figure.legends
    axes, = plot.figure.axes
    assert legend.get_window_extent().y1 <= axes.get_window_extent().y0


def test_command_writes_figures_tables_and_json(runs, tmp_path, capsys):
  output = tmp_path / "report"
  assert cli.main(["report", str(runs), f"--output={output}"]) == 0
  printed = capsys.readouterr().out
  assert "step_by_step" in printed and "report.html" in printed
  written = json.loads((output / "report.json").read_text())
  assert sorted(written["figures"]) == [
      "share_svamp_test_small.png", "size_svamp_test_100.png"]
  for name in written["figures"]:
    assert (output / name).read_bytes().startswith(b"\x89PNG")
  page = (output / "report.html").read_text()
  assert page.count("data:image/svg+xml;base64,") == 2
  # A figure's data follow it as a table.
  assert page.replace(" class=\"short\"", "").count(
      "<td>teacher palm540b</td><td>all</td><td>74</td>") == 2
  assert "<script" not in page and 'src="http' not in page
  assert "Differences from fine-tuning" in page
  assert "| svamp | test | small |" in (output / "report.md").read_text()


def test_json_is_the_whole_output(runs, tmp_path, capsys):
  cli.main(["report", str(runs), f"--output={tmp_path / 'r'}", "--json"])
  assert len(json.loads(capsys.readouterr().out)["groups"]) == 8


def test_names_are_escaped(tmp_path):
  run = write_run(tmp_path / "a")
  config = (run / "config.gin").read_text()
  (run / "config.gin").write_text(
      re.sub("MIXTURE_OR_TASK_NAME.*",
             "MIXTURE_OR_TASK_NAME = '<b>x</b>'", config))
  hostile = {**system(run, 0.5), "benchmark": "<b>x</b>"}
  write_results(tmp_path / "scores", [hostile])
  output = tmp_path / "report"
  run_report.write(run_report.make([tmp_path]), output)
  assert "<b>x</b>" not in (output / "report.html").read_text()


def test_a_run_that_was_not_scored_shows_its_own_validation(tmp_path):
  run = write_run(tmp_path / "run")
  folder = run / "inference_eval"
  folder.mkdir()
  (folder / "svamp_predict_gold-metrics.jsonl").write_text(
      '{"step": 100, "accuracy": 10.0}\n{"step": 200, "accuracy": 12.5}\n')
  report = run_report.make([run])
  group, = report.groups.itertuples()
  assert (group.split, group.mean, group.ci95) == ("validation", 0.125, None)


def test_one_seed_has_the_interval_over_examples(tmp_path):
  run = write_run(tmp_path / "run")
  write_results(tmp_path / "scores", [system(run, 0.5)])
  group, = run_report.make([tmp_path]).groups.itertuples()
  assert group.ci_of == "examples"
  assert group.ci95 == statistics.wilson_interval(100, 200)


def test_the_last_checkpoint_counts_and_all_are_listed(tmp_path):
  run = write_run(tmp_path / "run")
  write_results(tmp_path / "late", [system(run, 0.5, step=900)])
  write_results(tmp_path / "early", [system(run, 0.9, step=100)])
  report = run_report.make([tmp_path])
  group, = report.groups.itertuples()
  assert group.mean == 0.5 and len(group.accuracies) == 1
  table = run_report.tables(report)[-1]
  columns = [table.header.index(c) for c in ("run", "step", "accuracy %")]
  assert [[row[c] for c in columns] for row in table.rows] == [
      ["run", "100", "90.00"], ["run", "900", "50.00"]]


def test_a_copied_run_counts_once(tmp_path):
  run = write_run(tmp_path / "a", seed=0)
  copy = shutil.copytree(run, tmp_path / "b")
  other = write_run(tmp_path / "c", seed=1)
  write_results(tmp_path / "scores", [
      system(run, 0.5), system(copy, 0.5), system(other, 0.6)])
  report = run_report.make([tmp_path])
  group, = report.groups.itertuples()
  assert group.accuracies == {0: 0.5, 1: 0.6}
  assert len(report.runs) == 3
  assert report.skipped == [
      f"{copy} has the record, or configuration, data and seed, of {run}: they "
      "count as one run"]


def test_of_two_scores_of_one_checkpoint_the_larger_counts(tmp_path):
  run = write_run(tmp_path / "run")
  write_results(tmp_path / "a_few", [system(run, 0.9, n=10)])
  write_results(tmp_path / "scores", [system(run, 0.5)])
  group, = run_report.make([tmp_path]).groups.itertuples()
  assert group.mean == 0.5


@pytest.mark.parametrize("limited", ["a", "z"])  # Read first, and last.
def test_of_two_scores_of_one_teacher_the_larger_counts(tmp_path, limited):
  run = write_run(tmp_path / "run")
  write_results(tmp_path / "m", [system(run, 0.3)])
  write_results(tmp_path / limited, [system(run, 0.5, n=20)], teacher_n=20)
  teacher, = run_report.make([tmp_path]).teachers.itertuples()
  assert (teacher.n, teacher.accuracy) == (200, 0.74)


def test_what_cannot_be_counted_is_reported(tmp_path):
  run = write_run(tmp_path / "run")
  gone = tmp_path / "gone"
  write_results(tmp_path / "scores", [
      system(run, 0.5), {**system(gone, 0.5), "name": "gone"}])
  write_run(tmp_path / "not_scored")
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "results.json").write_text('{"systems": ["a"]}')
  report = run_report.make([tmp_path])
  assert len(report.groups) == 1
  assert any("not written by" in line for line in report.skipped)
  assert any("gone" in line for line in report.skipped)
  assert any("not_scored has no score" in line for line in report.skipped)


@pytest.mark.parametrize("name,message", [
    ("missing", "there is no folder .*missing; pass runs' folders"),
    ("file", "file is a file, not a folder; pass runs' folders"),
    ("empty", "no scored run in")])
def test_nothing_to_report_is_an_error(tmp_path, name, message):
  (tmp_path / "empty").mkdir()
  (tmp_path / "file").touch()
  with pytest.raises(errors.UserError, match=message):
    run_report.make([tmp_path / name])


def test_methods_without_seeds_in_common_have_no_interval(tmp_path):
  first = write_run(tmp_path / "a", "finetune", seed=0)
  second = write_run(tmp_path / "b", "step_by_step", seed=1)
  write_results(tmp_path / "s", [system(first, 0.4), system(second, 0.5)])
  difference, = run_report.make([tmp_path]).differences
  assert difference["ci95"] is None
  assert difference["difference"] == pytest.approx(0.1)
  assert averages.BASELINE == "finetune"


def test_a_student_of_several_data_sets_is_scored_on_each(tmp_path):
  accuracies = {"esnli": 0.8, "anli1": 0.4, "cqa": 0.5, "svamp": 0.3}
  systems = []
  for seed in range(2):
    run = write_run(tmp_path / f"run_{seed}", seed=seed)
    config = run / "config.gin"
    config.write_text(config.read_text().replace("'svamp'", "'four_sets'"))
    systems += [{**system(run, accuracy), "benchmark": name}
                for name, accuracy in accuracies.items()]
  write_results(tmp_path / "scores", systems)
  report = run_report.make([tmp_path])
  found = report.groups.set_index("dataset")
  assert found["mean"].to_dict() == pytest.approx(accuracies)
  assert all(len(seeds) == 2 for seeds in found["accuracies"])
  assert set(found["method"]) == {"step_by_step, on four_sets"}
