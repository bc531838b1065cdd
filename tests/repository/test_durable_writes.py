"""Files appear whole: outside `system/durable.py`, nothing gives a file or folder its final name."""

import ast

import pytest
from shared.scripts import ROOT

SOURCE = ROOT / "src" / "pruneonce"
# Modules that write files in place, and why each may.
WRITING = {
    "cli/main.py": "os.devnull",
    "cli/recipes.py": "a copy of a recipe, opened so that nothing is overwritten",
    "data/size.py": "a temporary file",
    "models/push.py": "a temporary folder",
    "plan/probe.py": "os.devnull",
    "runs/quickstart.py": "a folder that is not published yet",
    "storage/unpacking.py": "a folder that is not published yet",
    "system/durable.py": "the one place",
    "system/locks.py": "the lock, whose content is for people",
}
RENAMING = {
    "training/checkpoints.py": "a checkpoint that is removed",
    "runs/layout.py": "finished folders, moved into that of their seed",
    "system/durable.py": "the one place",
}


def calls(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr, node.args, node.keywords


def is_write(name, arguments, keywords):
    mode = arguments[0].value if name == "open" and arguments and isinstance(arguments[0], ast.Constant) else ""
    is_ours = name == "write_text" and len(arguments) == 2  # of durable
    opens = isinstance(mode, str) and bool(set(mode) & set("wax"))
    return opens or (name in ("write_text", "write_bytes") and not is_ours)


def is_rename(name, arguments, keywords):
    """Of a path: a string's `replace` has two arguments, that of `dataclasses` has keywords."""
    return name in ("replace", "rename") and len(arguments) == 1 and not keywords


@pytest.mark.parametrize(("asked", "allowed"), [(is_write, WRITING), (is_rename, RENAMING)])
def test_what_is_written_is_written_durably(asked, allowed):
    places = {file.relative_to(SOURCE).as_posix(): file for file in SOURCE.rglob("*.py")}
    assert {place for place, file in places.items() if any(asked(*call) for call in calls(file))} == allowed.keys()
