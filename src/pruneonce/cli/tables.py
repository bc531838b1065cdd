"""Tables that the command line prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from statistics import fmean
from typing import TYPE_CHECKING, Any

import yaml
from rich.table import Table
from rich.text import Text

from pruneonce.console import styled
from pruneonce.engines import title_of
from pruneonce.engines.rows import of_one_text
from pruneonce.recipe.arms import ARMS, DENSE
from pruneonce.wording import milliseconds, shown

if TYPE_CHECKING:
    from pydantic import BaseModel

    # these import torch
    from pruneonce.plan import Plan
    from pruneonce.plugins import Plugin
    from pruneonce.recipe.keys import Key, Place
    from pruneonce.sparsity.inspection import Inspection, Layer, LostZeros
    from pruneonce.storage.sizes import Sizes


def _table(*columns: str) -> Table:
    """Return a table whose first column is text and whose others are numbers; no cell is cut off."""
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if table.columns else "left")
    return table


MANY = 3  # the least number of tasks that get a table of their own for comparison


def results(summary: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a run: a block for each task, a row for each arm, with quality, bytes and milliseconds.

    Many tasks get one table with a row for each, and a block for the first task alone: sizes and speeds of the others
    hardly differ.
    """
    tasks = list(dict.fromkeys(row["task"] for row in summary["results"]))
    if len(tasks) < MANY:
        return [_blocks(summary["results"], summary.get("benchmark"))]
    first = _blocks([row for row in summary["results"] if row["task"] == tasks[0]], summary.get("benchmark"))
    return [comparison(summary["results"]), first]


