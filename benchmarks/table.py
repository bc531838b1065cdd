"""A table out of finished runs: writes results/NAME.md.

python benchmarks/table.py quickstart/run --name quickstart --command "make quickstart"
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

RESULTS = Path(__file__).parent / "results"


def main(
    runs: Annotated[list[Path], typer.Argument(exists=True, file_okay=False, help="Folders with a summary.json.")],
    name: Annotated[str, typer.Option(help="Name of the table.")],
    command: Annotated[str, typer.Option(help="The command that made the runs.")],
    note: Annotated[str, typer.Option(help="What a reader has to know besides.")] = "",
) -> None:
    summaries = [json.loads((run / "summary.json").read_text(encoding="utf-8")) for run in runs]
    seeds = [json.loads((run / "sparse" / "pruneonce.json").read_text(encoding="utf-8"))["seed"] for run in runs]
    lines = heading(summaries[0], command, seeds, note)
    for seed, summary in zip(seeds, summaries, strict=True):
        lines += ["", f"Seed {seed}:", "", *table(summary)]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def heading(summary: dict[str, Any], command: str, seeds: list[int], note: str) -> list[str]:
    machine = summary["machine"]
    versions = ", ".join(
        f"{library} {machine[library]}" for library in ("python", "torch", "transformers", "pruneonce")
    )
    lines = [
        f"# {summary['name']}",
        "",
        summary["description"],
        "",
        f"`{command}`, {summary['created'][:10]}, {machine['processor']}, {machine['threads']} threads, {versions}; "
        f"seeds {', '.join(map(str, seeds))}.",
        "",
        "Accuracy in percent; recovery is the share of the dense value on the split that the summary quotes (test). "
        "Tokens went through the student; minutes are those of training alone.",
    ]
    return [*lines, "", note] if note else lines


def table(summary: dict[str, Any]) -> list[str]:
    """Markdown rows: what was trained before any task, then each task's arms."""
    lines = [
        "| task | arm | zeros % | dev | test | recovery % | file, MB | ms a text | tokens | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    spent = {stage["name"]: stage for stage in summary["stages"]}
    for name in ("teacher", "sparse"):
        if name in spent:
            stage = spent[name]
            loss = f"held-out loss {stage['final']['loss']:.4f}"
            name = f"{stage['stage']}, once ({loss})"
            lines.append(f"| all | {name} | | | | | | | {stage['tokens']:,} | {minutes(stage)} |")
    for row in summary["results"]:
        stage = spent[row["folder"]]
        dev, test = (f"{100 * row['all'][split]['accuracy']:.2f}" for split in ("dev", "test"))
        lines.append(
            f"| {row['task']} | {row['arm']} | {100 * row['sparsity']:.1f} | {dev} | {test} | "
            f"{100 * row['recovery']:.1f} | {megabytes(row)} | {milliseconds(summary, row)} | {stage['tokens']:,} | "
            f"{minutes(stage)} |"
        )
    return lines


def megabytes(row: dict[str, Any]) -> str:
    return f"{row['size']['bytes'] / 1e6:.1f}" if row.get("size") else ""


def milliseconds(summary: dict[str, Any], row: dict[str, Any]) -> str:
    """Of one real text, by engine, for the task whose models were timed: the first."""
    timed = (summary.get("benchmark") or {"rows": []})["rows"]
    if row["task"] != summary["results"][0]["task"]:
        return ""
    return ", ".join(
        f"{one['engine']} {one['milliseconds']:.1f}"
        for one in timed
        if one["model"] == row["arm"] and one["batch"] == 1 and one["length"] == "real"
    )


def minutes(stage: dict[str, Any]) -> str:
    return f"{stage['seconds'] / 60:.1f}"


if __name__ == "__main__":
    typer.run(main)
