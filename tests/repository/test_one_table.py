"""One table a fact: engines, export formats, task kinds, arms and methods are listed where they are declared, and there
alone."""

import ast
import re
import tomllib

import pytest
from shared.scripts import ROOT

from pruneonce.engines import ENGINES
from pruneonce.export import FORMATS
from pruneonce.plugins import plugins
from pruneonce.recipe import KINDS, arms

SOURCE = ROOT / "src" / "pruneonce"
TABLES = {
    "engines": set(ENGINES),
    "engine titles": {engine.title for engine in ENGINES.values()},
    "formats": set(FORMATS),
    "arms": set(arms.ARMS),
    "kinds": set(KINDS),
    "methods": set(plugins()),
}
# Names of arms are words of English besides, so sentences with two of them are no lists. The name of our own engine is
# that of the package.
IN_TEXTS = TABLES.keys() - {"arms"}
ALLOWED = {
    ("formats", "export/openvino.py"),  # libraries, whose names are the same
    ("arms", "recipe/arms.py"),  # the table
    ("arms", "export/onnx.py"),  # formats of weights, whose names are the same
    ("arms", "models/clients.py"),
}
MODULES = {file.relative_to(SOURCE).as_posix(): file for file in sorted(SOURCE.rglob("*.py"))}


def text_of(node):
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def listed(node):
    """The strings of a tuple, list, set or of a dictionary's keys that has two strings or more and nothing else."""
    inside = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
    texts = [text_of(one) for one in inside]
    return set(texts) if len(texts) > 1 and None not in texts else set()


def named(text, names):
    return {name for name in names if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)}


def lists_in(code):
    """Which tables the code lists again, in a collection or in a text that is no docstring."""
    tree = ast.parse(code)
    bodies = [node.body for node in ast.walk(tree) if hasattr(node, "body") and isinstance(node.body, list)]
    docstrings = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    found = set()
    for node in ast.walk(tree):
        text = text_of(node) if id(node) not in docstrings else None
        for table, names in TABLES.items():
            if (inside := listed(node)) and inside <= names:
                found.add(table)
            if text is not None and table in IN_TEXTS and len(named(text, names - {"pruneonce"})) > 1:
                found.add(table)
    return found


def test_no_module_lists_again_what_a_table_has():
    found = {(table, name) for name, file in MODULES.items() for table in lists_in(file.read_text(encoding="utf-8"))}
    assert found == ALLOWED


@pytest.mark.parametrize(
    ("code", "tables"),
    [
        ('TIMED = ("dense", "int8")', {"arms"}),
        ('EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}', {"engines"}),
        ('Format = Literal["onnx", "openvino"]', {"formats"}),
        ('help = "torch, onnxruntime or openvino; may be repeated."', {"engines"}),
        ('help = "For ONNX Runtime or OpenVINO."', {"engine titles"}),
        ('if kind in ["classification", "regression"]: pass', {"kinds"}),
        ('OURS = ("obert", "cram")', {"methods"}),
        ('LIBRARIES = ("pruneonce", "torch", "transformers")', set()),
        ('"""Runs torch, onnxruntime or openvino."""', set()),
    ],
)
def test_a_list_is_seen(code, tables):
    assert lists_in(code) == tables


def test_extras_of_engines_and_formats_are_those_of_the_distribution():
    """Each is declared in pyproject.toml, and installs the modules that are said to need it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {
        extra: {re.split(r"[>=\[<]", package)[0] for package in packages}
        for extra, packages in project["optional-dependencies"].items()
    }
    needs = [(engine.extra, engine.library) for engine in ENGINES.values() if engine.extra is not None]
    needs += [(format.extra, module) for format in FORMATS.values() for module in format.modules]
    assert needs
    for extra, module in needs:
        assert module.replace("_", "-") in extras[extra] | {name.replace("_", "-") for name in extras[extra]}, (
            extra,
            module,
        )


def test_every_engine_reads_a_format_that_there_is_and_every_format_has_an_engine():
    assert {engine.format for engine in ENGINES.values()} - {None} == set(FORMATS)
    assert {format.made_from for format in FORMATS.values()} - {None} <= set(FORMATS)


def test_arms_start_from_a_model_that_there_is():
    for arm in arms.ARMS.values():
        assert (arm.from_run is None) != (arm.from_arm is None), arm.name
        assert arm.from_run in (None, "dense", "sparse", "one-shot"), arm.name
        assert arm.from_arm is None or arm.from_arm in arms.ARMS, arm.name
        assert arm.packed or not arm.exported, f"{arm.name}: what is deployed is packed, too"
    assert [arm.name for arm in arms.ARMS.values() if arm.role == "reference"] == [arms.DENSE]
    assert next(iter(arms.ARMS)) == arms.DENSE, "what others are compared with comes first"


@pytest.mark.parametrize("module", MODULES)
def test_percentages_are_written_by_one_helper(module):
    """`95 %` with its space comes from `wording`; Python's own `%` presentation type has none."""
    assert not re.search(r"\{[^{}\n]*:[^{}\n]*%\}", MODULES[module].read_text()), "use pruneonce.wording.percent"
