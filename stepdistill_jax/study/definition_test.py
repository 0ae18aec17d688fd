"""Study files: what they may say, the packaged ones, and every row of a paper.
"""

import dataclasses
import pathlib

import pytest

from stepdistill_jax.study import definition, gin_names, resolving
from stepdistill_jax.util import errors

SMALL = """
title = "two methods"
datasets = ["svamp"]
methods = ["finetune", "step_by_step"]
sizes = ["tiny"]
seeds = [0, 1]
[students]
tiny = "random"
"""


def read(tmp_path, text, **options):
  path = tmp_path / "mine.toml"
  path.write_text(text)
  return definition.read(path, **options)


def resolve(study, **options):
  return resolving.resolve(
      study, resolving.Options(pathlib.Path("none"), **options))


def test_a_grid_is_the_product_of_its_axes(tmp_path):
  study = read(tmp_path, SMALL + """
[[grid]]
shares = [0.25, 1.0]
teachers = ["palm540b", "llama3"]
gin.TRAIN_STEPS = 20
[[grid]]
datasets = ["cqa"]
methods = ["pinto"]
name = "slow"
gin.LEARNING_RATE = 1e-4
[[expected]]
shares = [0.25, 1.0]
percent = [10, 20, 30, 20]
source = "here"
""")
  found = resolve(study)
  assert [one.cell.name for one in found] == [
      # No teacher has a part in fine-tuning.
      "svamp-finetune-tiny-25pct", "svamp-finetune-tiny-100pct",
      "svamp-step_by_step-tiny-25pct-palm540b",
      "svamp-step_by_step-tiny-25pct-llama3",
      "svamp-step_by_step-tiny-100pct-palm540b",
      "svamp-step_by_step-tiny-100pct-llama3",
      "cqa-pinto-tiny-100pct-palm540b-slow"]
  assert [one.steps for one in found] == [20] * 6 + [10000]
  assert found[-1].gin_files[-2:] == (
      "gin/datasets/cqa.gin", "gin/methods/pinto.gin")
  assert found[-1].text.value("LEARNING_RATE") == 1e-4
  jobs = resolving.jobs(found, {}, resolving.Options(pathlib.Path("r")), None)
  assert len(jobs) == 14 and len({job.name for job in jobs}) == 14
  assert jobs[3].name == "svamp-step_by_step-tiny-25pct-llama3-seed0"
  assert {"TEACHER = 'llama3'", "TRAIN_SHARE = 0.25", "RANDOM_SEED = 0",
          "INITIAL_CHECKPOINT_PATH = None"} <= set(jobs[3].bindings)
  values = {cell.name: value for cell, (value, _) in study.expected.items()}
  assert values == {
      "svamp-finetune-tiny-25pct": 0.1, "svamp-finetune-tiny-100pct": 0.2,
      "svamp-step_by_step-tiny-25pct-palm540b": 0.3,
      "svamp-step_by_step-tiny-100pct-palm540b": 0.2}


def test_a_sweep_is_chosen_on_validation_and_only_that_is_tested(tmp_path):
  study = read(tmp_path, SMALL + """
[[grid]]
sweep = {alpha = [0.3, 0.7], learning_rate = [1e-3, 1e-4]}
""")
  found = resolve(study)
  # Fine-tuning has no α.
  assert [len(one.settings()) for one in found] == [2, 4]
  options = resolving.Options(pathlib.Path("r"))
  jobs = resolving.jobs(found, {}, options, None)
  assert len(jobs) == 6
  assert {job.splits for job in jobs} == {("validation",)}
  step = found[1]
  chosen = (("alpha", 0.7), ("learning_rate", 1e-4))
  jobs = [job for job in resolving.jobs(
      found, {step.cell.name: chosen}, options, None)
          if job.group == step.cell.name]
  assert {job.name.rpartition("palm540b-")[2]: job.splits for job in jobs} == {
      "alpha0.3-learning_rate0.001-seed0": ("validation",),
      "alpha0.3-learning_rate0.0001-seed0": ("validation",),
      "alpha0.7-learning_rate0.001-seed0": ("validation",),
      "alpha0.7-learning_rate0.0001-seed0": ("validation", "test"),
      "alpha0.7-learning_rate0.0001-seed1": ("test",)}
  assert {"ALPHA = 0.7", "LEARNING_RATE = 0.0001"} <= set(jobs[-1].bindings)


