"""Names, numbers and orders of labels in data, tasks and models: the right index by name, or one line."""

import json
import re

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared.models import CONFIGS, WORDS, make_model
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import AutoModelForSequenceClassification, BertConfig

from pruneonce import recipe, stages
from pruneonce.cli import main
from pruneonce.data import class_names
from pruneonce.data.readers import Table, read_file
from pruneonce.errors import UserError
from pruneonce.metrics import glue
from pruneonce.recipe import Classification, Quantize, TokenClassification, Training, Transfer
from pruneonce.tasks import kind_for, kind_of, loaded
from pruneonce.tasks.labels import Classes, are_numbered, names_of

NLI = ["contradiction", "entailment", "neutral"]  # the model's order
DATA = ["entailment", "neutral", "contradiction"]  # the order of the numbers in the data
TEXTS = [f"{first} {second}" for first in WORDS[20:30] for second in WORDS[30:36]]


@pytest.fixture(autouse=True)
def _nothing_kept():
    """Data read by an earlier test would be passed over in silence."""
    loaded.KEPT.values.clear()


@pytest.fixture(scope="module")
def nli(tmp_path_factory, tokenizer):
    """A classifier, and the name of the class that it gives each of TEXTS; all three are given."""
    return classifier(tmp_path_factory.mktemp("nli") / "model", tokenizer, NLI)


