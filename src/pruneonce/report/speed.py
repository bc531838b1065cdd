"""Section of the report on speed: the results of a benchmark, in words and as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pruneonce.engines import library_of, title_of
from pruneonce.engines.rows import REAL
from pruneonce.recipe.arms import ARMS
from pruneonce.report import plots
from pruneonce.wording import listed, milliseconds

BASELINES = [name for name, arm in ARMS.items() if arm.role == "baseline"]

Row = Mapping[str, Any]
Cell = tuple[int, int | str]  # batch and length


def section(benchmark: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the values that the template shows; None where there is no benchmark."""
    rows = (benchmark or {}).get("rows") or []
    if not benchmark or not rows:
        return None
    cells = list(dict.fromkeys((row["batch"], row["length"]) for row in rows))
    return {
        "cells": [{"batch": _of_batch(batch), "length": _of_length(length)} for batch, length in cells],
        "lines": [_line(engine, model, rows, cells) for engine, model in dict.fromkeys(map(_engine_and_model, rows))],
        "plots": [
            {"title": _title(cell), "plot": plots.latencies(_bars(rows, cell), f"speed{i}")}
            for i, cell in enumerate(_cells_to_draw(cells))
        ],
        "first": rows[0]["model"],
        "notes": notes(benchmark),
    }


def fastest(rows: Sequence[Row], model: str) -> Row | None:
    """Return the row of a model in its fastest engine: a real text, or the longest of the smallest batch.

    None where the model was not timed, or the machine was busy.
    """
    cell = _cell_of_verdict(rows) if rows else None
    inside = [row for row in rows if (row["batch"], row["length"]) == cell and row["model"] == model]
    if any(row.get("busy") for row in inside):
        return None
    return min(inside, key=lambda row: row["milliseconds"], default=None)


def engine(row: Row) -> str:
    """Return the title of a row's engine."""
    return title_of(row["engine"])


def sentence(rows: Sequence[Row]) -> str:
    """Return the result in one sentence: the quantized model in its fastest engine against the first model.

    A quantized baseline is not the quantized model, where there is another.

    Without a quantized model, the sentence is about the fastest model other than the first. It compares with the first
    model in the first engine, and with the first model in its own engine.
    """
    cell = _cell_of_verdict(rows)
    inside = [row for row in rows if (row["batch"], row["length"]) == cell]
    first = next((row for row in inside if row["model"] == rows[0]["model"]), inside[0])
    others = [row for row in inside if row["model"] != first["model"]]
    quantized = [row for row in others if row["weights"].startswith("int")]
    pruned = [row for row in quantized if row["model"] not in BASELINES]
    best = min(pruned or quantized or others or inside, key=lambda row: row["milliseconds"])
    text = f"{_name(best)} takes {milliseconds(best['milliseconds'])} ms {_batch_in_words(cell)}"
    if any(row.get("busy") for row in inside):
        return f"{text[0].upper()}{text[1:]}, on a busy machine: no times are compared."
    beside = next((r for r in inside if r["model"] == first["model"] and r["engine"] == best["engine"]), None)
    rivals = [row for row in (first, beside) if row is not None and row is not best]
    comparisons = [_against(best, rival) for rival in {id(rival): rival for rival in rivals}.values()]
    text = ", ".join([text, " and ".join(comparisons)]) if comparisons else text
    return f"{text[0].upper()}{text[1:]}."


