"""Report of a run: its `summary.json` as one HTML page that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pruneonce.errors import UserError
from pruneonce.recipe.arms import ARMS, DENSE, SPARSE
from pruneonce.report import beside, certificates, comparison, plots, speed
from pruneonce.report.recovery import Results, recoveries_of
from pruneonce.system.durable import read_json, write_text
from pruneonce.wording import first_line, listed, megabytes, of_seeds, percent, readable, shown, tenths

__all__ = ["of_seeds", "verdict", "write_report"]

MOST_CURVES = 40  # stages whose training is drawn; a picture takes a tenth of a second, and 20 kB
RIVALS = {name: arm.title for name, arm in ARMS.items() if arm.role == "rival"}


def write_report(run: Path) -> Path:
    """Write `run/report.html` from `run/summary.json`.

    Returns:
        The page's path.

    Raises:
        UserError: there is no summary, or it is damaged.
    """
    summary = read_json(run / "summary.json")
    summary = _clean(summary)
    if not isinstance(summary, dict):
        raise UserError(f"no summary.json in {run}; make one with `pruneonce run RECIPE --output {run}`")
    environment = Environment(
        loader=PackageLoader("pruneonce", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        page = environment.get_template("page.html.j2").render(_context(summary))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = first_line(error)
        raise UserError(
            f"{run / 'summary.json'} is damaged or of another version ({type(error).__name__}: {reason}); the run's "
            "own command writes it anew"
        ) from error
    file = run / "report.html"
    write_text(file, page)
    return file


def _clean(value: Any) -> Any:
    """Return a value of JSON whose texts have no characters that a page or a terminal obeys."""
    if isinstance(value, dict):
        return {shown(key): _clean(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return shown(value) if isinstance(value, str) else value


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """Return the results in a few plain sentences: beside dense int8, how sparse, how good, and beside rivals."""
    results = _by_task(summary)
    sentences = []
    encoder = (summary.get("sparsity") or {}).get("encoder")
    if encoder is not None:
        sentences.append(f"{percent(encoder)} of the encoder's weights are zero")
    recovery_by_task = recoveries_of(results, SPARSE)
    if recovery_by_task:
        metrics = {results[task][SPARSE]["metric"] for task in recovery_by_task}
        measure = readable(metrics.pop()) if len(metrics) == 1 else "score"
        mean = percent(fmean(recovery_by_task.values()))
        sentences.append(
            f"the sparse model keeps {mean} of the dense {measure} on {next(iter(recovery_by_task))}"
            if len(recovery_by_task) == 1
            else f"the sparse models keep {mean} of the dense {measure} on average over {len(recovery_by_task)} tasks"
        )
    opening = "; ".join(sentences)
    timed = (summary.get("benchmark") or {}).get("rows") or []
    lines = beside.sentences(results, summary.get("benchmark"))  # what pruning adds to int8 comes first
    lines += [opening[0].upper() + opening[1:] + "."] if opening else []
    lines += _quantized(results)
    against_rivals = [_against(rival, results) for rival in RIVALS]
    against_rivals.sort(key=lambda outcome: not outcome[0])  # bad news first
    lines += [text for _, text in against_rivals if text]
    if timed:
        lines.append(speed.sentence(timed))
    if not results and (encoder is not None or not timed):
        lines.append("No task was measured in this run.")
    return lines


def _quantized(results: Results) -> list[str]:
    """Return sentences on the score and size of the models quantized by training, where there are any."""
    lines = []
    for name, arm in ARMS.items():
        recovery_by_task = recoveries_of(results, name)
        if arm.role != "quantized" or not arm.timed or not recovery_by_task:
            continue
        pairs = [(results[task][name].get("size"), results[task][DENSE].get("size")) for task in recovery_by_task]
        ratios = [dense["bytes"] / size["bytes"] for size, dense in pairs if size and dense]
        smaller = f", in a file {fmean(ratios):.1f} times smaller than the dense one" if ratios else ""
        subject = "it keeps" if len(recovery_by_task) == 1 else "they keep"
        lines.append(f"In {arm.title} {subject} {percent(fmean(recovery_by_task.values()))}{smaller}.")
    return lines


def _against(rival: str, results: Results) -> tuple[bool, str]:
    """Return whether a rival wins anywhere, and a sentence on prune-once against it; values are compared as printed."""
    both = {
        task: (tenths(arms[SPARSE]["value"]), tenths(arms[rival]["value"]))
        for task, arms in results.items()
        if SPARSE in arms and rival in arms
    }
    if not both:
        return False, ""
    if all(ours > theirs for ours, theirs in both.values()):
        close = _close(rival, results)
        points = f"{sum(ours - theirs for ours, theirs in both.values()) / len(both):.1f} percentage points"
        where = f"on {next(iter(both))}, by {points}" if len(both) == 1 else f"on every task, by {points} on average"
        return False, f"Prune-once beats {RIVALS[rival]} {where}.{close}"
    outcomes = {
        "does better on": [task for task, (ours, theirs) in both.items() if theirs > ours],
        "equals prune-once on": [task for task, (ours, theirs) in both.items() if theirs == ours],
        "does worse on": [task for task, (ours, theirs) in both.items() if theirs < ours],
    }
    parts = []
    for how, tasks in outcomes.items():
        if tasks:
            scores = [f"{task} ({both[task][1]:.1f} against {both[task][0]:.1f} %)" for task in tasks]
            parts.append(f"{how} {listed(scores)}")
    return bool(outcomes["does better on"]), f"{RIVALS[rival].capitalize()} {listed(parts)}.{_close(rival, results)}"


def _close(rival: str, results: Results) -> str:
    """Return a sentence on the tasks where prune-once and a rival are no further apart than the seeds of either."""
    close = [
        task
        for task, arms in results.items()
        if SPARSE in arms and rival in arms
        for ours, theirs in [(arms[SPARSE], arms[rival])]
        if abs(ours["value"] - theirs["value"]) <= max(ours.get("spread") or 0, theirs.get("spread") or 0)
        and ours["value"] != theirs["value"]
    ]
    return f" On {listed(close)} that is no more than the seeds' spread." if close else ""


def _context(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that the template shows: text, numbers, or pictures from `plots`."""
    results = _by_task(summary)
    stages = summary.get("stages") or []
    layers = summary.get("layers") or []
    tasks = comparison.rows(results)
    measures = [
        {"task": task, "arm": arm, "split": split, "measured": measured}
        for task, arms in results.items()
        for arm, result in arms.items()
        for split, measured in (result.get("all") or {}).items()
    ]
    trained = [(i, stage) for i, stage in enumerate(stages) if stage.get("history")]
    training = [
        {"name": stage["name"], "plot": plots.curves(stage["history"], _arm_of(stage), f"curves{i}")}
        for i, stage in trained[:MOST_CURVES]
    ]
    return {
        "summary": {"description": "", "model": "", **summary},
        "verdict": verdict(summary),
        "facts": _facts(summary, results),
        "known_arms": ARMS.values(),
        "reference": DENSE,
        "arms": [arm for arm in ARMS if any(arm in arms for arms in results.values())],
        "tasks": tasks,
        "marks_best": any(task["best"] for task in tasks),
        "means": comparison.means(results),
        "recoveries": comparison.recoveries(results, "recoveries"),
        "sweeps": comparison.sweeps(results),
        "of_seeds": of_seeds(summary),
        "certificates": certificates.section(results),
        "measures": measures,
        "sizes": [size for task, arms in results.items() for size in _sizes(task, arms)],
        "sizes_plot": _sizes_plot(results),
        "metrics": list(dict.fromkeys(metric for row in measures for metric in row["measured"])),
        "heatmap": plots.heatmap(layers, "layers") if layers else "",
        "training": [stage for stage in training if stage["plot"]],
        "not_drawn": max(0, len(trained) - MOST_CURVES),
        "stages": [_training_row(stage) for stage in stages],
        "total": _training_row({key: sum(s.get(key) or 0 for s in stages) for key in ("steps", "tokens", "seconds")}),
        "speed": speed.section(summary.get("benchmark")),
        "only_speed": bool(summary.get("benchmark")) and not (results or stages or summary.get("sparsity")),
        "example": next((arms[SPARSE]["folder"] for arms in results.values() if SPARSE in arms), None),
        "provenance": _provenance(summary),
    }


