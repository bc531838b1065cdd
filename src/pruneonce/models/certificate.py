"""Block "Certificate" of a model card: the numbers of certificate.json as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruneonce.console import console
from pruneonce.models.provenance import CERTIFICATE
from pruneonce.system import durable
from pruneonce.wording import megabytes, milliseconds, percent_as_set, readable


def certificate_block(folder: Path) -> str:
    """Return the block of a model folder's certificate; empty where it has none."""
    certificate = durable.read_json(folder / CERTIFICATE)
    if certificate is None:
        return ""
    try:
        return _block(certificate)
    except (KeyError, TypeError, ValueError, AttributeError):  # edited by hand
        console.print(f"  {folder / CERTIFICATE} is damaged, so the card shows no certificate", soft_wrap=True)
        return ""


def facts(certificate: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of a certificate as people read them, by their labels."""
    scale = 100 / certificate.get("full_score", 1)
    difference, changes = certificate["difference"], certificate["changes"]
    rows = {
        readable(certificate["task"]["metric"]): _with_interval(certificate["score"], scale),
        "dense": _with_interval(certificate["reference"], scale),
        "difference": _with_interval(difference, scale, sign="+"),
        difference["test"]: f"p = {difference['p']:.2g}",
    }
    if changes:
        rows[f"{changes['of']} that changed"] = (
            f"{changes['changed']:,} of {changes['number']:,}: {changes['right_to_wrong']:,} right to wrong, "
            f"{changes['wrong_to_right']:,} wrong to right"
        )
    if certificate.get("bytes"):
        rows["size"] = f"{megabytes(certificate['bytes'])} MB"
    for speed in certificate.get("speed") or []:
        busy = ", machine busy: not reliable" if speed["busy"] else ""
        variant = f" ({speed['variant']})" if speed.get("variant") else ""
        rows[f"a text in {speed.get('title', speed['engine'])}{variant}"] = (
            f"{milliseconds(speed['milliseconds'])} ms{busy}"
        )
    if certificate.get("speed"):
        rows["processor"] = f"{certificate['processor']}, {certificate['threads']} threads"
    return rows


def footing(certificate: Mapping[str, Any]) -> str:
    """Return the sentence that says how the numbers were taken."""
    how = certificate["interval"]
    return (
        f"In percent, on {certificate['units']:,} {certificate.get('unit', 'examples')} of `{certificate['split']}`, "
        f"with {percent_as_set(how['confidence'])} intervals: {how['method']}, {how['resamples']:,} resamples, seed "
        f"{how['seed']}; the difference is paired."
    )


def _with_interval(score: Mapping[str, Any], scale: float, sign: str = "") -> str:
    ends = [score["low"], score["high"]]
    text = f"{scale * score['value']:{sign}z.1f}"
    return text if None in ends else f"{text} ({scale * ends[0]:{sign}z.1f} to {scale * ends[1]:{sign}z.1f})"


def _block(certificate: Mapping[str, Any]) -> str:
    rows = "".join(f"| {label} | {value} |\n" for label, value in facts(certificate).items())
    return f"## Certificate\n\n{footing(certificate)}\n\n| | |\n| --- | --- |\n{rows}"
