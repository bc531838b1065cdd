"""A whole recipe on tiny models: folders, summary, report, resume, and what a mistake leaves behind."""

import json
import shutil

import pytest
import yaml
from safetensors import safe_open
from shared.models import make_model
from transformers import GPT2Config, GPT2Model

from pruneonce.cli import main
from pruneonce.errors import UserError
from pruneonce.recipe import Recipe, validate
from pruneonce.runs import pipeline
from pruneonce.sparsity import verify


def run(values, output):
    return pipeline.run(validate(Recipe, values), output)


ARMS = ("dense", "dense-int8", "gradual", "int4", "int8", "int8-ptq", "one-shot", "sparse")


@pytest.fixture(scope="module")
def one_layer(tokenizer, tmp_path_factory):
    """An encoder of one layer: exporters take seconds for each."""
    return make_model(tmp_path_factory.mktemp("models") / "one-layer", tokenizer, num_hidden_layers=1)


@pytest.fixture
def recipe_values(tiny_recipe, one_layer):
    """With everything that a recipe can ask for."""
    values = {**tiny_recipe(), "model": str(one_layer)}
    short = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-4}
    values["quantize"] = {"int8": short, "int8_ptq": {"examples": 16}, "int4": {**short, "group_size": 16}}
    values["export"] = ["onnx"]
    values["baselines"]["dense_int8"] = True
    return values


@pytest.fixture(scope="module")
def outputs():
    return {}


@pytest.fixture
def run_once(outputs, recipe_values, tmp_path_factory):
    """Run once for all of these tests."""
    if not outputs:
        output = tmp_path_factory.mktemp("finished") / "run"
        outputs["run"] = run(recipe_values, output), output
    return outputs["run"]


@pytest.fixture
def finished(run_once, tmp_path):
    """A finished run of `recipe_values`, in a copy of its own."""
    summary, output = run_once
    return summary, shutil.copytree(output, tmp_path / "run")


def test_a_whole_run(finished, recipe_values):
    summary, output = finished
    assert {(row["task"], row["arm"]) for row in summary["results"]} == {("mood", arm) for arm in ARMS}
    assert all(row["cut"]["cut"] == 0 < row["cut"]["texts"] == row["examples"] for row in summary["results"])
    assert summary["sparsity"]["encoder"] == pytest.approx(0.9, abs=2e-3)
    assert json.loads((output / "summary.json").read_text()) == summary
    assert (output / "report.html").stat().st_size > 10_000
    assert yaml.safe_load((output / "recipe.yaml").read_text())["name"] == "tiny"
    names = [stage["name"] for stage in summary["stages"]]
    assert names == ["sparse", *(f"tasks/mood/{arm}" for arm in ARMS)]
    assert not list(output.rglob("*.partial"))


def test_parent_zeros_are_zeros_in_every_child_counted_without_our_code(finished):
    _, output = finished
    for parent, child in (("sparse", "tasks/mood/sparse"), ("one-shot", "tasks/mood/one-shot")):
        compared = 0
        with (
            safe_open(output / parent / "model.safetensors", framework="np") as theirs,
            safe_open(output / child / "model.safetensors", framework="np") as ours,
        ):
            for name in theirs.keys():  # noqa: SIM118 (not a dict)
                zeros = theirs.get_tensor(name) == 0
                if zeros.mean() > 0.5 and zeros.ndim == 2:
                    assert (ours.get_tensor(f"bert.{name}")[zeros] == 0).all(), name
                    compared += 1
        assert compared == 7


def test_a_second_run_skips_what_is_made(finished, recipe_values, capsys):
    first, output = finished
    capsys.readouterr()
    second = run(recipe_values, output)
    assert " ".join(capsys.readouterr().out.split()).count("already made") == 13
    assert second["results"] == first["results"]
    assert second["pattern_hash"] == first["pattern_hash"]


def test_a_finished_stage_is_kept_when_a_later_one_was_lost(finished, recipe_values):
    first, output = finished
    shutil.rmtree(output / "tasks" / "mood" / "sparse")
    second = run(recipe_values, output)
    assert second["results"] == first["results"]


def test_a_folder_of_another_recipe_is_left_alone(finished, recipe_values):
    _, output = finished
    recipe_values["prune"]["sparsity"] = 0.5
    before = (output / "recipe.yaml").read_text()
    with pytest.raises(UserError, match="holds a run of another recipe") as caught:
        run(recipe_values, output)
    arms = ("int4", "int4-onnx", "int8", "int8-onnx", "int8-ptq", "int8-ptq-onnx", "one-shot", "sparse")
    stale = ", ".join(["sparse", "one-shot", *(f"tasks/mood/{arm}" for arm in arms)])
    assert f"(different: prune.sparsity; stale: {stale})" in str(caught.value)
    assert (output / "recipe.yaml").read_text() == before


