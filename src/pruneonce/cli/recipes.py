"""Verbs of the command line for recipes: `recipes list`, `show`, `copy`, `keys` and `schema`."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.syntax import Syntax

from pruneonce import recipe
from pruneonce.cli import tables
from pruneonce.cli.stages import AsJson
from pruneonce.console import echo, results, styled
from pruneonce.errors import UserError
from pruneonce.recipe.keys import find_place, places


def _recipe_names() -> list[str]:
    return list(recipe.shipped())


def _section_names() -> list[str]:
    return list(places())


Name = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="Shipped name or YAML file.", show_default=False, autocompletion=_recipe_names
    ),
]

app = typer.Typer(
    help="List, show or copy the shipped recipes; explain their keys.", epilog="Example: pruneonce recipes list"
)


@app.command("list", epilog="Example: [cyan]pruneonce recipes list[/cyan]")
def list_recipes() -> None:
    """The shipped recipes."""
    results.print(tables.recipes({name: recipe.load(name).description for name in recipe.shipped()}))


@app.command("show", epilog="Example: [cyan]pruneonce recipes show bert-base-90 > mine.yaml[/cyan]")
def show_recipe(name: Name) -> None:
    """A recipe with every setting that it would run with."""
    text = _dump(recipe.load(name).model_dump(mode="json"))
    if results.is_terminal:
        results.print(Syntax(text, "yaml", theme="ansi_dark", background_color="default", word_wrap=True))
    else:
        typer.echo(text, nl=False)


@app.command("copy", epilog="Example: [cyan]pruneonce recipes copy bert-base-90 mine.yaml[/cyan]")
def copy_recipe(
    name: Name,
    file: Annotated[Path | None, typer.Argument(help="Default: NAME.yaml here.", show_default=False)] = None,
) -> None:
    """Copy the settings of a recipe to a file of your own, which stands alone."""
    resolved = recipe.load(name)
    target = file or Path(f"{resolved.name}.yaml")
    text = _dump(resolved.model_dump(mode="json", exclude_unset=True))
    try:
        with target.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UserError(f"{target} exists; choose another file") from None
    echo(f"next: pruneonce run {shlex.quote(str(target))} --output {shlex.quote(f'runs/{target.stem}')}")


@app.command(
    "keys",
    epilog="Example: [cyan]pruneonce recipes keys prune[/cyan]\n\n"
    "Example: [cyan]pruneonce recipes keys quantize.int8 --json[/cyan]",
)
def show_keys(
    section: Annotated[
        str | None,
        typer.Argument(
            metavar="SECTION",
            help="Section, kind of task or method. Default: a list of them.",
            show_default=False,
            autocompletion=_section_names,
        ),
    ] = None,
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print all sections as a page.")] = False,
) -> None:
    """The keys of a recipe's section: values, default and meaning."""
    if markdown:
        if section or as_json:
            raise UserError("--markdown prints all sections; leave out SECTION and --json")
        from pruneonce.recipe.reference import page

        typer.echo(page(), nl=False)
    elif section is None:
        if as_json:
            sections = [
                {"section": place.name, "at": place.at, "summary": place.summary} for place in places().values()
            ]
            typer.echo(json.dumps(sections, indent=1))
            return
        results.print(tables.places(places().values()))
        typer.echo("next: pruneonce recipes keys prune")
    else:
        place = find_place(section)
        if as_json:
            described = {"section": place.name, "at": place.at, "summary": place.summary}
            typer.echo(json.dumps({**described, "keys": [asdict(key) for key in place.all_keys()]}, indent=1))
            return
        at = ", ".join(place.at)
        line = "[bold]{name}[/bold]: {summary}\nstands in: {at}\n"
        results.print(styled(line, name=place.name, summary=place.summary, at=at))
        results.print(tables.keys(place.all_keys()))


@app.command("schema", epilog="Example: [cyan]pruneonce recipes schema > recipe.schema.json[/cyan]")
def show_schema() -> None:
    """The JSON schema of a recipe file, by which editors complete and check its keys."""
    from pruneonce.recipe.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=1, ensure_ascii=False))


def _dump(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
