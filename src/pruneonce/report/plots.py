"""Pictures of the report, as inline SVG: bars, the map of the layers' sparsity, training curves.

Matplotlib draws with fixed colours; the page wants its own, light and dark. So shapes in INK or in an arm's colour are
rewritten to `currentColor` or that arm's CSS variable. Text stays text, in the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from pruneonce.recipe.arms import ARMS
from pruneonce.wording import milliseconds, percent

# Placeholders for the colours of the page's CSS; nothing else is drawn in them.
INK = "#010203"
ARM_COLORS = {arm: f"#0102{number:02x}" for number, arm in enumerate(ARMS, start=4)}
CSS_COLORS = {INK: "currentColor", **{color: f"var(--{arm})" for arm, color in ARM_COLORS.items()}}

SPARSITY_COLORS = LinearSegmentedColormap.from_list("sparsity", ["#eef3f2", "#8cc5bc", "#0f766e", "#063b38"])

STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 8.5,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "pruneonce",  # the same summary gives the same bytes
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}

# Role of a weight, by the part of its name after the layer's number; in the order of the forward pass.
ROLES = {
    "attention.self.query": "query",
    "attention.q_lin": "query",
    "attention.attn.q": "query",
    "attention.self.key": "key",
    "attention.k_lin": "key",
    "attention.attn.k": "key",
    "attention.self.value": "value",
    "attention.v_lin": "value",
    "attention.attn.v": "value",
    "attn.Wqkv": "query, key, value",
    "attention.output.dense": "attention output",
    "attention.out_lin": "attention output",
    "attention.attn.o": "attention output",
    "attn.Wo": "attention output",
    "intermediate.dense": "intermediate",
    "ffn.lin1": "intermediate",
    "mlp.Wi": "intermediate",
    "output.dense": "output",
    "ffn.lin2": "output",
    "mlp.Wo": "output",
}


@dataclass
class LayerGrid:
    """Weights by layer and role. `cells`: {(layer, role): name}; `others`: {label: name}, in no layer."""

    layers: list[int] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    cells: dict[tuple[int, str], str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)


def layer_grid(names: Iterable[str]) -> LayerGrid:
    """Group parameter names by the layer's number in them; an unknown role goes by its own name, after the others."""
    grid = LayerGrid()
    for name in names:
        inside = re.fullmatch(r"(?:.*?\.)?(\d+)\.(.+?)(?:\.weight)?", name)
        if inside is None:
            grid.others[name.removesuffix(".weight").removesuffix(".dense")] = name
        else:
            grid.cells[int(inside[1]), ROLES.get(inside[2], inside[2])] = name
    order = list(dict.fromkeys(ROLES.values()))
    roles = dict.fromkeys(role for _, role in grid.cells)
    grid.layers = sorted({layer for layer, _ in grid.cells})
    grid.roles = sorted(roles, key=lambda role: order.index(role) if role in order else len(order))
    return grid


def heatmap(layers: Sequence[Mapping[str, Any]], prefix: str) -> Markup:
    """Plot sparsity by layer (down) and role (across), and a row for each weight that is in no layer.

    Args:
        layers: `{name, sparsity}`, sparsity from 0 to 1; at least one.
        prefix: set before each id, so that several pictures fit in one page.
    """
    sparsity = {layer["name"]: layer["sparsity"] for layer in layers}
    grid = layer_grid(sparsity)
    rows, others = len(grid.layers), len(grid.others)
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(0.7 + 0.56 * max(len(grid.roles), 5), 0.5 + 0.27 * (rows + others)), layout="constrained"
        )
        parts = [size for size in (rows, others) if size]
        axes = iter(figure.subplots(len(parts), 1, squeeze=False, height_ratios=parts)[:, 0])
        if rows:
            labels = [_narrow(role) for role in grid.roles]
            values = [[sparsity.get(grid.cells.get((layer, role), "")) for role in grid.roles] for layer in grid.layers]
            _cells(next(axes), values, [f"layer {layer}" for layer in grid.layers], labels)
        if others:
            _cells(next(axes), [[sparsity[name]] for name in grid.others.values()], list(grid.others), [])
        low, high = min(sparsity.values()), max(sparsity.values())
        label = f"Sparsity of {len(sparsity)} weights by layer: from {percent(low)} to {percent(high)}"
        return svg(figure, prefix, label)


def bars(values: Mapping[str, float], prefix: str) -> Markup:
    """Plot one bar an arm, from 0 to 100 % (from -100 % where a value is negative), each with its value.

    Args:
        values: `{arm: value}`, values as shares of 1.
        prefix: as for `heatmap`.
    """
    heights = {arm: 100 * value for arm, value in values.items()}
    label = "Bars from 0: " + ", ".join(f"{arm} {percent(value)}" for arm, value in values.items())
    return _bars(heights, (-112 if min(heights.values()) < 0 else 0, 112), prefix, label)


def sizes(values: Mapping[str, float], prefix: str) -> Markup:
    """Plot one bar an arm, with its megabytes.

    Args:
        values: `{arm: bytes}`.
        prefix: as for `heatmap`.
    """
    megabytes = {arm: value / 1e6 for arm, value in values.items()}
    label = "Bars from 0: " + ", ".join(f"{arm} {value:.1f} MB" for arm, value in megabytes.items())
    return _bars(megabytes, (0, 1.12 * max(megabytes.values())), prefix, label)


