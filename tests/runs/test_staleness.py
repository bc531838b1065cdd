"""Staleness: a change of a recipe makes stale exactly the stages that would get another key.

The keys are those of the stages themselves: a whole run goes through the pipeline with every stage said to be finished,
so that nothing is trained.
"""

import json
import shutil
import sys
from itertools import permutations
from typing import get_args

import pytest
from shared.models import make_model

from pruneonce.errors import UserError
from pruneonce.models import PROVENANCE
from pruneonce.plugins import plugins
from pruneonce.recipe import Recipe, Section, validate
from pruneonce.recipe.arms import ARMS
from pruneonce.recipe.merging import merge
from pruneonce.runs import pipeline
from pruneonce.runs.staleness import stale
from pruneonce.runs.task_run import TaskRun
from pruneonce.system import durable

TRAINING = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3}
SPLITS = ("train", "dev", "test")
# A recipe with every stage and every arm. What begins with @ is a file or folder of the fixture `places`.
VALUES = {
    "name": "all",
    "model": "@model",
    "corpus": {"source": "@corpus", "block_length": 16},
    "prepare": {"steps": 4, "learning_rate": 1e-3},
    "prune": {"steps": 20, "learning_rate": 1e-3},
    "teacher": TRAINING,
    "transfer": TRAINING,
    "quantize": {"int8": TRAINING, "int8_ptq": {}, "int4": TRAINING},
    "tasks": {
        "mood": {split: f"@{split}.jsonl" for split in SPLITS},
        "vectors": {"kind": "embedding", "train": "@train.jsonl", "dev": "@dev.jsonl"},
    },
    "baselines": {"dense_int8": True, "one_shot": True, "gradual": {**TRAINING, "every": 2}},
    "export": ["onnx"],
    "benchmark": {"seconds": 0.01},
}
# Values for keys of which no other value can be guessed, by the end of the key. What begins with @ is a place, too.
OTHERS = {
    "report_to": [[]],
    "seeds": [],  # tests/runs/test_seeds.py has them
    "sweep": [],  # a test below has them
    "sparse": [],  # a test below has it
    "roles": [],  # refused for the types of the table; tests/models/test_given_roles.py has them
    "sparse_model": ["@other model"],
    "model": ["@other model"],
    "teacher_model": ["@other model"],
    "source": ["@other corpus"],
    "unlabelled": ["@other.jsonl"],
    **{split: ["@other.jsonl"] for split in SPLITS},
    "held_out": [{"more": "@other.jsonl"}],
    "tasks.mood.teacher": [{"epochs": 3}],
    "tasks.vectors.teacher": [],  # it trains none
    "tasks.mood.transfer": [{"epochs": 3}],
    "tasks.vectors.transfer": [{"epochs": 3}],
    "tasks.mood.quantize": [{"int4": {"epochs": 3}}],
    "tasks.vectors.quantize": [{"int4": {"epochs": 3}}],
    "tasks.mood.source": [],  # the same files would be splits of hub data
    "tasks.vectors.source": [],
    "labels": [["a", "b"]],
    "initial_sparsity": [0.1],
    "quantize.int4.granularity": [],  # with 4 bits there is no other
    "bits": [],  # the name of the arm says how many
    "granularity": ["tensor"],
    "pattern": ["1x4"],
    "pieces": [[1, 2]],
    "objective": ["hidden"],
    "kind": [],
    "prepare.method": [],  # none works there
    "method": [{"name": name} for name in plugins()],
}
# Whole sections that a recipe may leave out.
WITHOUT = ["prepare", "baselines.gradual", "benchmark", "quantize.int8", "quantize.int8_ptq", "quantize.int4"]


def leaves(section, path=""):
    """The dotted keys of a section and of those in it, with their fields and values; a task's changes are leaves."""
    for key, field in type(section).model_fields.items():
        place, inside = f"{path}.{key}".lstrip("."), getattr(section, key)
        if isinstance(inside, Section):
            yield from leaves(inside, place)
        elif key == "tasks":
            for name, task in inside.items():
                yield from leaves(task, f"{place}.{name}")
        else:
            yield place, field, inside


