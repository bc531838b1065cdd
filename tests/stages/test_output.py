"""A stage's output appears whole: what is finished is known again, and what is unfinished is kept or removed."""

import json

import pytest

from pruneonce.errors import Interrupted, UserError
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
