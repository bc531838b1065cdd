"""One-shot pruning of a finished task model: rounds, what was zero before, what it refuses."""

import pytest
import torch
from safetensors.torch import load_file
from shared.models import make_model
from transformers import AutoModelForSequenceClassification

from pruneonce import recipe, stages
from pruneonce.errors import UserError
from pruneonce.models import read_provenance
from pruneonce.models.architectures import prunable_weights
from pruneonce.sparsity import locked_masks, magnitude_masks, pattern_hash, sparsity_of, verify
from pruneonce.training import sparsifier

PLAIN = {"name": "obert", "gradients": 0}  # which is magnitude


@pytest.fixture(scope="module")
def dense(tmp_path_factory, tokenizer, task):
    folder = tmp_path_factory.mktemp("one-shot")
    settings = recipe.Training(epochs=1, batch_size=16, learning_rate=1e-3)
    return stages.finetune(make_model(folder / "bare", tokenizer), task, settings, folder / "dense")


def weights_of(folder):
    return prunable_weights(AutoModelForSequenceClassification.from_pretrained(folder))


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("how", [{}, {"rounds": 3, "method": PLAIN}])
def test_by_magnitude_it_is_magnitude_pruning_however_many_rounds(allocation, how, dense, task, tmp_path):
    settings = recipe.OneShot(sparsity=0.7, allocation=allocation, **how)
    made = stages.one_shot(dense, task, settings, tmp_path / "pruned")
    before, after = weights_of(dense), weights_of(made)
    for name, mask in magnitude_masks(before, 0.7, allocation).items():
        assert torch.equal(after[name], before[name] * mask), name
    others = load_file(dense / "model.safetensors")
    for name, value in load_file(made / "model.safetensors").items():
        assert name.removeprefix("bert.") in before or torch.equal(value, others[name]), "nothing else changes"
    found = read_provenance(made)
    assert (found["stage"], found["settings"], found["training"]["steps"]) == ("one-shot", settings.model_dump(), 0)
    assert found["sparsity"]["encoder"] == pytest.approx(0.7, abs=1e-3)
    assert found["pattern"] == pattern_hash(locked_masks(after))


def test_sparsity_rises_in_even_steps_from_where_the_model_is(dense, task, tmp_path, monkeypatch):
    asked = []
    usual = sparsifier.Pruner.prune
    monkeypatch.setattr(
        sparsifier.Pruner, "prune", lambda self, step, share: asked.append((step, share)) or usual(self, step, share)
    )
    first = stages.one_shot(dense, task, recipe.OneShot(sparsity=0.4, rounds=4, method=PLAIN), tmp_path / "first")
    assert [step for step, _ in asked] == [0, 1, 2, 3]
    assert [share for _, share in asked] == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=1e-3)
    asked.clear()
    second = stages.one_shot(first, task, recipe.OneShot(sparsity=0.8, rounds=2, method=PLAIN), tmp_path / "second")
    assert [share for _, share in asked] == pytest.approx([0.6, 0.8], abs=1e-3)
    assert verify(second, first).ok
    assert sparsity_of(locked_masks(weights_of(second))) == pytest.approx(0.8, abs=1e-3)


def test_the_same_again_is_made_already_and_other_settings_are_refused(dense, task, tmp_path, capsys):
    settings = recipe.OneShot(sparsity=0.5)
    made = stages.one_shot(dense, task, settings, tmp_path / "pruned")
    time = (made / "model.safetensors").stat().st_mtime_ns
    stages.one_shot(dense, task, settings, tmp_path / "pruned")
    assert "already made" in capsys.readouterr().out
    assert (made / "model.safetensors").stat().st_mtime_ns == time
    with pytest.raises(UserError, match="already holds something else"):
        stages.one_shot(dense, task, recipe.OneShot(sparsity=0.6), tmp_path / "pruned")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 0}, r"has 0\.0 % of zeros already; `sparsity` is to be above that, not 0"),
        ({"sparsity": 0.1, "pattern": "64x64"}, "by `pattern: 64x64` prunes nothing here; raise it"),
        ({"sparsity": 0.5, "pattern": "1:3"}, r"at least 66.67 % of zeros; raise `sparsity` to 0.6667"),
        ({"rounds": 2}, "`rounds` changes nothing by magnitude; give a `method`"),
        ({"batch_size": 8}, "`batch_size` changes nothing by magnitude"),
        ({"sparsity": 0.9, "pattern": "1:5"}, "does not divide the 32 inputs"),
    ],
)
def test_what_would_prune_nothing_is_refused(settings, message, dense, task, tmp_path):
    with pytest.raises((UserError, ValueError), match=message):
        stages.one_shot(dense, task, recipe.OneShot(**settings), tmp_path / "pruned")
    assert not list(tmp_path.iterdir())


def test_it_takes_a_finished_model_of_the_same_labels(dense, task, tokenizer, tmp_path):
    settings = recipe.OneShot(sparsity=0.5)
    bare = make_model(tmp_path / "bare", tokenizer)
    with pytest.raises(UserError, match="has no head for classification"):
        stages.one_shot(bare, task, settings, tmp_path / "pruned")
    other = task.model_copy(update={"labels": ["negative", "positive", "neutral"]})
    with pytest.raises(UserError, match="has the labels 'negative', 'positive', the task has 'negative', 'positive', "):
        stages.one_shot(dense, other, settings, tmp_path / "pruned")


def test_labels_in_another_order_give_the_same_model(dense, task, tmp_path):
    settings = recipe.OneShot(sparsity=0.5, method={"name": "obert", "gradients": 8})
    tasks = [task.model_copy(update={"labels": labels}) for labels in (None, ["positive", "negative"])]
    one, other = (stages.one_shot(dense, each, settings, tmp_path / str(i)) for i, each in enumerate(tasks))
    tensors, other_tensors = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert all(torch.equal(tensor, other_tensors[name]) for name, tensor in tensors.items())
    assert (one / "config.json").read_text() == (other / "config.json").read_text()


def test_a_method_needs_labels(encoder, corpus_file, task_files, tmp_path):
    embedding = recipe.Embedding(train=str(corpus_file), dev=str(task_files / "dev.jsonl"), max_length=16)
    settings = recipe.OneShot(sparsity=0.5, method="obert")
    with pytest.raises(UserError, match="obert judges weights by labels, and `kind: embedding` has none"):
        stages.one_shot(encoder, embedding, settings, tmp_path / "pruned")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["block-lasso", "cram", "quant-noise"])
def test_methods_without_a_place_here_are_refused(method):
    with pytest.raises(ValueError, match=rf"`method` {method} has no place here"):
        recipe.OneShot(method=method)
