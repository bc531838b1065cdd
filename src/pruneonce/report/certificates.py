"""Table of the report with the certificates: what each model lost against the dense one, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pruneonce.engines import title_of
from pruneonce.recipe.arms import DENSE
from pruneonce.report.recovery import Results
from pruneonce.wording import megabytes, milliseconds, readable


def section(results: Results) -> dict[str, Any] | None:
    """Return the values that the template shows; None where no model has a certificate."""
    certified = [
        (task, arm, result["certificate"])
        for task, arms in results.items()
        for arm, result in arms.items()
        if result.get("certificate")
    ]
    if not certified:
        return None
    how = certified[0][2]["interval"]
    return {
        "rows": [_row(task, arm, certificate) for task, arm, certificate in certified],
        "how": f"{100 * how['confidence']:g} % intervals by {how['method']}, {how['resamples']:,} resamples of the "
        f"examples, seed {how['seed']}",
        "processors": list(dict.fromkeys(one["processor"] for _, _, one in certified if one.get("processor"))),
    }


def _row(task: str, arm: str, certificate: Mapping[str, Any]) -> dict[str, str]:
    scale = 100 / certificate.get("full_score", 1)
    difference, changes, is_dense = certificate["difference"], certificate["changes"], arm == DENSE
    speeds = certificate.get("speed") or []
    fastest = min(speeds, key=lambda speed: speed["milliseconds"], default=None)
    changed = f"{changes['changed']:,}" if changes and not is_dense else ""
    ways = f"{changes['right_to_wrong']:,} / {changes['wrong_to_right']:,}" if changed else ""
    engine = title_of(fastest["engine"]) if fastest else ""
    return {
        "task": task,
        "arm": arm,
        "metric": readable(certificate["task"]["metric"]),
        "score": f"{scale * certificate['score']['value']:.1f}",
        "score_interval": _interval(certificate["score"], scale),
        "difference": "" if is_dense else f"{scale * difference['value']:+.1f}",
        "difference_interval": "" if is_dense else _interval(difference, scale, "+"),
        "p": "" if is_dense else f"{difference['p']:.2g}",
        "test": "" if is_dense else difference["test"],
        "changed": changed,
        "changed_of": f"of {changes['number']:,} {changes['of']}" if changed else "",
        "ways": ways,
        "size": megabytes(certificate["bytes"]) if certificate.get("bytes") else "",
        "time": milliseconds(fastest["milliseconds"]) if fastest else "",
        "engine": f"{engine} (machine busy)" if fastest and fastest["busy"] else engine,
    }


def _interval(score: Mapping[str, Any], scale: float, sign: str = "") -> str:
    if score["low"] is None:
        return ""
    return f"{scale * score['low']:{sign}.1f} to {scale * score['high']:{sign}.1f}"
