"""Sweeps: which candidate is kept, and that one which is killed anywhere goes on without doing anything twice."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from pruneonce.errors import DivergedError, UserError
from pruneonce.models import PROVENANCE, read_provenance
from pruneonce.recipe import Gradual, Recipe, SweptGradual, SweptTransfer, Training, Transfer, validate
from pruneonce.runs import sweep
from pruneonce.runs.staleness import stale
from pruneonce.system import durable

RATES = [1e-4, 3e-4, 1e-3]


def swept(**lists):
    return validate(SweptTransfer, {"epochs": 2, "learning_rate": 1.0, "sweep": lists or {"learning_rate": RATES}})


# -- the section ------------------------------------------------------------------------------------------------


def test_candidates_are_every_combination_as_plain_sections():
    found = swept(learning_rate=[1e-4, 3e-4], epochs=[4, 8]).candidates()
    assert [(one.learning_rate, one.epochs) for one in found] == [(1e-4, 4), (1e-4, 8), (3e-4, 4), (3e-4, 8)]
    assert {type(one) for one in found} == {Transfer}
    assert "sweep" not in found[0].model_dump()  # so that the key of a stage is what it is without sweeps


def test_swept_epochs_take_the_place_of_steps():
    values = {"steps": 50, "learning_rate": 1e-4, "sweep": {"epochs": [1, 2]}}
    found = validate(SweptGradual, values).candidates()
    assert [(type(one), one.steps, one.epochs) for one in found] == [(Gradual, None, 1), (Gradual, None, 2)]


def test_without_a_sweep_there_is_one_candidate():
    settings = validate(SweptTransfer, {"epochs": 2, "learning_rate": 1e-4})
    assert settings.candidates() == [Transfer(epochs=2, learning_rate=1e-4)]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"learning_rate": [1e-4]}, "2 to 16 candidates, all lists multiplied; these are 1"),
        ({"epochs": None}, "these are 0"),
        ({"learning_rate": RATES, "epochs": [1, 2, 3, 4, 5, 6]}, "these are 18"),
        ({"epochs": [1, 1]}, "`epochs` has a value twice"),
        ({"epochs": [0, 1]}, "`sweep.epochs.0`: Input should be greater than 0"),
        ({"lerning_rate": RATES}, "did you mean `learning_rate`?"),
    ],
)
def test_mistakes_in_a_sweep(lists, message):
    with pytest.raises(UserError) as caught:
        swept(**lists)
    assert message in str(caught.value)


@pytest.mark.parametrize("place", ["quantize.int8", "prune", "quantize.int4", "tasks.mood.quantize.int8"])
def test_a_sweep_elsewhere_is_refused(recipe_values, place):
    section = recipe_values
    for key in place.split("."):
        section = section.setdefault(key, {})
    section.update({"sweep": {"epochs": [1, 2]}})
    section.setdefault("epochs", 1)
    with pytest.raises(UserError, match=r"no `sweep` here; a recipe's `teacher`, `transfer` and `baselines.gradual`"):
        validate(Recipe, recipe_values)


def test_a_task_may_sweep_for_itself(recipe_values):
    recipe_values["transfer"] = {**recipe_values["transfer"], "sweep": {"epochs": [1, 2]}}
    mood = recipe_values["tasks"]["mood"]
    recipe_values["tasks"] |= {
        "own": {**mood, "transfer": {"sweep": {"epochs": [3, 4]}}},
        "none": {**mood, "transfer": {"sweep": None}},
    }
    recipe = validate(Recipe, recipe_values)
    tried = {name: [one.epochs for one in recipe.transfer_for(name).candidates()] for name in recipe.tasks}
    assert tried == {"mood": [1, 2], "own": [3, 4], "none": [2]}


# -- the sweep --------------------------------------------------------------------------------------------------


class Fake:
    """Stands for a stage and an evaluation; fails, as if killed, at the operation with the number `die_at`."""

    def __init__(self, values, die_at=None):
        self.values, self.die_at, self.count = values, die_at, 0
        self.trained = Counter()

    def tick(self):
        self.count += 1
        if self.count == self.die_at:
            raise KeyboardInterrupt

    def train(self, settings: Training, output: Path) -> Path:
        if not (output / PROVENANCE).is_file():
            self.tick()
            if self.values[settings.learning_rate] is None:
                raise DivergedError("the loss became nan")
            self.trained[settings.learning_rate] += 1
            output.mkdir(parents=True)
            spent = {"steps": 2, "tokens": 30, "seconds": 1.5}
            made = {"key": settings.learning_rate, "training": spent}
            (output / PROVENANCE).write_text(json.dumps(made))
            self.tick()
        return output

    def measure(self, model: Path) -> float:
        self.tick()
        return self.values[read_provenance(model)["key"]]


def run(fake, folder):
    return sweep.sweep(swept(), folder / "sparse", fake.train, fake.measure, "accuracy")


def record(folder):
    return json.loads((folder / "sparse.sweep.json").read_text())


@pytest.mark.parametrize(
    ("values", "best"),
    [((0.1, 0.3, 0.2), 1), ((0.3, 0.3, 0.3), 0), ((0.1, 0.3, 0.3), 1), ((None, -0.2, float("nan")), 1)],
)
def test_the_best_is_kept_and_of_equal_ones_the_earlier(tmp_path, values, best):
    made = run(Fake(dict(zip(RATES, values, strict=True))), tmp_path)
    assert read_provenance(made)["key"] == RATES[best]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sparse", "sparse.sweep.json"]
    found = record(tmp_path)
    assert [one["settings"] for one in found["candidates"]] == [{"learning_rate": rate} for rate in RATES]
    known = [None if value is None or value != value else value for value in values]
    assert [one["value"] for one in found["candidates"]] == known
    assert (found["chosen"], found["metric"], found["split"]) == (best, "accuracy", "dev")
    assert sweep.chosen(swept(), made).learning_rate == RATES[best]
    assert len(sweep.losers(found)) == 2


def test_at_most_two_models_stand_beside_one_another(tmp_path):
    fake, most = Fake(dict(zip(RATES, (0.1, 0.3, 0.2), strict=True))), []
    measure = fake.measure

    def counted(model):
        most.append(len(list(tmp_path.rglob(PROVENANCE))))
        return measure(model)

    fake.measure = counted
    run(fake, tmp_path)
    assert most == [1, 2, 2]


def test_if_all_diverge_it_is_said(tmp_path):
    with pytest.raises(UserError, match=r"no candidate for .* has a value of accuracy"):
        run(Fake(dict.fromkeys(RATES)), tmp_path)


@pytest.mark.parametrize("values", [(0.1, 0.3, 0.2), (0.3, None, 0.1), (0.1, 0.2, 0.3)])
def test_a_sweep_killed_anywhere_goes_on(tmp_path, monkeypatch, values):
    values = dict(zip(RATES, values, strict=True))
    whole = tmp_path / "whole"
    run(Fake(values), whole)
    for name, place in (("write_json", durable), ("publish", durable), ("rmtree", shutil)):
        _also_dies(monkeypatch, place, name)
    for die_at in range(1, 100):
        folder = tmp_path / str(die_at)
        fake = Fake(values, die_at)
        monkeypatch.setattr(_also_dies, "fake", fake, raising=False)
        try:
            run(fake, folder)
        except KeyboardInterrupt:
            run(fake, folder)
        else:
            assert die_at > 10, "every operation was interrupted once"
            return
        assert record(folder) == record(whole)
        assert read_provenance(folder / "sparse") == read_provenance(whole / "sparse")
        assert max(fake.trained.values()) == 1, "nothing is trained twice"
        assert not (folder / "sparse.sweep").exists()


def _also_dies(monkeypatch, place, name):
    """Before and after what is done to the disk."""
    real = getattr(place, name)

    def dies(*args, **kwargs):
        _also_dies.fake.tick()
        real(*args, **kwargs)
        _also_dies.fake.tick()

    monkeypatch.setattr(place, name, dies)


def test_a_lost_model_is_made_again_by_the_settings_that_were_chosen(tmp_path):
    fake = Fake(dict(zip(RATES, (0.1, 0.3, 0.2), strict=True)))
    shutil.rmtree(run(fake, tmp_path))
    run(fake, tmp_path)
    assert fake.trained == {RATES[0]: 1, RATES[1]: 2, RATES[2]: 1}


def test_the_record_of_another_sweep_is_refused(tmp_path):
    run(Fake(dict.fromkeys(RATES, 0.5)), tmp_path)
    other = swept(learning_rate=[0.1, 0.2])
    with pytest.raises(UserError, match=r"sparse.sweep.json is of another sweep"):
        sweep.sweep(other, tmp_path / "sparse", None, None, "accuracy")


# -- what another recipe makes of it ----------------------------------------------------------------------------


def test_a_metric_that_chose_is_an_input(tiny_recipe, tmp_path):
    def stale_with(sweeping):
        values = tiny_recipe()
        for name in sweeping:
            values[name] = {**values[name], "sweep": {"epochs": [1, 2]}}
        before = validate(Recipe, values).model_dump(mode="json")
        now = json.loads(json.dumps(before))
        now["tasks"]["mood"]["metric"] = "f1"
        return stale(tmp_path, before, validate(Recipe, now))

    for arm in ("dense", "sparse", "gradual"):
        (tmp_path / "tasks" / "mood" / f"{arm}.partial").mkdir(parents=True)
    assert stale_with([]) == []
    assert stale_with(["transfer"]) == ["tasks/mood/sparse"]
    assert stale_with(["teacher"]) == ["tasks/mood/dense", "tasks/mood/gradual", "tasks/mood/sparse"]


def test_a_sweep_that_has_begun_is_stale_where_it_changes(tiny_recipe, tmp_path):
    values = tiny_recipe()
    before = validate(Recipe, values).model_dump(mode="json")
    values["transfer"] = {**values["transfer"], "sweep": {"epochs": [1, 2]}}
    now = validate(Recipe, values)
    (tmp_path / "tasks" / "mood").mkdir(parents=True)
    (tmp_path / "tasks" / "mood" / "sparse.sweep.json").write_text("{}")
    assert stale(tmp_path, before, now) == ["tasks/mood/sparse"]
