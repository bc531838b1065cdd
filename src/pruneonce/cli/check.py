"""Verb `check` of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pruneonce import recipe
from pruneonce.cli.stages import AsJson
from pruneonce.cli.task_options import MEASURED, TaskSets, takes_task, with_sets
from pruneonce.console import results
from pruneonce.engines import ENGINES, title_of
from pruneonce.errors import UserError
from pruneonce.wording import listed

app = typer.Typer()

# The data come by --data.
CHECKED = {name: option for name, option in MEASURED.items() if name not in ("preset", "dev", "test")}


@app.command(
    epilog="Example: [cyan]pruneonce check int8 --data test.jsonl --budget 1%[/cyan]\n\n"
    "Example: [cyan]pruneonce check int8.pruneonce --against dense --data test.jsonl --budget 0.5pt[/cyan]\n\n"
    "The exit code is 0 within the budget, 1 above it, 2 after a mistake, 70 after a bug in pruneonce.",
)
@takes_task(CHECKED)
def check(
    task: dict[str, Any],
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model folder, hub id, export or packed file.", show_default=False)
    ],
    data: Annotated[str, typer.Option(metavar="FILE", help="Labelled file to measure on; with --hub, a split.")],
    budget: Annotated[
        str, typer.Option(metavar="LOSS", help="Allowed loss: 1% of the reference's score, or 1pt (percentage point).")
    ],
    against: Annotated[
        str | None,
        typer.Option(metavar="DENSE", help="The reference, a model or certificate.json. Default: MODEL's certificate."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help=f"{listed(list(ENGINES), 'or')}. Default: the one that MODEL is for, or else PyTorch."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Metric to judge by. Default: that of the certificate, or of the kind of task.")
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(help="Judge by the upper bound of the loss at this confidence. Default: by the loss itself."),
    ] = None,
    certify: Annotated[bool, typer.Option("--certify", help="Write certificate.json into MODEL, a folder.")] = False,
    sets: TaskSets = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model against its dense model, and exit with 1 if it lost more than the budget."""
    from pruneonce import stages
    from pruneonce.stages.certificate import write_certificate
    from pruneonce.stages.check import Budget

    allowed = Budget.parse(budget)
    if confidence is not None and not 0.5 <= confidence < 1:
        raise UserError(f"--confidence {confidence:g} has to be at least 0.5 and below 1, such as 0.95")
    if certify and not Path(model).is_dir():
        raise UserError(f"--certify writes into a folder, and {model} is none")
    typed = with_sets({**task, **({"metric": metric} if metric else {})}, sets, "check")
    settings = _task(model, against, data, typed)
    checked = stages.check(model, settings, allowed, against=against, engine=engine, confidence=confidence)
    if certify:
        write_certificate(checked["certificate"], Path(model))
    if as_json:
        typer.echo(json.dumps({name: value for name, value in checked.items() if name != "certificate"}, indent=1))
    else:
        for line in lines(checked):
            results.print(line, markup=False, soft_wrap=True)
    if not checked["within"]:
        raise typer.Exit(1)


def _task(model: str, against: str | None, data: str, typed: dict[str, Any]) -> recipe.Task:
    """Return the task: as the certificate has it, or else as the model shows, with what was typed laid over it."""
    from pruneonce.models import load_config
    from pruneonce.stages.certificate import read_certificate
    from pruneonce.storage import as_folder
    from pruneonce.tasks import kind_for

    with as_folder(model) as folder:
        kind = kind_for(load_config(folder), typed, folder)
    place = Path(against) if against and against.endswith(".json") else Path(model)
    certificate = read_certificate(place) if place.exists() and place.suffix != ".pruneonce" else None
    known = certificate["task"] if certificate else {"kind": kind}
    values: dict[str, Any] = {**known, **typed}
    if isinstance(values.get("labels"), str):
        values["labels"] = [label.strip() for label in values["labels"].split(",")]
    return recipe.make_task({**values, "train": data, "dev": data}, "task")


def lines(checked: dict[str, Any]) -> list[str]:
    """Return the outcome of a check in sentences, the verdict last."""
    scale, loss, changes = 100 / checked["full_score"], checked["loss"], checked["changes"]

    def percent(score: dict[str, Any]) -> str:
        ends = "" if score["low"] is None else f" ({scale * score['low']:.1f} to {scale * score['high']:.1f})"
        return f"{scale * score['value']:.1f} %{ends}"

    where = f" in {title_of(checked['engine'])}" if checked["engine"] else ""
    ends = "" if loss["low"] is None else f" ({loss['low']:z.2f} to {loss['high']:z.2f})"
    text = [
        f"{checked['metric']} of {checked['model']}{where} on {checked['examples']:,} examples: "
        f"{percent(checked['score'])}",
        f"{checked['metric']} of {checked['reference']['name']}: {percent(checked['reference'])}",
        f"loss: {loss['value']:z.2f}{ends} {loss['unit']}; {checked['test']}: p = {checked['p']:.2g}",
    ]
    if changes:
        text.append(
            f"{changes['changed']:,} of {changes['number']:,} {changes['of']} changed: {changes['right_to_wrong']:,} "
            f"right to wrong, {changes['wrong_to_right']:,} wrong to right"
        )
    rule = "" if checked["confidence"] is None else f", by the upper bound {checked['decisive']:z.2f} of the loss"
    within = "within" if checked["within"] else "above"
    return [*text, f"{within} the budget of {checked['budget']}{rule}"]