def notes(benchmark: Mapping[str, Any]) -> list[str]:
    """Return the notes under the table: the machine, the method, the texts, and models that were not timed."""
    machine, texts = benchmark["machine"], benchmark["texts"]
    instructions = ", ".join(machine["instructions"]) or "none of those that matter to int8"
    libraries = [library_of(engine) for engine in benchmark["settings"]["engines"]]
    versions = ", ".join(f"{name} {machine[name]}" for name in libraries if name in machine)
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    lines = [f"{machine['processor']}, {threads}; instruction sets: {instructions}. {versions}."]
    if texts:
        lines.append(
            f"Real texts: {texts['number']}, of {texts['median_tokens']} tokens in the median and "
            f"{texts['most_tokens']} at most; alone without padding, in batches sorted by length."
        )
    if busy := [row for row in benchmark["rows"] if row.get("busy")]:
        disturbed = list(dict.fromkeys(f"{row['model']} in {title_of(row['engine'])}" for row in busy))
        lines.append(
            f"NOT RELIABLE: the machine was busy while {listed(disturbed)} was timed: other programs used the "
            "processors, or equal calls took very different times. Time the models again when the machine is idle."
        )
    precisions = dict.fromkeys((row["engine"], row["precision"]) for row in benchmark["rows"])
    precision_by_engine = ", ".join(f"{precision} in {title_of(engine)}" for engine, precision in precisions)
    lines.append(f"What is not quantized is calculated in {precision_by_engine}.")
    variants = dict.fromkeys((row["model"], row["engine"], row.get("variant")) for row in benchmark["rows"])
    for model, engine, variant in variants:
        if variant:
            lines.append(f"{model} runs in {title_of(engine)} with {variant}, which was faster in a trial.")
    for skipped in benchmark["skipped"]:
        lines.append(f"{skipped['model']} is not timed in {title_of(skipped['engine'])}: {skipped['why']}.")
    return lines


def _engine_and_model(row: Row) -> tuple[str, str]:
    return row["engine"], row["model"]


def _line(engine: str, model: str, rows: Sequence[Row], cells: Sequence[Cell]) -> dict[str, Any]:
    row_of_cell = {(row["batch"], row["length"]): row for row in rows if _engine_and_model(row) == (engine, model)}
    some = next(iter(row_of_cell.values()))
    values = []
    for cell in cells:
        row = row_of_cell.get(cell)
        values.append(
            row
            and {
                "median": milliseconds(row["milliseconds"]),
                "spread": f"{milliseconds(row['low'])}-{milliseconds(row['high'])}",
                "speedup": f"{row['speedup']:.1f} times" if row["speedup"] and model != rows[0]["model"] else "",
                "per_second": f"{row['per_second']:,.0f}/s",
            }
        )
    return {"engine": title_of(engine), "model": model, "weights": some["weights"], "values": values}


def _cells_to_draw(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells to draw: for the smallest and the largest batch real texts, or else the longest."""
    batches = sorted({batch for batch, _ in cells})
    return [_real_or_longest(cells, batch) for batch in dict.fromkeys((batches[0], batches[-1]))]


def _real_or_longest(cells: Sequence[Cell], batch: int) -> Cell:
    lengths = [length for size, length in cells if size == batch]
    return batch, REAL if REAL in lengths else max(length for length in lengths if isinstance(length, int))


def _cell_of_verdict(rows: Sequence[Row]) -> Cell:
    return _cells_to_draw(list(dict.fromkeys((row["batch"], row["length"]) for row in rows)))[0]


def _bars(rows: Sequence[Row], cell: Cell) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the bars of a cell by engine, as `[(engine, bars)]`."""
    bars_by_engine: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if (row["batch"], row["length"]) == cell:
            bar = {name: row[name] for name in ("model", "milliseconds", "low", "high")}
            bars_by_engine.setdefault(title_of(row["engine"]), []).append(bar)
    return list(bars_by_engine.items())


def _name(row: Row) -> str:
    return f"{row['model']} in {title_of(row['engine'])}"


def _against(row: Row, rival: Row) -> str:
    ratio = rival["milliseconds"] / row["milliseconds"]
    if 0.95 < ratio < 1.05:
        return f"about as long as {_name(rival)}"
    if ratio > 1:
        return f"{ratio:.1f} times less than {_name(rival)}"
    return f"{1 / ratio:.1f} times as long as {_name(rival)}"


def _batch_in_words(cell: Cell) -> str:
    batch, length = cell
    text = "a text" if batch == 1 else f"a batch of {batch} texts"
    return text if length == REAL else f"{text} of {length} tokens"


def _of_batch(batch: int) -> str:
    return f"batch of {batch}" if batch > 1 else "one text"


def _of_length(length: int | str) -> str:
    return "real texts" if length == REAL else f"{length} tokens"


def _title(cell: Cell) -> str:
    return f"{_of_batch(cell[0])}, {_of_length(cell[1])}"
