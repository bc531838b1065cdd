"""Seeds: every task once for each, added to a run that was finished, and what they come to, against plain numpy.

One run serves most of these tests: first made without `seeds`, then extended to two.
"""

import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from pruneonce import stages
from pruneonce.cli import tables
from pruneonce.errors import UserError
from pruneonce.metrics.units import Units
from pruneonce.plan.task_work import task_works
from pruneonce.recipe import Recipe, validate
from pruneonce.runs import pipeline
from pruneonce.runs.layout import make_room_for_seeds
from pruneonce.runs.summary import over_seeds
from pruneonce.stages.evaluate import Measured
from pruneonce.tasks.cuts import Cut

RATES = [1e-3, 3e-3]
ARMS = ["dense", "one-shot", "sparse", "int8"]


def run(values, output):
    return pipeline.run(validate(Recipe, values), output)


@pytest.fixture(scope="module")
def values(tiny_recipe):
    """Small, with a sweep of the teacher and one of the transfer."""
    made = tiny_recipe()
    short = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-3}
    made["prune"] |= {"steps": 4}
    made |= {
        "seed": 1,
        "teacher": {**short, "sweep": {"learning_rate": RATES}},
        "transfer": {**short, "sweep": {"learning_rate": RATES}},
        "quantize": {"int8": {"steps": 1}},
        "baselines": {"one_shot": True},
    }
    made["tasks"]["mood"]["metric"] = "accuracy"
    return made


def evaluate(model, task, *, splits=None, cache=None):
    """Stands for the stage: models this small are all no better than chance, and equal. In a sweep the second of the
    RATES is the better one; else each model has a value of its own."""
    made = provenance(model)
    own = 0.5 + int(made["key"][:6], 16) / 16**6 / 2
    found = {"dev": 100 * made["settings"].get("learning_rate", 0), "test": own}
    sizes = {"dev": 32, "test": 40}
    return {split: {"accuracy": found[split], "examples": sizes[split]} for split in splits or found}


def measure(model, task, *, splits=None, cache=None):
    """The scores of `evaluate`; on the outcome by example no value hangs."""
    labels = np.arange(40) % 2
    outcome = Units({"predicted": labels, "label": labels}, labels, labels == labels)
    rest = (outcome, "", Cut(2, 0, 20, 0, 10))
    return {split: Measured(scores, *rest) for split, scores in evaluate(model, task, splits=splits).items()}


@pytest.fixture(scope="module")
def extended(values, tmp_path_factory):
    """`(before, after, output)`: summaries of a run without `seeds`, and of the same one when a seed was added."""
    output = tmp_path_factory.mktemp("seeds") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "evaluate", evaluate)
        patch.setattr(stages, "measure", measure)
        before = run(values, output)
        after = run({**values, "seeds": [1, 2]}, output)
    return before, after, output


@pytest.fixture
def copied(extended, tmp_path):
    return shutil.copytree(extended[2], tmp_path / "run")


def by_arm(summary):
    return {row["arm"]: row for row in summary["results"]}


def provenance(folder):
    return json.loads((folder / "pruneonce.json").read_text())


def test_a_seed_extends_a_finished_run(extended):
    before, after, output = extended
    assert before["seeds"] == [1]
    assert after["seeds"] == [1, 2]
    for arm, row in by_arm(before).items():
        assert row["seeds"] == {"1": row["value"]}
        assert (row["spread"], row["recovery_spread"]) == (None, None)
        assert by_arm(after)[arm]["seeds"]["1"] == row["value"]
        assert row["folder"] == f"tasks/mood/{arm}"
        assert by_arm(after)[arm]["folder"] == f"tasks/mood/seed-1/{arm}"
    old = {stage["name"].replace("mood/", "mood/seed-1/"): stage["seconds"] for stage in before["stages"]}
    new = {stage["name"]: stage["seconds"] for stage in after["stages"]}
    assert {name: new[name] for name in old} == old, "what the first seed made is what was there"
    assert sorted(new.keys() - old.keys()) == [f"tasks/mood/seed-2/{arm}" for arm in sorted(ARMS)]
    assert after["seconds"] == pytest.approx(sum(new.values()))
    assert sorted(path.name for path in (output / "tasks" / "mood").iterdir()) == ["seed-1", "seed-2"]