def test_what_leaves_nothing_stale_can_be_added_later(tiny_recipe, one_layer, tmp_path):
    values, output = {**tiny_recipe(), "model": str(one_layer)}, tmp_path / "run"
    values["baselines"] = {}
    values["benchmark"] = {"engines": ["torch", "onnxruntime"], "batch_sizes": [1], "lengths": [8], "seconds": 0.01}
    first = run(values, output)
    values["quantize"] = {"int8": {"epochs": 1}, "int8_ptq": {"examples": 16}}
    values["baselines"] = {"dense_int8": True}
    values["tasks"]["temper"] = {**values["tasks"]["mood"], "metric": "f1"}
    second = run(values, output)
    mood = {row["arm"]: row for row in second["results"] if row["task"] == "mood"}
    for before in first["results"]:
        now = mood[before["arm"]]
        new = {"certificate": None, "against": None}  # the dense int8 model was not there
        assert {**now, **new} == {**before, **new}
        assert now["certificate"]["difference"] == before["certificate"]["difference"], "its milliseconds are new"
    assert [row["arm"] for row in second["results"]] == 2 * ["dense", "dense-int8", "sparse", "int8", "int8-ptq"]
    timed = [{row["model"] for row in summary["benchmark"]["rows"]} for summary in (first, second)]
    assert timed == [{"dense", "sparse"}, {"dense", "dense-int8", "sparse", "int8"}]
    values["quantize"]["int8_ptq"] = {"examples": 32}
    outdated = ", ".join(f"tasks/{task}/{arm}" for task in ("mood", "temper") for arm in ("dense-int8", "int8-ptq"))
    with pytest.raises(UserError, match=f"stale: {outdated}"):
        run(values, output)


def test_dense_int8_is_the_dense_model_on_the_grid_of_the_sparse_one(finished):
    summary, output = finished
    dense, baseline, sparse = (
        json.loads((output / "tasks" / "mood" / arm / "pruneonce.json").read_text())
        for arm in ("dense", "dense-int8", "int8-ptq")
    )
    assert baseline["parents"] == [dense["key"]]
    assert baseline["settings"] == sparse["settings"]
    assert baseline["training"]["steps"] == 0, "it is calibrated, nothing is trained"
    results = {row["arm"]: row for row in summary["results"]}
    assert results["dense-int8"]["recovery"] == results["dense-int8"]["value"] / results["dense"]["value"]
    sizes = [results[arm]["size"]["bytes"] for arm in ("dense", "dense-int8", "int8-ptq")]
    assert sizes == sorted(sizes, reverse=True), "int8 makes it smaller, zeros make it smaller still"
    assert (output / "tasks" / "mood" / "dense-int8.pruneonce").is_file()
    assert "Beside dense int8 (" in (output / "report.html").read_text()


def test_every_arm_has_a_certificate_of_what_the_summary_says(finished, recipe_values, task_files, capsys):
    summary, output = finished
    page = (output / "report.html").read_text()
    assert "How sure the losses are" in page
    for row in summary["results"]:
        content = json.loads((output / row["folder"] / "certificate.json").read_text())
        dense = next(one["value"] for one in summary["results"] if one["arm"] == "dense")
        assert content["score"]["value"] == pytest.approx(row["value"])
        assert content["difference"]["value"] == pytest.approx(row["value"] - dense)
        assert content["bytes"] == (row["size"] and row["size"]["bytes"])
        assert (content["split"], content["units"]) == ("test", 40)
        assert "## Certificate" in (output / row["folder"] / "README.md").read_text()
        assert "outcome" not in row["certificate"]["reference"], "the summary has the numbers alone"
    exported, model = (output / "tasks" / "mood" / name for name in ("int8-onnx", "int8"))
    assert (exported / "certificate.json").read_text() == (model / "certificate.json").read_text()
    test = str(task_files / "test.jsonl")
    for folder in (model, exported):
        assert main(["check", str(folder), "--data", test, "--budget", "100pt"]) == 0
    assert "on 40 examples" in capsys.readouterr().out
    packed = str(model.with_name("int8.pruneonce"))
    assert main(["check", packed, "--data", test, "--budget", "100pt"]) == 2
    reference = ("--against", str(model / "certificate.json"))
    assert main(["check", packed, *reference, "--data", test, "--budget", "100pt"]) == 0


def test_the_grid_of_dense_int8_is_that_of_the_trained_model_without_a_calibrated_one(recipe_values):
    recipe_values["quantize"] = {"int8": {**recipe_values["quantize"]["int8"], "granularity": "tensor", "head": False}}
    settings = validate(Recipe, recipe_values).quantize.calibration
    assert (settings.granularity, settings.head, settings.examples) == ("tensor", False, 256)


