import json

import gin
import pytest

from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.records import record_writer, records
from stepdistill_jax.runs import t5x_command
from tests.support import decoder_fixtures, real_data

RATIONALE = "3 and 1 and 1 and 1 and 1"


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """Records of SVAMP: one of four without rationale, one without label."""
  folder = tmp_path_factory.mktemp("showing")
  rows = [records.Record(
      id=f"svamp/train/{i}", inputs=f"{i} pears?", label="" if i == 3 else "4",
      teacher_label="4", rationale="" if i == 2 else RATIONALE,
      status="no_marker" if i == 2 else records.OK, weight=".5" if i == 1
      else "") for i in range(4)]
  record_writer.write_records(folder, "svamp", "palm540b", {"train": rows})
  real_data.write_tiny_vocabulary(folder / "spiece.model")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("STEPDISTILL_RECORDS", str(folder))
    patch.setenv("STEPDISTILL_VOCAB", str(folder / "spiece.model"))
    yield folder


def show(capsys, *arguments):
  assert cli.main(["data", "show", "--json", *arguments]) == 0
  return json.loads(capsys.readouterr().out)


def test_list_has_data_sets_teachers_and_tasks(folder, capsys):
  assert cli.main(["data", "list", "--json"]) == 0
  entry, = (entry for entry in json.loads(capsys.readouterr().out)
            if entry["dataset"] == "svamp")
  assert entry["teachers"]["palm540b"]["records"] == {"train": 4}
  assert "svamp_step_gold_palm540b" in entry["tasks"]["step"]
  assert cli.main(["data", "list"]) == 0
  assert "by palm540b: 4 train records" in capsys.readouterr().out


def test_list_names_tasks_that_there_are(folder, capsys):
  from stepdistill_jax.data import task_registry
  assert cli.main(["data", "list", "--json"]) == 0
  for entry in json.loads(capsys.readouterr().out):
    for names in entry["tasks"].values():
      for name in names:
        assert task_registry.require_task(name).name == name


def test_tokens_their_weights_and_what_is_left_out(folder, capsys, tmp_path):
  page = tmp_path / "page.html"
  shown = show(capsys, "svamp_step_palm540b_palm540b", "--examples=4",
               f"--html={page}")
  first, second = shown["examples"][:2]
  names = [s["name"] for s in first["sequences"]]
  assert names == ["inputs", "targets", "rationale_inputs",
                   "rationale_targets"]
  assert [t["weight"] for t in first["sequences"][0]["tokens"]] == [
      None] * len(first["sequences"][0]["tokens"])
  for sequence in (second["sequences"][1], second["sequences"][3]):
    assert {t["weight"] for t in sequence["tokens"]} == {.5}
  target = second["sequences"][3]["tokens"]
  assert {t["task"] for t in target} == {2}
  text = "".join(t["piece"] for t in target[:-1]).replace("▁", " ").strip()
  assert text == RATIONALE and target[-1]["piece"] == "</s>"
  assert shown["figures"][0]["without_rationale"] == {
      "without a rationale (completion: no_marker)": 1}
  assert f"Examples of {shown['name']}" in page.read_text()
  assert "without a rationale" in page.read_text()

  gold = show(capsys, "svamp_step_gold_palm540b")["figures"][0]
  assert gold["left_out"] == {"without a human label": 1}
  assert (gold["records"], gold["examples"]) == (4, 3)


def test_what_is_cut_is_counted_and_what_is_refused_is_said(folder, capsys):
  shown = show(capsys, "svamp_step_gold_palm540b", "--gin.MAX_RATIONALE=8",
               "--gin.MAX_LABEL=1", "--examples=1")
  target = shown["examples"][0]["sequences"][3]
  assert (len(target["tokens"]), target["limit"]) == (8, 8)
  whole = show(capsys, "svamp_step_gold_palm540b", "--examples=1")
  size = len(whole["examples"][0]["sequences"][3]["tokens"])
  assert target["cut"] == size - 8
  figures = shown["figures"][0]
  assert figures["cut"]["rationales"]["cut"] == 2
  assert "a cut label is another answer" in figures["refused"]


def test_a_recipe_gives_task_lengths_and_weights(folder, capsys):
  shown = show(
      capsys, "--gin_file=gin/recipes/svamp_step_by_step.gin",
      "--gin.ALPHA=0.25", "--gin.LONG_RATIONALE='drop'",
      "--gin.MAX_RATIONALE=8", "--examples=1")
  assert shown["name"] == "svamp_step_gold_palm540b"
  label, rationale = (shown["examples"][0]["sequences"][i] for i in (1, 3))
  assert {t["weight"] for t in label["tokens"]} == {.25}
  assert {t["weight"] for t in rationale["tokens"]} == {.75}
  assert shown["examples"][0]["left_out"]
  assert shown["figures"][0]["examples"] == 1  # Labels alone are kept.