BASE = validate(Recipe, VALUES)
LEAVES = {place: (field, value) for place, field, value in leaves(BASE)}


def nested(place, value):
    for key in reversed(place.split(".")):
        value = {key: value}
    return value


def guesses(place):
    """Other values for a key, of which the first that makes a recipe is taken."""
    for end in (place, place.rsplit(".", 1)[-1]):
        if end in OTHERS:
            return OTHERS[end]
    field, value = LEAVES[place]
    if isinstance(value, bool):
        return [not value]
    if choices := [choice for choice in get_args(field.annotation) if isinstance(choice, str) and choice != value]:
        return choices
    if isinstance(value, str):
        return [f"{value}x", "f1"]
    if isinstance(value, list):
        return [value[:-1], [*value, 7]]
    return [2, 3, 0.7, 0.3, 16, 1.5, True, "x"] if value is None else [value + 1, value * 0.9, value / 2]


def changed_at(place):
    """The base recipe's values with another one at a key; None where no guess makes a recipe."""
    for guess in guesses(place):
        values = merge(BASE.model_dump(mode="json"), nested(place, guess))
        try:
            if validate(Recipe, values) != BASE:
                return values
        except UserError:
            continue
    return None


@pytest.fixture(scope="module")
def places(encoder, corpus_file, task_files, tokenizer, tmp_path_factory):
    """Puts the paths of files and folders into a recipe's values."""
    folder = tmp_path_factory.mktemp("places")
    other_text = folder / "other.txt"
    other_text.write_text(corpus_file.read_text()[:500])
    other_task = folder / "other.jsonl"
    other_task.write_text((task_files / "dev.jsonl").read_text())
    paths = {
        "@model": encoder,
        "@other model": make_model(folder / "model", tokenizer, initializer_range=0.1),
        "@corpus": corpus_file,
        "@other corpus": other_text,
        "@other.jsonl": other_task,
        **{f"@{split}.jsonl": task_files / f"{split}.jsonl" for split in SPLITS},
    }

    def fill(values):
        text = json.dumps(values)
        for name, path in paths.items():
            text = text.replace(json.dumps(name), json.dumps(str(path)))
        return validate(Recipe, json.loads(text))

    return fill


@pytest.fixture
def keys_of(tokenizer, tmp_path, monkeypatch):
    """Goes through a run of a recipe in a folder of its name; gives the key that each stage asks for, by its folder."""
    asked = {}

    def finished(output, key, *models):
        asked[output] = key
        output.mkdir(parents=True, exist_ok=True)
        training = {"steps": 0, "tokens": 0, "seconds": 0.0}
        durable.write_json({"key": key, "training": training}, output / PROVENANCE)
        return True

    instead = {
        "is_finished": finished,
        "load_tokenizer": lambda source: tokenizer,  # no folder has one
        "check_length": lambda *arguments: None,
        "check_same_shape": lambda *arguments: None,
    }
    for module in [module for name, module in sys.modules.items() if name.startswith("pruneonce.stages.")]:
        for name in instead.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, instead[name])
    monkeypatch.setattr(TaskRun, "_measure", lambda self, sparse: None)
    monkeypatch.setattr(TaskRun, "_on_dev", lambda self, model: 0.5)

    def run(recipe, name):
        asked.clear()
        output = tmp_path / name
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        pipeline._run_stages(recipe, output)
        keys = {folder.relative_to(output).as_posix(): key for folder, key in asked.items()}
        if name == "before":
            run.before = keys
        return keys

    return run


def outdated_wrongly(before, now, keys_of, tmp_path):
    """The folders whose staleness and change of key differ. `keys_of` has gone through `before`."""
    old, new = keys_of.before, keys_of(now, "now")
    outdated = stale(tmp_path / "before", before.model_dump(mode="json"), now)
    # An export that is asked for no longer is still right: it is stale with the model that it was made of.
    models = {name: name.removesuffix("-onnx") for name in old}
    return [name for name, model in models.items() if (new.get(model) != old[model]) != (name in outdated)]


