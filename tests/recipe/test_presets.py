"""Known tasks: by name, in a list, with changes, over files of one's own, and from a hub that is none."""

import datasets
import pytest
import yaml

from pruneonce import recipe, stages
from pruneonce.data.keys import task_key
from pruneonce.errors import UserError
from pruneonce.recipe import KINDS, PRESETS, Recipe, make_task, validate
from pruneonce.recipe.presets import with_preset
from pruneonce.runs import pipeline
from pruneonce.tasks import kind_of

MINIMAL = {
    "name": "mine",
    "model": "some/encoder",
    "corpus": {"source": "text.txt"},
    "prune": {"steps": 100, "learning_rate": 1e-4},
    "teacher": {"epochs": 2, "learning_rate": 2e-5},
    "transfer": {"epochs": 3, "learning_rate": 1e-4},
}
MNLI = {**PRESETS["mnli"]}


@pytest.fixture
def load(tmp_path):
    """A recipe with these tasks, out of a file."""

    def load(tasks, *overrides):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**MINIMAL, "tasks": tasks}, sort_keys=False))
        return recipe.load(str(tmp_path / "mine.yaml"), list(overrides))

    return load


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_task(name):
    task = make_task({"preset": name})
    assert task == make_task(PRESETS[name])
    assert task.kind in KINDS
    assert (task.train, task.source.split("/")[0]) == ("train", "rajpurkar" if "squad" in name else "nyu-mll")
    assert set(task.splits()) <= {"train", "dev", "test", "mismatched"}


@pytest.mark.parametrize("tasks", [["sst2", "mnli"], {"sst2": "sst2", "mnli": {"preset": "mnli"}}])
def test_names_are_tasks(load, tasks):
    found = load(tasks).tasks
    assert list(found) == ["sst2", "mnli"]
    assert found["sst2"] == make_task(PRESETS["sst2"])
    assert found["mnli"] == make_task(MNLI)
    assert found == validate(Recipe, {**MINIMAL, "tasks": tasks}).tasks, "and without a file"


def test_a_name_of_ones_own_and_changes(load):
    changes = {"preset": "mnli", "max_length": 64, "transfer": {"epochs": 9}, "held_out": {"more": "some_split"}}
    loaded = load({"a": "sst2", "b": changes})
    assert loaded.tasks["a"].subset == "sst2"
    assert loaded.tasks["b"].held_out == {"mismatched": "validation_mismatched", "more": "some_split"}
    assert (loaded.tasks["b"].max_length, loaded.transfer_for("b").epochs) == (64, 9)


def test_the_form_of_a_preset_for_files_of_ones_own(load):
    for name, columns in (("sst2", ("sentence", None)), ("mnli", ("premise", "hypothesis"))):
        task = load({"own": {"preset": name, "source": None, "train": "a.jsonl", "dev": "b.jsonl"}}).tasks["own"]
        assert task.splits() == {"train": "a.jsonl", "dev": "b.jsonl"}
        assert (task.source, task.subset, task.text, task.text_pair) == (None, None, *columns)
    with pytest.raises(UserError, match=r"`tasks\.own\.train` is missing; `tasks\.own\.dev` is missing"):
        load({"own": {"preset": "sst2", "source": None}})


@pytest.mark.parametrize(
    ("tasks", "override", "epochs"),
    [
        (["sst2", "mnli"], ["tasks.sst2.transfer.epochs=9"], {"sst2": 9, "mnli": 3}),
        ([], ["tasks=[sst2, mnli]", "tasks.sst2.transfer.epochs=9"], {"sst2": 9, "mnli": 3}),
        ({}, ["tasks.new.preset=rte", "tasks.new.transfer.epochs=9"], {"new": 9}),
        ({}, ["tasks.new=rte"], {"new": 3}),
        (["sst2", "mnli"], ["tasks.mnli=null"], {"sst2": 3}),
    ],
)
def test_overrides_reach_into_a_list(load, tasks, override, epochs):
    loaded = load(tasks, *override)
    assert {name: loaded.transfer_for(name).epochs for name in loaded.tasks} == epochs


