"""Verb `benchmark` of the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from pruneonce import recipe
from pruneonce.cli import tables
from pruneonce.cli.stages import AsJson, Sets
from pruneonce.cli.task_options import TABLE_FILES, PairColumn, TextColumn
from pruneonce.console import echo, notes, results
from pruneonce.engines import ENGINES
from pruneonce.errors import UserError
from pruneonce.wording import listed

app = typer.Typer()


@app.command(
    epilog="Example: [cyan]pruneonce benchmark dense sparse int8 --texts dev.jsonl --output speed[/cyan]\n\n"
    "Example: [cyan]pruneonce benchmark dense int8-onnx --engine onnxruntime --batch-size 1 --length 128[/cyan]",
)
def benchmark(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="Model folders, exports, packed files; the first is the measure of the rest.",
        ),
    ],
    engine: Annotated[
        list[str] | None,
        typer.Option(help=f"{listed(list(ENGINES), 'or')}; may be repeated. Default: all installed ones."),
    ] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(help="Texts in a batch; may be repeated. Default: 1 and 32.")
    ] = None,
    length: Annotated[
        list[int] | None, typer.Option(help="Tokens of each text; may be repeated. Default: 32 and 128.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of every engine. Default: PyTorch's number.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Time each model in each cell for so long. Default: 1.")] = None,
    texts: Annotated[
        Path | None, typer.Option(metavar="FILE", help=f"Real texts to time unpadded: {TABLE_FILES}.")
    ] = None,
    text: TextColumn = None,
    text_pair: PairColumn = None,
    sets: Sets = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for summary.json and report.html; nothing is overwritten.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time models in each engine: latency and throughput by batch and length, and on real texts."""
    options = {"engines": engine, "batch_sizes": batch_size, "lengths": length, "threads": threads, "seconds": seconds}
    values: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for override in sets or []:
        recipe.set_value(values, override)
    settings = recipe.validate(recipe.Benchmark, values)
    if output and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} already holds something; choose another output or remove it")
    if texts is None and (text or text_pair):
        raise UserError("--text and --text-pair name columns of --texts FILE, which is missing")
    from pruneonce import stages
    from pruneonce.storage.source import member_names

    real_texts = _read(texts, text or "text", text_pair) if texts else None
    folders = dict(zip(member_names([Path(model) for model in models]), models, strict=True))
    with notes.status("exporting and timing"):
        measurements = stages.benchmark(folders, settings, real_texts)
    if as_json:
        typer.echo(json.dumps(measurements, indent=1))
    else:
        _show(measurements)
    if output:
        report = _write(measurements, output)
        if not as_json:
            echo(f"report: {report}")


def _read(file: Path, text: str, text_pair: str | None) -> list[Any]:
    """Read the texts, or pairs of texts, of a file."""
    from pruneonce.data.readers import read_file

    columns = [text, text_pair] if text_pair else [text]
    table = read_file(file, columns)
    for column in columns:
        for row, value in enumerate(table.columns[column]):
            if not isinstance(value, str):
                raise UserError(f"{table.place(row)}: {column!r} has to be text")
    values = [table.columns[column] for column in columns]
    return list(zip(*values, strict=True)) if text_pair else values[0]


def _show(measurements: dict[str, Any]) -> None:
    from pruneonce.report.speed import notes, sentence

    for table in tables.speeds(measurements["rows"]):
        results.print(table)
        results.print()
    for line in [*notes(measurements), sentence(measurements["rows"])]:
        results.print(line, soft_wrap=True)


def _write(measurements: dict[str, Any], output: Path) -> Path:
    from pruneonce.report import write_report
    from pruneonce.system import durable

    output.mkdir(parents=True, exist_ok=True)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    summary = {
        "name": output.resolve().name,
        "created": created,
        "machine": measurements["machine"],
        "benchmark": measurements,
    }
    durable.write_json(summary, output / "summary.json")
    return write_report(output)
