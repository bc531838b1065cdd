"""Every page of results is generated from its result file, and documents say what the pages say."""

import importlib
import json
import re
from pathlib import Path

import pytest
from shared.scripts import BENCHMARKS, ROOT

from benchmarks import tables
from benchmarks.study.page import Recoveries

RESULTS = BENCHMARKS / "results"
NAMES = sorted(file.stem for file in RESULTS.glob("*.json"))
STUDIES = [name for name in NAMES if name.startswith("study")]
DOCUMENTS = ["README.md", *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md")))]
NUMBER = re.compile(r"(?<![\w.,+-])\d+\.\d(?![\d\w])")


def read(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def test_every_page_has_its_result_file():
    assert {file.stem for file in RESULTS.glob("*.md")} == set(NAMES)
    assert {file.stem for file in RESULTS.glob("*.svg")} == set(STUDIES)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_that_of_its_result_file(name):
    assert tables.page(read(name), name) == (RESULTS / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", STUDIES)
def test_a_plot_is_that_of_its_result_file(name, tmp_path):
    (tmp_path / f"{name}.json").write_bytes((RESULTS / f"{name}.json").read_bytes())
    tables.write_page(tmp_path / f"{name}.json")
    made, kept = ((folder / f"{name}.svg").read_text(encoding="utf-8") for folder in (tmp_path, RESULTS))
    bars = [len(re.findall(r'<g id="patch_\d+">', plot)) for plot in (made, kept)]
    assert bars[0] == bars[1]
    assert len(made) < 5_000_000
    _, _, width, _ = map(float, re.search(r'viewBox="(.*?)"', made)[1].split())
    legend = re.search(r'id="legend_1">.*? d="(.*?)"', made, re.DOTALL)[1]
    across = [float(each) for each in re.findall(r"-?[\d.]+", legend)][::2]
    assert 0 <= min(across) <= max(across) <= width  # no name is cut off


def test_a_cell_has_the_format_of_its_column():
    columns = [
        "name",
        {"name": "share", "format": "{:.1f} ({:.0f})", "missing": "-"},
        {"name": "bytes", "format": "{:,}"},
    ]
    rows = [["a", [12.34, 99.6], 1234567], ["b", None, None]]
    assert tables.table(columns, rows).splitlines() == [
        "| name | share | bytes |",
        "| --- | ---: | ---: |",
        "| a | 12.3 (100) | 1,234,567 |",
        "| b | - |  |",
    ]
    with pytest.raises(ValueError, match="longer"):
        tables.table(columns, [["a", None]])


def test_a_result_is_written_with_its_page(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    made = {"command": "python -m x", "date": "2026-01-02", "machine": "one core", "versions": {"torch": "2"}}
    result = {"title": "Title", "made": {**made, "note": "seed 1"}, "blocks": ["Text.", {"heading": "Part"}]}
    tables.write("one", result)
    assert json.loads((tmp_path / "one.json").read_text()) == result
    page = "# Title\n\n`python -m x`, 2026-01-02, one core; torch 2; seed 1.\n\nText.\n\n## Part\n"
    assert (tmp_path / "one.md").read_text() == page


def test_recoveries_are_those_of_dense_models_with_the_same_seed():
    splits = {"1": (0.8, 0.6), "2": (0.5, 0.45)}
    dense, sparse = ({seed: {"test": {"accuracy": both[which]}} for seed, both in splits.items()} for which in (0, 1))
    result = {
        "family": ["sick"],
        "tasks": {"sick": {"metric": "accuracy", "full_score": 1}, "spans": {"metric": "f1", "full_score": 100}},
        "runs": {"sparse-90": {"label": "ours", "zeros": 90}, "long-90": {"label": "ours", "zeros": 90}},
        "results": {
            "sick": {"dense": {"dense": dense}, "sparse-90": {"sparse": sparse}},
            "spans": {
                "dense": {"dense": {"1": {"dev": {"f1": 50.0}}}},
                "long-90": {"sparse": {"1": {"dev": {"f1": 40.0}}}},
            },
        },
    }
    found = Recoveries(result)
    assert found.rows == [(90, "ours")]
    assert found.of((90, "ours"), "sick") == {"1": pytest.approx(75), "2": pytest.approx(90)}
    assert found.of((90, "ours"), "spans") == {"1": pytest.approx(80)}
    assert found.means((90, "ours")) == ["82.5 (of 1)", "81.2 (of 2)"]
    assert found.metrics == {"sick": "accuracy, test", "spans": "f1, dev"}


def numbers_of_pages():
    """The numbers of each row and of each column of the studies' tables."""
    found = []
    for name in STUDIES:
        text = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
        for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
            rows = [[set(NUMBER.findall(cell)) for cell in line.strip("|").split("|")] for line in block.splitlines()]
            found += [set().union(*line) for line in [*rows, *zip(*rows, strict=True)]]
    return found


def test_rows_of_recoveries_in_documents_are_rows_or_columns_of_the_pages():
    known = numbers_of_pages()
    checked = 0
    for name in DOCUMENTS:
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            cells = [NUMBER.findall(cell) for cell in line.strip("|").split("|")]
            numbers = {number for cell in cells for number in cell}
            if line.startswith("|") and len(numbers) >= 6 and not re.search(r"\d, \d", line):
                checked += 1
                assert any(numbers <= page for page in known), f"{name}: {line}"
    assert checked > 10


def test_commands_of_the_pages_are_programs_that_are_there():
    for name in NAMES:
        text = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
        for module in re.findall(r"python -m (benchmarks[\w.]+)", text):
            assert (ROOT / Path(*module.split("."))).with_suffix(".py").is_file(), f"{name}: {module}"
        assert "python benchmarks/" not in text, name


@pytest.mark.parametrize("file", sorted(BENCHMARKS.rglob("*.py")), ids=lambda file: file.stem)
def test_a_program_imports_what_is_there(file):
    if file.stem == "packed_file":
        pytest.importorskip("constriction")
    importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
