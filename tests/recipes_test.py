"""Every gin file of the project parses, and says what a reader needs."""

import dataclasses
import importlib
import pathlib
import re
import subprocess
import sys

import gin
import numpy as np
import pytest

from stepdistill_jax.config import gin_config
from stepdistill_jax.interop import architecture
from stepdistill_jax.util import errors, locations

ROOT = locations.resource_root()
RECIPES = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "gin/recipes").rglob(
        "*.gin") if not path.name.startswith("tracking")
    and path.parent.name not in ("decoder", "second_paper"))
SYNTHETIC = sorted(str(path.relative_to(ROOT)) for path in (
    ROOT / "gin/recipes/second_paper").glob("*.gin"))
DECODERS = sorted(str(path.relative_to(ROOT)) for path in (
    ROOT / "gin/recipes/decoder").glob("*.gin"))
SET = ['MODEL_DIR = "unused"', "INITIAL_CHECKPOINT_PATH = None"]


@pytest.fixture(autouse=True)
def train_script():
  from t5x import train
  with gin_config.main_module(train=train.train):
    yield
  gin.clear_config()


def query(name):
  return gin.query_parameter(f"{name}/macro.value")


def resolved(macro):
  """The value of a macro that names a function's result."""
  value = query(macro)
  return value.scoped_configurable_fn() if hasattr(
      value, "scoped_configurable_fn") else value


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_parses_and_names_its_row(recipe):
  gin_config.parse([recipe], SET)
  name = pathlib.Path(recipe).stem
  dataset = name.split("_", 1)[0]
  assert query("DATASET") == dataset
  task = resolved("MIXTURE_OR_TASK_NAME")
  teacher = "simulated" if dataset == "tracking" else "palm540b"
  labels = teacher if "distill" in name or "teacher" in name else "gold"
  kind = ("step" if "step" in name or "mutual" in name else
          "single" if "single" in name else
          "pinto" if "pinto" in name else "label")
  assert task == {
      "step": f"{dataset}_step_{labels}_{teacher}",
      "single": f"{dataset}_single_{labels}_{teacher}",
      "pinto": f"{dataset}_pinto_{labels}_{teacher}",
      "label": f"{dataset}_label_{labels}"}[kind]
  periods = sorted((query("EVAL_PERIOD"), query("CHECKPOINT_PERIOD")))
  assert periods[1] % periods[0] == 0  # As gin/runs/train.gin asks.
  text = (ROOT / recipe).read_text("utf-8")
  assert f"--gin_file={recipe}" in text
  if "t5x_habit" not in recipe and re.search("_(base|large|xxl)$", name):
    assert re.search(r"Expected test accuracy: [\d.]+%", text)
  assert ("Hardware" in text) == bool(
      "t5x_habit" not in recipe and re.search("(small|base|large|xl)$", name))


