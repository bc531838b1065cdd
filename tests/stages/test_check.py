"""Certificates and `check`: numbers against a plain computation, references, budgets, engines and exit codes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from shared.settings import KINDS
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pruneonce import recipe, stages, storage
from pruneonce.cli import main
from pruneonce.errors import UserError
from pruneonce.metrics.comparison import RESAMPLES
from pruneonce.metrics.units import Units
from pruneonce.models import CERTIFICATE, content_key
from pruneonce.models.card import card_of
from pruneonce.stages.certificate import read_certificate
from pruneonce.stages.check import Budget


@pytest.fixture(scope="module")
def test_file(task):
    return task.test


@pytest.fixture(scope="module")
def certified(models, test_file, tmp_path_factory):
    """The sparse task model with a certificate against the dense one."""
    dense, sparse = models
    folder = shutil.copytree(sparse, tmp_path_factory.mktemp("certified") / "sparse")
    said = ("check", str(folder), "--against", str(dense), "--data", test_file, "--budget", "100%", "--certify")
    assert main(list(said)) == 0
    return folder


def predictions(folder, rows):
    """Class numbers by plain transformers."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    names = [model.config.label2id[row["label"]] for row in rows]
    logits = [model(**tokenizer(row["text"], return_tensors="pt")).logits[0].argmax() for row in rows]
    return np.array(logits, dtype=int), np.array(names)


@pytest.fixture(scope="module")
def plain(models, test_file):
    """Predictions of the dense and the sparse model, and the labels."""
    rows = [json.loads(line) for line in Path(test_file).read_text().splitlines()]
    (dense, labels), (sparse, _) = (predictions(folder, rows) for folder in models)
    return dense, sparse, labels


def test_a_certificate_is_that_of_a_plain_computation(certified, plain):
    dense, sparse, labels = plain
    content = read_certificate(certified)
    right, right_before = sparse == labels, dense == labels
    assert content["score"]["value"] == pytest.approx(right.mean())
    assert content["reference"]["value"] == pytest.approx(right_before.mean())
    assert content["difference"]["value"] == pytest.approx(right.mean() - right_before.mean())
    lost, won = int((right_before & ~right).sum()), int((right & ~right_before).sum())
    assert content["changes"] == {
        "of": "examples",
        "number": 40,
        "changed": int((dense != sparse).sum()),
        "right_to_wrong": lost,
        "wrong_to_right": won,
    }
    p = stats.binomtest(lost, lost + won).pvalue if lost + won else 1
    assert (content["difference"]["test"], content["difference"]["p"]) == ("McNemar, exact", pytest.approx(p))
    draws = np.random.default_rng(7).integers(0, 40, (20000, 40))
    for found, values in ((content["score"], right), (content["difference"], right.astype(int) - right_before)):
        low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
        assert (found["low"], found["high"]) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.03))
    assert content["interval"]["resamples"] == RESAMPLES
    outcome = Units.from_json(content["reference"]["outcome"])
    assert (outcome.decisions == dense).all()
    assert len(json.dumps(content)) < 3000, "it is compact"


def test_the_card_has_the_certificate_once(certified, models, test_file):
    card = (certified / "README.md").read_text()
    assert card.count("## Certificate") == 1
    assert card.startswith("---"), "what the card had is still there"
    said = ["check", str(certified), "--against", str(models[0]), "--data", test_file, "--budget", "100%", "--certify"]
    assert main(said) == 0
    assert (certified / "README.md").read_text() == card
    score = read_certificate(certified)["score"]
    assert f"| accuracy | {100 * score['value']:.1f} ({100 * score['low']:.1f} to {100 * score['high']:.1f}) |" in card