def test_the_recipe_has_every_stage(places, keys_of):
    asked = keys_of(places(VALUES), "all")
    assert {"teacher", "sparse", "one-shot"} <= asked.keys()
    assert {name.rsplit("/", 1)[1] for name in asked if name.startswith("tasks/mood/")} >= ARMS.keys()
    assert "tasks/vectors/dense" not in asked, "the dense model teaches embeddings as it is"


def test_a_recipe_that_is_the_same_makes_nothing_stale(places, keys_of, tmp_path):
    before = places(VALUES)
    keys_of(before, "before")
    assert stale(tmp_path / "before", before.model_dump(mode="json"), before) == []


def test_a_changed_key_makes_stale_what_it_is_part_of(places, keys_of, tmp_path):
    """For every key of a recipe, those of tasks and of all arms included."""
    before = places(BASE.model_dump(mode="json"))
    keys_of(before, "before")
    changed = {place: changed_at(place) for place in LEAVES if guesses(place)}
    assert not [place for place, values in changed.items() if values is None], "their other values belong into OTHERS"
    assert len(changed) > 150
    wrong = {place: outdated_wrongly(before, places(values), keys_of, tmp_path) for place, values in changed.items()}
    assert not {place: names for place, names in wrong.items() if names}


@pytest.mark.parametrize("place", WITHOUT)
def test_a_section_that_is_left_out_makes_stale_what_came_of_it(place, places, keys_of, tmp_path):
    one, other = places(VALUES), places(merge(VALUES, nested(place, None)))
    assert one != other
    for before, now in ((one, other), (other, one)):
        keys_of(before, "before")
        assert outdated_wrongly(before, now, keys_of, tmp_path) == []


def test_a_sparse_encoder_makes_stale_what_comes_of_it(places, keys_of, tmp_path):
    pruned = merge(VALUES, {"baselines": {"one_shot": False}})
    taking = {**merge(pruned, dict.fromkeys(("corpus", "prepare", "prune"))), "sparse": "@model"}
    recipes = [places(values) for values in (taking, {**taking, "sparse": "@other model"}, pruned)]
    for before, now in permutations(recipes, 2):
        assert "sparse" in keys_of(before, "before")
        assert outdated_wrongly(before, now, keys_of, tmp_path) == []
        keys_of(before, "before")
        assert {"sparse", "tasks/mood/int8"} <= set(stale(tmp_path / "before", before.model_dump(mode="json"), now))


@pytest.mark.parametrize("arm", ["one-shot", "sparse"])
def test_the_pattern_is_part_of_the_one_shot_baseline(arm, places, keys_of, tmp_path):
    """Both prune to the pattern of `prune`, so it makes both stale, and all that is made of them."""
    before, now = places(VALUES), places(merge(VALUES, nested("prune.pattern", "1x4")))
    keys_of(before, "before")
    outdated = stale(tmp_path / "before", before.model_dump(mode="json"), now)
    assert {arm, f"tasks/mood/{arm}"} <= set(outdated)


@pytest.mark.parametrize("section", ["teacher", "transfer", "baselines.gradual"])
def test_a_sweep_makes_stale_what_is_chosen_by_it(section, places, keys_of, tmp_path):
    """More than the keys say: with other candidates another one might have been the best."""
    rates = ([1e-3, 2e-3], [1e-3, 3e-3])
    before, now = (places(merge(VALUES, nested(f"{section}.sweep.learning_rate", tried))) for tried in rates)
    old, new = keys_of(before, "before"), keys_of(now, "now")
    outdated = stale(tmp_path / "before", before.model_dump(mode="json"), now)
    kept = {name for name in old if ".sweep/" not in name}
    assert all(old[name] == new[name] for name in kept), "the first of equal candidates is kept"
    arms = {arm.name for arm in ARMS.values() if arm.settings == section}
    assert {f"tasks/mood/{arm}" for arm in arms} <= set(outdated)
    assert not {"teacher", "sparse", "one-shot"} & set(outdated)


def test_a_recipe_of_another_version_is_told(tmp_path, places):
    before = {**places(VALUES).model_dump(mode="json"), "prunes": {}}
    with pytest.raises(UserError, match=r"recipe\.yaml is not a recipe of this version .*`prunes`.*another --output"):
        stale(tmp_path, before, places(VALUES))
