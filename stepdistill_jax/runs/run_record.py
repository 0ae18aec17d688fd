"""`run.json`: where a run folder comes from, and whether it may go on.

The record holds the command, versions, seeds, the whole gin configuration,
the data's fingerprint and every restart. A second run in the same folder must
have the same configuration, but for what may change between restarts.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import sys
from typing import Any

from etils import epath

from stepdistill_jax.runs import checkpoint_paths, run_lock
from stepdistill_jax.util import durable_files, errors, progress

FILE_NAME = "run.json"
SCHEMA_VERSION = 1
_EVALUATED_FILE = "evaluated.json"
_FINGERPRINTS = {"files_sha256": "files", "vocabularies_sha256": "vocabularies"}
# What is read of a record.
_PARTS = {"config": dict, "data": dict, "seeds": dict, "starts": list}
_PACKAGES = ("stepdistill_jax", "jax", "jaxlib", "flax", "optax",
             "orbax-checkpoint", "seqio", "tensorflow")
# What a restart may change: how long, how often and where it trains, not what
# is learnt from what.
_MAY_CHANGE = re.compile(
    r"(MODEL_DIR|TRAIN_STEPS|TRAIN_STEPS_RELATIVE|EVAL_STEPS|EVAL_PERIOD|"
    r"CHECKPOINT_PERIOD|STATS_PERIOD|EVALUATOR_.*|JSON_WRITE_N_RESULTS|"
    r"INITIAL_CHECKPOINT_PATH|"
    r".*\btrain\.(total_steps|relative_steps|eval_steps|eval_period|"
    r"stats_period|model_dir|actions|gc_period|concurrent_metrics|"
    r"inference_evaluator_cls|summarize_config_fn|run_eval_before_training|"
    r"infer_eval_dataset_cfg|train_eval_dataset_cfg)|"
    r".*CheckpointConfig\..*|.*PjitPartitioner\..*|"
    r".*standard_logical_axis_rules\..*|.*Evaluator\..*|.*Logger\..*|"
    r".*\bWatchdog\..*|.*\bGuards\..*|"
    r"(infer_eval|train_eval)/.*)")

# What gin files of this package came to bind, as runs before had it. Gin
# writes a name with as many of its modules as tell it from others.
_BOUND_LATER = {"LONG_RATIONALE": "'cut_tail'",
                "long_rationales.do": "%LONG_RATIONALE",
                "LORA_BASE_DTYPE": "'float32'",
                "LlamaConfig.lora_base_dtype": "%LORA_BASE_DTYPE",
                "save_adapters.base": "%INITIAL_CHECKPOINT_PATH",
                "LONG_PROMPT": "'cut_tail'",
                "long_prompts.do": "%LONG_PROMPT",
                "SYNTHETIC_KIND": None}  # A name; any value is today's.

# One rule by two names: recipes had optax's.
_SAME_RULES = ("@optax.clip_by_global_norm()",
               "@students.clip_by_global_norm()")
# What a run begins with is recorded, and it goes on with that.
_LEFT_TO_RUNS = ("USE_HARDWARE_RNG", "PACK")
# Of runs before they were recorded.
_FORMER_BITS = "threefry2x32"

_options: dict[str, Any] = {
    "command": None, "allow_config_change": False, "strict": False}


@contextlib.contextmanager
def launched(
    command: Sequence[str], allow_config_change: bool = False,
    strict: bool = False) -> Iterator[None]:
  """Says, for what runs inside, how it was started."""
  before = dict(_options)
  _options.update(
      command=list(command), allow_config_change=allow_config_change,
      strict=strict)
  try:
    yield
  finally:
    _options.update(before)


def launch_option(name: str) -> Any:
  """An argument of the `launched` that this runs in."""
  return _options[name]


def _now() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat(
      timespec="seconds")


def versions() -> Mapping[str, str]:
  """Versions of Python and of the packages that numbers depend on."""
  found = {"python": platform.python_version()}
  for name in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found


def read(model_dir) -> dict[str, Any] | None:
  """The record of a run folder; None if it has none."""
  path = epath.Path(model_dir) / FILE_NAME
  if not path.exists():
    return None
  with errors.reported((ValueError, KeyError, TypeError), lambda error: (
      f"{path} is not what was written ({error}); mend it, or remove it to go "
      "on without a check of the configuration")):
    record = json.loads(path.read_text())
    if not isinstance(record, dict):
      raise ValueError("not a dict")
    for name, kind in _PARTS.items():
      if not isinstance(record.setdefault(name, kind()), kind):
        raise ValueError(f"{name!r} is not a {kind.__name__}")
    if not all(isinstance(s["step"], int) for s in record["starts"]):
      raise ValueError("a start has no step")
    return record


def peek(model_dir) -> dict[str, Any]:
  """The contents of a record; empty where it is missing or damaged."""
  try:
    record = json.loads((epath.Path(model_dir) / FILE_NAME).read_text())
  except (OSError, ValueError):
    return {}
  return record if isinstance(record, dict) else {}


def require_folder(model_dir: str) -> None:
  """Raises UserError if the run folder was deleted, or is another now."""
  if "://" not in model_dir and not any(
      os.path.exists(os.path.join(model_dir, name))
      for name in (run_lock.FILE_NAME, FILE_NAME)):
    raise errors.UserError(
        f"MODEL_DIR={model_dir} was deleted or moved while the run worked in "
        "it; nothing is saved. Put it back and give the same command again")


def data_shards(model_dir) -> int | None:
  """In how many shards a run has cut its records; None for a new run."""
  return (read(model_dir) or {}).get("data", {}).get("shards")


def packing(model_dir) -> tuple[bool | str | None, Sequence[int] | None]:
  """(PACK of a run so far, None for a new run; the shape of `pairs`' rows)."""
  record = read(model_dir)
  data = record["data"] if record else {"pack": None}
  return data.get("pack", False), data.get("packed_rows")


def first_step(model_dir, step: int) -> int:
  """The step that a run began at: 0, or that of its initial checkpoint.

  Args:
    model_dir: the run folder.
    step: at which training begins now.
  """
  starts = (read(model_dir) or {}).get("starts", [])
  return min([step, *checkpoint_paths.all_steps(model_dir),
              *(start["step"] for start in starts)])


def random_bits(model_dir) -> str | None:
  """The random bits that a run's steps have had; None for a new run."""
  record = read(model_dir)
  return record and record.get("random_bits", _FORMER_BITS)


def check_vocabulary(model_dir, file) -> None:
  """Raises UserError if a run was trained with other pieces than a file's."""
  trained = (read(model_dir) or {}).get("data", {}).get("vocabularies_sha256")
  if trained and os.path.isfile(file) and hashlib.sha256(
      pathlib.Path(file).read_bytes()).hexdigest() not in trained:
    raise errors.UserError(
        f"{model_dir} was trained with another vocabulary than {file}; set "
        "STEPDISTILL_VOCAB to the SentencePiece model that it had, or put a "
        "decoder's tokenizer.json back")


def _write(model_dir, value: Mapping[str, Any], name: str = FILE_NAME) -> None:
  """Replaces a file at once, so that no reader sees half of it."""
  folder = epath.Path(model_dir)
  folder.mkdir(parents=True, exist_ok=True)
  durable_files.replace(
      folder / name, json.dumps(value, indent=2, default=str) + "\n")


def _changes(
    old: Mapping[str, str], new: Mapping[str, str]) -> Mapping[str, str]:
  """Name -> `NAME was A, now B`, of what differs."""
  later = {name: value or new[name] for name in new
           for end, value in _BOUND_LATER.items()
           if f".{name}".endswith(f".{end}")}
  old, new = _same_schedule(old, new)
  old, new = ({name: value.replace(*_SAME_RULES)
               for name, value in config.items()} for config in (old, new))
  for name in _LEFT_TO_RUNS:
    if (old.get(name), new.get(name)) == ("False", "None"):
      new = {**new, name: "False"}
  old = {**later, **old}
  return {name: f"{name} was {old.get(name, 'unset')}, "
                f"now {new.get(name, 'unset')}"
          for name in sorted({*old, *new}) if old.get(name) != new.get(name)}


def _bound(config: Mapping[str, str], end: str) -> str:
  """The value of a binding by the end of its name."""
  return next((value for name, value in config.items()
               if f".{name}".endswith(f".{end}")), "")


def _same_schedule(
    old: Mapping[str, str], new: Mapping[str, str]
) -> tuple[Mapping[str, str], Mapping[str, str]]:
  """Learning rates of gin files before in the words of today's, and these.

  Before they had names, gin/runs/paper.gin bound optax's linear schedule and
  gin/runs/adafactor.gin T5X's constant one: the same numbers.
  """
  before = _bound(old, "Trainer.learning_rate_fn")
  now = _bound(new, "Trainer.learning_rate_fn")
  if now == before or not now.endswith(".learning_rate()"):
    return old, new
  if before.endswith(".linear_schedule()") and (
      _bound(old, "linear_schedule.end_value") == "0.0"
      and _bound(old, "linear_schedule.init_value") == "%LEARNING_RATE"):
    schedule = "'linear'"
  elif before.endswith("create_learning_rate_scheduler()") and (
      _bound(old, "create_learning_rate_scheduler.factors") == "'constant'"
      and _bound(old, "create_learning_rate_scheduler.base_learning_rate")
      == "%LEARNING_RATE"):
    schedule = "'constant'"
  else:
    return old, new
  ours = re.compile(
      r"(.*\.)?((linear_schedule|create_learning_rate_scheduler|"
      r"learning_rate)\.\w+|adamw\.learning_rate|Trainer\.learning_rate_fn|"
      r"optimizer\.learning_rate)")
  without = lambda config: {
      name: value for name, value in config.items() if not ours.fullmatch(name)}
  return ({**without(old), "LEARNING_RATE_SCHEDULE": schedule,
           "WARMUP_STEPS": "0"}, without(new))


def differences(
    old: Mapping[str, str], new: Mapping[str, str]) -> Sequence[str]:
  """Bindings that differ and may not, as `NAME was A, now B`."""
  return [line for name, line in _changes(old, new).items()
          if not _MAY_CHANGE.fullmatch(name)]


def _report_dependents(
    old: Mapping[str, str], new: Mapping[str, str]) -> None:
  """Reports schedules that depend on what may change, such as TRAIN_STEPS."""
  for changed, line in _changes(old, new).items():
    follow = [name for name, value in new.items()
              if re.search(rf"%{re.escape(changed)}\b", value)
              and not _MAY_CHANGE.fullmatch(name)]
    if follow and _MAY_CHANGE.fullmatch(changed):
      progress.say(f"{line}: {follow[0]} follows it, and was another for the "
                   "steps so far")


def start(
    model_dir, *, engine: str, config: Mapping[str, str], step: int,
    seeds: Mapping[str, int], data: Mapping[str, Any], devices: str,
    begun_from: str | None = None, random_bits: str = _FORMER_BITS
) -> dict[str, Any]:
  """Enters a start or restart in the record and returns it.

  Args:
    model_dir: the run folder.
    engine: `embedded` or `google`.
    config: gin bindings, name -> text.
    step: at which training begins.
    seeds: of the model and of the data.
    data: what is known of the training data.
    devices: in words.
    begun_from: the checkpoint; None for none.
    random_bits: JAX's name of the steps' random bits.
  """
  record = read(model_dir) or {
      "schema_version": SCHEMA_VERSION, "created": _now(), "starts": []}
  now, before = versions(), record.get("versions", {})
  changed = _changes(before, now) if before else {}
  if changed:
    progress.say(f"{'; '.join(changed.values())}: results may differ in their "
                 "last bits from those of a run on one of them")
  record["starts"].append({
      "time": _now(), "step": step, "checkpoint": begun_from,
      "command": _options["command"] or list(sys.argv),
      "versions": now, "devices": devices,
      "config_changes": list(
          _changes(record["config"], config).values())
      if record.get("config") else []})
  record.update(
      engine=engine, versions=now, devices=devices, random_bits=random_bits,
      seeds=dict(seeds), data=dict(data), config=dict(config))
  _write(model_dir, record)
  return record


def finish(model_dir, step: int) -> None:
  """Enters the end of training."""
  record = read(model_dir)
  if record is not None:
    record["finished"] = {"time": _now(), "step": step}
    _write(model_dir, record)


def evaluated(model_dir, step: int) -> None:
  """Notes that the evaluations of a step are written."""
  _write(model_dir, {"step": step}, _EVALUATED_FILE)


def last_evaluation(model_dir) -> int:
  """The last step whose evaluations are written; -1 if none is."""
  try:
    return int(json.loads(
        (epath.Path(model_dir) / _EVALUATED_FILE).read_text())["step"])
  except (OSError, ValueError, KeyError, TypeError):
    return -1  # At worst an evaluation is repeated.


def _start_of(fingerprint: Any) -> str:
  parts = fingerprint if isinstance(fingerprint, list) else [fingerprint]
  return ", ".join(str(part)[:12] for part in parts)


def check_same_run(
    model_dir, config: Mapping[str, str], data: Mapping[str, Any]) -> None:
  """Raises UserError if the folder is a run's with other config or data.

  Args:
    model_dir: the run folder.
    config: gin bindings, name -> text.
    data: what is known of the training data.
  """
  record = read(model_dir)
  if record is None or _options["allow_config_change"] or not config:
    return
  changed = list(differences(record["config"], config))
  for name, what in _FINGERPRINTS.items():
    before, after = record["data"].get(name), data.get(name)
    if before and before != after:
      changed.append(f"the {what} of {data.get('task')} had the fingerprint "
                     f"{_start_of(before)}, now {_start_of(after)}")
  if changed:
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    raise errors.UserError(
        f"{model_dir} belongs to a run with another config: "
        f"{'; '.join(changed[:3])}{more}; take another MODEL_DIR, or pass "
        "--allow_config_change to go on with the new one")
  _report_dependents(record["config"], config)