def test_a_folder_that_is_not_a_run_is_left_alone(recipe_values, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty and not a run"):
        run(recipe_values, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_output_under_a_file_cannot_be_written(recipe_values, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        run(recipe_values, tmp_path / "file" / "run")


def set_in(values, path, value):
    *keys, last = path.split(".")
    for key in keys:
        values = values[key]
    values[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model", "./nowhere", "no model folder at"),
        ("corpus.source", "./nowhere.txt", "no such file or folder"),
        ("tasks.mood.train", "./nowhere.jsonl", "nowhere.jsonl"),
        ("tasks.mood.label", "lable", "no column 'lable'"),
        ("tasks.mood.labels", ["negative", "neutral"], "label 'positive' is none of"),
        ("tasks.mood.metric", "acuracy", "no metric 'acuracy'"),
        ("tasks.mood.teacher_model", "./nowhere", "no model folder at"),
        ("corpus.block_length", 512, "`corpus.block_length` is 512, but"),
        ("tasks.mood.max_length", 129, "takes at most 128 tokens"),
        ("prune.end", 100, "does not fit a run of 20 steps"),
        ("quantize.int4.group_size", 24, "`group_size` 24 does not divide the 32 inputs of encoder.layer.0"),
        ("benchmark", {"lengths": [256]}, "`benchmark.lengths` is 256, but"),
        ("benchmark", {"engines": ["torch"]}, "`benchmark.engines` has torch alone, which runs no quantized model"),
    ],
)
def test_a_mistake_leaves_nothing_behind(recipe_values, tmp_path, path, value, message):
    set_in(recipe_values, path, value)
    with pytest.raises(UserError) as caught:
        run(recipe_values, tmp_path / "run")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_empty_corpus(recipe_values, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    recipe_values["corpus"]["source"] = str(empty)
    with pytest.raises(UserError, match="too small: 0 tokens"):
        run(recipe_values, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unsupported_architecture(recipe_values, tokenizer, tmp_path):
    GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=60)).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    recipe_values["model"] = str(tmp_path / "gpt2")
    with pytest.raises(UserError, match="architecture 'gpt2' is not supported: transformers has no masked"):
        run(recipe_values, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_given_teacher_is_the_dense_arm(finished, recipe_values, tmp_path):
    first, output = finished
    recipe_values["tasks"]["mood"]["teacher_model"] = str(output / "tasks" / "mood" / "dense")
    recipe_values.update(baselines={"dense_int8": True}, quantize={})
    second = run(recipe_values, tmp_path / "again")
    assert {row["arm"] for row in second["results"]} == {"dense", "dense-int8", "sparse"}
    dense = [next(row["value"] for row in s["results"] if row["arm"] == "dense") for s in (first, second)]
    assert dense[0] == dense[1]
    assert not (tmp_path / "again" / "tasks" / "mood" / "dense").exists()


def test_two_tasks_and_a_prepared_teacher(recipe_values, task_files, tmp_path):
    recipe_values["prepare"] = {"steps": 4, "batch_size": 8, "learning_rate": 1e-3}
    recipe_values["prune"]["objective"] = "both"
    recipe_values.update(baselines={}, quantize={})
    mood = recipe_values["tasks"]["mood"]
    recipe_values["tasks"]["temper"] = {**mood, "transfer": {"epochs": 1}, "metric": "f1"}
    summary = run(recipe_values, tmp_path / "run")
    assert [stage["stage"] for stage in summary["stages"]][:2] == ["prepare", "prune"]
    assert len(summary["results"]) == 4
    steps = {stage["name"]: stage["steps"] for stage in summary["stages"]}
    assert steps["tasks/temper/sparse"] * 2 == steps["tasks/mood/sparse"]


def test_a_sparse_model_goes_on_from_its_zeros_with_the_dense_model_as_teacher(finished, recipe_values, tmp_path):
    summary, output = finished
    del recipe_values["quantize"], recipe_values["export"], recipe_values["baselines"]
    recipe_values["sparse_model"] = str(output / "sparse")
    recipe_values["prune"] |= {"steps": 4, "sparsity": 0.95, "initial_sparsity": 0.9}
    longer = run(recipe_values, tmp_path / "longer")
    assert longer["sparsity"]["encoder"] == pytest.approx(0.95, abs=2e-3)
    assert verify(tmp_path / "longer" / "sparse", output / "sparse").ok
    recovery = {row["arm"]: row["value"] for row in longer["results"]}
    assert recovery["dense"] == next(row["value"] for row in summary["results"] if row["arm"] == "dense")
    recipe_values["sparse_model"] = str(output / "one-shot")
    with pytest.raises(UserError, match="different: sparse_model; stale: sparse, tasks/mood/sparse"):
        run(recipe_values, tmp_path / "longer")


def test_a_sparse_model_of_another_shape_is_refused(recipe_values, tokenizer, tmp_path):
    other = make_model(tmp_path / "other", tokenizer, "distilbert")
    with pytest.raises(UserError, match="the teacher is the dense model that"):
        run({**recipe_values, "sparse_model": str(other)}, tmp_path / "run")
    assert not (tmp_path / "run").exists()
