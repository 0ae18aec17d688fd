"""Plans of a small student, compiled by libtpu and by XLA for CUDA."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import gin
import pytest

from stepdistill_jax.config import gin_config
from stepdistill_jax.plan import chips, figures, programs

HAS_CUDA_COMPILER = importlib.util.find_spec("jax_cuda12_plugin") is not None
V5E = chips.parse("v5e-4")
ROOT = pathlib.Path(__file__).resolve().parents[2]
_COMMAND = [sys.executable, "-m", "stepdistill_jax.cli.stepdistill", "plan",
            "--gin_file=gin/recipes/tracking_step_by_step.gin"]
# One layer of each is enough: less to compile.
_SMALL = ["--gin.network.T5Config.num_encoder_layers=1",
          "--gin.network.T5Config.num_decoder_layers=1"]


def _plan(*arguments, **environment):
  return subprocess.run(
      [*_COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True,
      env={**os.environ, "PYTHONPATH": str(ROOT),
           # A plan is of the program that a run compiles.
           "JAX_DISABLE_MOST_OPTIMIZATIONS": "false", "XLA_FLAGS": "",
           **environment})


def _needs_libtpu(test):
  return pytest.mark.interop(pytest.mark.skipif(
      programs.libtpu_path() is None, reason="libtpu is not installed")(test))


@_needs_libtpu
def test_a_plan_of_a_small_student():
  process = _plan(
      *_SMALL, "--topology=v5litepod-4", "--json", "--price=2",
      "--gin.partitioning.standard_logical_axis_rules."
      "parameter_partitioning_dims=2")
  assert process.returncode == 0, process.stderr
  assert "Warning" not in process.stderr and "E0000" not in process.stderr
  plan = json.loads(process.stdout)
  assert plan["fits"] and plan["caveat"] == figures.caveat(V5E)
  assert (plan["topology"], plan["chips"]) == ("v5e:2x2", 4)
  assert plan["mesh"] == {"data": 4, "model": 1}
  train, infer = plan["programs"]["train"], plan["programs"]["decode"]
  memory = train["hbm_bytes"]
  assert memory["parameters"] > 0 and memory["optimizer"] > 0
  assert memory["total"] >= memory["parameters"] + memory["optimizer"]
  assert train["flops"] <= train["flops_with_repeated"] < 1.1 * train["flops"]
  assert train["flops"] > 2 * plan["programs"]["eval"]["flops"] > 0
  assert infer["fits"] and infer["flops"] > 0
  # Sharded parameters are gathered, gradients summed.
  assert train["collective_bytes"].get("all-gather", 0) > 0
  recipe = plan["recipe"]
  assert recipe["steps"] == 1200
  assert recipe["cost"] == pytest.approx(2 * recipe["chip_hours"])
  assert recipe["hours"] * 3600 == pytest.approx(
      1200 * train["bound"]["seconds"])


@pytest.mark.interop
@pytest.mark.skipif(not HAS_CUDA_COMPILER,
                    reason="XLA's compiler for GPUs is not installed")
def test_a_plan_for_gpus_of_two_hosts():
  process = _plan(*_SMALL, "--topology=h100-16", "--json", "--quick",
                  "--programs=train",
                  "--gin.partitioning.PjitPartitioner.num_partitions=2")
  assert process.returncode == 0, process.stderr
  assert process.stderr == "compiling train for 16 x h100\n"
  plan = json.loads(process.stdout)
  assert (plan["topology"], plan["chips"]) == ("2 x h100-8", 16)
  assert "nothing ran on a GPU" in plan["caveat"]
  assert plan["mesh"] == {"data": 8, "model": 2}
  train = plan["programs"]["train"]
  assert plan["fits"] and 100 < train["kernels"] < 2000
  memory, sent = train["hbm_bytes"], train["collective_bytes"]
  assert memory["total"] >= memory["parameters"] + memory["optimizer"] > 0
  # Gradients are summed over both hosts, activations inside of one.
  assert sent["all-reduce"] > sent["between slices"] > 0
  assert train["bound"]["by"]["network between slices"] == pytest.approx(
      sent["between slices"] / 50e9)


@pytest.mark.skipif(HAS_CUDA_COMPILER,
                    reason="XLA's compiler for GPUs is installed")
def test_without_the_compiler_for_gpus_its_extra_is_named():
  process = _plan("--topology=h100-8")
  assert process.returncode == 2
  assert ("needs jax-cuda12-plugin, jax-cuda12-pjrt, nvidia-cuda-nvcc-cu12"
          in process.stderr)
  assert "pip install 'stepdistill_jax[plan-gpu]'" in process.stderr


@_needs_libtpu
def test_what_does_not_fit_is_reported_and_the_code_is_1():
  process = _plan(
      *_SMALL, "--topology=v5e-4", "--programs=train",
      "--gin.BATCH_SIZE=262144", "--gin.network.T5Config.mlp_dim=16384")
  assert process.returncode == 1, process.stderr
  assert re.search(
      r"does NOT fit: needs at least [\d.]+ GiB of 15.75 GiB usable a chip: "
      r"[\d.]+ GiB \([\d,]+ bytes\) too much", process.stdout)
  helps = re.findall(r"^    (--gin\S+)$", process.stdout, re.MULTILINE)
  assert "--gin_file=gin/models/scanned.gin" in helps
  flags = [flag.replace("=N", "=2") for flag in helps]
  from stepdistill_jax.embedded_t5x import train

  with gin_config.main_module(train=train.train):
    gin_config.parse(
        ["gin/recipes/tracking_step_by_step.gin", *(
            f.removeprefix("--gin_file=") for f in flags if "gin_file" in f)],
        [f.removeprefix("--gin.").replace("=", " = ") for f in flags
         if "gin_file" not in f] + ["MODEL_DIR = 'none'"])
  gin.clear_config()
  assert figures.caveat(V5E) in process.stdout


@pytest.mark.parametrize("message, gib", [
    ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G "
     "of 15.75G hbm. Exceeded hbm capacity by 4.75G.", (20.5, 15.75, 4.75)),
    ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
     "for HLO temporaries (729.40G) exceeds available HBM (15.75G).",
     (729.4, 15.75, 713.65)),
    ("RESOURCE_EXHAUSTED: other words", (None, None, None))])
def test_what_xla_says_is_missing(message, gib):
  error = programs.OutOfMemory(message)
  for got, expected in zip((error.needed, error.usable, error.missing), gib):
    assert got == (expected and pytest.approx(expected * 2**30))


@pytest.mark.parametrize("arguments, words", [
    (("--topology=v5e-17",), "unknown slice 'v5e-17' of v5e; known: v5e-1,"),
    (("--topology=v9-8",), "known: v4-{8,16,32,64,"),
    (("--topology=v5e-8", "--programs=trian"), "did you mean: train"),
    (("--topology=v5e-8", "--price=-1"), "--price=-1: expected 0 or more"),
    (("--topology=v5e-8", "--num_slices=0"), "--num_slices=0: expected 1"),
])
def test_mistakes_are_reported_in_a_line(arguments, words):
  process = _plan(*arguments)
  assert process.returncode == 2
  assert words in process.stderr
  assert len(process.stderr.strip().splitlines()) == 1


@_needs_libtpu
def test_files_of_another_mode_are_reported_in_a_line():
  process = _plan("--topology=v5e-8", "--gin_file=gin/runs/eval.gin")
  assert process.returncode == 2
  assert ("no training run (train_script.train has no model, data or "
          "partitioner); give the files of `t5x train`") in process.stderr
  assert len(process.stderr.strip().splitlines()) == 1


def test_without_libtpu_the_extra_is_named():
  process = _plan("--topology=v5e-8", TPU_LIBRARY_PATH="/none")
  assert process.returncode == 2
  assert "pip install 'stepdistill_jax[tpu]'" in process.stderr