@pytest.mark.parametrize("text, message", [
    ("title = ", "cannot be read"),
    ('methdos = ["finetune"]', "unknown key 'methdos'; did you mean: methods"),
    ('datasets = ["svmap"]', "unknown data set 'svmap'; did you mean: svamp"),
    ('methods = ["fintune"]', "unknown method 'fintune'; did you mean: fine"),
    ('sizes = ["bsae"]', "unknown size 'bsae'; did you mean: base"),
    ('run = "papper"', "unknown run 'papper'; did you mean: paper"),
    ("shares = [1.5]", "shares must be above 0 and at most 1"),
    ("shares = 1.0", "shares must be a list of numbers, got 1.0"),
    ("seeds = [1.5]", "seeds must be a list of whole numbers, got [1.5]"),
    ("title = 3", "title must be a text, got 3"),
    ('name = "alpha2"', "is how settings of a sweep and seeds are named"),
    ('gin = {MODEL_DIR = "x"}', "MODEL_DIR is the study's own; --output=DIR"),
    ("gin = {TRAIN_SHARE = 0.5}", "TRAIN_SHARE is the study's own; shares ="),
    ("gin = {ALPHA = 0.5}\nsweep = {alpha = [0.3]}", "its sweep says it"),
    ("seeds = [0, 0]", "seeds names one twice"),
    ("limit = 0", "limit must be a whole number from 1 on"),
    ("gin = 3", "gin must be a table"),
    ("gin.network.T5Config.dropout_rate = 0.2",
     "needs quotes: gin.\"network.T5Config.dropout_rate\" = 0.2"),
    ("gin = {TRAIN_STEP = 3}", "TRAIN_STEP"),
    ('gin = {ALPHA = "much"}', "ALPHA must be"),
    ("sweep = {alhpa = [1]}", "unknown key 'alhpa'; did you mean: alpha"),
    ("sweep = {alpha = []}", "sweep.alpha must be a list of numbers"),
    ("sweep = {learning_rate = [inf]}", "must be a list of numbers, got [inf]"),
    ("sweep = {alpha = [2]}", "each a number from 0 to 1"),
    ("sweep = {alpha = [0.3, 0.3]}", "sweep.alpha names one twice"),
    ("sweep = {learning_rate = [1.234561e-3, 1.234562e-3]}", "six digits"),
    ("sweep = {beta = [0.1, 0.2]}", "no method of it has what is swept, beta"),
    ("[[grid]]\nlimit = 3", "unknown key 'limit'"),
    ("[[grid]]\n[grid.students]\ntiny = 'x'", "unknown key 'students'"),
    ("[[expected]]\npercent = [1, 200]", "percent must be from 0 to 100"),
    ("[[expected]]\nshares = [0.5]\npercent = [1, 2]",
     "no [[grid]] runs svamp-finetune-tiny-50pct; did you mean: svamp-"),
    ("[[expected]]\npercent = [1, 2]\n[[expected]]\npercent = [3, 4]",
     "[[expected]] 2: svamp-finetune-tiny-100pct has an accuracy already, 1"),
    ("[[expected]]\npercent = [1]", "percent has 1 numbers for 2 cells"),
    ('[[grid]]\n[[grid]]\ngin.TRAIN_STEPS = 2', "two grids of mine have diff"),
    ("students = {base = 3}", "[students] must have texts"),
    ('students = {tinny = "random"}', "unknown size 'tinny'; did you mean: ti"),
    ("students = {}", "=tiny=random for random parameters"),
])
def test_mistakes_are_one_line(tmp_path, text, message):
  key = text.partition(" ")[0]
  kept = SMALL.partition("[students]")[0] if key == "students" else SMALL
  kept = "\n".join(line for line in kept.splitlines()
                   if not line.startswith(f"{key} ="))
  parts = (kept, text) if text.startswith("[[") else (text, kept)
  with pytest.raises(errors.UserError) as caught:
    resolve(read(tmp_path, "\n".join(parts)))
  assert message in str(caught.value)
  assert "\n" not in str(caught.value)


