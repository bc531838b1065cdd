"""Verbs of the command line for the packed file: `pack` and `unpack`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from pruneonce.cli import tables
from pruneonce.cli.stages import AsJson
from pruneonce.console import echo, results
from pruneonce.wording import percent

app = typer.Typer()


@app.command(
    epilog="Example: [cyan]pruneonce pack sparse sparse.pruneonce[/cyan]\n\n"
    "Example: [cyan]pruneonce pack tasks/sst2/sparse tasks/sick/sparse family.pruneonce --values int4[/cyan]\n\n"
    "A task more: [cyan]pruneonce pack family.pruneonce cola=tasks/cola/sparse larger.pruneonce[/cyan]",
)
def pack(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="Model folders, each FOLDER or NAME=FOLDER; a packed file among them adds its models.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="File to write, NAME.pruneonce.", show_default=False)
    ],
    values: Annotated[
        Literal["fp32", "int8", "int4"],
        typer.Option(help="How to store the encoder's weights, unless a grid is recorded beside them; fp32 is exact."),
    ] = "int8",
    as_json: AsJson = False,
) -> None:
    """Pack a sparse model into one small file. Several task models of one sparse parent share its zero pattern."""
    from pruneonce import storage

    sizes = storage.pack(models, output, values)
    if as_json:
        typer.echo(json.dumps(sizes.to_json(), indent=1))
        return
    results.print(tables.sizes(sizes))
    for part, error in sizes.to_json()["rounding"].items():
        most = f"any weight by {error['largest']:.2g} at most"
        echo(f"rounding changed the {part} by {percent(error['relative'], 2)}, {most}")
    echo(f"next: pruneonce unpack {shlex.join([str(output), output.stem])}")


@app.command(epilog="Example: [cyan]pruneonce unpack family.pruneonce sick --member sick[/cyan]")
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `pruneonce pack` made.", show_default=False)],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write.", show_default=False)],
    member: Annotated[str | None, typer.Option(metavar="NAME", help="Of a family, only this model.")] = None,
) -> None:
    """Make model folders of a packed file again, with the weights bit for bit; of a family, FOLDER/NAME for each."""
    from pruneonce import storage

    for unpacked in storage.unpack(file, folder, member):
        echo(f"made {unpacked}")
