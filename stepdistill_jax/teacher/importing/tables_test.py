import gzip
import json

import pytest

from stepdistill_jax.cli import stepdistill as cli
from stepdistill_jax.evaluation import command as eval_main
from stepdistill_jax.records import records, tfrecord_files
from stepdistill_jax.teacher.importing import (
  containers,
  tables as import_tables,
)
from stepdistill_jax.util import errors
from tests.support import real_data as testing

COLUMNS = {"inputs": "question", "label": "answer", "rationale": "why"}


def read(folder, dataset, teacher, split):
  found = records.read_records(folder, dataset, teacher, split)
  return sorted(found, key=lambda r: r.origin)


def import_columns(tmp_path, outputs, columns=None, **options):
  return import_tables.import_columns(
      dataset="mine", outputs=outputs, columns=columns or COLUMNS,
      teacher="llama", output=tmp_path / "records", **options)


def test_csv_tsv_jsonl_and_parquet_give_the_same_records(tmp_path):
  rows = [
      {"question": f"is it, {i}?", "answer": "ja\n\"so\"", "why": "because ü"}
      for i in range(20)]
  csv_text = "question,answer,why\n" + "".join(
      f'"is it, {i}?","ja\n""so""",because ü\n' for i in range(20))
  jsonl = "".join(json.dumps(row) + "\n" for row in rows)
  files = {"a.csv": csv_text.encode(), "b.jsonl": jsonl.encode(),
           "c.json": json.dumps(rows).encode(),
           "d.csv.gz": gzip.compress(csv_text.encode()),
           "e.tsv": csv_text.replace(",answer,", "\tanswer\t").replace(
               '?",', '?"\t').replace('""",', '"""\t').encode()}
  pyarrow = pytest.importorskip("pyarrow")
  pyarrow.parquet = pytest.importorskip("pyarrow.parquet")
  pyarrow.parquet.write_table(
      pyarrow.Table.from_pylist(rows), tmp_path / "f.parquet")
  found = {}
  for name, content in files.items():
    (tmp_path / name).write_bytes(content)
  for path in tmp_path.glob("?.*"):
    import_columns(tmp_path, path)
    found[path.name] = [
        (r.inputs, r.label, r.rationale, r.split, r.status)
        for split in ("train", "validation")
        for r in read(tmp_path / "records", "mine", "llama", split)]
  assert len(found) == 6
  first = found.pop("a.csv")
  assert len(first) == 20 and sum(r[3] == "validation" for r in first) == 2
  assert first[0][1:3] == ('ja\n"so"', "because ü")
  for name, others in found.items():
    assert others == first, name


def test_files_and_columns_tell_splits(tmp_path):
  (tmp_path / "d").mkdir()
  for split in ("train", "dev", "test"):
    (tmp_path / "d" / f"my_{split}.csv").write_text(
        f"question,answer,why\n{split} 1,a,b\n{split} 2,a,b\n")
  result = import_columns(tmp_path, tmp_path / "d")
  assert {s: c["rows"] for s, c in result.info["sources"].items()} == {
      "train": 2, "validation": 2, "test": 2}
  (tmp_path / "one.csv").write_text(
      "question,answer,why,part\n1,a,b,train\n2,a,b,test\n3,a,b,valid\n"
      "4,a,b,other\n")
  result = import_columns(
      tmp_path, tmp_path / "one.csv", {**COLUMNS, "split": "part"})
  assert records.split_sizes(tmp_path / "records", "mine", "llama") == {
      "train": 1, "validation": 1, "test": 1}
  dropped = result.info["sources"]["train"]["dropped"]
  assert dropped["no_split"]["count"] == 1


def test_raw_completions_and_ready_labels(tmp_path):
  (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in [
      {"q": "1", "a": 7, "o": "It is so. So the answer is 7."},
      {"q": "2", "a": None, "o": None},
      {"q": "3", "a": 2.5, "o": "no idea"}]))
  columns = {"inputs": "q", "label": "a", "output": "o"}
  import_columns(tmp_path, tmp_path / "a.jsonl", columns)
  found = {r.inputs: r for split in ("train", "validation")
           for r in read(tmp_path / "records", "mine", "llama", split)}
  assert (found["1"].label, found["1"].teacher_label) == ("7", "7")
  assert (found["2"].label, found["2"].status) == ("", "no_completion")
  assert (found["3"].label, found["3"].status) == ("2.5", "no_marker")
  (tmp_path / "b.jsonl").write_text(json.dumps(
      {"q": "1", "o": "entails", "why": "it is"}))
  result = import_tables.import_columns(
      dataset="anli2", outputs=tmp_path / "b.jsonl", teacher="llama",
      columns={"inputs": "q", "teacher_label": "o", "rationale": "why"},
      output=tmp_path / "records")
  statuses = result.info["sources"]["train"]["rules"]["strict"]["statuses"]
  assert list(statuses) == ["label_not_allowed"]


