"""The inputs of a run: a model that is another one later is said, whether or not its provenance has a hash."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from pruneonce import UserError, recipe, stages
from pruneonce.recipe import Prune
from pruneonce.runs.inputs import check_unchanged


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("none", "model .*: not what it was when the run"),
        ("with a hash", "are not those that pruneonce wrote"),
        ("without a hash", "weights of .*: not what it was when the run"),
    ],
)
def test_a_swapped_model_is_not_taken(card, message, encoder, recipe_values, tmp_path):
    model = tmp_path / "model"
    if card == "none":
        shutil.copytree(encoder, model)
    else:
        stages.prune_one_shot(encoder, Prune(objective="hidden", steps=1, learning_rate=1e-3), model)
    if card == "without a hash":
        record = json.loads((model / "pruneonce.json").read_text())
        record.pop("sha256")
        (model / "pruneonce.json").write_text(json.dumps(record))
    run = recipe.validate(recipe.Recipe, {**recipe_values, "model": str(model)})
    (tmp_path / "run").mkdir()
    check_unchanged(run, tmp_path / "run")
    check_unchanged(run, tmp_path / "run")
    weights = load_file(model / "model.safetensors")
    save_file({name: 2 * weight for name, weight in weights.items()}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=message):
        check_unchanged(run, tmp_path / "run")


def test_other_modules_are_not_taken(encoder, recipe_values, tmp_path):
    """Files that the key of a model from elsewhere does not cover; a run of an earlier version notes them late."""
    model = shutil.copytree(encoder, tmp_path / "model")
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text("{}")
    run = recipe.validate(recipe.Recipe, {**recipe_values, "model": str(model)})
    (tmp_path / "run").mkdir()
    check_unchanged(run, tmp_path / "run")
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(UserError, match=r"vocabulary and modules of .*: not what it was when the run"):
        check_unchanged(run, tmp_path / "run")


def test_a_run_of_an_earlier_version_goes_on(encoder, recipe_values, tmp_path):
    """Its inputs.json does not have the hash of the weights yet."""
    model = shutil.copytree(encoder, tmp_path / "model")
    (model / "pruneonce.json").write_text(json.dumps({"key": "k"}))
    run = recipe.validate(recipe.Recipe, {**recipe_values, "model": str(model)})
    (tmp_path / "run").mkdir()
    check_unchanged(run, tmp_path / "run")
    file = tmp_path / "run" / "inputs.json"
    noted = json.loads(file.read_text())
    earlier = {name: value for name, value in noted.items() if not name.startswith("weights of")}
    assert len(earlier) == len(noted) - 1
    file.write_text(json.dumps(earlier))
    check_unchanged(run, tmp_path / "run")
    assert json.loads(file.read_text()) == noted
