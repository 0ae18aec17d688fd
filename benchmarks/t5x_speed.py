"""Train steps and decoding of the embedded engine against Google's T5X.

    python benchmarks/t5x_speed.py                     # About 12 minutes.
    python benchmarks/t5x_speed.py --models=tiny --rounds=3
    python benchmarks/t5x_speed.py --models=small --parts=decode --params=FILE

The same gin files on both (T5 v1.1, T5X's plain model, float32, SVAMP's
labels, batch 16, dropout 0.1, Adafactor), on the same CPU. Each engine is one
process that waits while the other works. Rounds alternate: a few train steps
of the one, then of the other, metrics and event files written on both; the
median of the rounds' ratios counts. The parameters that the embedded engine
then has are given to both, and both decode SVAMP's test set (beam 1), in turn;
every token is compared. Compilation and the first run of each are left out.
With --params they are kept in a file, and taken from it where it is there.

Needs an environment where Google's T5X is importable, SVAMP's records
(`stepdistill teacher import`) and T5's vocabulary. The last lines are the
headlines: seconds a step as a ratio, less is better, and the ratio of decoded
examples a second.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from stepdistill_jax.util import t5x_finder

ENGINES = ("google", "embedded")
SPEED = ROOT / "benchmarks" / "engine_speed"
STEP_GOAL, DECODE_GOAL = 1.0, 3.0


class Worker:
  """An engine in a process of its own, which works only when it is asked to.

  Between questions it is stopped: no thread of its disturbs the other engine.
  """

  def __init__(self, engine: str, model: str, log: pathlib.Path):
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    configuration = json.dumps([
        [f"t5x/examples/t5/t5_1_1/{model}.gin",
         "t5x/configs/runs/finetune.gin", str(SPEED / "svamp_run.gin")], []])
    self._engine, self._log = engine, log
    self._process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.engine_speed.worker",
         configuration], cwd=ROOT, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=log.open("w"), env={
            **os.environ, "STEPDISTILL_ENGINE": engine,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join(p for p in paths if p)})
    self._answer()

  def _answer(self) -> dict:
    line = self._process.stdout.readline()
    if not line:
      raise SystemExit(
          f"the {self._engine} engine failed:\n{self._log.read_text()[-3000:]}")
    self._process.send_signal(signal.SIGSTOP)
    return json.loads(line)

  def ask(self, command: str, argument=None) -> dict:
    self._process.send_signal(signal.SIGCONT)
    self._process.stdin.write(json.dumps({command: argument}) + "\n")
    self._process.stdin.flush()
    return self._answer()

  def close(self) -> None:
    self._process.send_signal(signal.SIGCONT)
    self._process.stdin.close()
    self._process.wait()


def paired(workers: dict[str, Worker], command: str, argument, rounds: int
           ) -> dict[str, list[dict]]:
  """Answers by engine; engines take turns, and turns who is first."""
  answers = {engine: [] for engine in ENGINES}
  for engine in ENGINES:
    workers[engine].ask(command, argument)  # Compiles; not counted.
  for i in range(rounds):
    for engine in ENGINES if i % 2 == 0 else ENGINES[::-1]:
      answers[engine].append(workers[engine].ask(command, argument))
  return answers


def ratios(answers: dict[str, list[dict]]) -> list[float]:
  """Seconds of the embedded engine over those of Google's, by round."""
  return [ours["seconds"] / theirs["seconds"] for ours, theirs in zip(
      answers["embedded"], answers["google"])]


def compare_training(model: str, workers, args) -> bool:
  """Prints a model's rows of train steps; True if the goal is reached."""
  trained = paired(workers, "train", args.steps, args.rounds)
  ratio = statistics.median(ratios(trained))
  for engine in ENGINES:
    seconds = statistics.median(
        a["seconds"] / args.steps for a in trained[engine])
    print(f"{model:<6} train   {engine:<9} {seconds:8.4f} s a step, losses "
          + " ".join(f"{a['loss']:.3f}" for a in trained[engine]))
  print(f"{model:<6} train   embedded/google by round: "
        + " ".join(f"{r:.2f}" for r in ratios(trained)))
  print(f"{model}: a train step takes {ratio:.2f} times as long as Google's "
        f"T5X's (goal at most {STEP_GOAL:g})", flush=True)
  return ratio <= STEP_GOAL


def compare_decoding(model: str, workers, args, params: pathlib.Path) -> bool:
  """Prints a model's rows of decoding; True if the goal is reached."""
  if not params.exists():
    workers["embedded"].ask("train", args.decode_after)
    workers["embedded"].ask("save", str(params))
  for engine in ENGINES:
    workers[engine].ask("restore", str(params))
  decoded = paired(workers, "decode", None, args.rounds)
  ratio = 1 / statistics.median(ratios(decoded))
  tokens = {e: decoded[e][-1]["tokens"] for e in ENGINES}
  same = sum(a == b for a, b in zip(tokens["google"], tokens["embedded"]))
  for engine in ENGINES:
    rate = statistics.median(
        a["examples"] / a["seconds"] for a in decoded[engine])
    print(f"{model:<6} decode  {engine:<9} {rate:8.1f} examples/s")
  lengths = [sum(t != 0 for t in row) for row in tokens["google"]]
  print(f"{model:<6} decode  the same tokens in {same} of {len(lengths)} "
        f"answers of {min(lengths)} to {max(lengths)} tokens (mean "
        f"{statistics.mean(lengths):.1f}), embedded/google by round: "
        + " ".join(f"{1 / r:.1f}" for r in ratios(decoded)))
  print(f"{model}: {ratio:.1f} times the decoded examples a second of "
        f"Google's T5X (goal at least {DECODE_GOAL:g})", flush=True)
  return ratio >= DECODE_GOAL and same == len(lengths)


def compare(model: str, args, folder: pathlib.Path) -> bool:
  """Prints a model's rows; True if its goals are reached."""
  workers = {e: Worker(e, model, folder / f"{e}.log") for e in ENGINES}
  good = True
  if "train" in args.parts:
    good &= compare_training(model, workers, args)
  if "decode" in args.parts:
    good &= compare_decoding(
        model, workers, args, args.params or folder / "params.npz")
  for worker in workers.values():
    worker.close()
  return good


def main() -> int:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--models", default="tiny,small")
  parser.add_argument("--parts", default="train,decode")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--steps", type=int, default=5, help="steps a round")
  parser.add_argument("--decode_after", type=int, default=40,
                      help="further steps before decoding: answers then end")
  parser.add_argument("--params", type=pathlib.Path, default=None,
                      help=".npz file of the parameters to decode with")
  args = parser.parse_args()
  if not t5x_finder.google_t5x_installed():
    print("error: Google's T5X is not importable here; install it with "
          "`pip install 'stepdistill_jax[t5x]'`", file=sys.stderr)
    return 2
  good = True
  for model in args.models.split(","):
    with tempfile.TemporaryDirectory() as folder:
      good &= compare(model, args, pathlib.Path(folder))
  return 0 if good else 1


if __name__ == "__main__":
  sys.exit(main())