def test_a_decoders_tokens_are_its_tokenizers(folder, capsys, tmp_path):
  decoder_fixtures.write_tokenizer(
      tmp_path, decoder_fixtures.FAMILIES["qwen2_5"])
  shown = show(capsys, "svamp_step_gold_palm540b", "--examples=1",
               f"--tokenizer={tmp_path / 'tokenizer.json'}")
  sequence = shown["examples"][0]["sequences"][3]
  assert "".join(t["piece"] for t in sequence["tokens"][:-1]) == RATIONALE
  assert shown["examples"][0]["sequences"][0]["tokens"][-1]["piece"] != "</s>"


@pytest.mark.parametrize("arguments, said", [
    ([], "needs a task or a recipe"),
    (["svamp_stp_gold_palm540b"], "did you mean: svamp_step_gold_palm540b"),
    (["svamp_step_gold_palm540b", "--split=test"], "test")])
def test_mistakes_are_one_line(folder, capsys, arguments, said):
  assert cli.main(["data", "show", *arguments]) == 2
  line, = capsys.readouterr().err.splitlines()
  assert said in line


def test_damaged_features_are_one_line(folder, capsys, tmp_path):
  features = record_writer.write_records(
      tmp_path, "cqa", "palm540b", {"train": [
          records.Record(id="cqa/train/0", inputs="a", label="b")]}
  ) / "features.json"
  features.write_text("{")
  assert cli.main(
      ["data", "show", "cqa_label_gold", f"--records_dir={tmp_path}"]) == 2
  line, = capsys.readouterr().err.splitlines()
  assert f"{features} is damaged; import these records anew" in line


def test_what_follows_in_a_program_may_register_names(folder, capsys):
  show(capsys, "svamp_step_gold_palm540b")
  assert not gin.config.config_is_locked()


def test_a_dry_run_says_what_would_be_trained(folder, capsys, tmp_path):
  arguments = ["train", "--dry_run", "--engine=embedded",
               "--gin_file=gin/recipes/svamp_step_by_step.gin",
               f"--gin.MODEL_DIR='{tmp_path / 'run'}'", "--gin.BATCH_SIZE=2"]
  assert t5x_command.main(arguments) == 0
  said = capsys.readouterr().out
  for part in ("400 steps", "parameters", "svamp_step_gold_palm540b, train",
               "1.5 steps are one, 400 are 266.7", "lengths: {'inputs': 88",
               RATIONALE, "dry run: nothing was trained"):
    assert part in said
  # No split to score: a training would refuse that, a dry run says so.
  assert not (tmp_path / "run").exists()
  assert t5x_command.main([*arguments, "--gin.TEACHER='nobody'"]) == 0
  assert "warning: this training would stop: " in capsys.readouterr().out
  assert t5x_command.main([
      *arguments, "--gin.train/utils.DatasetConfig.batch_size=0"]) == 0
  assert "would stop: BATCH_SIZE must be a whole" in capsys.readouterr().out
  assert t5x_command.main([
      *arguments, "--gin.train_task/task_names.task_name.kind='stepp'"]) == 0
  said = capsys.readouterr().out
  assert "would stop: train_dataset_cfg: " in said
  assert "would stop: 'train_dataset_cfg'" not in said


def test_a_dry_run_looks_where_a_training_would_begin(folder, capsys, tmp_path):
  def said(run, *bindings):
    assert t5x_command.main([
        "train", "--dry_run", "--engine=embedded",
        "--gin_file=gin/recipes/svamp_step_by_step.gin",
        f"--gin.MODEL_DIR='{run}'", *bindings]) == 0
    return capsys.readouterr().out

  output = said(tmp_path / "new", "--gin.CHECKPOINT_PERIOD=70",
                f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path / 'gone'}'")
  for stop in (
      "EVAL_PERIOD = 100 and CHECKPOINT_PERIOD = 70: one must",
      f"no checkpoint at {tmp_path / 'gone'}: there is no such folder",
      "task svamp_predict_gold has no split 'validation'; it has ['train']"):
    assert f"would stop: {stop}" in output
  assert f"{folder / 'spiece.model'} is a file, not a folder" in said(
      folder / "spiece.model")
  run = tmp_path / "run"
  (run / "checkpoint_7").mkdir(parents=True)
  (run / "checkpoint_7" / "checkpoint").write_text("")
  (run / "run.json").write_text(json.dumps({
      "starts": [{"step": 0}], "data": {}, "config": {"ALPHA": "0.25"}}))
  output = said(run, f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path / 'gone'}'")
  assert "goes on from step 7" in output and "no checkpoint at" not in output
  assert f"would stop: {run} belongs to a run with another config: " in output