def _by_task(summary: Mapping[str, Any]) -> Results:
    """Return `{task: {arm: result}}`, in the order of `ARMS`, with values as shares of the full score."""
    tasks: dict[str, dict[str, dict[str, Any]]] = {}
    order = list(ARMS)
    for result in sorted(summary.get("results") or [], key=lambda result: order.index(result["arm"])):
        tasks.setdefault(result["task"], {})[result["arm"]] = comparison.as_shares(result)
    return tasks


def _sizes(task: str, arms: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the sizes of the files and of the encoders in them, for the arms whose sizes are known."""
    dense = arms.get(DENSE, {}).get("size")
    rows = []
    for arm, result in arms.items():
        if not (size := result.get("size")):
            continue
        row = {"task": task, "arm": arm, "file": megabytes(size["bytes"]), "encoder": megabytes(size["encoder"])}
        if dense and arm != DENSE:
            row["smaller"] = f"{dense['bytes'] / size['bytes']:.1f}"
            row["encoder_smaller"] = f"{dense['encoder'] / size['encoder']:.1f}"
        row["over"] = f"{100 * (size['encoder'] / size['limit'] - 1):.1f} %" if size["limit"] else ""
        rows.append({"smaller": "", "encoder_smaller": "", **row})
    return rows


def _sizes_plot(results: Results) -> str:
    """Return a plot of the first task's sizes; those of the others hardly differ."""
    sizes = [
        {arm: result["size"]["bytes"] for arm, result in arms.items() if result.get("size")}
        for arms in results.values()
    ]
    return plots.sizes(sizes[0], "sizes") if sizes and sizes[0] else ""


def _facts(summary: Mapping[str, Any], results: Results) -> dict[str, str]:
    sparsity = summary.get("sparsity") or {}
    shares = {
        "encoder weights that are zero": sparsity.get("encoder"),
        "of the whole model, embeddings and head too": sparsity.get("model"),
    }
    facts = {label: percent(share) for label, share in shares.items() if share is not None}
    if results:
        facts["tasks from one sparse model" if len(results) > 1 else "task"] = str(len(results))
    if summary.get("seconds"):
        facts["minutes of training"] = f"{summary['seconds'] / 60:.1f}"
    return facts


def _training_row(stage: Mapping[str, Any]) -> dict[str, Any]:
    seconds, tokens = stage.get("seconds") or 0, stage.get("tokens") or 0
    losses = [point["loss"] for point in stage.get("history") or [] if point.get("loss") is not None]
    return {
        "name": stage.get("name"),
        "how": _method_and_pattern(stage),
        "steps": f"{stage.get('steps') or 0:,}",
        "tokens": f"{tokens:,}",
        "minutes": f"{seconds / 60:.1f}",
        "speed": f"{tokens / seconds:,.0f}" if seconds and tokens else "-",
        "loss": f"{losses[-1]:.4g}" if losses else "",
    }


def _method_and_pattern(stage: Mapping[str, Any]) -> str:
    """Return the method with its options, and the pattern, where they are not the default ones."""
    method = dict(stage.get("method") or {})
    options = ", ".join(f"{key} {value}" for key, value in method.items() if key != "name")
    text = f"{method['name']} ({options})" if options else method.get("name")
    return ", ".join(filter(None, [text, stage.get("pattern")]))


def _arm_of(stage: Mapping[str, Any]) -> str:
    """Return the arm that a stage belongs to: its folder has the arm's name, and the teacher is dense."""
    name = Path(stage.get("folder") or "").name
    return name if name in ARMS else DENSE


def _taken(taken: Mapping[str, Any] | None) -> str | None:
    """Return where a sparse encoder that the run did not prune came from."""
    if not taken:
        return None
    zeros = f"{percent(taken['zeros'])} zeros; sha256 of the pattern {taken['pattern']}"
    return f"{taken['source']}, {taken['from']}, {zeros}"


def _provenance(summary: Mapping[str, Any]) -> dict[str, str]:
    created = summary.get("created")
    pattern = summary.get("pattern_hash") or summary.get("pattern")  # summaries of older versions have `pattern`
    entries = {
        "name": summary["name"],
        "model": summary.get("model"),
        "sparse encoder": _taken(summary.get("taken")),
        "zero pattern": str(pattern or "")[:12],
        "made": created and datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M %Z").strip(),
        **(summary.get("machine") or {}),
    }
    joined = {label: ", ".join(value) if isinstance(value, list) else value for label, value in entries.items()}
    return {label: str(value) for label, value in joined.items() if value}
