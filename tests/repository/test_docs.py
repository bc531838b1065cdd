"""The documents say what the code does: the reference has every key, the examples run, and links lead somewhere."""

import importlib
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
    if field.default_factory is not None:
        return "-"
    if isinstance(field.default, recipe.Section):
        return "`{}`"
    text = yaml.safe_dump(field.default, default_flow_style=True).removesuffix("...\n").strip()
    return "-" if text == "null" else f"`{text}`"


@pytest.mark.parametrize("name", ["README.md", "docs/recipes.md", "docs/tasks.md"])
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


SMALLER = {
    r"sentence-transformers/all-MiniLM-L6-v2": "{encoder}",
    r"block_length=\d+": "block_length=16",
    r"source: wiki.txt": "source: wiki.txt, block_length: 16",
    r"text: review, label: stars": "text: text, label: label",
    r"steps(=|: )[\d.]+": r"steps\g<1>4",
    r"epochs(=|: )[\d.]+": r"epochs\g<1>1",
}


def smaller(text, encoder):
    """An example with a tiny model and a few steps."""
    for pattern, replacement in SMALLER.items():
        text = re.sub(pattern, replacement, text)
    assert set(re.findall(r"(?:steps|epochs)(?:=|: )([\d.]+)", text)) <= {"1", "4"}
    return text.replace("{encoder}", str(encoder))


@pytest.mark.parametrize(("name", "result"), [("README.md", "student"), ("docs/tour.md", "task")])
def test_the_python_example_runs(encoder, corpus_file, task_files, tmp_path, monkeypatch, capsys, name, result):
    shutil.copytree(task_files, tmp_path, dirs_exist_ok=True)
    shutil.copyfile(corpus_file, tmp_path / "wiki.txt")
    for text in blocks(name, "yaml"):
        (tmp_path / f"{yaml.safe_load(text)['name']}.yaml").write_text(smaller(text, encoder), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(name, "python")
    exec(compile(smaller(code, encoder), name, "exec"), {})
    assert (tmp_path / result / "model.safetensors").is_file()
    assert "accuracy" in capsys.readouterr().out


PAGES = ["README.md", *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md")))]
TABLES = sorted(f"benchmarks/results/{file.name}" for file in (ROOT / "benchmarks" / "results").glob("*.md"))
DOCUMENTS = [
    *PAGES,
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "runtime/README.md",
    "examples/serving/README.md",
    *TABLES,
]


def without_code(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(file):
    """The anchors that code hosts, and the site, make of a page's headings."""
    headings = re.findall(r"^#+ (.*)", without_code(file.read_text(encoding="utf-8")), re.M)
    plain = [re.sub(r"<!--.*?-->", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def links(name):
    """`(text, file, anchor)` of every link of a document that stays in the repository."""
    for text, target in re.findall(r"\[([^]]*)\]\((?!https?:)(.*?)\)", without_code(read(name))):
        path, _, anchor = target.partition("#")
        yield text, (ROOT / name).parent.joinpath(path).resolve() if path else ROOT / name, anchor


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    for _, file, anchor in links(name):
        assert file.exists(), file
        assert not anchor or anchor in anchors(file), f"{file}#{anchor}"


@pytest.mark.parametrize("name", PAGES)
def test_tables_of_numbers_are_there(name):
    for text, file, _ in links(name):
        if text in {"table", "same table", "budgets"}:
            assert f"{file.parent.name}/{file.name}" in {"docs/results.md", "docs/ablations.md"} or (
                file.relative_to(ROOT).as_posix() in TABLES
            ), file


def test_every_page_of_results_is_linked_from_a_page():
    linked = {file for name in [*PAGES, "benchmarks/README.md"] for _, file, _ in links(name)}
    assert [name for name in TABLES if ROOT / name not in linked] == []


def test_the_readme_is_short():
    assert len(read("README.md").split()) <= 950


def paragraphs(text):
    """Running text: no code, tables or headings; each item of a list is a paragraph."""
    text = re.sub(r"^ *([-*]|\d+\.) ", "\n\n", without_code(text), flags=re.M)
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line for line in paragraph.splitlines() if not re.match(r"\s*(\||#|!\[)", line)]
        yield re.sub(r"\]\([^)]*\)", "]", " ".join(lines))


@pytest.mark.parametrize("name", [name for name in PAGES if name != "docs/design.md"])
def test_paragraphs_are_short(name):
    text = read(name).partition("\n## Reference\n")[0]
    assert [paragraph for paragraph in paragraphs(text) if len(paragraph.split()) > 80] == []


@pytest.mark.parametrize("name", PAGES)
def test_names_of_the_package_exist(name):
    for dotted in set(re.findall(r"`(pruneonce(?:\.\w+)+(?<!\.json))`", read(name))):
        found, *rest = importlib.import_module("pruneonce"), *dotted.split(".")[1:]
        for part in rest:
            found = getattr(found, part, None) or importlib.import_module(f"{found.__name__}.{part}")


def test_tests_that_are_named_exist():
    named = {test for name in PAGES for test in re.findall(r"\btest_\w+\.py\b", read(name))}
    assert named
    folders = ("tests", "runtime/tests")
    assert named <= {file.name for folder in folders for file in (ROOT / folder).rglob("test_*.py")}


def test_every_row_of_the_fault_matrix_is_a_test():
    rows = re.findall(r"^\|.*\| `(test_\w+)` \|$", read("docs/reliability.md"), re.M)
    assert len(rows) > 20
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    assert [row for row in rows if f"def {row}(" not in tests] == []
    (file,) = (ROOT / "tests").rglob("test_faults.py")
    faults = re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.M)
    assert set(faults) <= set(rows)
