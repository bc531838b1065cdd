"""The JSON schema takes every recipe that there is, and refuses wrong ones, by a validator of its own."""

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from pruneonce.cli import main
from pruneonce.recipe import loading, schema

ROOT = Path(__file__).parents[2]
FILES = sorted(loading.RECIPES.glob("*.yaml"))
BENCHMARKS = [ROOT / "benchmarks" / name for name in ("prune_once.yaml", "int8.yaml")]
PAGES = ["README.md", "docs/recipes.md", "docs/tasks.md"]
EXAMPLES = [
    (f"{page} {number}", text)
    for page in PAGES
    for number, text in enumerate(
        re.findall(r"^```yaml\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
    )
]
GOOD = {"name": "x", "model": "m", "corpus": {"source": "a.txt"}, "prune": {"steps": 1, "learning_rate": 0.001}}
TASK = {"train": "a.csv", "dev": "b.csv"}


@pytest.fixture(scope="module")
def validator():
    made = schema.json_schema()
    Draft202012Validator.check_schema(made)
    return Draft202012Validator(made)


@pytest.mark.parametrize("file", [*FILES, *BENCHMARKS], ids=lambda file: file.stem)
def test_recipes_are_valid(file, validator):
    assert list(validator.iter_errors(yaml.safe_load(file.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize("text", [text for _, text in EXAMPLES], ids=[name for name, _ in EXAMPLES])
def test_examples_are_valid(text, validator):
    assert list(validator.iter_errors(yaml.safe_load(text))) == []


def test_there_are_examples_of_both_pages():
    assert {name.split()[0] for name, _ in EXAMPLES} == set(PAGES)
    assert len(FILES) > 10


def prune(**more):
    return {"prune": {**GOOD["prune"], **more}}


def task(**more):
    return {"tasks": {"mine": {**TASK, **more}}}


# What is right in a recipe that stands alone.
RIGHT = [
    {"tasks": ["sst2", "mnli"]},
    {"tasks": {"a": "sst2", "b": {"preset": "squad", "doc_stride": 64, "source": None, **TASK}}},
    task(),
    task(text="body"),
    task(kind="embedding", examples=3),
    task(kind="token-classification", tags="ner"),
    task(transfer={"epochs": 3, "sweep": None}, quantize={"int8": None}),
    prune(method="obert"),
    prune(method={"name": "obert", "gradients": 16}),
    {"prepare": None},
    {"quantize": {"int8": {"epochs": 1}, "int8_ptq": {}}},
    {"teacher": {"epochs": 1, "learning_rate": 0.1, "sweep": {"epochs": [1, 2]}}},
]
# What is wrong in one.
WRONG = [
    {"seed": "a"},
    {"seed": None},
    {"sede": 1},
    {"prune": {"steps": 1}},
    prune(sparsty=0.9),
    prune(sparsity=1),
    prune(sparsity="high"),
    prune(objective="mml"),
    prune(method="cram"),
    prune(method="obrt"),
    prune(method={"gradients": 16}),
    prune(method={"name": "obert", "gradient": 16}),
    {"prepare": {**GOOD["prune"], "method": "obert"}},
    {"tasks": "sst2"},
    {"tasks": ["sst3"]},
    {"tasks": {"a": None}},
    {"tasks": {"a": {"train": "a.csv"}}},
    {"tasks": {"a": {"preset": "sst3"}}},
    {"tasks": {"a": {"preset": "sst2", "doc_stride": 64}}},
    task(kind="ner"),
    task(tags="ner"),
    task(kind="embedding", labels=["a"]),
    task(transfer={"epoch": 3}),
    task(transfer={"epochs": "three"}),
    {"quantize": {"int8": {}, "int9": {}}},
    {"teacher": {"epochs": 1, "learning_rate": 0.1, "sweep": {"epochs": 1}}},
    {"export": ["onnxx"]},
    {"extends": 3},
]
# What is right only where something lies below.
CHANGES = [
    {"seed": None},
    {"prune": {"sparsity": 0.5}},
    {"prune": None},
    {"tasks": {"mnli": None}},
    {"tasks": {"squad": {"doc_stride": 64, "test": None}}},
    {"tasks": {"mine": {"transfer": {"epochs": 1}}}},
    {"baselines": {"gradual": {"epochs": None, "steps": 5}}},
    prune(method={"gradients": 16}),
]


def is_valid(validator, values):
    return not list(validator.iter_errors(values))


@pytest.mark.parametrize("values", RIGHT, ids=str)
def test_right(values, validator):
    assert is_valid(validator, {**GOOD, **values})
    assert is_valid(validator, {**GOOD, **values, "extends": "other"})


@pytest.mark.parametrize("values", WRONG, ids=str)
def test_wrong(values, validator):
    assert not is_valid(validator, {**GOOD, **values})


@pytest.mark.parametrize("values", CHANGES, ids=str)
def test_changes_need_something_below(values, validator):
    changed = {**GOOD, **values}
    assert is_valid(validator, {"name": "x", "extends": "other", **values})
    assert is_valid(validator, {key: value for key, value in changed.items() if key != "name"}), "a base"
    assert not is_valid(validator, changed)


@pytest.mark.parametrize("key", [key for key in GOOD if key != "name"])
def test_what_is_required(key, validator):
    assert not is_valid(validator, {name: value for name, value in GOOD.items() if name != key})


@pytest.mark.parametrize(
    "values", [{"sede": 1}, prune(sparsty=1), {"tasks": {"a": {"kind": "regression", "tags": "b"}}}, {"seed": "a"}]
)
def test_wrong_below_something_too(values, validator):
    assert not is_valid(validator, {"name": "x", "extends": "other", **values})


@pytest.mark.parametrize("values", [one for one in [*RIGHT, *WRONG] if "extends" not in one], ids=str)
def test_it_agrees_with_the_recipe_itself(values, validator, tmp_path):
    """But for what keys ask of one another, which no schema says: here, settings that a task needs."""
    settings = {"epochs": 1, "learning_rate": 0.1}
    whole = {**GOOD, "teacher": settings, "transfer": settings, **values}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(whole))
    try:
        loading.load(str(tmp_path / "mine.yaml"))
    except loading.UserError:
        assert values in WRONG
    else:
        assert values in RIGHT


def test_the_command_line_prints_it(capsys):
    assert main(["recipes", "schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(schema.json_schema()))
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
