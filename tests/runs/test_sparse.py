"""Recipes with `sparse`: a pruned encoder is taken as it is, and all that follows works as after `prune`."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file
from shared.models import make_model
from shared.processes import start
from transformers import AutoModel, AutoModelForSequenceClassification

from pruneonce import sparsity, stages
from pruneonce.cli.main import app
from pruneonce.errors import UserError
from pruneonce.plan import plan, probe
from pruneonce.recipe import Prune, Recipe, validate
from pruneonce.runs.pipeline import run

Values = dict[str, Any]
QUICK = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def pruning(tiny_recipe: Callable[[], Values]) -> Values:
    """Values of a recipe that prunes and has two tasks, int8 and a rival that needs no corpus."""
    values = tiny_recipe()
    files = values["tasks"]["mood"]
    return {
        **values,
        "tasks": {"mood": files, "again": {**files, "max_length": 8}},
        "teacher": QUICK,
        "transfer": QUICK,
        "baselines": {"gradual": {**QUICK, "every": 2, "rewind": False}},
        "quantize": {"int8_ptq": {}},
    }


@pytest.fixture(scope="module")
def pruned(pruning: Values, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Values]:
    """The run that prunes: its folder and its summary."""
    folder = tmp_path_factory.mktemp("runs") / "pruned"
    return folder, run(validate(Recipe, pruning), folder)


def taking(values: Values, sparse: Path | str) -> Values:
    return {**{key: value for key, value in values.items() if key not in ("corpus", "prune")}, "sparse": str(sparse)}


@pytest.fixture(scope="module")
def foreign(pruned: tuple[Path, Values], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sparse encoder as others publish it: weights, configuration and tokenizer, and nothing of pruneonce's."""
    folder = tmp_path_factory.mktemp("foreign") / "encoder"
    shutil.copytree(
        pruned[0] / "sparse", folder, ignore=shutil.ignore_patterns("pruneonce.json", "metrics.json", "README.md")
    )
    return folder


@pytest.fixture(scope="module")
def taken(pruning: Values, foreign: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Values]:
    """The run that takes the foreign encoder, killed in the transfer to the second task, and then run again."""
    folder = tmp_path_factory.mktemp("runs") / "taken"
    values = taking({**pruning, "transfer": {**QUICK, "checkpoint_every": 2}}, foreign)
    file = folder.with_name("taken.yaml")
    file.write_text(yaml.safe_dump(values))
    begun = start(folder.with_name("killed"), "run", file, "--output", folder)
    begun.wait_for(lambda: any(folder.glob("tasks/again/sparse.partial/checkpoints/checkpoint-*")))
    begun.process.kill()
    assert begun.finish().returncode == -signal.SIGKILL
    assert not (folder / "summary.json").exists()
    return folder, run(validate(Recipe, values), folder)


def scores(summary: Values) -> dict[tuple[str, str], Any]:
    return {(result["task"], result["arm"]): result["all"] for result in summary["results"]}


def test_scores_are_those_of_the_run_that_pruned(pruned, taken):
    assert len(scores(taken[1])) == 8
    assert scores(taken[1]) == scores(pruned[1])
    for task in ("mood", "again"):
        ours, theirs = (load_file(folder / f"tasks/{task}/sparse/model.safetensors") for folder, _ in (pruned, taken))
        assert all((ours[name] == weight).all() for name, weight in theirs.items())


def test_the_encoder_is_as_it_was_and_says_where_it_came_from(pruned, taken, foreign):
    before, after = (load_file(folder / "model.safetensors") for folder in (foreign, taken[0] / "sparse"))
    assert before.keys() == after.keys()
    assert all((after[name] == weight).all() for name, weight in before.items())
    provenance = json.loads((taken[0] / "sparse/pruneonce.json").read_text())
    assert provenance["taken"]["from"] == "not made by pruneonce"
    assert provenance["taken"]["pattern"] == provenance["pattern"] == pruned[1]["pattern_hash"]
    assert taken[1]["taken"] == {"source": str(foreign), **provenance["taken"]}
    page = (taken[0] / "report.html").read_text()
    assert "not made by pruneonce" in page
    assert f"zeros; sha256 of the pattern {provenance['pattern']}" in page
    was = f"{provenance['taken']['zeros']:.1%} zeros; sha256 of the pattern `{provenance['pattern']}`"
    assert f"It was not made by pruneonce: {was}." in (taken[0] / "sparse/README.md").read_text()
    card = (taken[0] / "tasks/mood/sparse/README.md").read_text()
    assert "encoder made by pruneonce" in card
    assert f"Its sparse encoder was not made by pruneonce: {was}." in card
    assert "not made by" not in (pruned[0] / "tasks/mood/sparse/README.md").read_text()
    assert foreign.name in page
    assert "not made by pruneonce" not in (pruned[0] / "report.html").read_text()