def checked(capsys, *arguments):
    code = main(["check", *map(str, arguments), "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else said.err


def test_the_certificate_takes_the_place_of_the_dense_model(certified, models, test_file, capsys):
    dense, sparse = models
    shared = ("--data", test_file, "--budget", "100%")
    code, by_certificate = checked(capsys, certified, *shared)
    _, by_model = checked(capsys, sparse, "--against", dense, *shared)
    _, by_file = checked(capsys, sparse, "--against", certified / CERTIFICATE, *shared)
    assert code == 0
    for other in (by_model, by_file):
        for name in ("score", "loss", "changes", "p"):
            assert by_certificate[name] == other[name], name
    assert by_certificate["reference"]["name"] == f"certificate of {certified}"


@pytest.mark.parametrize("unit", ["%", "pt"])
def test_the_exit_code_is_that_of_the_loss(certified, plain, test_file, capsys, unit):
    dense, sparse, labels = plain
    before, after = (100 * np.mean(predicted == labels) for predicted in (dense, sparse))
    loss = before - after if unit == "pt" else 100 * (1 - after / before)
    shared = (certified, "--data", test_file)
    if loss <= 0:
        pytest.skip("the tiny sparse model lost nothing")
    for budget, expected in ((loss + 0.01, 0), (loss - 0.01, 1)):
        code, said = checked(capsys, *shared, "--budget", f"{budget:.6f}{unit}")
        assert (code, said["within"]) == (expected, not expected)
        assert said["loss"]["value"] == pytest.approx(loss)
    code, said = checked(capsys, *shared, "--budget", f"{loss + 0.01:.6f}{unit}", "--confidence", "0.95")
    assert code == 1, "the bound is above the loss itself"
    assert said["decisive"] > said["loss"]["value"]


def worse(model, tokenizer_of, folder):
    """A copy of a task model whose head was turned around, so that it is wrong wherever it was right."""
    made = AutoModelForSequenceClassification.from_pretrained(model)
    made.classifier.weight.data.neg_()
    made.classifier.bias.data.neg_()
    made.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_of).save_pretrained(folder)
    return folder


def test_a_worse_model_is_above_the_budget_in_every_form(models, test_file, tmp_path, capsys):
    dense, _ = models
    bad = worse(dense, dense, tmp_path / "bad")
    shared = ("--data", test_file, "--budget", "1pt")
    code, said = checked(capsys, bad, "--against", dense, *shared)
    assert code == 1
    assert said["loss"]["value"] == pytest.approx(100 * (2 * said["reference"]["value"] - 1))
    assert said["changes"]["changed"] == 40
    packed = tmp_path / "bad.pruneonce"
    storage.pack([bad], packed, "fp32")
    for form in ((packed,), (packed, "--engine", "torch")):
        code, other = checked(capsys, *form, "--against", dense, *shared)
        assert (code, other["loss"]["value"]) == (1, pytest.approx(said["loss"]["value"])), form


@pytest.mark.slow
def test_exports_are_checked_in_their_engine(certified, models, test_file, tmp_path, capsys):
    shared = ("--data", test_file, "--budget", "100%")
    _, said = checked(capsys, certified, *shared)
    onnx = stages.export(certified, tmp_path / "onnx")
    assert read_certificate(onnx) == read_certificate(certified), "it goes with the model"
    forms = ((onnx,), (onnx, "--against", models[0]), (certified, "--engine", "onnxruntime"))
    for form in forms:
        code, other = checked(capsys, *form, *shared)
        assert (code, other["score"]) == (0, said["score"]), form
    assert main(["check", str(onnx), *shared, "--engine", "openvino"]) == 2
    assert "was exported for onnxruntime; to measure in openvino, give the model" in capsys.readouterr().err


def test_it_is_said_that_a_certificate_tells_how_to_read(certified, models, test_file, capsys):
    shared = ("--data", test_file, "--budget", "100%", "--against", str(models[0]))
    for model, is_said in ((certified, True), (models[1], False)):
        assert main(["check", str(model), *shared]) == 0
        assert (f"read as the certificate of {model} says" in capsys.readouterr().err) == is_said


def test_engines_measure_the_same_model(certified, test_file, capsys):
    shared = (certified, "--data", test_file, "--budget", "100%")
    scores = {engine: checked(capsys, *shared, "--engine", engine)[1]["score"] for engine in ("torch", "pruneonce")}
    assert scores["torch"] == scores["pruneonce"]


def test_it_is_said_in_sentences(certified, test_file, capsys):
    assert main(["check", str(certified), "--data", test_file, "--budget", "100pt", "--confidence", "0.9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"accuracy of {certified} on 40 examples: ")
    assert lines[1].startswith(f"accuracy of certificate of {certified}: ")
    assert lines[2].startswith("loss: ")
    assert "percentage points; McNemar, exact: p = " in lines[2]
    assert "of 40 examples changed: " in lines[3]
    assert lines[4].startswith("within the budget of 100pt, by the upper bound ")


def test_a_loss_of_nothing_has_no_minus(certified, test_file, capsys):
    arguments = ["--against", str(certified), "--data", test_file, "--budget", "0pt"]
    assert main(["check", str(certified), *arguments]) == 0
    assert "loss: 0.00 (0.00 to 0.00) percentage points" in capsys.readouterr().out


def test_one_folder_for_all_clients_has_the_certificate(certified, tmp_path):
    stages.export_into(certified, tmp_path / "into", formats=[])
    assert (tmp_path / "into" / CERTIFICATE).read_bytes() == (certified / CERTIFICATE).read_bytes()
    assert "## Certificate" in (tmp_path / "into" / "README.md").read_text()


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_task(name, inputs, tmp_path, capsys):
    """A model against itself loses nothing, and a certificate is written and read again."""
    task = inputs[name]
    if name == "embedding":
        model = shutil.copytree(inputs["bare"], tmp_path / "model")
    else:
        settings = recipe.Training(steps=1, batch_size=4, learning_rate=1e-3)
        model = stages.finetune(inputs["bare"], task, settings, tmp_path / "model")
    kept = ("max_length", "metric", "text_pair", "query", "passage", "doc_stride", "max_answer_length")
    sets = [f"task.{key}={value}" for key, value in task.model_dump().items() if key in kept and value is not None]
    options = [part for value in sets for part in ("--set", value)]
    shared = (model, "--data", task.dev, "--budget", "0.1pt")
    before = content_key(model)
    capsys.readouterr()
    code, said = checked(capsys, *shared, "--against", model, "--kind", name, *options, "--certify")
    assert code == 0, said
    assert str(said["loss"]["value"]) == "0.0", "not -0.0"
    assert (said["loss"]["low"], said["loss"]["high"], said["p"]) == (0, 0, 1)
    assert content_key(model) == before, "it is the same model"
    code, again = checked(capsys, *shared)
    assert code == 0, again
    assert (again["score"], again["changes"]) == (said["score"], said["changes"]), "the certificate says how to read"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--budget", "1"), "budget '1' is neither `1%`"),
        (("--budget", "-1%"), "budget '-1%' is neither"),
        (("--budget", "1%", "--engine", "nothing"), "no engine 'nothing'; there are torch"),
        (("--budget", "1%", "--confidence", "95"), "--confidence 95 has to be at least 0.5 and below 1"),
        (("--budget", "1%", "--metric", "f1"), "was taken with `metric` 'accuracy', not 'f1'"),
        (
            ("--budget", "1%", "--against", "nowhere.json"),
            "there is no certificate at nowhere.json; give",
        ),
        (("--budget", "1%", "--set", "epochs=3"), "unknown key `epochs`; `check` takes `task.KEY`"),
    ],
)
def test_mistakes_are_told_in_a_line(certified, test_file, capsys, arguments, told):
    assert main(["check", str(certified), "--data", test_file, *arguments]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_what_there_is_no_reference_for_is_refused(certified, models, task, tmp_path, capsys):
    shared = ("--budget", "1%")
    assert main(["check", str(models[1]), "--data", task.test, *shared]) == 2
    assert "has no certificate; give the dense model, or a certificate.json, by --against" in capsys.readouterr().err
    assert main(["check", str(certified), "--data", task.dev, *shared]) == 2
    assert "was taken on other data than" in capsys.readouterr().err
    broken = shutil.copytree(certified, tmp_path / "broken")
    content = json.loads((broken / CERTIFICATE).read_text())
    content["reference"]["outcome"]["decisions"]["data"] = "AAAA"
    (broken / CERTIFICATE).write_text(json.dumps(content))
    assert main(["check", str(broken), "--data", task.test, *shared]) == 2
    assert "damaged" in capsys.readouterr().err
    (broken / CERTIFICATE).write_text("[]")
    assert main(["check", str(broken), "--data", task.test, *shared]) == 2
    assert "is not a certificate of this version" in capsys.readouterr().err


def flipped(content):
    """Outcomes by which the dense model was right on nothing, packed as `check` packs them."""
    outcome = Units.from_json(content["reference"]["outcome"])
    wrong = {**outcome.values, "predicted": 1 - outcome.values["label"]}
    content["reference"]["outcome"] = Units(wrong, wrong["predicted"], np.zeros(40, bool)).to_json()


def without_hash(content):
    flipped(content)
    del content["reference"]["sha256"]


def other_decisions(content):
    outcome = Units.from_json(content["reference"]["outcome"])
    turned = Units(outcome.values, 1 - outcome.decisions, ~outcome.right)
    content["reference"]["outcome"] = turned.to_json()


@pytest.mark.parametrize(
    "edit",
    [
        flipped,
        without_hash,
        other_decisions,
        lambda content: content["reference"].update(value=0.99),
        lambda content: content["reference"].pop("outcome"),
        lambda content: content.update(reference=[]),
        lambda content: content.update(task="classification"),
        lambda content: content.pop("data"),
    ],
)
def test_an_edited_certificate_does_not_mislead(edit, certified, test_file, tmp_path, capsys):
    """Easier outcomes of the dense model would hide a loss."""
    folder = shutil.copytree(certified, tmp_path / "edited")
    content = json.loads((folder / CERTIFICATE).read_text())
    edit(content)
    (folder / CERTIFICATE).write_text(json.dumps(content))
    assert main(["check", str(folder), "--data", test_file, "--budget", "100%"]) == 2
    said = capsys.readouterr().err
    assert re.search("damaged|was taken on other data", said)
    assert said.count("\n") == 1


def test_a_damaged_certificate_is_left_out_of_the_card(certified, tmp_path):
    folder = shutil.copytree(certified, tmp_path / "edited")
    (folder / CERTIFICATE).write_text('{"version": 1, "task": 5}')
    assert "## Certificate" not in card_of(folder)


def test_a_reference_without_a_score_has_no_percentage(models, test_file, tmp_path):
    bad = worse(models[0], models[0], tmp_path / "bad")
    task = recipe.Classification(train=test_file, dev=test_file, metric="matthews_correlation")
    with pytest.raises(UserError, match="is not above 0, so there is no percentage of it; give the budget as 1pt"):
        stages.check(models[0], task, Budget.parse("1%"), against=bad)


def test_outcomes_are_kept_exactly():
    draw = np.random.default_rng(0)
    units = Units(
        {"a": draw.normal(size=(7, 2)), "b": np.array([-1, 3, 300, 0, 0, 0, 2**40])},
        np.arange(5),
        np.arange(5) > 2,
        "words",
    )
    again = Units.from_json(json.loads(json.dumps(units.to_json())))
    assert all((again.values[name] == values).all() for name, values in units.values.items())
    assert (again.decisions == units.decisions).all()
    assert (again.right == units.right).all()
    assert again.noun == "words"
    hostile = units.to_json()
    hostile["values"]["a"]["shape"] = [10**12, 2]
    with pytest.raises(UserError, match="damaged"):
        Units.from_json(hostile)