def test_the_numbers_are_those_of_numpy(extended):
    _, after, output = extended
    found = {
        arm: [
            json.loads((output / f"tasks/mood/seed-{seed}/{arm}.json").read_text())["test"]["accuracy"]
            for seed in (1, 2)
        ]
        for arm in ARMS
    }
    for arm, row in by_arm(after).items():
        assert list(row["seeds"].values()) == found[arm]
        assert len(set(found[arm])) == 2
        assert row["value"] == pytest.approx(np.mean(found[arm]))
        assert row["spread"] == pytest.approx(np.std(found[arm], ddof=1))
        shares = np.divide(found[arm], found["dense"])
        assert row["recovery"] == pytest.approx(np.mean(shares))
        assert row["recovery_spread"] == pytest.approx(np.std(shares, ddof=1))
        assert row["all"]["test"]["accuracy"] == row["value"]
        assert row["all"]["test"]["examples"] == 40


def test_seeds_differ_and_what_is_made_once_is_the_first_ones(extended):
    _, after, output = extended
    first, second = (output / "tasks" / "mood" / f"seed-{seed}" for seed in (1, 2))
    for arm in ARMS:
        assert (provenance(first / arm)["seed"], provenance(second / arm)["seed"]) == (1, 2)
        assert provenance(first / arm)["key"] != provenance(second / arm)["key"]
    assert provenance(output / "sparse")["pattern"] == provenance(second / "sparse")["pattern"]
    assert by_arm(after)["sparse"]["size"]["file"] == "tasks/mood/seed-1/sparse.pruneonce"
    assert (first / "sparse.pruneonce").is_file()
    assert not list(second.glob("*.pruneonce")) + list(second.glob("*.sweep.json"))


def test_the_first_seed_chooses_for_the_others(extended):
    _, after, output = extended
    for arm in ("dense", "one-shot", "sparse"):
        found = by_arm(after)[arm]["sweep"]
        assert [one["settings"]["learning_rate"] for one in found["candidates"]] == RATES
        assert [one["value"] for one in found["candidates"]] == pytest.approx([0.1, 0.3])
        assert (found["chosen"], found["split"]) == (1, "dev")
        for seed in (1, 2):
            settings = provenance(output / f"tasks/mood/seed-{seed}/{arm}")["settings"]
            assert settings["learning_rate"] == RATES[1]
            assert "sweep" not in settings
    assert by_arm(after)["int8"]["sweep"] is None
    assert not list(output.rglob("*.sweep"))


def test_all_that_was_trained_is_planned_and_counted(extended, values, tmp_path):
    _, after, _ = extended
    planned = task_works(validate(Recipe, {**values, "seeds": [1, 2]}), "mood", tmp_path, [])
    steps = {work.name: work.steps for work in planned if work.kind != "predict"}
    spent = {stage["name"]: stage["steps"] for stage in after["stages"]}
    for seed in (1, 2):
        at = f"tasks/mood/seed-{seed}"
        for arm in ARMS:
            name = f"{at}/{arm}: 2 candidates" if f"{at}/{arm}.sweep" in spent else f"{at}/{arm}"
            assert steps.pop(name) == spent[f"{at}/{arm}"] + spent.get(f"{at}/{arm}.sweep", 0)
    assert steps == {}
    assert sum(name.endswith(".sweep") for name in spent) == 3
    dev, test, models = 32, 40, 4
    one, two = (work for work in planned if work.name.endswith("evaluation"))
    assert one.tokens == (models * (dev + test) + 3 * 2 * dev) * 11, "two candidates of three arms, on dev"
    assert two.tokens == models * (dev + test) * 11


def test_a_second_run_makes_nothing(copied, values, extended, capsys):
    capsys.readouterr()
    again = run({**values, "seeds": [1, 2]}, copied)
    assert " ".join(capsys.readouterr().out.split()).count("already made") == 2 + 2 * len(ARMS)
    assert again["results"] == extended[1]["results"]


@pytest.mark.parametrize(
    ("change", "arms"),
    [
        ({"seeds": [1]}, ["seed-2"]),
        ({"seeds": [2, 1]}, ["seed-1", "seed-2"]),
        ({"seeds": None}, ["seed-1", "seed-2"]),
        ({"seed": 2, "seeds": [1, 2]}, ["sparse", "one-shot", "seed-1", "seed-2"]),
    ],
)
def test_what_makes_seeds_stale_is_refused(extended, values, change, arms):
    with pytest.raises(UserError, match="run of another recipe") as caught:
        run({**values, **change}, extended[2])
    stale = str(caught.value).split("stale: ")[1].split(")")[0].split(", ")
    names = [
        name
        for arm in arms
        for name in ([f"tasks/mood/{arm}/{one}" for one in sorted(ARMS)] if arm.startswith("seed-") else [arm])
    ]
    if "seed" in change:  # of what comes before the tasks, which their dense models do not depend on
        names = [name for name in names if not name.endswith("/dense")]
    assert stale == names


