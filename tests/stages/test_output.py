"""A stage's output appears whole: what is finished is known again, and what is unfinished is kept or removed."""

import json

import pytest

from pruneonce import recipe, stages
from pruneonce.data.keys import task_key
from pruneonce.errors import Interrupted, UserError
from pruneonce.models import content_key, key_of
from pruneonce.stages.output import is_finished, unfinished


@pytest.fixture
def output(tmp_path):
    return tmp_path / "made"


@pytest.fixture
def begun(tmp_path):
    return tmp_path / "made.partial"


def test_a_finished_folder_is_known_by_its_key(output, capsys):
    assert not is_finished(output, "a")
    output.mkdir()
    (output / "pruneonce.json").write_text(json.dumps({"key": "a"}))
    (output / "begun.json").write_text("left by a process that was killed")
    assert not is_finished(output, "b")
    assert (output / "begun.json").exists()
    assert is_finished(output, "a")
    assert "already made" in capsys.readouterr().out
    assert not (output / "begun.json").exists()


def test_another_folder_is_not_overwritten(output, begun):
    output.mkdir()
    (output / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="already holds something else"), unfinished(output, "a"):
        pass
    assert not begun.exists()


def test_an_empty_folder_is_taken(output, begun):
    output.mkdir()
    with unfinished(output, "a") as folder:
        assert folder == begun
        assert json.loads((begun / "begun.json").read_text()) == {"key": "a"}
        assert (begun / "lock").exists()
    assert not (begun / "lock").exists()


@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_a_mistake_leaves_nothing_behind_but_what_can_be_resumed(output, begun, has_checkpoint):
    def work():
        if has_checkpoint:
            (begun / "head" / "checkpoint-3").mkdir(parents=True)
        raise UserError("typo")

    with pytest.raises(UserError, match="typo"), unfinished(output, "a"):
        work()
    assert begun.exists() == has_checkpoint


def test_work_that_was_there_before_survives_a_mistake(output, begun):
    begun.mkdir()
    with pytest.raises(UserError, match="typo"), unfinished(output, "a"):
        raise UserError("typo")
    assert begun.exists()


@pytest.mark.parametrize("error", [Interrupted(15), RuntimeError("defect")])
def test_what_is_no_mistake_of_the_user_leaves_the_work(output, begun, error):
    with pytest.raises(type(error)), unfinished(output, "a"):
        raise error
    assert begun.exists()


def test_unfinished_work_of_another_key_is_refused_and_kept(output, begun):
    with unfinished(output, "a"):
        pass
    with pytest.raises(UserError, match=r"made\.partial is unfinished work of other settings"), unfinished(output, "b"):
        pass
    with unfinished(output, "a") as folder:
        assert folder == begun


def test_keys_are_those_of_earlier_versions(encoder, models, task, tmp_path):
    """What a finished stage is known by, part for part: with other parts, old folders would not resume."""
    dense, sparse = models
    common = {"steps": 1, "learning_rate": 1e-3}
    even, in_rows = recipe.Prune(**common, sparsity=0.5), recipe.Prune(**common, sparsity=0.5, pattern="row")
    training, transfer = recipe.Training(**common), recipe.Transfer(**common)
    completed, calibrate = {**transfer.model_dump(), "hidden_weight": 1.0}, recipe.Calibrate(examples=8)
    made = [
        stages.prune_one_shot(encoder, even, tmp_path / "even", seed=3),
        stages.prune_one_shot(encoder, in_rows, tmp_path / "rows"),
        stages.finetune(encoder, task, training, tmp_path / "dense", seed=4),
        stages.transfer(sparse, task, transfer, tmp_path / "sparse", teacher=dense),
        stages.calibrate(sparse, task, calibrate, tmp_path / "int8"),
        stages.export(sparse, tmp_path / "onnx"),
    ]
    source, teacher, student = map(content_key, (encoder, dense, sparse))
    expected = [
        ("prune-one-shot", source, 0.5, "uniform", 3),
        ("prune-one-shot", source, 0.5, "uniform", "row", 42),
        ("finetune", [source], task_key(task), training.model_dump(), 4),
        ("transfer", [student, teacher], task_key(task, taught=True), completed, 42),
        ("calibrate", student, task_key(task), calibrate.model_dump(), 42),
        ("export", student, "onnx"),
    ]
    for folder, parts in zip(made, expected, strict=True):
        assert json.loads((folder / "pruneonce.json").read_text())["key"] == key_of(*parts), folder.name
