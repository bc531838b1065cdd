"""The report: a run's `summary.json` as one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pruneonce.errors import UserError
from pruneonce.modelfolder import read_json
from pruneonce.report import plots, speed

__all__ = ["verdict", "write_report"]

ARMS = tuple(plots.ARM_COLORS)
UNQUANTIZED = ("sparse", "one-shot", "gradual")
RIVALS = {"one-shot": "one-shot pruning", "gradual": "gradual pruning during fine-tuning"}

Results = dict[str, dict[str, dict[str, Any]]]  # {task: {arm: result}}


def write_report(run: Path) -> Path:
    """Write `run/report.html` from `run/summary.json`.

    Returns:
        The page's path.

    Raises:
        UserError: there is no summary, or it is damaged.
    """
    summary = read_json(run / "summary.json")
    if not isinstance(summary, dict):
        raise UserError(f"no summary.json in {run}; make one with `pruneonce run RECIPE --output {run}`")
    environment = Environment(
        loader=PackageLoader("pruneonce", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html.j2").render(_context(summary))
    aside = run / "report.html.partial"
    aside.write_text(page, encoding="utf-8")
    return aside.replace(run / "report.html")


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """What came out, in a few plain sentences: how sparse, how good, and whether a rival does better."""
    results = _by_task(summary)
    sentences = []
    encoder = (summary.get("sparsity") or {}).get("encoder")
    if encoder is not None:
        sentences.append(f"{_percent(encoder)} of the encoder's weights are zero")
    kept = {
        task: arms["sparse"]["recovery"]
        for task, arms in results.items()
        if arms.get("sparse", {}).get("recovery") is not None
    }
    if kept:
        metrics = {results[task]["sparse"]["metric"] for task in kept}
        measure = _readable(metrics.pop()) if len(metrics) == 1 else "score"
        mean = _percent(sum(kept.values()) / len(kept))
        sentences.append(
            f"the sparse model keeps {mean} of the dense {measure} on {next(iter(kept))}"
            if len(kept) == 1
            else f"the sparse models keep {mean} of the dense {measure} on average over {len(kept)} tasks"
        )
    opening = "; ".join(sentences)
    said = [opening[0].upper() + opening[1:] + "."] if opening else []
    said += _quantized(results)
    compared = sorted((_against(rival, results) for rival in RIVALS), key=lambda told: not told[0])  # bad news first
    said += [text for _, text in compared if text]
    timed = (summary.get("benchmark") or {}).get("rows")
    if timed:
        said.append(speed.sentence(timed))
    if not results and (encoder is not None or not timed):
        said.append("No task was measured in this run.")
    return said


def _quantized(results: Results) -> list[str]:
    """How good and how small the models are that were quantized by training, as far as there are any."""
    said = []
    for arm in ("int8", "int4"):
        found = [(arms[arm], arms["dense"]) for arms in results.values() if arm in arms and "dense" in arms]
        if not found:
            continue
        kept = _percent(sum(ours["recovery"] for ours, _ in found) / len(found))
        sizes = [dense["size"]["bytes"] / ours["size"]["bytes"] for ours, dense in found if ours.get("size")]
        smaller = f", in a file {sum(sizes) / len(sizes):.1f} times smaller than the dense one" if sizes else ""
        said.append(f"In {arm} {'it keeps' if len(found) == 1 else 'they keep'} {kept}{smaller}.")
    return said


def _against(rival: str, results: Results) -> tuple[bool, str]:
    """Whether a rival wins anywhere, and how prune-once stands against it; shown as equal is equal."""
    both = {
        task: (_tenths(arms["sparse"]["value"]), _tenths(arms[rival]["value"]))
        for task, arms in results.items()
        if "sparse" in arms and rival in arms
    }
    if not both:
        return False, ""
    if all(ours > theirs for ours, theirs in both.values()):
        points = f"{sum(ours - theirs for ours, theirs in both.values()) / len(both):.1f} percentage points"
        where = f"on {next(iter(both))}, by {points}" if len(both) == 1 else f"on every task, by {points} on average"
        return False, f"Prune-once beats {RIVALS[rival]} {where}."
    told = {
        "does better on": [task for task, (ours, theirs) in both.items() if theirs > ours],
        "equals prune-once on": [task for task, (ours, theirs) in both.items() if theirs == ours],
        "does worse on": [task for task, (ours, theirs) in both.items() if theirs < ours],
    }
    parts = []
    for how, tasks in told.items():
        if tasks:
            shown = [f"{task} ({both[task][1]:.1f} against {both[task][0]:.1f} %)" for task in tasks]
            parts.append(f"{how} {_listed(shown)}")
    return bool(told["does better on"]), f"{RIVALS[rival].capitalize()} {_listed(parts)}."


def _context(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows; all of it text, numbers, or pictures from `plots`."""
    results = _by_task(summary)
    stages = summary.get("stages") or []
    layers = summary.get("layers") or []
    tasks = [_task_row(task, arms, f"bars{i}") for i, (task, arms) in enumerate(results.items())]
    measures = [
        {"task": task, "arm": arm, "split": split, "measured": measured}
        for task, arms in results.items()
        for arm, result in arms.items()
        for split, measured in (result.get("all") or {}).items()
    ]
    training = [
        {"name": stage["name"], "plot": plots.curves(stage["history"], _arm_of(stage), f"curves{i}")}
        for i, stage in enumerate(stages)
        if stage.get("history")
    ]
    return {
        "summary": {"description": "", "model": "", **summary},
        "verdict": verdict(summary),
        "facts": _facts(summary, results),
        "arms": [arm for arm in ARMS if any(arm in arms for arms in results.values())],
        "tasks": tasks,
        "marks_best": any(task["best"] for task in tasks),
        "measures": measures,
        "sizes": [size for task, arms in results.items() for size in _sizes(task, arms)],
        "sizes_plot": _sizes_plot(results),
        "metrics": list(dict.fromkeys(metric for row in measures for metric in row["measured"])),
        "heatmap": plots.heatmap(layers, "layers") if layers else "",
        "training": [stage for stage in training if stage["plot"]],
        "stages": [_spent(stage) for stage in stages],
        "total": _spent({key: sum(s.get(key) or 0 for s in stages) for key in ("steps", "tokens", "seconds")}),
        "speed": speed.section(summary.get("benchmark")),
        "only_speed": bool(summary.get("benchmark")) and not (results or stages or summary.get("sparsity")),
        "example": next((a["sparse"]["folder"] for a in results.values() if "sparse" in a), None),
        "provenance": _provenance(summary),
    }