def test_an_encoder_of_ours_keeps_its_history(pruned, tmp_path):
    folder = stages.take(pruned[0] / "sparse", tmp_path / "sparse")
    source, provenance = (json.loads((path / "pruneonce.json").read_text()) for path in (pruned[0] / "sparse", folder))
    assert provenance["taken"]["from"] == "made by pruneonce (prune)"
    assert provenance["taken"]["provenance"]["settings"] == source["settings"]
    assert provenance["parents"] == [source["key"]]


def test_a_task_can_be_added_and_the_encoder_not_exchanged(pruning, taken, pruned, capsys, tmp_path):
    folder = shutil.copytree(taken[0], tmp_path / "taken")
    values = yaml.safe_load((folder / "recipe.yaml").read_text())
    later = {**values, "tasks": {**values["tasks"], "third": values["tasks"]["mood"]}}
    assert {result["task"] for result in run(validate(Recipe, later), folder)["results"]} == {"mood", "again", "third"}
    with pytest.raises(UserError, match=r"different: sparse; stale: sparse"):
        run(validate(Recipe, {**later, "sparse": str(pruned[0] / "sparse")}), folder)
    with pytest.raises(UserError, match=r"stale: sparse"):
        run(validate(Recipe, pruning), folder)


def test_a_changed_encoder_is_refused(pruning, foreign, tmp_path):
    sparse = shutil.copytree(foreign, tmp_path / "encoder")
    values = taking({**pruning, "tasks": {"mood": pruning["tasks"]["mood"]}}, sparse)
    run(validate(Recipe, values), tmp_path / "run")
    weights = load_file(sparse / "model.safetensors")
    save_file({**weights, next(iter(weights)): weights[next(iter(weights))] + 1}, sparse / "model.safetensors")
    with pytest.raises(UserError, match=f"model {sparse}: not what it was"):
        run(validate(Recipe, values), tmp_path / "run")


def test_a_plan_has_no_corpus(pruning, foreign, monkeypatch):
    monkeypatch.setattr(probe, "measure", lambda probes, seconds: [probe.Measured(2.0, 1.0, 3, 1) for _ in probes])
    planned = plan(validate(Recipe, taking(pruning, foreign)))
    assert [stage.name for stage in planned.stages][:2] == ["tasks/mood/dense", "tasks/mood/sparse"]
    assert planned.disk.blocks == 0
    assert any(f"{foreign} as it is" in note for note in planned.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corpus": {"source": "texts.txt"}}, "so `corpus` changes nothing"),
        ({"prepare": QUICK}, "so `prepare` changes nothing"),
        ({"sparse_model": "other"}, "so `sparse_model` changes nothing"),
        ({"sparse": None}, "`corpus` and `prune` missing: give `corpus` and `prune`, or `sparse`"),
        ({"sparse": None, "corpus": {"source": "texts.txt"}}, "`prune` missing"),
        ({"baselines": {"one_shot": True}}, "`baselines.one_shot` prunes to the sparsity of `prune`"),
        ({"tasks": {}}, "needs `tasks`"),
    ],
)
def test_what_makes_no_sense_beside_it(pruning, change, message):
    with pytest.raises(UserError, match=message):
        validate(Recipe, {**taking(pruning, "encoder"), **change})


def refused(values: Values, folder: Path) -> str:
    with pytest.raises(UserError) as error:
        run(validate(Recipe, values), folder)
    assert not folder.exists()
    return str(error.value)


def test_a_dense_encoder_is_refused(pruning, encoder, tmp_path):
    message = refused(taking(pruning, encoder), tmp_path / "run")
    assert message == (
        f"{encoder} has 0.0% zeros in its encoder, and `sparse` takes a pruned one; to prune it, give it as `model`, "
        "with `corpus` and `prune` in the place of `sparse`"
    )


