"""Verbs of the command line for methods: `methods list` and `methods show`."""

from __future__ import annotations

import importlib.resources
from typing import Annotated

import typer
import yaml
from rich.markdown import Markdown

from pruneonce import methods
from pruneonce.cli import tables
from pruneonce.console import results, styled
from pruneonce.errors import UserError
from pruneonce.plugins import Plugin

app = typer.Typer(help="List or show the methods that a recipe can name.", epilog="Example: pruneonce methods list")


def _method_names() -> list[str]:
    return list(methods.plugins())


@app.command("list", epilog="Example: [cyan]pruneonce methods list[/cyan]")
def list_methods() -> None:
    """The methods, and the stages that each works in."""
    results.print(tables.methods(methods.plugins()))


@app.command("show", epilog="Example: [cyan]pruneonce methods show obert[/cyan]")
def show_method(
    name: Annotated[
        str,
        typer.Argument(
            metavar="METHOD", help="Name in `methods list`.", show_default=False, autocompletion=_method_names
        ),
    ],
) -> None:
    """Show a method's options, its form in a recipe, and its description."""
    plugin = methods.plugins().get(name)
    if plugin is None:
        raise UserError(f"no method is named {name!r}; these are: {', '.join(methods.plugins())}")
    example = yaml.safe_dump({"method": {"name": name, **plugin.example}}, sort_keys=False)
    results.print(styled("[bold]{name}[/bold]: {summary}", name=name, summary=plugin.summary))
    results.print(f"source: {plugin.paper}; works in: {', '.join(sorted(plugin.stages))}\n", soft_wrap=True)
    if len(plugin.options.model_fields) > 1:
        results.print(tables.options(plugin.options))
    results.print(f"\nIn a recipe's section of such a stage:\n\n{example}")
    if readme := _readme(plugin):
        results.print(Markdown(readme))


def _readme(plugin: Plugin) -> str | None:
    """Return the README.md beside the method's code, where its package has one."""
    package = plugin.code.partition(":")[0].rpartition(".")[0]
    file = importlib.resources.files(package) / "README.md" if package else None
    return file.read_text(encoding="utf-8") if file and file.is_file() else None