def test_another_teacher_takes_a_place(tmp_path):
  study = read(tmp_path, SMALL, teachers={"palm540b": "llama3"})
  assert {one.cell.teacher for one in resolve(study)} == {"", "llama3"}
  with pytest.raises(errors.UserError, match="unknown teacher 'palm'; did you"):
    read(tmp_path, SMALL, teachers={"palm": "llama3"})


def test_decoders_and_own_runs_are_put_together():
  files, bound = gin_names.gin_files("gsm8k", "step_by_step", "qwen2_5_1_5b")
  assert files == ["gin/models/decoder.gin", "gin/models/qwen2_5_1_5b.gin",
                   "gin/runs/synthetic.gin", "gin/datasets/gsm8k.gin",
                   "gin/methods/step_by_step.gin"] and not bound
  files, bound = gin_names.gin_files(
      "svamp", "step_by_step_teacher", "base", "t5x_habit")
  assert files[2:] == ["gin/runs/t5x_habit.gin", "gin/datasets/svamp.gin",
                       "gin/methods/step_by_step.gin"]
  assert bound == ["LABELS = 'teacher'"]
  assert gin_names.gin_files("svamp", "finetune", "base") == (
      ["gin/recipes/svamp_finetune_base.gin"], [])


# ------------------------------------------------------ every row of a paper

T5 = ("base", "large", "xxl")
SETS = ("esnli", "anli1", "cqa", "svamp")


