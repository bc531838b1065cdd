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
            "runtime.ENGINE)": "runtime.ENGINE, fake.ENGINE)",
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
    "method": ("plugins/registry.py", {"BUILT_IN = (": 'BUILT_IN = ("fake", '}),
}
ARM = "tasks/mood/fake-arm"
DRIVER = """
import contextlib, io, json, sys
from pathlib import Path
from pruneonce.cli import main

answers = {}
for name, arguments in json.loads(Path(sys.argv[1]).read_text()).items():
    output, errors, code = io.StringIO(), io.StringIO(), 0
    if arguments[0] == "write":
        Path(arguments[1]).write_text(arguments[2])
        continue
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = main(arguments)
    answers[name] = {"code": code, "output": output.getvalue(), "errors": errors.getvalue()}
print(json.dumps(answers))
"""


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
def folder(tmp_path_factory):
    """Where the verbs write: `run` is the run of the recipe."""
    return tmp_path_factory.mktemp("written")


@pytest.fixture(scope="module")
def said(package, recipe, folder, task_files):
    """What the copy's command line says to each of these, one after the other in one process: code, output, errors."""
    run, made, test = folder / "run", folder / "made", task_files / "test.jsonl"
    quickly = ("--length", "8", "--batch-size", "1", "--seconds", "0.01")
    verbs = {
        "run": ("run", recipe, "--output", run),
        "run again": ("run", recipe, "--output", run),
        "another run": ("run", recipe, "--output", run, "--set", "quantize.fake_arm.examples=9"),
        "plan": ("plan", recipe, "--seconds", "0", "--json"),
        "timed": ("benchmark", run / ARM, *quickly, "--output", folder / "speed"),
        "another engine": ("benchmark", run / "sparse", "--engine", "other"),
        "export": ("export", run / ARM, "--format", "fake-format", "--output", made),
        "evaluate": ("evaluate", made, "--test", test, "--json"),
        "damage": ("write", made / "model.fake", "another model"),
        "evaluate damaged": ("evaluate", made, "--test", test),
        "another kind": ("finetune", "m", "--kind", "other", "--train", test, "--dev", test, "--output", folder / "x"),
        "methods": ("methods", "list"),
        "method": ("methods", "show", "fake-method"),
        **{f"{verb} --help": (verb, "--help") for verb in ("benchmark", "export", "finetune", "evaluate")},
        **{f"keys of {section}": ("recipes", "keys", section) for section in ("recipe", "benchmark", "fake-kind")},
    }
    asked = folder / "verbs.json"
    asked.write_text(json.dumps({name: list(map(str, arguments)) for name, arguments in verbs.items()}))
    done = python("-W", "ignore", "-c", DRIVER, asked, PYTHONPATH=str(package), COLUMNS="200")
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    for name in ("run", "run again", "plan", "timed", "export", "evaluate"):
        assert answers[name]["code"] == 0, (name, answers[name])
    return answers


@pytest.fixture(scope="module")
def summary(said, folder):
    return json.loads((folder / "run" / "summary.json").read_text())


@pytest.fixture(scope="module")
def page(said, folder):
    """The source of the report."""
    return (folder / "run" / "report.html").read_text()


def read(file):
    return json.loads(file.read_text())


def test_an_engine(said, summary, page, folder):
    assert "fake-engine" in said["benchmark --help"]["output"]
    assert "Fake Engine" in said["export --help"]["output"]
    assert "fake-engine" in said["keys of benchmark"]["output"]
    assert "'fake-engine'" in said["another engine"]["errors"], "the choices are told"
    rows = {(row["engine"], row["model"]) for row in summary["benchmark"]["rows"]}
    assert {("fake-engine", "dense"), ("fake-engine", "fake-arm")} <= rows
    assert "numpy" in summary["benchmark"]["machine"], "the version of its library is recorded"
    assert "Fake Engine" in page
    assert "Fake" in said["run"]["output"], "a column of the table"
    timed = read(folder / "speed" / "summary.json")["benchmark"]["rows"]
    assert "fake-engine" in {row["engine"] for row in timed}, "it is timed by default"


def test_a_format(said, folder):
    assert "fake-format" in said["export --help"]["output"]
    assert "fake-format" in said["keys of recipe"]["output"]
    recorded = read(folder / "run" / f"{ARM}-fake-format" / "pruneonce.json")
    assert recorded["files"].keys() == {"model.fake"}
    assert "numpy" in recorded["versions"]
    assert recorded["weights"] == "int8"
    assert "0.0 MB for fake-format" in said["export"]["output"]
    measured = json.loads(said["evaluate"]["output"])
    assert measured["test"]["accuracy"] == 0.5, "in its engine, which always says the same"
    assert "model.fake is damaged" in said["evaluate damaged"]["errors"]


def test_a_kind(said, summary):
    assert "fake-kind" in said["finetune --help"]["output"]
    assert "fake-kind" in said["evaluate --help"]["output"]
    assert "label" in said["keys of fake-kind"]["output"]
    assert "fake-kind" in said["another kind"]["errors"], "the choices are told"
    assert {row["full_score"] for row in summary["results"]} == {2.0}, "a property of its class"


def test_an_arm(said, summary, page, folder):
    results = {row["arm"]: row for row in summary["results"]}
    assert list(results) == ["dense", "sparse", "fake-arm"]
    assert results["fake-arm"]["size"]["file"] == f"{ARM}.pruneonce"
    assert (folder / "run" / f"{ARM}.pruneonce").is_file()
    assert (folder / "run" / f"{ARM}-fake-format").is_dir()
    assert ARM in [stage["name"] for stage in summary["stages"]]
    arm, dense = (read(folder / "run" / "tasks" / "mood" / name / "pruneonce.json") for name in ("fake-arm", "dense"))
    assert arm["parents"] == [dense["key"]], "it is made of the dense model, not of the sparse one"
    assert "In fake-arm it keeps" in page, "it is in the verdict"
    assert page.count("--fake-arm: #123456") == 2, "on the screen and in print"
    assert "--fake-arm: #654321" in page
    assert 'style="background: var(--fake-arm)"' in page
    planned = [stage["name"] for stage in json.loads(said["plan"]["output"])["stages"]]
    assert f"{ARM}: calibration" in planned
    again = said["run again"]["output"]
    assert f"{ARM}: already made" in again
    assert "fake-arm" in again[again.index("PyTorch") :], "in the table"
    outdated = said["another run"]["errors"]
    assert "different: quantize.fake_arm.examples" in outdated
    assert f"stale: {ARM}, {ARM}-fake-format)" in outdated


def test_a_method(said, summary, page):
    assert "Change nothing." in said["methods"]["output"]
    assert "fake-method" in said["method"]["output"]
    sparse = next(stage for stage in summary["stages"] if stage["name"] == "sparse")
    assert sparse["method"] == {"name": "fake-method"}
    assert "fake-method" in page
    planned = {stage["name"]: stage["steps"] for stage in json.loads(said["plan"]["output"])["stages"]}
    assert planned["sparse"] == 20


def test_each_is_a_file_and_one_outside_its_folder():
    """As docs/design.md says; an arm is an entry of the table and its key of the recipe."""
    assert len({name for name, _ in LINES.values()}) == len(LINES) == 6
    text = (ROOT / "docs" / "design.md").read_text()
    section = text[text.index("## How to add") :]
    for name in (*(file for file, _ in LINES.values()), "engines/", "export/", "tasks/", "methods/", "stages/"):
        assert f"`{name}" in section, name
