"""Markdown pages and plots out of result files: `python benchmarks/tables.py` rewrites all of `results/*.md`.

A result file, `results/NAME.json`, has a `title`, `made` (command, date, machine, versions), and some of

- `blocks`: paragraphs (strings), `{"heading"}`, `{"made"}` and tables `{"columns", "rows"}`. A column is a name, or
  `{"name", "format", "missing"}`; a cell is a value, a list of values for a format with several fields, or null.
- `speed`: what `pruneonce.stages.benchmark` measured, by model.
- `results[task][run][arm][seed][split][metric]`: the models of a study (`benchmarks/study/run.py`). Beside it stand
  `tasks`, `runs`, `family`, `training`, `pretraining`, `sizes`, `packed` and `distance`: see benchmarks/study/page.py.
"""

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
Result = dict[str, Any]
Block = str | dict[str, Any]


def write(name: str, result: Result) -> None:
    """Write `results/NAME.json`, and the page and the plot of it."""
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_page(file)


def write_page(file: Path) -> None:
    """Write the page `file` (.md) of a result file (.json) and, of a study, the plot (.svg)."""
    result = json.loads(file.read_text(encoding="utf-8"))
    file.with_suffix(".md").write_text(page(result, file.stem), encoding="utf-8")
    if "results" in result:
        from benchmarks.study.page import Recoveries, plot

        plot(Recoveries(result), file.with_suffix(".svg"))


def page(result: Result, name: str) -> str:
    """The Markdown text of a result.

    Args:
        name: of the page, after which its plot is called.
    """
    blocks: list[Block] = [*([{"made": result["made"]}] if "made" in result else []), *result.get("blocks", [])]
    if "speed" in result:
        blocks += speed(result["speed"])
    if "results" in result:
        from benchmarks.study.page import blocks_of

        blocks += blocks_of(result, name)
    return "\n\n".join([f"# {result['title']}", *map(markdown, blocks)]) + "\n"


def markdown(block: Block) -> str:
    if isinstance(block, str):
        return block
    if "heading" in block:
        return f"## {block['heading']}"
    if "made" in block:
        return provenance(**block["made"])
    return table(block["columns"], block["rows"])


def provenance(command: str, date: str, machine: str, versions: dict[str, str], note: str = "") -> str:
    """How a result was made, in one line.

    Args:
        machine: processor or GPU, and the share of it that was used.
        note: seeds and what else is to be known.
    """
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"`{command}`, {date}, {machine}; {shown}{'; ' + note if note else ''}."


def table(columns: list[Any], rows: list[list[Any]]) -> str:
    """A Markdown table; columns with a format are right-aligned.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.
    """
    known = [{"name": column} if isinstance(column, str) else column for column in columns]
    lines = ["| " + " | ".join(column["name"] for column in known) + " |"]
    lines.append("|" + "|".join(" ---: " if "format" in column else " --- " for column in known) + "|")
    for row in rows:
        shown = [cell(value, **column) for value, column in zip(row, known, strict=True)]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def cell(value: Any, name: str, format: str = "{}", missing: str = "") -> str:
    if value is None:
        return missing
    return format.format(*value) if isinstance(value, list) else format.format(value)


def speed(found: dict[str, Any]) -> list[Block]:
    """A table for each set of models: a row for an engine and a model, a column for texts x tokens."""
    blocks: list[Block] = []
    for name, benchmark in found.items():
        rows = {(row["engine"], row["model"], row["batch"], row["length"]): row for row in benchmark["rows"]}
        places = list(dict.fromkeys((batch, length) for _, _, batch, length in rows))
        columns = [{"name": f"{batch} x {length}", "format": "{}"} for batch, length in places]
        models = dict.fromkeys((engine, model) for engine, model, _, _ in rows)
        cells = [[*one, *(in_time(rows[*one, *place]) for place in places)] for one in models]
        blocks += [{"heading": name}, {"columns": ["engine", "model", *columns], "rows": cells}]
    return blocks


def in_time(row: dict[str, Any]) -> str:
    """Median milliseconds, quartiles, and how many times faster than the dense model."""
    median, low, high = (
        f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}" for ms in map(row.get, ("milliseconds", "low", "high"))
    )
    return f"{median} ({low}-{high}) {row['speedup']:.2f}x"


def main() -> None:
    for file in sorted(RESULTS.glob("*.json")):
        write_page(file)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks.study, where this is run as a file
    main()