def _rows():
  """(study, data set, method, size, share, teacher) -> accuracy in percent.

  arXiv 2305.02301: table 1 and 2, and figures 4, 6, 7 and 8 as read off their
  plots; arXiv 2403.03348 for mutual information.
  """
  palm = "palm540b"
  rows = {}

  def row(study, method, values, *, sets=SETS, sizes=("base",), shares=(1.0,),
          teacher=palm):
    cells = [(d, z, s) for d in sets for z in sizes for s in shares]
    assert len(cells) == len(values)
    for (dataset, size, share), value in zip(cells, values):
      rows[study, dataset, method, size, share, teacher] = value

  finetune, step = (88.38, 43.58, 62.19, 62.63), (89.51, 49.58, 63.29, 65.50)
  for study in ("table1", "table2"):
    row(study, "finetune", finetune, teacher="")
    row(study, "step_by_step", step)
  row("table1", "step_by_step", (89.12, 48.15, 63.25, 63.00),
      teacher="gptneox20b")
  row("table2", "single_task", (88.88, 43.50, 61.37, 63.00))
  row("table2", "mutual_information", (89.5, 51.2, 63.88, 68.0))
  by_share = {
      "esnli": ((.125, .25, .5, 1.0), (89.05, 89.45, 89.48, 89.51),
                (88.24, 88.25, 88.28, 88.38)),
      "anli1": ((.125, .25, .5, 1.0), (42.5, 46.6, 46.9, 49.6),
                (34.5, 42.0, 43.0, 43.6)),
      "cqa": ((.125, .25, .5, .75, 1.0), (49.6, 56.0, 61.0, 62.3, 63.3),
              (46.9, 54.9, 60.3, 60.9, 62.2)),
      "svamp": ((.125, .25, .5, .8, 1.0), (18.5, 36.4, 50.2, 63.0, 65.5),
                (13.5, 30.5, 46.6, 57.1, 62.6))}
  for dataset, (shares, ours, theirs) in by_share.items():
    row("fig4", "step_by_step", ours, sets=(dataset,), shares=shares)
    row("fig4", "finetune", theirs, sets=(dataset,), shares=shares, teacher="")
  row("fig5", "distill", (81.6, 37.1, 60.2, 42.6))
  row("fig5", "step_by_step_teacher", (82.6, 44.5, 61.1, 44.8))
  by_size = {
      "finetune": (88.4, 91.1, 92.7, 43.6, 61.7, 73.2, 62.2, 72.5, 82.6, 62.6,
                   74.9, 87.3),
      "step_by_step": (89.5, 92.5, 93.15, 49.6, 68.0, 75.1, 63.3, 73.6, 83.3,
                       65.5, 80.3, 88.5),
      "distill": (81.6, 83.1, 84.1, 37.1, 52.6, 67.7, 60.2, 67.8, 76.8, 42.6,
                  54.9, 63.3),
      "step_by_step_teacher": (82.6, 84.5, 85.6, 44.5, 62.1, 69.7, 61.1, 69.3,
                               77.5, 44.8, 57.1, 66.8)}
  for method, values in by_size.items():
    for study in (("fig6", "fig8") if method in ("finetune", "step_by_step")
                  else ("fig7", "fig9")):
      row(study, method, values, sizes=T5,
          teacher="" if method == "finetune" else palm)
  for study in ("fig6", "fig7", "fig8", "fig9"):
    row(study, "teacher", (73.0, 65.6, 76.7, 74.0))
  row("fig6", "pinto", (89.3, 67.0, 78.1, 66.7))
  row("fig7", "distill", (69.8,), sets=("svamp_asdiv",), sizes=("xxl",))
  row("fig7", "step_by_step_teacher", (73.2,), sets=("svamp_asdiv",),
      sizes=("xxl",))
  row("fig8", "step_by_step", (66.4,), sets=("anli1",), sizes=("large",),
      shares=(.8,))
  row("second_paper", "teacher", (95.98,), sets=("gsm8k",),
      sizes=("llama3_1_8b",), teacher="llama405b")
  return rows


@pytest.fixture(name="studies", scope="module")
def _studies():
  return {name: definition.read(path)
          for name, path in definition.packaged().items()}


def test_every_row_of_the_papers_has_its_study(studies):
  found = {}
  for name, study in studies.items():
    for cell, (value, source) in study.expected.items():
      assert source
      found[(name, *dataclasses.astuple(cell)[:5])] = round(100 * value, 2)
  assert found == _rows()
  # What is expected is run, or is a teacher's line.
  for name, study in studies.items():
    cells = {cell for grid in study.grids for cell in grid.cells}
    assert {cell for cell in study.expected
            if cell.method != definition.TEACHER_LINE} <= cells, name


def test_packaged_studies_resolve(studies):
  assert set(studies) == {
      "table1", "table2", "four_sets", "second_paper",
      *(f"fig{n}" for n in range(4, 10))}
  counts = {}
  for name, study in studies.items():
    found = resolve(study)
    assert all(one.parameters and one.steps for one in found), name
    assert {one.benchmarks for one in found} <= {
        *SETS, "gsm8k", ",".join(SETS)}, name
    assert all(len(one.seeds) == 4 for one in found)
    counts[name] = sum(len(one.seeds) for one in found)
    tiny = resolve(study, miniature=True, gin=("TOKENIZER = 'none'",))
    assert {one.steps for one in tiny} == {4}
    assert all(one.parameters < 2e7 for one in tiny), name
    assert len({one.parameters for one in tiny}) == len(
        {one.cell.size for one in found})
  assert counts["table1"] == 48 and counts["fig8"] == 480