def test_bad_cells_are_counted(tmp_path):
  (tmp_path / "a.jsonl").write_text("\n".join([
      json.dumps({"question": " ", "answer": "x", "why": ""}),
      json.dumps({"question": "1", "answer": ["x", "y"], "why": ""}),
      json.dumps({"question": "\ud800", "answer": "x", "why": ""}),
      '{"question": "2", "answer": NaN, "why": ""}', "[]", "{",
      json.dumps({"question": "3", "answer": "x", "why": "y"})]))
  source = import_columns(tmp_path, tmp_path / "a.jsonl").info["sources"]
  assert {k: v["count"] for k, v in source["train"]["dropped"].items()} == {
      "field_not_text": 2, "empty_inputs": 1, "invalid_utf8": 1,
      "row_not_object": 1, "not_json": 1}
  (tmp_path / "b.csv").write_bytes(
      b"question,answer,why\na,b\nc,d,e,f\ng\xff,h,i\nj,k,l\n")
  source = import_columns(tmp_path, tmp_path / "b.csv").info["sources"]
  assert {k: v["count"] for k, v in source["train"]["dropped"].items()} == {
      "columns_differ": 2, "invalid_utf8": 1}


def test_truth_values_and_lists_are_joined_or_refused_by_column(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text("\n".join([
      json.dumps({"question": "1", "answer": True, "why": ["one", "two"]}),
      json.dumps({"question": ["2", "b"], "answer": ["no"], "why": "so"})]))
  import_columns(tmp_path, path)
  found = {r.label: (r.inputs, r.rationale)
           for split in ("train", "validation")
           for r in read(tmp_path / "records", "mine", "llama", split)}
  assert found == {"true": ("1", "one\ntwo"), "no": ("2\nb", "so")}
  for value, kind in ((["a", "b"], "list"), ({"text": ["a"]}, "dict")):
    path.write_text(json.dumps({"question": "1", "answer": value, "why": ""}))
    with pytest.raises(errors.UserError, match=(
        "--columns=label=answer: .*a.jsonl line 1 has a value of type "
        f"{kind} there, expected a text")):
      import_columns(tmp_path, path)


def test_labels_in_other_words(tmp_path, monkeypatch):
  monkeypatch.setenv("STEPDISTILL_VOCAB", str(
      testing.write_tiny_vocabulary(tmp_path / "spiece.model")))
  (tmp_path / "a.csv").write_text(
      "question,answer,said\n1,是,否\n2,否,否\n3,是,是\n")
  columns = {"inputs": "question", "label": "answer", "teacher_label": "said"}
  result = import_columns(tmp_path, tmp_path / "a.csv", columns)
  assert len(result.info["label_losses"]) == 2
  assert "'是' = '否'" in result.info["label_losses"][0]
  arguments = dict(dataset="mine", outputs=tmp_path / "a.csv",
                   teacher="llama", columns=columns,
                   output=tmp_path / "records")
  result = import_tables.import_columns(
      **arguments, verbalize={"是": "a", "否": "b"})
  assert result.info["label_losses"] == []
  found = sorted((r.inputs, r.label, r.teacher_label)
                 for split in ("train", "validation") for r in read(
                     tmp_path / "records", "mine", "llama", split))
  assert found == [("1", "a", "b"), ("2", "b", "b"), ("3", "a", "a")]
  with pytest.raises(errors.UserError, match="--verbalize: .*'yes'"):
    import_tables.import_columns(**arguments, verbalize={"yes": "a"})
  with pytest.raises(errors.UserError, match="data sets of your own"):
    import_tables.import_columns(
        **{**arguments, "dataset": "svamp"}, verbalize={"是": "a"})


@pytest.mark.parametrize("text, message", [
    ("inputs=a,lable=b", "did you mean: .*label"), ("label=b", "for inputs"),
    ("inputs=a,inputs=b", "twice"), ("inputs", "expected NAME=COLUMN"),
    ("inputs=a,output=b,rationale=c", "give one kind"),
])
def test_columns_that_are_none(text, message):
  with pytest.raises(errors.UserError, match=message):
    import_tables.parse_columns(text)


def test_a_unions_name_is_taken(tmp_path):
  (tmp_path / "a.csv").write_text("question,answer,why\nq,1,so\n")
  with pytest.raises(errors.UserError, match="svamp and asdiv taken together"):
    import_tables.import_columns(
        dataset="svamp_asdiv", outputs=tmp_path / "a.csv", columns=COLUMNS,
        teacher="llama", output=tmp_path)


def test_a_column_that_is_not_there(tmp_path):
  (tmp_path / "a.csv").write_text("qestion,answer,why\n1,a,b\n")
  with pytest.raises(errors.UserError, match="did you mean: qestion"):
    import_columns(tmp_path, tmp_path / "a.csv")


def test_split_words():
  assert containers.split_of("esnli_dev.csv") == "validation"
  assert containers.split_of("test-00000-of-00001.parquet") == "test"
  assert containers.split_of("latest.csv") is None
  assert containers.split_of("train_test.csv") is None


@pytest.mark.parametrize("dataset, sizes", [
    ("svamp", {"train": 720, "validation": 80, "test": 200}),
    ("cqa", {"train": 8766, "validation": 975, "test": 1221}),
    ("gsm8k", {"train": 6725, "validation": 748, "test": 1319}),
    ("asdiv", {"train": 2305}),
    ("esnli", {"validation": 9842, "test": 9824}),
])
def test_real_rows_without_teacher(tmp_path, dataset, sizes):
  data = testing.real_data_dir()
  import_tables.import_rows(
      dataset=dataset, rows=data / dataset, output=tmp_path)
  assert records.split_sizes(tmp_path, dataset, "human") == sizes


def test_the_undivided_svamp_file_gives_the_papers_splits(tmp_path):
  data = testing.real_data_dir() / "svamp"
  import_tables.import_rows(dataset="svamp", rows=data, output=tmp_path)
  import_tables.import_rows(
      dataset="svamp", rows=data / "SVAMP.json", output=tmp_path,
      teacher="other")
  for split in records.SPLITS:
    assert [(r.id, r.inputs, r.label, r.origin) for r in read(
        tmp_path, "svamp", "human", split)] == [
            (r.id, r.inputs, r.label, r.origin) for r in read(
                tmp_path, "svamp", "other", split)]


def test_human_labels_are_not_compared_with_themselves(tmp_path, capsys):
  for split in ("train", "test"):
    (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(
        {"question": f"{split} {n}", "answer": f"So.\n#### {n}"}) + "\n"
        for n in range(20)))
  places = ["--dataset=gsm8k", f"--records_dir={tmp_path / 'records'}"]
  assert cli.main(["teacher", "import", "--format=rows", "--teacher=human",
                   f"--rows={tmp_path}", *places]) == 0
  why = "the labels are the rows' own"
  assert capsys.readouterr().out.count(
      f"teacher accuracy not measured ({why})") == 2
  for flags in ([], ["--json"]):
    assert cli.main(["teacher", "audit", *places, *flags]) == 0
    said = capsys.readouterr().out
    page = tmp_path / "records/stepdistill_gsm8k/human/1.0.0/audit.html"
    assert "100.00%" not in said.split("rationales that contradict")[0]
    assert "agrees" not in page.read_text("utf-8")
  report = json.loads(said)
  for counts in report["import"]["sources"]["test"]["rules"].values():
    assert counts["own_labels"] == counts["with_gold"] == 20
    assert (counts["compared"], counts["correct"], counts["accuracy"],
            counts["why_no_accuracy"]) == (0, None, None, why)
  assert report["splits"]["test"]["teacher_accuracy"] == {
      "correct": None, "of_all_with_human_label": 20, "of_both_labels": 0,
      "accuracy": None, "why_not": why}
  assert eval_main.main(["--teacher=human", "--benchmarks=gsm8k", "--json",
                         places[1]]) == 2
  assert ("the labels of teacher human are the rows' own in gsm8k"
          in capsys.readouterr().err)


