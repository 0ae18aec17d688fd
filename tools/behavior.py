"""What users see, written down before a change and compared after it.

    python tools/behavior.py write before.json --data=FOLDER    # old checkout
    python tools/behavior.py compare before.json --data=FOLDER  # new checkout

Runs the commands of `--checkout` (default: this one) in a temporary folder:
help of every command, imports and audits of five data sets, a teacher's
evaluation, 20 steps of three recipes with every loss, a student's evaluation,
an export, and the names that the gin files bind. Times, folders and versions
are left out; everything else must be equal, byte by byte. FOLDER has the
published rows and completions.
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
HELP = [
    ["stepdistill"], ["t5x"], ["stepdistill-eval"],
    *(["stepdistill", *words.split()] for words in (
        "quickstart", "teacher", "teacher import", "teacher collect",
        "teacher audit", "teacher prompt", "data", "data lengths",
        "data cache", "checkpoint", "checkpoint import-hf",
        "checkpoint export-hf", "checkpoint import-t5x", "checkpoint inspect",
        "checkpoint verify", "plan", "report"))]
# (data set, format, teacher, folder of the completions)
SOURCES = [
    ("svamp", "published", "palm540b", "palm"),
    ("cqa", "published", "palm540b", "palm"),
    ("anli1", "published", "palm540b", "palm"),
    ("esnli", "published", "palm540b", "palm"),
    ("svamp", "llama3", "llama3", "llama3"),
    ("gsm8k", "rows", None, None),
]
RECIPES = ("finetune", "step_by_step", "distill")
STEPS = 20
# What differs from run to run, and is no behavior.
_NOISE = [
    (re.compile(r"\d+(\.\d+)? s\b|\d+(\.\d+)?s left|[\d.]+ steps/s"), "TIME"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.+]+Z?"), "DATE"),
    (re.compile(r"0x[0-9a-f]+"), "ADDRESS"),
    (re.compile(r"^[IWE]0000 .*\n", re.M), ""),  # TensorFlow's log.
]
# Entries of results.json that are times or name folders and versions.
_VOLATILE = {"seconds", "created", "version", "versions", "command",
             "examples_per_second", "tokens_per_second", "time", "commit",
             "environment", "source", "path", "started", "timing",
             "code_version", "compile_seconds", "rationale_examples_per_second"}


class Session:
  """Commands of one checkout in one temporary folder."""

  def __init__(self, checkout: pathlib.Path, data: pathlib.Path,
               folder: pathlib.Path):
    self._folder, self._data = folder, data
    self._programs = pathlib.Path(sys.executable).parent
    self._environment = {
        **os.environ, "PYTHONPATH": str(checkout), "COLUMNS": "80",
        "XDG_DATA_HOME": str(folder / "home"),
        "STEPDISTILL_DATA": str(data), "JAX_PLATFORMS": "cpu",
        "STEPDISTILL_VOCAB": str(data / "vocab/spiece.model")}

  def run(self, program: str, *arguments: str) -> str:
    """Returns what a command prints, with its exit code."""
    done = subprocess.run(
        [str(self._programs / program), *arguments], cwd=self._folder,
        env=self._environment, capture_output=True, text=True)
    text = f"{done.stdout}{done.stderr}\nexit code {done.returncode}\n"
    for old in (self._folder, self._data, pathlib.Path.home()):
      text = text.replace(str(old), "FOLDER")
    for pattern, name in _NOISE:
      text = pattern.sub(name, text)
    return text

  def read_json(self, path: str) -> str:
    """A JSON file without its times and folders."""
    return json.dumps(_stable(json.loads(
        (self._folder / path).read_text("utf-8"))), indent=1)

  def hashes(self, path: str) -> str:
    """Names and sha256 of all files of a folder."""
    folder = self._folder / path
    return "\n".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()} "
        f"{file.relative_to(folder)}"
        for file in sorted(folder.rglob("*")) if file.is_file())

  def losses(self, path: str) -> str:
    """Every scalar of a run's event files but times, with all its digits."""
    code = (
        "import sys, pathlib\n"
        "from tensorboard.backend.event_processing import event_accumulator\n"
        "for folder in sorted({str(p.parent) for p in pathlib.Path("
        "sys.argv[1]).rglob('events.out*')}):\n"
        "  events = event_accumulator.EventAccumulator(folder, "
        "size_guidance={'tensors': 0})\n"
        "  events.Reload()\n"
        "  from tensorflow import make_ndarray\n"
        "  for tag in sorted(events.Tags()['tensors']):\n"
        "    if 'timing' in tag or 'config' in tag: continue\n"
        "    for event in events.Tensors(tag):\n"
        "      value = make_ndarray(event.tensor_proto)\n"
        "      print(folder, tag, event.step, value)\n")
    return self.run("python", "-c", code, path)


