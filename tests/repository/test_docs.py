"""The documents say what the code does: the reference has every key, and the examples run."""

import inspect
import re
import shutil
from pathlib import Path

import pytest
import yaml

from pruneonce import recipe
from pruneonce.plugins import plugins
from pruneonce.recipe.reference import page

ROOT = Path(__file__).parents[2]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```", read(name), re.M | re.S)


def test_the_reference_is_what_the_fields_say():
    assert read("docs/recipe-reference.md") == page(), "run `make reference`"


def test_the_reference_has_every_key_with_its_default():
    """Read without the code that writes the page: a table row of every field that a section declares."""
    chapters = re.split(r"^##+ ", read("docs/recipe-reference.md"), flags=re.M)
    rows = [dict(re.findall(r"^\| `(\w+)` \| .*? \| (.*?) \| \S", chapter, flags=re.M)) for chapter in chapters]
    sections = [kind for kind in vars(recipe).values() if isinstance(kind, type) and issubclass(kind, recipe.Section)]
    sections += [plugin.options for plugin in plugins().values() if plugin.options.__module__.startswith("pruneonce.")]
    for section in sections:
        if declared := [name for name in inspect.get_annotations(section) if name in section.model_fields]:
            assert {name: as_documented(section.model_fields[name]) for name in declared} in rows, section


def as_documented(field):
    if field.is_required():
        return "required"
    if isinstance(field.default, recipe.Section):
        return "`{}`"
    text = yaml.safe_dump(field.default, default_flow_style=True).removesuffix("...\n").strip()
    return "-" if text == "null" else f"`{text}`"


@pytest.mark.parametrize("name", ["README.md", "docs/recipes.md"])
def test_recipe_examples_are_recipes(name, tmp_path):
    examples = blocks(name, "yaml")
    assert examples
    for example in examples:
        (tmp_path / "example.yaml").write_text(example, encoding="utf-8")
        recipe.load(str(tmp_path / "example.yaml"))


def test_overrides_in_the_reference_are_taken():
    shown = re.findall(r"^--set (\S+?=)('.*?'|\S+)", read("docs/recipes.md"), re.M)
    assert len(shown) > 5
    for key, value in shown:
        base = [] if key.startswith("tasks.mnli") else ["tasks.queue={train: a.csv, dev: b.csv}"]
        recipe.load("bert-base-90", [*base, key + value.strip("'")])


def test_the_python_example_runs(encoder, corpus_file, task_files, tmp_path, monkeypatch):
    (code,) = blocks("README.md", "python")
    for pattern, smaller in {
        r'"sentence-transformers/\S+"': repr(str(encoder)),
        r"block_length=\d+": "block_length=16",
        r"steps=\d+": "steps=4",
        r"epochs=\d+": "epochs=1",
    }.items():
        code, count = re.subn(pattern, smaller, code)
        assert count
    shutil.copytree(task_files, tmp_path, dirs_exist_ok=True)
    shutil.copyfile(corpus_file, tmp_path / "wiki.txt")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "task" / "model.safetensors").is_file()


DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", read(name)):
        assert (ROOT / name).parent.joinpath(target).exists(), target


def test_every_row_of_the_fault_matrix_is_a_test():
    rows = re.findall(r"^\|.*\| `(test_\w+)` \|$", read("docs/reliability.md"), re.M)
    assert len(rows) > 20
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").glob("test_*.py"))
    assert [row for row in rows if f"def {row}(" not in tests] == []
    faults = re.findall(r"^def (test_\w+)", read("tests/test_faults.py"), re.M)
    assert set(faults) <= set(rows)
