"""Texts without labels, of which the task teacher alone says what they are."""

import json
from pathlib import Path

import pytest

from pruneonce import recipe, stages
from pruneonce.data.keys import task_key
from pruneonce.errors import UserError
from pruneonce.plan.task_work import task_works
from pruneonce.recipe import Prune, Quantize, Training, Transfer, make_task
from pruneonce.tasks import kind_of

SETTINGS = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}
TEXTS = ["a great one", "  ", "what an awful thing", "neither"] * 8


@pytest.fixture
def write(tmp_path):
    def write(name, rows):
        (tmp_path / name).write_text("".join(f"{json.dumps(row) if isinstance(row, dict) else row}\n" for row in rows))
        return str(tmp_path / name)

    return write


def steps(model):
    return json.loads((model / "pruneonce.json").read_text())["training"]["steps"]


def test_stages_with_a_teacher_learn_from_them_too(encoder, task, models, write, tmp_path):
    dense, sparse = models
    more = task.model_copy(update={"unlabelled": write("texts.txt", TEXTS)})  # 24 that are not blank, beside 96
    made = stages.transfer(sparse, more, Transfer(**SETTINGS), tmp_path / "transfer", teacher=dense)
    assert steps(made) == (96 + 24) / 16 + 0.5
    made = stages.quantize(made, more, Quantize(**SETTINGS), tmp_path / "int8", teacher=dense)
    assert steps(made) == (96 + 24) / 16 + 0.5
    assert steps(stages.finetune(encoder, more, Training(**SETTINGS), tmp_path / "dense")) == 96 / 16


def test_the_teachers_word_for_them_is_learnt(task, models, write, tmp_path):
    """With two labelled rows and many texts, what the teacher knows of these is what the sparse model learns."""
    dense, _ = models
    rows = [json.loads(line) for line in Path(task.train).read_text().splitlines()]
    few = {**task.model_dump(), "train": write("few.jsonl", rows[:2])}
    texts = write("more.txt", [row["text"] for row in rows] * 4)
    pruning = Prune(steps=1, learning_rate=1, sparsity=0.9, objective="hidden")
    pruned = stages.prune_one_shot(dense, pruning, tmp_path / "pruned")
    settings = Transfer(epochs=4, batch_size=16, learning_rate=3e-3)
    found = []
    for unlabelled in (None, texts):
        own = make_task({**few, "unlabelled": unlabelled})
        made = stages.transfer(pruned, own, settings, tmp_path / f"with-{unlabelled is not None}", teacher=dense)
        found.append(stages.evaluate(made, own)["test"]["accuracy"])
    assert found[1] > max(0.9, found[0] + 0.2)


def test_each_kind_of_texts_has_them_in_its_own_columns(write, tmp_path, tokenizer):
    pair = {"one": "great", "two": "awful", "score": 1}
    rows = [{**pair, "score": number} for number in (0, 1)]
    rows = [{**row, "one": f"great {row['score']}"} for row in rows]
    files = {split: write(f"{split}.jsonl", rows) for split in ("train", "dev")}
    files["unlabelled"] = write("more.jsonl", [{"one": "great", "two": "neither"}])
    kinds = {
        "classification": {"text": "one", "text_pair": "two", "label": "score"},
        "regression": {"text": "one", "text_pair": "two", "label": "score"},
        "reranking": {"query": "one", "passage": "two", "label": "score"},
    }
    for name, columns in kinds.items():
        kind = kind_of(make_task({"kind": name, **files, **columns}))
        more = kind.load(tmp_path).unlabelled
        assert kind.texts(more) == [("great", "neither")]
        encoded = kind.encode(more, tokenizer)
        assert encoded["input_ids"][0] == tokenizer("great", "neither")["input_ids"]
        assert "labels" not in encoded.column_names


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"txt": "great"}], r"more.jsonl, line 1: no column 'text', only 'txt'"),
        ([{"text": "great"}, {"text": 3}], r"more.jsonl, line 2: 'text' has to be text, not 3"),
        ([{"text": " "}], "more.jsonl has no text to train on"),
    ],
)
def test_mistakes_in_them_are_one_line(rows, message, task, write, tmp_path):
    own = make_task({**task.model_dump(), "unlabelled": write("more.jsonl", rows)})
    with pytest.raises(UserError, match=message):
        kind_of(own).load(tmp_path)


def test_they_have_no_labels_to_learn(task, models, write, tmp_path):
    own = task.model_copy(update={"unlabelled": write("texts.txt", TEXTS)})
    with pytest.raises(
        UserError, match=r"`unlabelled` texts have no label to learn, so `task_weight` has to be 0, not 0\.5"
    ):
        stages.transfer(models[1], own, Transfer(**SETTINGS, task_weight=0.5), tmp_path / "made", teacher=models[0])


def test_a_plan_counts_them(recipe_values, task, write, tmp_path):
    unlabelled = write("texts.txt", TEXTS)  # 24 beside 96
    tokens = {}
    for name in (None, unlabelled):
        recipe_values["tasks"] = {"mood": {**task.model_dump(exclude={"kind"}), "unlabelled": name}}
        values = recipe.validate(recipe.Recipe, {**recipe_values, "quantize": {"int8": SETTINGS}})
        works = task_works(values, "mood", tmp_path, [])
        tokens[name] = {work.name.rpartition("/")[2]: work.tokens for work in works if work.settings}
    assert tokens[None]["dense"] == tokens[unlabelled]["dense"]
    assert tokens[unlabelled]["sparse"] > 1.05 * tokens[None]["sparse"]
    assert tokens[unlabelled]["int8"] > 1.05 * tokens[None]["int8"]


def test_the_teacher_stays_valid_when_they_come_or_change(task, write):
    own = task.model_copy(update={"unlabelled": write("texts.txt", TEXTS)})
    assert task_key(own) == task_key(task)
    before = task_key(own, taught=True)
    assert before != task_key(task, taught=True)
    write("texts.txt", TEXTS[:4])
    assert task_key(own, taught=True) != before


def test_kinds_whose_rows_are_more_than_texts_have_no_such_key(task_files):
    files = {split: str(task_files / f"{split}.jsonl") for split in ("train", "dev")}
    with pytest.raises(UserError, match="unlabelled"):
        recipe.make_task({"kind": "token-classification", **files, "unlabelled": "more.jsonl"})
