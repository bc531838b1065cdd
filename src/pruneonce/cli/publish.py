"""Verb of the command line that publishes a model folder: `push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pruneonce.wording import megabytes

app = typer.Typer()


@app.command(epilog="Example: [cyan]pruneonce push int8 USER/my-encoder --private[/cyan]")
def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Model folder.", show_default=False)],
    repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="Repository on the hub.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files that would go, and send nothing.")] = False,
) -> None:
    """Upload a model folder to the Hugging Face hub: without checkpoints, logs, and paths of this machine."""
    from pruneonce.models import push as publication

    publication.must_be_repository(repo)
    files = publication.files_to_push(folder)
    places: dict[tuple[int, int], str] = {}
    sizes = []
    for file in files:
        stat = file.file.stat()
        first = places.setdefault((stat.st_dev, stat.st_ino), file.name)
        sizes.append(file.size if first == file.name else 0)
        notes = [f"the same bytes as {first}"] if first != file.name else []
        notes += [f"local paths shortened: {', '.join(file.removed)}"] if file.removed else []
        if dry_run:
            typer.echo("  ".join([f"{file.size:>13,}  {file.name}", *(f"({note})" for note in notes)]))
        elif file.removed:
            typer.echo(f"{file.name}: local paths shortened: {', '.join(file.removed)}")
    summary = f"{len(files)} files, {megabytes(sum(sizes))} MB"
    if dry_run:
        typer.echo(f"{summary} would go to {repo}; README.md is written anew then, unless it was edited")
        return
    typer.echo(f"pushed {summary} to {publication.push(folder, repo, private=private)}")