def one_row(tmp_path, dataset, fields, **options):
  (tmp_path / "train.jsonl").write_text(json.dumps(fields))
  import_tables.import_rows(
      dataset=dataset, rows=tmp_path / "train.jsonl",
      output=tmp_path / "records", **options)
  sizes = records.split_sizes(tmp_path / "records", dataset, "human")
  (found,) = [r for split in sizes for r in read(
      tmp_path / "records", dataset, "human", split)]
  return found.inputs, found.label, found.rationale


@pytest.mark.parametrize("dataset, fields, expected", [
    ("anli2", {"context": "P", "hypothesis": "H", "label": "c", "reason": "r"},
     ("P</s>H", "contradiction", "r")),
    ("esnli", {"Sentence1": "P", "Sentence2": "H", "gold_label": "neutral",
               "Explanation_1": "r"}, ("P</s>H", "neutral", "r")),
    ("esnli", {"premise": "P", "hypothesis": "H", "label": -1,
               "explanation_1": ""}, ("P</s>H", "", "")),
    ("cqa", {"question": "Q", "choices": {"label": ["A", "B"],
                                          "text": ["x", "y"]},
             "answerKey": "B"},
     ("Q\nAnswer Choices:\n(a) x\n(b) y", "y", "")),
    ("cqa", {"question": {"stem": "Q", "choices": [
        {"label": "A", "text": "x"}]}, "answerKey": "A"},
     ("Q\nAnswer Choices:\n(a) x", "x", "")),
    ("svamp", {"Body": "B.", "Question": "Q?", "Equation": "( 1.0 )"},
     ("B.\nQ?", "( 1.0 )", "")),
    ("asdiv", {"body": "B.", "question": "Q?", "answer": "9 (apples)"},
     ("B.\nQ?", "9", "")),
    ("gsm8k", {"question": "Q", "answer": "So <<1+1=2>>2.\n#### 1,234"},
     ("Q", "1234", "So 2.")),
])
def test_forms_of_the_known_data_sets(tmp_path, dataset, fields, expected):
  assert one_row(tmp_path, dataset, fields, allow_useless=True) == expected