def test_a_recipe_that_extends_one_with_a_list(load, tmp_path):
    load(["sst2", "mnli"])
    (tmp_path / "over.yaml").write_text("extends: mine\ntasks: {mnli: null, sst2: {max_length: 64}, cola: cola}\n")
    found = recipe.load(str(tmp_path / "over.yaml")).tasks
    assert {name: task.max_length for name, task in found.items()} == {"sst2": 64, "cola": 128}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["sst3"], "`tasks.sst3`: no task is known as 'sst3', only cola, .*; did you mean 'sst2'"),
        ({"a": "qwertz"}, "`tasks.a`: no task is known as 'qwertz', only cola, sst2, .*, squad_v2$"),
        ({"a": {"preset": 5}}, "`tasks.a`: no task is known as '5'"),
        ({"a": {"preset": "sst2", "lable": "x"}}, "unknown key `tasks.a.lable`; did you mean `label`"),
        ({"a": {"preset": "stsb", "labels": ["x", "y"]}}, "unknown key `tasks.a.labels`"),
        ({"a": {"preset": "sst2", "kind": "clasification"}}, "`tasks.a`: `kind` is one of classification, regression"),
        ({"a": {"preset": "sst2", "held_out": {"dev": "x"}}}, "`tasks.a.held_out`: `dev` is a key of the task itself"),
        (["sst2", {"mnli": {}}], "`tasks`: Input should be a valid dictionary"),
        (5, "`tasks`: Input should be a valid dictionary"),
    ],
)
def test_a_mistake_is_one_line(load, tasks, message):
    with pytest.raises(UserError, match=message) as caught:
        load(tasks)
    assert "\n" not in str(caught.value)


def test_a_preset_is_not_changed_by_its_use():
    before = yaml.safe_dump(PRESETS)
    with_preset({"preset": "mnli", "held_out": {"more": "x"}, "transfer": {"epochs": 2}})
    make_task({"preset": "mnli", "source": None, "train": "a", "dev": "b"})
    assert yaml.safe_dump(PRESETS) == before


# -- further splits ---------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, task_files):
    """A hub that has MNLI, in which each premise says what follows."""
    words = {"negative": "awful", "positive": "great", "neutral": "river"}
    names = ["positive", "neutral", "negative"]
    features = datasets.Features(
        premise=datasets.Value("string"),
        hypothesis=datasets.Value("string"),
        label=datasets.ClassLabel(names=names),
        idx=datasets.Value("int32"),
    )
    sizes = {"train": 48, "validation_matched": 12, "validation_mismatched": 9}
    asked = []

    def load(source, subset, *, split, cache_dir):
        asked.append((source, subset, split))
        labels = [number % 3 for number in range(sizes[split])]
        rows = {
            "premise": [f"the {words[names[label]]} was" for label in labels],
            "hypothesis": ["it is"] * len(labels),
            "label": labels,
            "idx": list(range(len(labels))),
        }
        return datasets.Dataset.from_dict(rows, features=features)

    monkeypatch.setattr("pruneonce.data.readers.load_dataset", load)
    return asked


def test_mismatched_mnli_is_measured_under_its_name(hub, encoder, tmp_path):
    task = make_task({"preset": "mnli", "max_length": 16})
    data = kind_of(task).load(tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 48, "dev": 12, "mismatched": 9}
    assert set(hub) == {
        ("nyu-mll/glue", "mnli", split) for split in (MNLI["train"], MNLI["dev"], "validation_mismatched")
    }
    training = recipe.Training(steps=2, learning_rate=1e-3)
    model = stages.finetune(encoder, task, training, tmp_path / "dense")
    found = stages.evaluate(model, task)
    assert {split: metrics["examples"] for split, metrics in found.items()} == {"dev": 12, "mismatched": 9}


def test_a_run_measures_further_splits_and_knows_their_files(tiny_recipe, task_files, tmp_path):
    values = tiny_recipe()
    further = tmp_path / "further.jsonl"
    further.write_text((task_files / "dev.jsonl").read_text())
    short = {"steps": 1, "batch_size": 16, "learning_rate": 1e-3}
    values |= {"teacher": short, "transfer": short, "baselines": {}, "pack": False}
    values["prune"] |= {"steps": 4, "every": 1}
    values["tasks"]["mood"] |= {"held_out": {"further": str(further)}}
    made = validate(Recipe, values)
    summary = pipeline.run(made, tmp_path / "run")
    for row in summary["results"]:
        assert row["split"] == "test"
        assert row["all"]["further"] == row["all"]["dev"]
    before = task_key(made.tasks["mood"])
    further.write_text((task_files / "test.jsonl").read_text())
    assert task_key(made.tasks["mood"]) != before
    with pytest.raises(UserError, match=r"file .*further\.jsonl: not what it was when the run in"):
        pipeline.run(made, tmp_path / "run")
