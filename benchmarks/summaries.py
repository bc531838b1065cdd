"""A page out of finished runs of the product: `python -m benchmarks.summaries quickstart/run --name quickstart`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import common, tables
from pruneonce.system import durable

TEXT = (
    "Accuracy is in percent, and recovery is the percent of the dense model's accuracy on test. Tokens are those that "
    "went through the student, and minutes are those of training alone."
)
COLUMNS: list[Any] = ["task", "arm", {"name": "zeros %", "format": "{:,.1f}"}]
COLUMNS += [{"name": name, "format": "{:,.2f}"} for name in ("dev", "test")]
COLUMNS += [{"name": "recovery %", "format": "{:,.1f}"}, {"name": "file, MB", "format": "{:,.1f}"}, "ms a text"]
COLUMNS += [{"name": "tokens", "format": "{:,}"}, {"name": "minutes", "format": "{:,.1f}"}]


def main(
    runs: Annotated[list[Path], typer.Argument(exists=True, file_okay=False, help="Folders with a summary.json.")],
    name: Annotated[str, typer.Option(help="Name of the page.")],
    command: Annotated[str | None, typer.Option(help="The command of the runs; left out: this one.")] = None,
    note: Annotated[str, typer.Option(help="What a reader has to know besides.")] = "",
) -> None:
    summaries = [durable.read_json(run / "summary.json") for run in runs]
    made = common.made(note=f"seeds {', '.join(str(seed) for summary in summaries for seed in summary['seeds'])}")
    blocks: list[Any] = [summaries[0]["description"], TEXT, *([note] if note else [])]
    for summary in summaries:
        shown = f"Seed {', '.join(map(str, summary['seeds']))}:"
        blocks += [shown, {"columns": COLUMNS, "rows": rows(summary)}]
    tables.write(
        name, {"title": summaries[0]["name"], "made": {**made, "command": command or made["command"]}, "blocks": blocks}
    )


def rows(summary: dict[str, Any]) -> list[list[Any]]:
    """Sparse pre-training and what came before it, then each task's arms."""
    spent = {stage["name"]: stage for stage in summary["stages"]}
    found: list[list[Any]] = []
    for name in ("teacher", "sparse"):
        if name in spent:
            stage = spent[name]
            arm = f"{stage['stage']}, once (held-out loss {stage['final']['loss']:.4f})"
            found.append(["all", arm, None, None, None, None, None, None, stage["tokens"], stage["seconds"] / 60])
    for row in summary["results"]:
        stage = spent[row["folder"]]
        measured = [100 * row["all"][split]["accuracy"] for split in ("dev", "test")]
        size = row["size"]["bytes"] / 1e6 if row["size"] else None
        cells = [row["task"], row["arm"], 100 * row["sparsity"], *measured, 100 * row["recovery"], size]
        found.append([*cells, milliseconds(summary, row), stage["tokens"], stage["seconds"] / 60])
    return found


def milliseconds(summary: dict[str, Any], row: dict[str, Any]) -> str | None:
    """Of one real text, by engine, for the task whose models were timed: the first."""
    timed = (summary.get("benchmark") or {"rows": []})["rows"]
    if row["task"] != summary["results"][0]["task"]:
        return None
    of_model = [one for one in timed if (one["model"], one["batch"], one["length"]) == (row["arm"], 1, "real")]
    return (
        ", ".join(f"{one['engine']} {one['milliseconds']:.{1 if one['milliseconds'] >= 1 else 2}f}" for one in of_model)
        or None
    )


if __name__ == "__main__":
    typer.run(main)