def _stable(value):
  if isinstance(value, dict):
    return {k: _stable(v) for k, v in value.items() if k not in _VOLATILE}
  if isinstance(value, list):
    return [_stable(v) for v in value]
  if isinstance(value, str) and "/" in value and os.path.isabs(value):
    return "FOLDER"
  return value


def observe(checkout, data, folder) -> dict[str, str]:
  """Returns what is seen: name to text."""
  seen, session = {}, Session(checkout, data, folder)

  def note(name, text):
    seen[name] = text
    print(f"{name}: {len(text.splitlines())} lines", file=sys.stderr)

  for program, *words in HELP:
    note(" ".join(["help of", program, *words]),
         session.run(program, *words, "--help"))
  for dataset, form, teacher, outputs in SOURCES:
    named = [f"--dataset={dataset}", *(
        [f"--teacher={teacher}"] if teacher else [])]
    completions = [f"--outputs={data / dataset / outputs}"] if outputs else []
    note(f"import of {dataset} by {teacher}", session.run(
        "stepdistill", "teacher", "import", f"--format={form}", *named,
        f"--rows={data / dataset}", *completions, "--json"))
    if teacher:
      note(f"audit of {dataset} by {teacher}", session.run(
          "stepdistill", "teacher", "audit", *named, "--json"))
  for recipe in RECIPES:
    session.run(
        "t5x", "train", f"--gin_file=gin/recipes/svamp_{recipe}.gin",
        f'--gin.MODEL_DIR="runs/{recipe}"', f"--gin.TRAIN_STEPS={STEPS}",
        "--gin.EVAL_PERIOD=10", "--gin.CHECKPOINT_PERIOD=20",
        "--gin.EVAL_STEPS=1")
    note(f"losses of {recipe}", session.losses(f"runs/{recipe}"))
  session.run(
      "stepdistill-eval", "--checkpoint=student=runs/step_by_step",
      "--teacher=palm540b", "--benchmarks=svamp", "--output=scores")
  note("results.json of student and teacher",
       session.read_json("scores/results.json"))
  note("examples.jsonl", (folder / "scores/examples.jsonl").read_text("utf-8"))
  session.run("stepdistill", "checkpoint", "export-hf", "runs/step_by_step",
              "--output=exported")
  note("exported files", session.hashes("exported"))
  note("names bound by gin", session.run(
      "python", "-c", "import re, pathlib; print('\\n'.join(sorted({m for p in "
      f"pathlib.Path({str(checkout / 'gin')!r}).rglob('*.gin') for m in "
      "re.findall(r'^[@\\w./%]+(?= *=)', p.read_text(), re.M)})))"))
  return seen


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("what", choices=("write", "compare"))
  parser.add_argument("file", type=pathlib.Path)
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--checkout", type=pathlib.Path, default=ROOT)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    seen = observe(args.checkout.resolve(), args.data.resolve(),
                   pathlib.Path(folder).resolve())
  if args.what == "write":
    args.file.write_text(json.dumps(seen, indent=1), "utf-8")
    return 0
  before = json.loads(args.file.read_text("utf-8"))
  differing = [name for name in {**before, **seen}
               if before.get(name) != seen.get(name)]
  for name in {**before, **seen}:
    print(f"{'differs' if name in differing else 'same':<8}{name}")
    if name in differing:
      pairs = zip(before.get(name, "").splitlines(),
                  seen.get(name, "").splitlines())
      for old, new in [pair for pair in pairs if pair[0] != pair[1]][:5]:
        print(f"  - {old[:300]}\n  + {new[:300]}")
  print(f"{len(seen) - len(differing)} of {len({**before, **seen})} the same")
  return bool(differing)


if __name__ == "__main__":
  sys.exit(main())