def test_an_encoder_of_another_shape_or_with_other_tokens_is_refused(pruning, foreign, tokenizer, tmp_path):
    other = make_model(tmp_path / "other", tokenizer, "distilbert")
    stages.prune_one_shot(other, Prune(steps=1, learning_rate=1, sparsity=0.5), tmp_path / "distil")
    assert "is a bert of" in refused(taking(pruning, tmp_path / "distil"), tmp_path / "run")
    swapped = shutil.copytree(foreign, tmp_path / "swapped")
    content = json.loads((swapped / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    first, second = list(words)[-2:]
    words[first], words[second] = words[second], words[first]
    (swapped / "tokenizer.json").write_text(json.dumps(content))
    assert "at every token" in refused(taking(pruning, swapped), tmp_path / "run")


def test_scattered_zeros_are_named_and_not_locked(foreign, tmp_path, capsys):
    folder = shutil.copytree(foreign, tmp_path / "scattered")
    weights = load_file(folder / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    weights[name] = weights[name].abs() + 1
    weights[name][0, :2] = 0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    made = stages.take(folder, tmp_path / "sparse")
    assert f"not locked, too few zeros for a pattern: `{name}`" in capsys.readouterr().out
    after = load_file(made / "model.safetensors")
    assert (after[name] != 0).all()
    assert (after[name] - weights[name]).abs().max() < 1e-37
    assert json.loads((made / "pruneonce.json").read_text())["taken"]["scattered"] == [name]
    check = sparsity.verify(made, folder)
    assert check.ok
    assert check.scattered == [name]


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"source": "Somebody/sparse", "parents": ["hub:Somebody/sparse"]}, "Somebody/sparse"),
        ({"source": "downloads/sparse", "parents": ["a hash"]}, "sparse"),
        ({"source": "/mnt/sparse", "parents": ["a hash"]}, "sparse"),
    ],
    ids=["of the hub", "relative path", "absolute path"],
)
def test_a_converted_encoder_says_of_what(foreign, record, name, tmp_path):
    folder = shutil.copytree(foreign, tmp_path / "converted")
    (folder / "pruneonce.json").write_text(json.dumps({"stage": "convert", "key": "k", **record}))
    made = stages.take(folder, tmp_path / "sparse")
    provenance = json.loads((made / "pruneonce.json").read_text())
    taken = provenance["taken"]
    assert taken["from"] == f"not made by pruneonce, converted from {name}"
    facts = f"{taken['zeros']:.1%} zeros; sha256 of the pattern `{provenance['pattern']}`"
    card = (made / "README.md").read_text()
    assert "made by pruneonce (" not in card
    link = f"[{name}](https://huggingface.co/{name})" if "/" in name else name
    assert f"It was not made by pruneonce, converted from {link}: {facts}." in card
    assert stages.take(made, tmp_path / "again") == tmp_path / "again"
    assert f"It was not made by pruneonce, converted from {link}" in (tmp_path / "again/README.md").read_text()


def test_a_fine_tuned_model_gives_its_encoder(taken, tmp_path):
    task_model = taken[0] / "tasks/mood/sparse"
    made = stages.take(task_model, tmp_path / "sparse")
    before, after = load_file(task_model / "model.safetensors"), load_file(made / "model.safetensors")
    assert after.keys() == {name.removeprefix("bert.") for name in before if name.startswith("bert.")}
    config = AutoModel.from_pretrained(made).config
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert config.architectures == ["BertModel"]


# -- verbs with a folder that pruneonce did not make ------------------------------------------------------------


@pytest.mark.slow
def test_every_verb_takes_a_foreign_encoder(foreign, models, task_files, tmp_path, capsys):
    def pruneonce(*arguments: Any) -> str:
        assert app(list(map(str, arguments)), standalone_mode=False) in (None, 0)
        return capsys.readouterr().out

    data = [*("--train", task_files / "train.jsonl"), *("--dev", task_files / "dev.jsonl")]
    assert "not pruneonce" in pruneonce("inspect", foreign)
    sets = ["--set", "epochs=1", "--set", "batch_size=16"]
    child = tmp_path / "child"
    pruneonce("transfer", foreign, "--teacher", models[0], *data, "--output", child, *sets)
    assert "zeros of" in pruneonce("verify", child, "--against", foreign)
    pruneonce("pack", foreign, tmp_path / "foreign.pruneonce")
    pruneonce("export", foreign, "--output", tmp_path / "onnx")

    tuned = shutil.copytree(child, tmp_path / "tuned")
    (tuned / "pruneonce.json").unlink()
    pruneonce("quantize", tuned, "--post-training", *data, "--output", tmp_path / "int8")
    assert "zeros of" in pruneonce("verify", tmp_path / "int8", "--against", foreign)
    pruneonce("export", tmp_path / "int8", "--output", tmp_path / "int8-onnx")
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "int8")