def comparison(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of tasks (down) and arms (across), with the mean recovery in the bottom row.

    A cell holds the value and, below it, recovery and spread in percent.
    """
    from pruneonce.report.recovery import recoveries_of  # the package imports matplotlib, which takes a second

    by_task: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_task.setdefault(row["task"], {})[row["arm"]] = row
    arms = [arm for arm in ARMS if any(arm in arms_of_task for arms_of_task in by_task.values())]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(styled("task\n[dim]metric[/dim]"), overflow="fold", max_width=22)
    for arm in arms:
        heading = Text.assemble(arm, "\n", ("" if arm == DENSE else "% kept", "dim"))
        table.add_column(heading, justify="right", overflow="fold")
    for task, arms_of_task in by_task.items():
        metric = next(iter(arms_of_task.values()))["metric"]
        cells = [_compared(arms_of_task[arm]) if arm in arms_of_task else Text("-") for arm in arms]
        table.add_row(Text.assemble(shown(task), "\n", (shown(metric), "dim")), *cells)
    means = ["" if arm == DENSE else _mean(recoveries_of(by_task, arm)) for arm in arms]
    table.add_row("mean % kept", *means, style="bold")
    return table


def _compared(row: Mapping[str, Any]) -> Text:
    dense = row["arm"] == DENSE
    share, spread = (row["value"], row.get("spread")) if dense else (row["recovery"], row.get("recovery_spread"))
    full = row.get("full_score", 1) if dense else 1
    plus = "" if spread is None else f"±{100 * spread / full:.1f}"
    below = plus if dense else "" if share is None else f"{100 * share:.1f}{plus}"
    return Text.assemble(_value(row["value"], row), "\n", (below, "dim"))


def _value(value: float, row: Mapping[str, Any]) -> str:
    """Format a value to a hundredth of a percent, be the metric a fraction or percent."""
    return f"{value:.2f}" if row.get("full_score", 1) == 100 else f"{value:.4f}"


def _mean(shares: Mapping[str, float]) -> str:
    return f"{100 * fmean(shares.values()):.1f}" if shares else ""


def _blocks(rows: Sequence[Mapping[str, Any]], benchmark: Mapping[str, Any] | None) -> Table:
    measures = list(dict.fromkeys((row["metric"], row["split"]) for row in rows))
    speeds = {(row["engine"], row["model"]): row["milliseconds"] for row in of_one_text(benchmark)}
    engines = list(dict.fromkeys(engine for engine, _ in speeds))
    value = "\n".join(measures[0]) if len(measures) == 1 else "value"
    headings = ["ms\n" + title_of(engine).replace(" ", "\n") for engine in engines]
    table = _table("task", "model", value, "of\ndense", "MB", "less", *headings)
    blocks: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        blocks.setdefault(row["task"], []).append(row)
    for number, (task, arms) in enumerate(blocks.items()):
        titles = [task] if len(measures) == 1 else [task, f"{arms[0]['metric']}, {arms[0]['split']}"]
        for title, arm in zip_longest(titles, arms):
            if arm is None:
                table.add_row(title)
                continue
            timed = [speeds.get((engine, arm["arm"])) if number == 0 else None for engine in engines]
            table.add_row(
                title or "", *_result(arm, arms[0]), *(f"{ms:.{1 if ms >= 1 else 2}f}" if ms else "" for ms in timed)
            )
    return table


def _result(row: Mapping[str, Any], first: Mapping[str, Any]) -> list[str]:
    size, dense = row["size"], first["size"] if first["arm"] == DENSE else None
    spread, of_dense = row.get("spread"), row["arm"] != DENSE and row["recovery"] is not None
    return [
        row["arm"],
        _value(row["value"], row) + ("" if spread is None else f" ±{_value(spread, row)}"),
        f"{row['recovery']:.1%}" if of_dense else "",
        f"{size['bytes'] / 1e6:.1f}" if size else "",
        f"{dense['bytes'] / size['bytes']:.1f}x" if size and dense else "",
    ]


def recipes(descriptions: Mapping[str, str]) -> Table:
    """Return a table of recipes and their descriptions."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("description")
    for name, description in descriptions.items():
        table.add_row(name, description)
    return table


def methods(plugins: Mapping[str, Plugin]) -> Table:
    """Return a table of methods, their summaries and the stages that they work in."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("what it does")
    table.add_column("works in")
    for name, plugin in plugins.items():
        table.add_row(name, plugin.summary, ", ".join(sorted(plugin.stages)))
    return table


def places(sections: Iterable[Place]) -> Table:
    """Return a table of a recipe's sections, with place and first sentence of each. It fits 80 columns."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("section", "stands in"):
        table.add_column(column, no_wrap=True)
    table.add_column("holds", overflow="fold")
    for place in sections:
        first = place.summary.partition(". ")[0].rstrip(".")
        table.add_row(place.name, place.shown_at, Text(first.replace("`", "")))
    return table


def keys(rows: Iterable[Key]) -> Table:
    """Return a table of keys with values and default below each, and the meaning beside it. It fits 80 columns."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("key", overflow="fold", width=26)
    table.add_column("meaning", overflow="fold")
    for key in rows:
        default = "required" if key.default == "required" else f"default: {key.default}"
        below = f"{key.values.replace('`', '')}\n{default}"
        table.add_row(Text.assemble((key.name, "bold"), "\n", (below, "dim")), Text(key.meaning.replace("`", "")))
    return table


def options(section: type[BaseModel]) -> Table:
    """Return a table of a section's keys, with their defaults and meanings."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("option", "default", "meaning"):
        table.add_column(column, overflow="fold")
    for name, field in section.model_fields.items():
        if name != "name":
            default = "" if field.is_required() else yaml.safe_dump(field.default, default_flow_style=True)
            table.add_row(name, Text(default.split("\n")[0]), Text(field.description or ""))
    return table


def metrics(measures_by_split: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table of an evaluation: metrics down, splits across."""
    names = list(dict.fromkeys(name for values in measures_by_split.values() for name in values))
    table = _table("metric", *map(shown, measures_by_split))
    for name in names:
        table.add_row(name, *(f"{values[name]:.4g}" for values in measures_by_split.values()))
    return table


def layers(rows: Sequence[Layer]) -> Table:
    """Return a table of layers, with shape and sparsity."""
    table = _table("layer", "shape", "sparsity")
    for layer in rows:
        table.add_row(shown(layer.name), "x".join(map(str, layer.shape)), f"{layer.sparsity:.2%}")
    return table


def totals(inspection: Inspection) -> Table:
    """Return a table of a model's sparsity, size, pattern and provenance."""
    provenance = inspection.provenance
    table = Table.grid(padding=(0, 2))
    table.add_row("encoder", f"{inspection.encoder:.2%} of the weights above are zero")
    table.add_row("model", f"{inspection.model:.2%} of all {inspection.parameters:,} parameters")
    table.add_row("bytes", f"{inspection.bytes:,}")
    table.add_row("pattern", inspection.pattern)
    if inspection.tokenizer is False:
        table.add_row("tokenizer", "none: copy its files (tokenizer.json, tokenizer_config.json) into the folder")
    made = f"{provenance.get('stage', 'unknown')} from {provenance.get('source', 'unknown')}" if provenance else None
    table.add_row("made by", shown(made) if made else "not pruneonce")
    return table


def lost_zeros(rows: Sequence[LostZeros]) -> Table:
    """Return a table of the layers that lost zeros, with the number of zeros and of lost ones."""
    table = _table("layer", "zeros", "lost")
    for layer in rows:
        table.add_row(shown(layer.name), f"{layer.zeros:,}", f"{layer.lost:,}")
    return table


def sizes(packed: Sizes) -> Table:
    """Return a table of a packed file: parts down; dense bytes, packed bytes and the entropy limit across."""
    table = _table("bytes", "dense", "packed", "smaller", "bits/weight", "limit", "over")
    for name, part in (*packed.parts.items(), ("model", packed.model)):
        if part.packed:
            table.add_row(
                name,
                f"{part.dense:,}",
                f"{part.packed:,}",
                f"{part.dense / part.packed:.1f}x",
                f"{8 * part.packed / part.weights:.3f}",
                f"{part.limit:,.0f}",
                f"{part.packed / part.limit - 1:+.1%}" if part.limit else "",
            )
    table.add_row("files", "", f"{packed.files:,}")
    table.add_row("index", "", f"{packed.index:,}")
    table.add_row("file", f"{packed.model.dense:,}", f"{packed.total:,}", f"{packed.model.dense / packed.total:.1f}x")
    return table


def plan(estimate: Plan) -> Table:
    """Return a table of a plan: stages down; steps, tokens, FLOPs and time across."""
    table = _table("stage", "steps", "tokens", "PFLOPs", "s/step", "hours")
    for stage in estimate.stages:
        table.add_row(
            stage.name,
            _or_unknown(stage.steps, ","),
            _or_unknown(stage.tokens, ","),
            _or_unknown(stage.flops and stage.flops / 1e15, ",.3g"),
            f"{stage.seconds_per_step:.3g}",
            _or_unknown(stage.hours, ".3g"),
        )
    total = estimate.total
    unknown = any(stage.steps is None for stage in estimate.stages)
    name = "total of what is known" if unknown else "total"
    table.add_row(name, "", f"{total['tokens']:,}", f"{total['flops'] / 1e15:,.3g}", "", f"{total['hours']:.3g}")
    return table


def _or_unknown(value: float | None, form: str) -> str:
    return "?" if value is None else f"{value:{form}}"


def speeds(rows: Sequence[dict[str, Any]]) -> list[Table]:
    """Return the tables of a benchmark, one for each batch size, with lengths across.

    A cell holds the median in milliseconds, the speed-up over the first model in the same engine, and the quartiles.
    """
    tables = []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        inside = [row for row in rows if row["batch"] == batch]
        lengths = list(dict.fromkeys(row["length"] for row in inside))
        headings = ("real texts" if length == "real" else f"{length} tokens" for length in lengths)
        table = _table("engine", "model", "weights", *headings)
        table.title = f"batch {batch}: ms (quartiles), times faster than {rows[0]['model']}"
        table.title_justify, table.title_style = "left", "bold"
        cells = {(row["engine"], row["model"], row["length"]): row for row in inside}
        for engine, model, weights in dict.fromkeys((row["engine"], row["model"], row["weights"]) for row in inside):
            timings = [cells.get((engine, model, length)) for length in lengths]
            table.add_row(engine, shown(model), weights, *(_speed(row) for row in timings))
        tables.append(table)
    return tables


def _speed(row: dict[str, Any] | None) -> Text:
    if row is None:
        return Text("-")
    faster = f"  {row['speedup']:.1f}x" if row["speedup"] else ""
    low, high = milliseconds(row["low"]), milliseconds(row["high"])
    return Text.assemble(f"{milliseconds(row['milliseconds'])}{faster}\n", (f"{low}-{high}", "dim"))
