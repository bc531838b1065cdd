"""Add an engine, an export format, a task kind, an arm and a method, each by the steps of docs/design.md, "How to add",
and find it everywhere.

The package is copied and the five are added to the copy: a file each, and the lines in `LINES`. Then a recipe that uses
all of them is planned and run, in processes of their own. A list of names that somebody wrote by hand would lack one.
"""

import json
import shutil

import pytest
import yaml
from shared.processes import python
from shared.scripts import ROOT

FILES = {
    "engines/fake.py": """
        from pruneonce.engines.engine import Engine

        def open_model(file, threads, exact):
            import numpy as np
            from pruneonce.engines.session import Session
            assert open(file).read() == "a fake model"

            def run(batch):
                return {"logits": np.tile(np.float32([0, 1]), (len(batch["input_ids"]), 1))}

            return Session("fake-engine", ["input_ids"], "fp32", threads or 1, run)

        ENGINE = Engine("fake-engine", "Fake Engine", "numpy", open_model, format="fake-format", extra="fake")
        """,
    "export/fake.py": """
        from pruneonce.export.format import Format

        def write(source, folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model.fake").write_text("a fake model")
            return folder / "model.fake"

        FORMAT = Format("fake-format", ("model.fake",), "fake", modules=("numpy",), libraries=("numpy",), write=write)
        """,
    "tasks/fake.py": """
        from pruneonce.tasks.classification import ClassificationKind

        class FakeKind(ClassificationKind):
            full_score = 2.0
        """,
    "methods/fake/__init__.py": '''
        from typing import Literal

        from pydantic import Field

        from pruneonce.plugins import Method
        from pruneonce.plugins.plugin import Options, Plugin

        class Fake(Options):
            """Change nothing."""

            name: Literal["fake-method"] = Field("fake-method", description="Name of the method.")

        plugin = Plugin(
            options=Fake, code="pruneonce.methods.fake:Method", paper="https://example.org", stages=frozenset({"prune"})
        )
        ''',
}
# For each of the five: the one file outside the new one, and lines of it with what they become.
LINES = {
    "engine": (
        "engines/__init__.py",
        {
            "import onnxruntime, openvino, pytorch": "import fake, onnxruntime, openvino, pytorch",
            "openvino.ENGINE)": "openvino.ENGINE, fake.ENGINE)",
        },
    ),
    "format": (
        "export/__init__.py",
        {"import onnx, openvino": "import fake, onnx, openvino", "openvino.FORMAT)": "openvino.FORMAT, fake.FORMAT)"},
    ),
    "kind": (
        "recipe/tasks.py",
        {
            "Embedding, Reranking)": "Embedding, Reranking, Fake)",
            "KINDS: dict": '''class Fake(Classification):
    """A kind of task that is classification by another name."""

    code: ClassVar[str] = "pruneonce.tasks.fake:FakeKind"
    kind: Literal["fake-kind"] = Field("fake-kind", description="Kind of task.")


KINDS: dict''',
        },
    ),
    "arm": (
        "recipe/arms.py",
        {
            '        Arm(\n            name="int4",': """        Arm(
            name="fake-arm",
            title="fake-arm",
            role="quantized",
            stage="calibrate",
            settings="quantize.fake_arm",
            colors=("#123456", "#654321"),
            from_arm=DENSE,
            packed=True,
            exported=True,
            timed=True,
        ),
        Arm(
            name="int4","""
        },
    ),
    "key of the arm": (
        "recipe/quantization.py",
        {
            "    int8_ptq: Calibrate | None = ": """    fake_arm: Calibrate | None = Field(None, description="Fake.")
    int8_ptq: Calibrate | None = """
        },
    ),
    "method": ("plugins/registry.py", {"OURS = (": 'OURS = ("fake", '}),
}
ARM = "tasks/mood/fake-arm"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The folder of a copy of the package with the five."""
    folder = tmp_path_factory.mktemp("source")
    source = shutil.copytree(ROOT / "src" / "pruneonce", folder / "pruneonce", ignore=shutil.ignore_patterns("*.pyc"))
    for name, text in FILES.items():
        lines = text.strip("\n").splitlines()
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("".join(f"{line[8:]}\n" for line in lines))
    for name, changes in LINES.values():
        text = (source / name).read_text()
        for line, changed in changes.items():
            assert text.count(line) == 1, f"{name} is other than docs/design.md says: {line}"
            text = text.replace(line, changed)
        (source / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def command(package):
    """Runs the command line of the copy."""

    def run(*arguments):
        return python("-W", "ignore", "-m", "pruneonce", *arguments, PYTHONPATH=str(package), COLUMNS="200")

    return run


@pytest.fixture(scope="module")
def recipe(tiny_recipe, tmp_path_factory):
    """The file of a recipe that uses the five."""
    values = tiny_recipe()
    values["prune"]["method"] = "fake-method"
    values["tasks"]["mood"]["kind"] = "fake-kind"
    values["quantize"] = {"fake_arm": {"examples": 8}}
    values["baselines"] = {}
    values["export"] = ["fake-format"]
    values["benchmark"] = {"engines": ["torch", "fake-engine"], "batch_sizes": [1], "lengths": [8], "seconds": 0.01}
    file = tmp_path_factory.mktemp("recipe") / "fake.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.fixture(scope="module")
def run(command, recipe, tmp_path_factory):
    """The folder of a run of the recipe."""
    output = tmp_path_factory.mktemp("run") / "run"
    done = command("run", recipe, "--output", output)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def summary(run):
    return json.loads((run / "summary.json").read_text())


@pytest.fixture(scope="module")
def page(run):
    """The source of the report."""
    return (run / "report.html").read_text()


@pytest.fixture(scope="module")
def planned(command, recipe):
    done = command("plan", recipe, "--seconds", "0", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_engine(command, run, summary, page, tmp_path):
    assert "fake-engine" in command("benchmark", "--help").stdout
    assert "Fake Engine" in command("export", "--help").stdout
    assert "fake-engine" in command("recipes", "keys", "benchmark").stdout
    refused = command("benchmark", run / "sparse", "--engine", "other")
    assert "'fake-engine'" in refused.stderr, "the choices are told"
    rows = {(row["engine"], row["model"]) for row in summary["benchmark"]["rows"]}
    assert {("fake-engine", "dense"), ("fake-engine", "fake-arm")} <= rows
    assert "fake-engine" in summary["benchmark"]["machine"], "the version of its library is recorded"
    assert "Fake Engine" in page
    quantized = run / ARM
    alone = command("benchmark", quantized, "--length", "8", "--seconds", "0.01", "--output", tmp_path / "speed")
    assert alone.returncode == 0, alone.stderr
    rows = json.loads((tmp_path / "speed" / "summary.json").read_text())["benchmark"]["rows"]
    assert "fake-engine" in {row["engine"] for row in rows}, "it is timed by default"


def test_a_format(command, run, task_files, tmp_path):
    assert "fake-format" in command("export", "--help").stdout
    assert "fake-format" in command("recipes", "keys", "recipe").stdout
    exported = run / f"{ARM}-fake-format"
    recorded = json.loads((exported / "pruneonce.json").read_text())
    assert recorded["files"].keys() == {"model.fake"}
    assert "numpy" in recorded["versions"]
    assert recorded["weights"] == "int8"
    done = command("export", run / ARM, "--format", "fake-format", "--output", tmp_path / "made")
    assert "0.0 MB for fake-format" in done.stdout, done.stderr
    measured = command("evaluate", tmp_path / "made", "--test", task_files / "test.jsonl", "--json")
    assert json.loads(measured.stdout)["test"]["accuracy"] == 0.5, "in its engine, which always says the same"
    (tmp_path / "made" / "model.fake").write_text("another one")
    refused = command("evaluate", tmp_path / "made", "--test", task_files / "test.jsonl")
    assert "model.fake is damaged" in refused.stderr


def test_a_kind(command, summary, page, task_files):
    assert "fake-kind" in command("finetune", "--help").stdout
    assert "fake-kind" in command("evaluate", "--help").stdout
    listed = command("recipes", "keys", "fake-kind")
    assert "label" in listed.stdout, listed.stderr
    refused = command("evaluate", "m", "--kind", "other", "--test", task_files / "test.jsonl")
    assert "fake-kind" in refused.stderr
    assert {row["full_score"] for row in summary["results"]} == {2.0}, "a property of its class"
    assert "mood" in page


def test_an_arm(command, recipe, run, summary, page, planned):
    results = {row["arm"]: row for row in summary["results"]}
    assert list(results) == ["dense", "sparse", "fake-arm"]
    assert results["fake-arm"]["size"]["file"] == f"{ARM}.pruneonce"
    assert (run / f"{ARM}.pruneonce").is_file()
    assert (run / f"{ARM}-fake-format").is_dir()
    assert ARM in [stage["name"] for stage in summary["stages"]]
    provenance = json.loads((run / ARM / "pruneonce.json").read_text())
    dense = json.loads((run / "tasks/mood/dense/pruneonce.json").read_text())
    assert provenance["parents"] == [dense["key"]], "it is made of the dense model, not of the sparse one"
    assert "In fake-arm it keeps" in page, "it is in the verdict"
    assert page.count("--fake-arm: #123456") == 2, "on the screen and in print"
    assert "--fake-arm: #654321" in page
    assert 'style="background: var(--fake-arm)"' in page
    assert f"{ARM}: calibration" in [stage["name"] for stage in planned["stages"]]
    again = command("run", recipe, "--output", run)
    assert f"{ARM}: already made" in again.stdout.replace("\n", " ")
    assert "fake-arm" in again.stdout[again.stdout.index("model") :], "in the table"
    stale = command("run", recipe, "--output", run, "--set", "quantize.fake_arm.examples=9")
    assert f"stale: {ARM}, {ARM}-fake-format)" in stale.stderr
    assert "different: quantize.fake_arm.examples" in stale.stderr


def test_a_method(command, summary, page, planned):
    assert "Change nothing." in command("methods", "list").stdout
    assert "fake-method" in command("methods", "show", "fake-method").stdout
    sparse = next(stage for stage in summary["stages"] if stage["name"] == "sparse")
    assert sparse["method"] == {"name": "fake-method"}
    assert "fake-method" in page
    assert next(stage for stage in planned["stages"] if stage["name"] == "sparse")["steps"] == 20


def test_each_is_a_file_and_one_outside_its_folder():
    """As docs/design.md says; an arm is an entry of the table and its key of the recipe."""
    assert len({name for name, _ in LINES.values()}) == len(LINES) == 6
    text = (ROOT / "docs" / "design.md").read_text()
    section = text[text.index("## How to add") :]
    for name in (*(file for file, _ in LINES.values()), "engines/", "export/", "tasks/", "methods/", "stages/"):
        assert f"`{name}" in section, name