def classifier(folder, tokenizer, names):
    torch.manual_seed(1)
    config = BertConfig(**{**CONFIGS["bert"].to_diff_dict(), "num_labels": len(names)})
    config.id2label, config.label2id = dict(enumerate(names)), {name: index for index, name in enumerate(names)}
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        model.classifier.weight.normal_(0, 10)
        batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
        logits = model(**batch).logits
        model.classifier.bias -= logits.mean(0)
        given = (logits - logits.mean(0)).argmax(-1).tolist()
    assert set(given) == set(range(len(names)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, [names[index] for index in given]


def renamed(folder, target, names, tokenizer):
    """A copy of a classifier with other names."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def written(file, labels, texts=TEXTS):
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def parquet(file, labels, names, texts=TEXTS):
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=names))
    datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features).to_parquet(str(file))
    return str(file)


def evaluated(capsys, model, *arguments):
    """Accuracy and the line on labels, or the error."""
    code = main(["evaluate", str(model), *arguments, "--json"])
    out, err = capsys.readouterr()
    return (json.loads(out)["dev"]["accuracy"], err) if code == 0 else (None, err)


# -- evaluation -------------------------------------------------------------------------------------------------


def test_names_in_the_data_decide(nli, tmp_path, capsys):
    accuracy, line = evaluated(capsys, nli[0], "--dev", written(tmp_path / "dev.jsonl", nli[1]))
    assert accuracy == 1
    assert line == "labels: contradiction 0, entailment 1, neutral 2; from the model\n"


def test_labels_give_the_order_of_the_datas_numbers(nli, tmp_path, capsys):
    dev = written(tmp_path / "dev.jsonl", [DATA.index(name) for name in nli[1]])
    accuracy, line = evaluated(capsys, nli[0], "--dev", dev, "--labels", ",".join(DATA))
    assert accuracy == 1
    assert line == (
        "labels: entailment 1, neutral 2, contradiction 0; from `labels`; numbers are indices into these names; "
        "the model has another order, and each name is looked up\n"
    )
    accuracy, line = evaluated(capsys, nli[0], "--dev", dev)
    assert accuracy < 0.5
    assert "from the model; numbers are indices into these names" in line


def test_names_in_parquet_are_looked_up(nli, tmp_path, capsys):
    dev = parquet(tmp_path / "dev.parquet", [DATA.index(name) for name in nli[1]], DATA)
    accuracy, line = evaluated(capsys, nli[0], "--dev", dev)
    assert accuracy == 1
    assert "dev.parquet has the order 'entailment', 'neutral', 'contradiction', and each name is looked up" in line
    upper = parquet(tmp_path / "upper.parquet", [DATA.index(name) for name in nli[1]], [n.upper() for n in DATA])
    assert evaluated(capsys, nli[0], "--dev", upper)[0] == 1
    other = parquet(tmp_path / "other.parquet", [0, 1] * 30, ["yes", "no"])
    accuracy, line = evaluated(capsys, nli[0], "--dev", other)
    assert accuracy is None
    assert "names its classes 'yes', 'no', the model 'contradiction', 'entailment', 'neutral'; give the model's" in line


def test_models_without_names_go_by_number_where_that_is_right(nli, tmp_path, tokenizer, capsys):
    bare = renamed(nli[0], tmp_path / "bare", ["LABEL_0", "LABEL_1", "LABEL_2"], tokenizer)
    numbers = [NLI.index(name) for name in nli[1]]
    assert evaluated(capsys, bare, "--dev", written(tmp_path / "a.jsonl", numbers))[0] == 1
    accuracy, line = evaluated(capsys, bare, "--dev", parquet(tmp_path / "a.parquet", numbers, NLI))
    assert accuracy == 1
    assert "names its classes 'contradiction', 'entailment', 'neutral', and its numbers are taken as they are" in line
    named = written(tmp_path / "named.jsonl", nli[1])
    accuracy, line = evaluated(capsys, bare, "--dev", named)
    assert accuracy is None
    assert line.endswith("the model has no names, so name the data's classes in the model's order by `labels`\n")
    accuracy, line = evaluated(capsys, bare, "--dev", named, "--labels", ",".join(NLI))
    assert accuracy == 1
    assert "the model names its classes 'LABEL_0', 'LABEL_1', 'LABEL_2', so these names are in its order" in line


def test_stars_are_names(nli, tmp_path, tokenizer, capsys):
    stars = renamed(nli[0], tmp_path / "stars", ["1", "2", "3"], tokenizer)
    numbers = [NLI.index(name) + 1 for name in nli[1]]
    assert evaluated(capsys, stars, "--dev", written(tmp_path / "dev.jsonl", numbers))[0] == 1
    spaced = written(tmp_path / "spaced.jsonl", [f" {number}" for number in numbers])
    assert evaluated(capsys, stars, "--dev", spaced)[0] == 1
    accuracy, line = evaluated(capsys, stars, "--dev", written(tmp_path / "zero.jsonl", [0, *numbers[1:]]))
    assert accuracy is None
    assert line.endswith("zero.jsonl, line 1: label 0 is none of '1', '2', '3'\n")


def test_case_is_no_name_of_its_own_but_near(nli, tmp_path, capsys):
    dev = written(tmp_path / "dev.jsonl", ["Neutral", *nli[1][1:]])
    assert evaluated(capsys, nli[0], "--dev", dev) == (
        None,
        f"error: {dev}, line 1: label 'Neutral' is none of 'contradiction', 'entailment', 'neutral', nor a number "
        "from 0 to 2; did you mean 'neutral'?\n",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"label2id": {"contradiction": 2, "entailment": 1, "neutral": 0}},
            "says that 'contradiction' is class 0",
        ),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}, "label2id": None}, "gives two classes one name: 'a', 'a', 'b'"),
        ({"id2label": {"1": "a", "2": "b"}, "label2id": None}, "does not name the classes 0 to 1"),
    ],
)
def test_contradictions_in_a_configuration_are_one_line(changes, message, nli, tmp_path, capsys):
    config = {**json.loads((nli[0] / "config.json").read_text()), **changes}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    accuracy, line = evaluated(capsys, folder, "--dev", written(tmp_path / "dev.jsonl", nli[1]))
    assert accuracy is None
    assert f"config.json whose `id2label` {message}" in line
    assert line.count("\n") == 1


def test_a_file_of_one_class_is_measured(nli, tmp_path, tokenizer, capsys):
    rows = [(text, name) for text, name in zip(TEXTS, nli[1], strict=True) if name == "neutral"]
    dev = written(tmp_path / "dev.jsonl", [name for _, name in rows], [text for text, _ in rows])
    accuracy, line = evaluated(capsys, nli[0], "--dev", dev)
    assert accuracy == 1
    assert "dev: every label is 'neutral', so matthews_correlation is undefined; 0 stands for it\n" in line
    two, given = classifier(tmp_path / "two", tokenizer, ["bad", "good"])
    rows = [(text, name) for text, name in zip(TEXTS, given, strict=True) if name == "bad"]
    dev = written(tmp_path / "bad.jsonl", [name for _, name in rows], [text for text, _ in rows])
    accuracy, line = evaluated(capsys, two, "--dev", dev)
    assert accuracy == 1
    assert "every label is 'bad', so f1 and matthews_correlation are undefined" in line


def test_training_still_needs_two_classes(tmp_path):
    dev = written(tmp_path / "dev.jsonl", ["a"] * len(TEXTS))
    with pytest.raises(UserError, match="all labels are the same"):
        loaded.load(kind_of(Classification(train=dev, dev=dev)), tmp_path)


# -- training and teachers --------------------------------------------------------------------------------------

ONE_STEP = {"steps": 1, "batch_size": 16, "learning_rate": 1e-4}


def test_a_teacher_in_another_order_teaches_by_name(nli, tmp_path, tokenizer):
    """The same teacher with its classes in two orders teaches the same student, to rounding."""
    model = AutoModelForSequenceClassification.from_pretrained(nli[0])
    order = [NLI.index(name) for name in DATA]
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight[order].clone())
        model.classifier.bias.copy_(model.classifier.bias[order].clone())
    model.config.id2label, model.config.label2id = dict(enumerate(DATA)), {n: i for i, n in enumerate(DATA)}
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    dense = make_model(tmp_path / "dense", tokenizer)
    sparse = stages.prune_one_shot(
        dense, recipe.Prune(objective="hidden", steps=1, learning_rate=1e-3, sparsity=0.5), tmp_path / "sparse"
    )
    data = written(tmp_path / "data.jsonl", nli[1])
    task = Classification(train=data, dev=data)
    settings = Transfer(**ONE_STEP, hidden_weight=0)
    history = []
    for teacher in (nli[0], tmp_path / "other"):
        child = stages.transfer(sparse, task, settings, tmp_path / f"by-{teacher.name}", teacher=teacher)
        history.append(json.loads((child / "metrics.json").read_text())["history"][-1]["loss"])
    assert history[0] == pytest.approx(history[1], rel=1e-5)
    names = task.model_copy(update={"labels": ["entailment", "neutral", "no"]})
    with pytest.raises(UserError, match=r"label 'contradiction' is none of|the teacher .* has the labels"):
        stages.transfer(sparse, names, settings, tmp_path / "out", teacher=nli[0])


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (NLI, [0, 1, 2], "give the model's names in the order of the data's numbers by `labels`"),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["a", "b", "c"], "name the classes of the data in the model's order by"),
        (NLI, ["a", "b", "c"], "has the labels 'contradiction', 'entailment', 'neutral', the task has 'a', 'b', 'c'$"),
        (NLI, ["neutral", "entailment"], "has the labels .*, the task has 'entailment', 'neutral'$"),
    ],
)
def test_teachers_of_other_labels_are_refused(names, labels, message):
    classes = Classes.of(None, None, Table("t", {}), "label", enumerate(labels))
    with pytest.raises(UserError, match=message):
        classes.order_in(names, "the teacher")


def test_quantizing_a_model_in_another_order_is_refused(nli, tmp_path):
    data = written(tmp_path / "data.jsonl", nli[1])
    task = Classification(train=data, dev=data, labels=DATA)
    with pytest.raises(
        UserError, match=r"in the order 'contradiction', .*, the task in the order 'entailment', .*; give"
    ):
        stages.quantize(nli[0], task, Quantize(**ONE_STEP), tmp_path / "int8", teacher=nli[0])


def test_quantizing_a_model_of_other_classes_is_refused(nli, tmp_path):
    data = written(tmp_path / "data.jsonl", ["good", "bad"], TEXTS[:2])
    task = Classification(train=data, dev=data)
    with pytest.raises(UserError, match=r"has the labels 'contradiction', .*, the task has 'bad', 'good'; give"):
        stages.quantize(nli[0], task, Quantize(**ONE_STEP), tmp_path / "int8", teacher=nli[0])


def test_training_says_its_labels(encoder, tmp_path, capsys):
    data = written(tmp_path / "data.jsonl", ["Good", "good", "bad"] * 20)
    stages.finetune(encoder, Classification(train=data, dev=data), Training(**ONE_STEP), tmp_path / "out")
    said = capsys.readouterr().out.splitlines()
    near = "some names differ in nothing but case, spaces or the Unicode form of letters"
    assert f"  labels: Good 0, bad 1, good 2; from the data; {near}" in said
    file = parquet(tmp_path / "data.parquet", [0, 1] * 30, ["no", "yes"])
    folder = stages.finetune(encoder, Classification(train=file, dev=file), Training(**ONE_STEP), tmp_path / "named")
    assert "  labels: no 0, yes 1; from the data's metadata" in capsys.readouterr().out.splitlines()
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "no", "1": "yes"}


def test_stars_with_a_point_are_names():
    """A spreadsheet writes a column of whole numbers with a gap in it as 1.0, 2.0, ..."""
    classes = Classes.of(None, None, Table("t", {}), "label", enumerate(["1.0", "2.0", "3.0"]))
    assert classes.numbers(Table("t", {}), "label", enumerate(["1.0", 1, "2", 3])) == [0, 0, 1, 2]
    with pytest.raises(UserError, match=r"label 0 is none of '1\.0', '2\.0', '3\.0'$"):
        classes.numbers(Table("t", {}), "label", [(0, 0)])


def test_an_empty_label_is_said():
    classes = Classes.of(None, None, Table("t", {}), "label", enumerate(["a", "", "b"]))
    assert classes.line().endswith("from the data; an empty label counts as a class of its own")


def test_letters_in_two_unicode_forms():
    composed, parted = "caf\u00e9", "cafe\u0301"
    both = Classes.of(None, None, Table("t", {}), "label", enumerate([composed, parted]))
    assert "differ in nothing but case, spaces or the Unicode form of letters" in both.line()
    classes = Classes.of(None, None, Table("t", {}), "label", enumerate([composed, "bar"]))
    assert classes.order_in([parted, "bar"], "the model") == [1, 0]
    with pytest.raises(UserError, match="another Unicode form of the same letters: write all labels in one"):
        classes.numbers(Table("t", {}), "label", [(0, parted)])


# -- names in Parquet and Arrow, and in recipes -----------------------------------------------------------------


def test_tags_have_names_in_parquet_too(tmp_path):
    names = ["O", "B-X"]
    features = datasets.Features(
        tokens=datasets.List(datasets.Value("string")), tags=datasets.List(datasets.ClassLabel(names=names))
    )
    rows = {"tokens": [["a", "stone"]], "tags": [[0, 1]]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "a.parquet"))
    task = TokenClassification(train=str(tmp_path / "a.parquet"), dev=str(tmp_path / "a.parquet"))
    data = kind_of(task).load(tmp_path)
    assert (data.labels, data.splits["dev"]["tags"][:]) == (names, [[0, 1]])


def test_splits_in_other_orders_agree(tmp_path):
    train = parquet(tmp_path / "train.parquet", [0, 1, 2] * 20, NLI)
    dev = parquet(tmp_path / "dev.parquet", [0, 1, 2] * 20, DATA)
    data = kind_of(Classification(train=train, dev=dev)).load(tmp_path)
    assert [NLI[index] for index in data.splits["dev"]["label"][:3]] == DATA


@pytest.mark.parametrize(
    "features",
    [
        {"label": {"_type": "ClassLabel", "names": ["a", "b"]}},
        {"label": {"_type": "Sequence", "feature": {"_type": "ClassLabel", "names": ["a", "b"]}}},
        {"label": [{"_type": "ClassLabel", "names": ["a", "b"]}]},
    ],
)
def test_names_in_a_schema(features):
    assert class_names.of_schema(schema({"info": {"features": features}})) == {"label": ["a", "b"]}


@pytest.mark.parametrize(
    "metadata",
    [
        None, [], {}, {"info": 3}, {"info": {"features": []}}, {"info": {"features": {"label": 7}}}, "{",
        {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "a"]}}}},
        {"info": {"features": {"label": {"_type": "ClassLabel", "names": [1, 2]}}}},
        {"info": {"features": {"label": {"_type": "ClassLabel"}}}},
    ],
)  # fmt: skip
def test_broken_metadata_have_no_names(metadata, tmp_path):
    broken = schema(metadata)
    assert class_names.of_schema(broken) == {}
    pq.write_table(pa.Table.from_pylist([{"label": 1}], schema=broken), tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet", ["label"]).class_names == {}


def schema(metadata):
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    return pa.schema([("label", pa.int64())], metadata={"huggingface": text})


@pytest.mark.parametrize("labels", [[False, True], [1, 2], ["a", None]])
@pytest.mark.parametrize("kind", ["classification", "token-classification"])
def test_names_without_quotes_are_one_line(labels, kind):
    with pytest.raises(UserError, match=re.escape('`t.labels`: names want quotes, such as ["no", "yes"]: without')):
        recipe.make_task({"kind": kind, "train": "a", "dev": "b", "labels": labels}, "t")


# -- kinds of models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "keys", "kind"),
    [
        ({"problem_type": "multi_label_classification"}, [], "reranking"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, ["label"], "reranking"),
        ({"sbert_ce_default_activation_function": "torch.nn.Identity"}, [], "reranking"),
        ({"sentence_transformers": {}}, ["text_pair"], "regression"),
        ({"problem_type": "regression"}, [], "regression"),
        ({}, [], "regression"),
        ({"num_labels": 3, "sentence_transformers": {}}, [], "classification"),
    ],
)
def test_rerankers_are_recognised(changes, keys, kind):
    config = BertConfig(architectures=["BertForSequenceClassification"], **{"num_labels": 1, **changes})
    assert kind_for(config, keys) == kind


def test_a_saved_cross_encoder_is_a_reranker(encoder, tmp_path, capsys):
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(encoder), num_labels=1, device="cpu").save_pretrained(str(tmp_path / "made"))
    rows = [{"query": "which", "passage": passage, "label": int(passage == "river")} for passage in WORDS[30:38]]
    rows.append({"query": "which", "passage": "river", "label": 1})
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["evaluate", str(tmp_path / "made"), "--dev", str(tmp_path / "dev.jsonl"), "--json"]) == 0
    assert "ndcg@10" in json.loads(capsys.readouterr().out)["dev"]
    (tmp_path / "dev.jsonl").write_text('{"text": "a", "text_pair": "b", "label": 1}\n')
    assert main(["evaluate", str(tmp_path / "made"), "--dev", str(tmp_path / "dev.jsonl")]) == 2
    assert (
        "no column 'query', only 'text', 'text_pair', 'label'; `query`, `passage` and `label` of the task name the "
        "columns of reranking\n"
    ) in capsys.readouterr().err


# -- drawn ------------------------------------------------------------------------------------------------------

NAMES = st.lists(
    st.sampled_from(["a", "A", " a", "b", "c", "0", "1", "2", "3", "LABEL_0", "LABEL_1", "no", "yes", "1.5"]),
    min_size=2, max_size=5, unique=True,
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_drawn_labels_have_the_right_index_or_none(data):
    """The oracle knows what each label means, and looks nothing up in the code under test."""
    names = data.draw(NAMES)
    model = data.draw(st.permutations(names))
    labels = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=6))
    classes = Classes.of(names, None, Table("t", {}), "label", [])
    table = Table("t", {})
    order = classes.order_in(model, "m") or range(len(names))
    numbers = classes.numbers(table, "label", enumerate(labels))
    assert [model[order[number]] for number in numbers] == labels
    own = data.draw(st.permutations(names))  # the data's metadata, in an order of their own
    indexed = Table("t", {}, class_names={"label": list(own)})
    numbers = classes.numbers(indexed, "label", [(row, own.index(name)) for row, name in enumerate(labels)])
    assert [model[order[number]] for number in numbers] == labels


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_metrics_are_scikit_learns(data):
    """Of drawn labels by name or number, any subset of the classes, against drawn outputs."""
    names = data.draw(st.lists(st.text("abcde", min_size=1, max_size=3), min_size=2, max_size=5, unique=True))
    chosen = data.draw(st.lists(st.sampled_from(range(len(names))), min_size=1, max_size=12))
    by_name = data.draw(st.booleans())
    classes = Classes.of(names, None, Table("t", {}), "label", [])
    labels = classes.numbers(
        Table("t", {}), "label", enumerate([names[index] if by_name else index for index in chosen])
    )
    predicted = data.draw(st.lists(st.sampled_from(range(len(names))), min_size=len(labels), max_size=len(labels)))
    found = glue.classification(np.eye(len(names))[predicted], np.array(labels))
    gold = [names[index] for index in chosen]
    given = [names[index] for index in predicted]
    assert found["accuracy"] == pytest.approx(accuracy_score(gold, given))
    if len({*gold, *given}) > 1:
        assert found["matthews_correlation"] == pytest.approx(matthews_corrcoef(gold, given))
    if len(names) == 2:
        expected = f1_score(gold, given, labels=[names[1]], average="macro", zero_division=0)
        assert found["f1"] == pytest.approx(expected)
    else:
        assert found["f1_macro"] == pytest.approx(f1_score(gold, given, average="macro", zero_division=0))


def test_numbered_names():
    assert are_numbered(["0", "1"])
    assert are_numbered(["LABEL_0", "LABEL_1", "LABEL_2"])
    assert not are_numbered(["1", "0"])
    assert not are_numbered(["LABEL_0", "b"])
    assert names_of(BertConfig(num_labels=2), "m") == ["LABEL_0", "LABEL_1"]