@pytest.mark.parametrize("recipe", DECODERS)
def test_decoders_recipe_parses_and_has_its_size(recipe, tmp_path):
  gin_config.parse([recipe], [*SET, f"TOKENIZER = {str(tmp_path)!r}"])
  match = re.fullmatch(
      r"gsm8k_(finetune|synthetic_\w+?|step_by_step)_((?:llama|qwen|smol)\w+)",
      pathlib.Path(recipe).stem)
  assert resolved("MIXTURE_OR_TASK_NAME") == {
      "finetune": "gsm8k_label_gold", "step_by_step": "gsm8k_step_gold_human",
      "synthetic_cot_reason": "gsm8k_single_human_human"}.get(
          match[1], "gsm8k_label_human")
  model = resolved("MODEL")
  config = model.module.config
  shapes = architecture.parameter_shapes(architecture.DecoderArchitecture(**{
      f.name: getattr(config, f.name) for f in dataclasses.fields(
          architecture.DecoderArchitecture)}))
  parameters = sum(map(np.prod, shapes.values()))
  header = (ROOT / f"gin/models/{match[2]}.gin").read_text("utf-8")
  stated = re.match(r"# .*: ([\d.]+)([MB]) parameters\.", header)
  # Without the rows that are no tokens.
  np.testing.assert_allclose(
      parameters, float(stated[1]) * {"M": 1e6, "B": 1e9}[stated[2]], rtol=0.01)
  assert config.vocab_size == -(-(config.num_tokens + 1) // 128) * 128
  assert f"--gin_file={recipe}" in (ROOT / recipe).read_text("utf-8")


@pytest.mark.parametrize("recipe", SYNTHETIC)
def test_a_recipe_of_synthetic_data_names_its_kind(recipe, tmp_path):
  gin_config.parse([recipe], [
      *SET, f"TOKENIZER = {str(tmp_path)!r}", "TEACHER = 'big'"])
  match = re.fullmatch(
      r"(azureml_\w+?|dialogsum)_synthetic_(vanilla|cot_answer|cot_reason|"
      r"chain_of_density)(_t5_1_1_base|_smollm2_135m|_llama3_1_8b)?",
      pathlib.Path(recipe).stem)
  dataset, kind, student = match.groups()
  assert query("SYNTHETIC_KIND") == kind
  assert resolved("MIXTURE_OR_TASK_NAME") == (
      f"{dataset}_single_big_big" if kind == "cot_reason"
      else f"{dataset}_label_big")
  if student:
    steps, batch = resolved("TRAIN_STEPS"), query("BATCH_SIZE")
    assert (steps - 1) * batch < 5 * query("TRAIN_RECORDS") <= steps * batch
  assert f"--gin_file={recipe}" in (ROOT / recipe).read_text("utf-8")


def test_recipes_are_what_the_script_writes():
  script = pathlib.Path(ROOT) / "tools" / "make_recipes.py"
  if not script.is_file():
    pytest.skip("an installed wheel has no tools")
  result = subprocess.run(
      [sys.executable, str(script), "--check"], capture_output=True, text=True)
  assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("method,name", [
    ("finetune", "cqa_label_gold"), ("distill", "cqa_label_palm540b"),
    ("step_by_step", "cqa_step_gold_palm540b"),
    ("step_by_step_mixture", "cqa_mix_gold_palm540b"),
    ("mutual_information", "cqa_step_gold_palm540b"),
    ("single_task", "cqa_single_gold_palm540b"),
    ("pinto", "cqa_pinto_gold_palm540b"),
    ("synthetic_vanilla", "cqa_label_palm540b"),
    ("synthetic_cot_answer", "cqa_label_palm540b"),
    ("synthetic_cot_reason", "cqa_single_palm540b_palm540b"),
    ("synthetic_chain_of_density", "cqa_label_palm540b"),
])
def test_method_combines_with_model_run_and_data(method, name):
  gin_config.parse(
      ["gin/models/t5_1_1.gin", "gin/models/t5_1_1_small.gin",
       "gin/runs/synthetic.gin", "gin/datasets/cqa.gin",
       f"gin/methods/{method}.gin"], SET)
  assert resolved("MIXTURE_OR_TASK_NAME") == name
  steps = resolved("TRAIN_STEPS")
  batch = query("BATCH_SIZE")
  assert (steps - 1) * batch < 3 * 8766 <= steps * batch
  # Tasks of the same data set, so of one vocabulary; a real object.
  assert resolved("EVAL_TASK_NAME").startswith("cqa_")


def test_the_weights_in_the_docs_are_those_of_a_run(tmp_path):
  page = ROOT / "docs" / "recipes.md"
  if not page.is_file():
    pytest.skip("an installed wheel has no docs")
  block, = (b for b in re.findall(r"```gin\n(.*?)```", page.read_text(), re.S)
            if "@students.TaskWeights()" in b)
  (tmp_path / "weights.gin").write_text(block)
  gin_config.parse(["gin/recipes/svamp_step_by_step.gin",
                    str(tmp_path / "weights.gin")], SET)
  weights = resolved("STUDENT_TASK_WEIGHTS")
  assert weights.names == ("label", "rationale")
  for step, rationale in ((0, 1.0), (200, 0.55), (400, 0.1), (900, 0.1)):
    np.testing.assert_allclose(weights.at(step), [1.0, rationale], rtol=1e-6)


def test_size_is_switched_after_a_recipe():
  gin_config.parse(
      ["gin/recipes/svamp_step_by_step.gin", "gin/models/t5_1_1_small.gin"],
      SET)
  assert gin.query_parameter("t5.network.T5Config.emb_dim") == 512
  assert query("LEARNING_RATE") == 1e-3  # The rest is the recipe's.


def test_paper_rows_ask_for_a_checkpoint():
  with pytest.raises(errors.UserError, match="INITIAL_CHECKPOINT_PATH"):
    gin_config.parse(["gin/recipes/svamp_step_by_step_base.gin"], SET[:1])


@pytest.mark.parametrize("mode,function,output", [
    ("eval", "evaluate", "EVAL_OUTPUT_DIR"),
    ("infer", "infer", "INFER_OUTPUT_DIR")])
@pytest.mark.parametrize("method", ["finetune", "step_by_step"])
def test_evaluation_and_inference_combine_with_methods(
    mode, function, output, method):
  gin.clear_config()
  module = importlib.import_module(f"t5x.{mode}")
  with gin_config.main_module(**{function: getattr(module, function)}):
    gin_config.parse(
        ["gin/models/t5_1_1.gin", "gin/models/t5_1_1_tiny.gin",
         f"gin/runs/{mode}.gin", "gin/datasets/svamp.gin",
         f"gin/methods/{method}.gin"],
        ['CHECKPOINT_PATH = "unused"', f'{output} = "unused"'])
  assert resolved("EVAL_TASK_NAME") == {
      "finetune": "svamp_label_gold",
      "step_by_step": "svamp_predict_gold"}[method]