def test_a_move_that_was_killed_goes_on(extended, values, tmp_path):
    recipe = validate(Recipe, {**values, "seeds": [1, 2]})
    mood = tmp_path / "tasks" / "mood"
    for name in ("dense", "sparse.sweep", "seed-1/int8", "seed-2/dense"):
        (mood / name).mkdir(parents=True)
    make_room_for_seeds(recipe, tmp_path)
    make_room_for_seeds(recipe, tmp_path)
    assert sorted(path.relative_to(mood).as_posix() for path in mood.glob("*/*")) == [
        *(f"seed-1/{name}" for name in ("dense", "int8", "sparse.sweep")),
        "seed-2/dense",
    ]


@pytest.mark.parametrize(
    ("seeds", "message"), [([], "at least 1 item"), ([1, 1], "`seeds` has one twice"), ([-1], "greater than or equal")]
)
def test_mistakes_in_seeds(recipe_values, seeds, message):
    recipe_values["seeds"] = seeds
    with pytest.raises(UserError) as caught:
        validate(Recipe, recipe_values)
    assert message in str(caught.value)


# -- numbers ----------------------------------------------------------------------------------------------------


def test_recovery_pairs_each_seed_with_its_own_teacher():
    dense, sparse = {1: 0.8, 2: 0.9}, {1: 0.72, 2: 0.81}
    found = over_seeds(sparse, dense)
    assert found["spread"] == pytest.approx(0.0636, abs=1e-4)
    assert found["recovery"] == pytest.approx(0.9)
    assert found["recovery_spread"] == pytest.approx(0, abs=1e-12), "each keeps 90 % of what its teacher has"


def test_a_given_teacher_is_the_same_for_every_seed():
    found = over_seeds({1: 0.4, 2: 0.6}, {1: 0.8})
    assert (found["recovery"], found["recovery_spread"]) == (
        pytest.approx(0.625),
        pytest.approx(np.std([0.5, 0.75], ddof=1)),
    )
    assert over_seeds({1: 0.8}, {1: 0.8})["spread"] is None


@pytest.mark.parametrize("dense", [0.0, -0.1])
def test_there_is_no_recovery_of_nothing(dense):
    found = over_seeds({1: 0.4, 2: 0.6}, {1: dense, 2: 0.5})
    assert (found["recovery"], found["recovery_spread"], found["value"]) == (None, None, 0.5)


# -- the terminal -----------------------------------------------------------------------------------------------


def many_tasks(number):
    arms = ("dense", "one-shot", "gradual", "sparse", "int8", "int8-ptq", "int4")
    return {
        "seeds": [1, 2, 3],
        "benchmark": None,
        "results": [
            {
                "task": f"task-with-a-long-name-{task}",
                "arm": arm,
                "metric": "matthews_correlation" if task else "ndcg@10",
                "split": "test",
                "size": None,
                "folder": arm,
                "value": 0.8765,
                "spread": 0.0123,
                "recovery": None if task == 1 and arm == "int4" else 1 - place / 100,
                "recovery_spread": 0.1111,
            }
            for task in range(number)
            for place, arm in enumerate(arms)
        ],
    }


def lines_of(found):
    console = Console(width=100, record=True, file=io.StringIO())
    for table in tables.results(found):
        console.print(table)
    return console.export_text().splitlines()


def test_many_tasks_are_a_row_each_at_100_columns():
    lines = lines_of(many_tasks(12))
    values = [line for line in lines if line.count("0.8765") == 7]
    assert len(values) == 12, "no value is broken over two lines"
    assert sum(line.count("±11.1") for line in lines) == 12 * 6 - 1
    (mean,) = [line for line in lines if line.startswith("mean % kept")]
    assert mean.split()[3:] == ["99.0", "98.0", "97.0", "96.0", "95.0", "94.0"]
    assert lines[lines.index(mean) + 1].strip().startswith("ndcg@10"), "then the first task's block"
    assert max(map(len, lines)) <= 100


def test_two_tasks_are_blocks_with_their_spread():
    lines = lines_of(many_tasks(2))
    assert sum("0.8765 ±0.0123" in line for line in lines) == 14
    assert not any("mean" in line for line in lines)