def _bars(values: Mapping[str, float], limits: tuple[float, float], prefix: str, label: str) -> Markup:
    """Plot horizontal bars in the arms' colours, each with its value to a tenth."""
    arms = list(values)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6, 0.15 + 0.27 * len(arms)), layout="constrained")
        axes = figure.subplots()
        drawn = axes.barh(arms, list(values.values()), 0.72, color=[ARM_COLORS[arm] for arm in arms])
        axes.bar_label(drawn, [f"{value:.1f}" for value in values.values()], padding=3)
        axes.invert_yaxis()
        axes.axvline(0, color=INK, lw=0.6)
        axes.set_xlim(*limits)
        axes.spines[:].set_visible(False)
        axes.tick_params("x", bottom=False, labelbottom=False)
        axes.tick_params("y", length=0)
        return svg(figure, prefix, label)


def latencies(groups: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], prefix: str) -> Markup:
    """Plot a bar for each model of each group, with its milliseconds, and a line between the quartiles.

    Args:
        groups: `[(heading, [{model, milliseconds, low, high}])]`. Models that are no arms are drawn in grey.
        prefix: as for `heatmap`.
    """
    places: list[float] = []
    labels: list[str] = []
    row = 0.0
    with matplotlib.rc_context(STYLE):
        count = sum(len(bars) for _, bars in groups)
        figure = Figure(figsize=(3.6, 0.15 + 0.27 * (count + len(groups))), layout="constrained")
        axes = figure.subplots()
        longest = max(bar["high"] for _, bars in groups for bar in bars)
        for heading, models in groups:
            axes.text(longest / 90, row, heading, va="center", fontweight="bold")
            for bar in models:
                row += 1
                is_arm = bar["model"] in ARM_COLORS
                color = ARM_COLORS.get(bar["model"], INK)
                value, low, high = bar["milliseconds"], bar["low"], bar["high"]
                axes.barh(row, value, 0.72, color=color, alpha=1 if is_arm else 0.45)
                axes.plot([low, high], [row, row], color=INK, lw=0.9)
                axes.text(max(high, value) + longest / 60, row, milliseconds(value), va="center")
                places.append(row)
                labels.append(_shortened(bar["model"]))
            row += 1.15
        axes.set_yticks(places, labels)
        axes.set_ylim(row - 0.5, -0.6)
        axes.set_xlim(0, longest * 1.15)
        axes.axvline(0, color=INK, lw=0.6)
        axes.spines[:].set_visible(False)
        axes.tick_params("x", bottom=False, labelbottom=False)
        axes.tick_params("y", length=0)
        labels_of_bars = [
            f"{bar['model']} in {heading} {milliseconds(bar['milliseconds'])}"
            for heading, bars in groups
            for bar in bars
        ]
        return svg(figure, prefix, "Milliseconds, bars from 0: " + ", ".join(labels_of_bars))


def _shortened(name: str, longest: int = 18) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


CURVES = {"loss": "loss", "learning_rate": "learning rate", "sparsity": "sparsity, %"}


def curves(history: Sequence[Mapping[str, Any]], arm: str, prefix: str) -> Markup:
    """Plot loss, learning rate and sparsity over the steps, one above the other, as far as the history has them.

    Args:
        history: `{step, loss, ...}` as logged.
        arm: arm whose colour is used.
        prefix: as for `heatmap`.
    """
    series = {key: [(p["step"], p[key]) for p in history if p.get(key) is not None] for key in CURVES}
    series = {key: points for key, points in series.items() if points}
    if not series:
        return Markup("")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6, 0.4 + 0.85 * len(series)), layout="constrained")
        panels = figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (key, points) in zip(panels, series.items(), strict=True):
            steps, values = zip(*points, strict=True)
            scale = 100 if key == "sparsity" else 1
            marker = "o" if len(points) == 1 else ""
            axes.plot(steps, [scale * v for v in values], color=ARM_COLORS[arm], lw=1.4, marker=marker, ms=3)
            axes.set_title(CURVES[key], loc="left", fontsize=8.5, pad=3)
            axes.set_ylim(bottom=0, top=105 if key == "sparsity" else None)
            axes.yaxis.set_major_locator(FixedLocator([0, 50, 100]) if key == "sparsity" else MaxNLocator(3))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.grid(axis="y")
        panels[-1].set_xlabel("step")
        panels[-1].xaxis.set_major_locator(MaxNLocator(5, integer=True))
        label = f"{', '.join(CURVES[key] for key in series)} over {history[-1]['step']} steps"
        return svg(figure, prefix, label)


def _cells(axes: Any, values: list[list[float | None]], rows: list[str], columns: list[str]) -> None:
    """Draw a table of sparsities as coloured squares, each with its number; None is left empty."""
    width = len(values[0])
    sparsities = [[float("nan") if value is None else value for value in row] for row in values]
    axes.pcolormesh(sparsities, cmap=SPARSITY_COLORS, vmin=0, vmax=1, edgecolors="none")
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if value is not None:
                color = "white" if value > 0.52 else "#1c2524"
                axes.text(x + 0.5, y + 0.5, f"{100 * value:.1f}", ha="center", va="center", color=color)
    axes.invert_yaxis()
    axes.set_yticks([y + 0.5 for y in range(len(rows))], rows)
    axes.set_xticks([x + 0.5 for x in range(width)] if columns else [], columns)
    axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)


def _narrow(role: str) -> str:
    """Return a column's heading, broken to be no wider than the column."""
    return role.replace("intermediate", "inter-\nmediate").replace(" ", "\n").replace(".", ".\n")


def svg(figure: Figure, prefix: str, label: str) -> Markup:
    """Return the figure as an inline <svg> with ids of its own, in the page's colours, without prolog or styles."""
    file = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    text = file.getvalue()
    text = text[text.index("<svg") :]  # without XML declaration and doctype
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)  # they would apply to the page
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}-", text)
    for color, css in CSS_COLORS.items():
        text = text.replace(color, css)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1))