@pytest.mark.parametrize("columns, task, says", [
    ("label=b,rationale=c", "mine_step_gold_t",
     "not measured (no teacher label to compare with 3 human ones)"),
    ("output=d", "mine_step_t_t", "not measured (no human labels)"),
    ("rationale=c", "mine_explain_t", "not measured (no human labels)"),
    ("label=b,teacher_label=f", "mine_label_gold",
     "100.00% (3 of 3 with a human label)"),
    ("label=b,teacher_label=b", "mine_label_gold",
     "not measured (the labels are the rows' own)"),
    ("label=b", "mine_label_gold", ""),
])
def test_an_import_says_what_it_measured_and_what_can_be_trained(
    tmp_path, capsys, columns, task, says):
  (tmp_path / "train.csv").write_text("a,b,c,d,f\n" + "".join(
      f"question {n},{n},reason {n},So it is. The answer is {n}.,{n}\n"
      for n in range(3)))
  command = ["teacher", "import", "--format=columns", "--dataset=mine",
             "--teacher=t", f"--outputs={tmp_path}",
             f"--columns=inputs=a,{columns}", f"--records_dir={tmp_path}"]
  assert cli.main(command) == 0
  said = capsys.readouterr().out
  assert said.rstrip().endswith(f"train on the task {task}")
  assert ("teacher accuracy " + says if says else "mine/t") in said
  assert says or "accuracy" not in said
  assert cli.main(["teacher", "audit", "--json",
                   f"--records_dir={tmp_path}"]) == 0
  report = json.loads(capsys.readouterr().out)
  measured = {"100.00% (3 of 3 with a human label)": (3, 1.0)}.get(
      says, (None, None))
  accuracy = report["splits"]["train"]["teacher_accuracy"]
  assert (accuracy["correct"] is None) == (measured[0] is None)
  assert accuracy["accuracy"] == measured[1]
  source = report["import"]["sources"]["train"]
  assert source["without_continuation"] is None  # `mine` has no such mark.
  for counts in source["rules"].values():
    assert (counts["correct"], counts["accuracy"]) == measured
    assert (counts["empty_rationales"] is None) == (
        "rationale" not in columns and "output" not in columns)
  assert bool(source["rules"]) == (columns != "label=b")


@pytest.mark.parametrize("flags", [
    ["--format=columns", "--columns=inputs=a", "--teacher=t",
     "--outputs=MISSING"],
    ["--format=published", "--teacher=t", "--rows=MISSING", "--outputs=."],
    ["--format=llama3", "--teacher=t", "--rows=.", "--outputs=MISSING"],
    ["--format=llama3_cot", "--teacher=t", "--rows=MISSING", "--outputs=."],
    ["--format=cache", "--outputs=MISSING"],
    ["--format=rows", "--rows=MISSING"],
])
def test_a_missing_folder_is_called_missing(tmp_path, capsys, flags):
  assert cli.main(["teacher", "import", "--dataset=svamp",
                   f"--records_dir={tmp_path}", *(
                       flag.replace("MISSING", str(tmp_path / "nowhere"))
                       for flag in flags)]) == 2
  assert capsys.readouterr().err.startswith(
      "error: there is no file or folder --")