def _by_task(summary: Mapping[str, Any]) -> Results:
    """`{task: {arm: result}}`, in the order of `ARMS`, with `value` as a share of the full score."""
    tasks: Results = {}
    for result in sorted(summary.get("results") or [], key=lambda result: ARMS.index(result["arm"])):
        share = result["value"] / result.get("full_score", 1)
        tasks.setdefault(result["task"], {})[result["arm"]] = {**result, "value": share}
    return tasks


def _task_row(task: str, arms: Mapping[str, Mapping[str, Any]], prefix: str) -> dict[str, Any]:
    values = {arm: result["value"] for arm, result in arms.items()}
    pruned = {arm: _tenths(value) for arm, value in values.items() if arm in UNQUANTIZED}
    first = next(iter(arms.values()))
    return {
        "name": task,
        "metric": _readable(first["metric"]),
        "split": first["split"],
        "examples": first.get("examples"),
        "scores": {arm: f"{_tenths(value):.1f}" for arm, value in values.items()},
        "recovery": {arm: _percent(r["recovery"]) for arm, r in arms.items() if r.get("recovery") is not None},
        "best": {arm for arm, value in pruned.items() if len(pruned) > 1 and value == max(pruned.values())},
        "plot": plots.bars(values, prefix),
    }


def _sizes(task: str, arms: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """What the files and the encoders in them take, for the arms of which it is known."""
    dense = arms.get("dense", {}).get("size")
    rows = []
    for arm, result in arms.items():
        if not (size := result.get("size")):
            continue
        row = {"task": task, "arm": arm, "file": _megabytes(size["bytes"]), "encoder": _megabytes(size["encoder"])}
        if dense and arm != "dense":
            row["smaller"] = f"{dense['bytes'] / size['bytes']:.1f}"
            row["encoder_smaller"] = f"{dense['encoder'] / size['encoder']:.1f}"
        row["over"] = f"{100 * (size['encoder'] / size['limit'] - 1):.1f} %" if size["limit"] else ""
        rows.append({"smaller": "", "encoder_smaller": "", **row})
    return rows


def _sizes_plot(results: Results) -> str:
    """Of the first task: those of the others hardly differ."""
    found = [
        {arm: result["size"]["bytes"] for arm, result in arms.items() if result.get("size")}
        for arms in results.values()
    ]
    return plots.sizes(found[0], "sizes") if found and found[0] else ""


def _facts(summary: Mapping[str, Any], results: Results) -> dict[str, str]:
    sparsity = summary.get("sparsity") or {}
    shown = {
        "encoder weights that are zero": sparsity.get("encoder"),
        "of the whole model, embeddings and head too": sparsity.get("model"),
    }
    facts = {label: _percent(share) for label, share in shown.items() if share is not None}
    if results:
        facts["tasks from one sparse model" if len(results) > 1 else "task"] = str(len(results))
    if summary.get("seconds"):
        facts["minutes of training"] = f"{summary['seconds'] / 60:.1f}"
    return facts


def _spent(stage: Mapping[str, Any]) -> dict[str, Any]:
    seconds, tokens = stage.get("seconds") or 0, stage.get("tokens") or 0
    return {
        "name": stage.get("name"),
        "steps": f"{stage.get('steps') or 0:,}",
        "tokens": f"{tokens:,}",
        "minutes": f"{seconds / 60:.1f}",
        "speed": f"{tokens / seconds:,.0f}" if seconds and tokens else "-",
    }


def _arm_of(stage: Mapping[str, Any]) -> str:
    """The arm that a stage belongs to: its folder is called after it; the teacher is dense."""
    name = Path(stage.get("folder") or "").name
    return name if name in ARMS else "dense"


def _provenance(summary: Mapping[str, Any]) -> dict[str, str]:
    created = summary.get("created")
    shown = {
        "name": summary["name"],
        "model": summary.get("model"),
        "zero pattern": str(summary.get("pattern") or "")[:12],
        "made": created and datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M %Z").strip(),
        **(summary.get("machine") or {}),
    }
    listed = {label: ", ".join(value) if isinstance(value, list) else value for label, value in shown.items()}
    return {label: str(value) for label, value in listed.items() if value}


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _tenths(share: float) -> float:
    """In percent, as precise as it is shown."""
    return round(100 * share, 1)


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _readable(metric: str) -> str:
    return metric.replace("_", " ")