@pytest.mark.parametrize("columns, reason", [
    ("label=a,output=a", "train: 3 no_marker"),
    ("output=a", "train: 3 no_marker"),
    ("rationale=e", "none of the 3 rows of mine has a label"),
])
def test_records_that_nothing_can_be_learned_from_are_not_written(
    tmp_path, capsys, columns, reason):
  (tmp_path / "train.csv").write_text(
      "a,e\n" + "".join(f"question {n},\n" for n in range(3)))
  assert cli.main([
      "teacher", "import", "--format=columns", "--dataset=mine", "--teacher=t",
      f"--outputs={tmp_path}", f"--columns=inputs=a,{columns}",
      f"--records_dir={tmp_path}"]) == 2
  error = capsys.readouterr().err
  assert reason in error and len(error.splitlines()) == 1
  assert not records.list_records(tmp_path)


def test_a_prepared_tfds_folder(tmp_path):
  folder = tmp_path / "gsm8k" / "1.0.0"
  folder.mkdir(parents=True)
  texts = ("question", "answer")
  with (folder / "gsm8k-train.tfrecord-00000-of-00001").open("wb") as file:
    for i in range(20):
      tfrecord_files.write_record(file, tfrecord_files.encode_example(
          {"question": f"Q{i}", "answer": f"R. #### {i}"}))
  package = "tensorflow_datasets.core.features."
  (folder / "features.json").write_text(json.dumps({
      "pythonClassName": package + "features_dict.FeaturesDict",
      "featuresDict": {"features": {
          name: {"pythonClassName": package + "text_feature.Text", "text": {}}
          for name in texts}}}))
  (folder / "dataset_info.json").write_text(json.dumps({
      "name": "gsm8k", "version": "1.0.0", "fileFormat": "tfrecord",
      "splits": [{"name": "train", "shardLengths": ["20"], "filepathTemplate":
                  "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}]}))
  import_tables.import_rows(
      dataset="gsm8k", rows=folder, output=tmp_path / "records")
  found = [r for split in ("train", "validation")
           for r in read(tmp_path / "records", "gsm8k", "human", split)]
  assert sorted((r.inputs, r.label) for r in found) == sorted(
      (f"Q{i}", str(i)) for i in range(20))


def test_rows_that_are_not_there(tmp_path):
  with pytest.raises(errors.UserError, match="no rows of svamp"):
    import_tables.import_rows(dataset="svamp", rows=tmp_path, output=tmp_path)


def test_a_file_of_which_no_row_is_read_says_why(tmp_path):
  path = tmp_path / "rows.csv"
  path.write_bytes("question,answer,why\né,a,b\nü,a,b\n".encode("latin-1"))
  with pytest.raises(errors.UserError, match=(
      "line 2, column 'question' is not UTF-8, .* `iconv -f")):
    import_columns(tmp_path, path)
  path = tmp_path / "rows.jsonl"
  path.write_text('{"question"\n{"question"\n')
  with pytest.raises(errors.UserError, match="line 1 is not_json"):
    import_columns(tmp_path, path)


@pytest.mark.parametrize("kind", ["summary", "conversation"])
def test_texts_without_one_right_label_have_no_accuracy(
    tmp_path, capsys, kind):
  (tmp_path / "train.csv").write_text("a,b,f\n" + "".join(
      f"dialogue {n},They met {n} times.,They meet.\n" for n in range(3)))
  assert cli.main([
      "teacher", "import", "--format=columns", "--dataset=mine",
      "--teacher=t", f"--outputs={tmp_path}", f"--kind={kind}",
      "--columns=inputs=a,label=b,teacher_label=f",
      f"--records_dir={tmp_path}"]) == 0
  why = "such texts are not right or wrong; `stepdistill-eval` has metrics"
  assert f"teacher accuracy not measured ({why})" in capsys.readouterr().out
  assert cli.main(["teacher", "audit", "--json",
                   f"--records_dir={tmp_path}"]) == 0
  report = json.loads(capsys.readouterr().out)
  assert report["splits"]["train"]["teacher_accuracy"] == {
      "correct": None, "of_all_with_human_label": 2, "of_both_labels": 0,
      "accuracy": None, "why_not": why}  # One of three was held out.
