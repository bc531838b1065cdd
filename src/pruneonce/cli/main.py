"""Entry point of the command line. Each verb parses its options, builds sections of a recipe and hands over.

Verbs import torch inside their functions, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from safetensors import SafetensorError
from typer.exceptions import TyperException

from pruneonce import __version__, recipe
from pruneonce.cli import benchmark as cli_benchmark
from pruneonce.cli import check as cli_check
from pruneonce.cli import deploy as cli_deploy
from pruneonce.cli import methods as cli_methods
from pruneonce.cli import packed_file as cli_storage
from pruneonce.cli import publish as cli_publish
from pruneonce.cli import recipes as cli_recipes
from pruneonce.cli import stages as cli_stages
from pruneonce.cli import tables, verbosity
from pruneonce.cli.recipes import Name
from pruneonce.cli.roles import takes_roles
from pruneonce.cli.stages import AsJson, Model, Output, Sets
from pruneonce.console import echo, errors, notes, results
from pruneonce.errors import Interrupted, LostProcessError, ToldByFirstError, UserError
from pruneonce.system import durable, interruption
from pruneonce.wording import shown

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: [cyan]pruneonce quickstart[/cyan]",
)
app.add_typer(cli_stages.app)
app.add_typer(cli_deploy.app)
app.add_typer(cli_storage.app)
app.add_typer(cli_publish.app)
app.add_typer(cli_benchmark.app)
app.add_typer(cli_check.app)
app.add_typer(cli_recipes.app, name="recipes")
app.add_typer(cli_methods.app, name="methods")


FAILED = os.EX_SOFTWARE  # 70; a verb's own "no", such as a loss above the budget, is 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    The code is 1 where a verb answers "no", 2 for the user's mistakes, 70 for ours and for the loss of another process
    of the run, and 130 or 143 after SIGINT or SIGTERM.
    """
    typed = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in typed or bool(os.environ.get("PRUNEONCE_DEBUG"))
    try:
        level, typed = verbosity.taken_from([argument for argument in typed if argument != "--debug"])
    except UserError as error:
        return _fail(str(error), 2, debug)
    if not debug and level > logging.DEBUG:
        verbosity.silence_libraries()
    # Torchrun numbers processes by RANK. The first one prints; an error is printed by the process that it happens to.
    others = os.environ.get("RANK", "0") != "0"
    try:
        with (
            Path(os.devnull).open("w") as nowhere,
            redirect_stdout(nowhere if others else sys.stdout),
            interruption.terminable(),
            verbosity.applied(level, speaks=not others),
        ):
            code = app(typed or ["--help"], prog_name="pruneonce", standalone_mode=False) or 0
        if "WORLD_SIZE" in os.environ:
            from pruneonce.system import distributed

            distributed.leave()
        if code == 130:
            errors.print("interrupted")
        return code
    except Interrupted as interrupted:
        if not others:
            errors.print("interrupted; run the same command again to go on")
        return 128 + interrupted.signal
    except ToldByFirstError:
        return 2
    except LostProcessError as error:
        return _fail(str(error), FAILED, debug)
    except (UserError, TyperException, OSError, SafetensorError) as error:
        return _fail(_line(error), 2, debug)
    except Exception as error:
        hint = "" if debug else "; run it again with --debug for the details"
        return _fail(f"{type(error).__name__}: {error} (this is a bug in pruneonce{hint})", FAILED, debug)


def _line(error: Exception) -> str:
    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        hint = f"; see `{context.command_path} --help`" if context else ""
        return error.format_message().rstrip(".") + hint
    if isinstance(error, (OSError, SafetensorError)) and durable.error_number(error) in durable.FULL:
        return "the disk is full; free some space, then run it again: it goes on from the last checkpoint"
    if isinstance(error, PermissionError) and error.filename:
        return f"{error.strerror}: {error.filename}; {durable.PERMISSIONS}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror}: {error.filename}"
    return str(error)


def _fail(message: str, code: int, debug: bool = False) -> int:
    if debug:
        errors.print(traceback.format_exc(), soft_wrap=True, end="")
    errors.print(Text.assemble(("error: ", "bold red"), shown(" ".join(message.split()))), soft_wrap=True)
    return code


def _show_version(is_asked_for: bool) -> None:
    if is_asked_for:
        typer.echo(f"pruneonce {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; goes before or after the verb.")] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Say what is read and written, and let libraries speak; likewise."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors; likewise.")] = False,
) -> None:
    """Prune a Transformer encoder once, then fine-tune the sparse model on any task with its zeros locked."""


# -- a whole run ------------------------------------------------------------------------------------------------


@app.command(epilog="Example: [cyan]pruneonce run bert-base-90 --output runs/bert --set prune.sparsity=0.85[/cyan]")
def run(
    name: Name,
    output: Output,
    sets: Sets = None,
    keep_checkpoints: Annotated[int, typer.Option(min=1, help="Checkpoints that an unfinished stage keeps.")] = 2,
) -> None:
    """Run a recipe: prune once, transfer to every task, measure, report. Run again, it goes on where it stopped."""
    resolved = recipe.load(name, sets)
    from pruneonce.runs import pipeline

    _show_results(pipeline.run(resolved, output, keep_checkpoints=keep_checkpoints), output)


@app.command(epilog="Example: [cyan]pruneonce plan bert-base-90 --set prune.batch_size=16[/cyan]")
def plan(
    name: Name,
    sets: Sets = None,
    seconds: Annotated[float, typer.Option(min=0, help="Measure steps for about so long.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Estimate a run on this machine: steps, tokens, FLOPs, hours, memory and disk. Nothing is written."""
    resolved = recipe.load(name, sets)
    from pruneonce.plan import plan

    with notes.status("measuring some steps of each stage"):
        estimate = plan(resolved, seconds)
    if as_json:
        typer.echo(json.dumps(estimate.to_json(), indent=1))
        return
    results.print(tables.plan(estimate))
    for sentence in estimate.sentences():
        results.print(sentence)


@app.command(epilog="Example: [cyan]pruneonce quickstart --output quickstart[/cyan]")
def quickstart(output: Output = Path("quickstart")) -> None:
    """Prune a real model on real text and measure it, in minutes and without any download."""
    from pruneonce.runs import quickstart

    _show_results(quickstart.run(output), output / "run")


def _show_results(summary: dict[str, Any], output: Path) -> None:
    from pruneonce.report import of_seeds, verdict

    for table in tables.results(summary) if summary["results"] else []:
        results.print(table)
    for sentence in filter(None, [*verdict(summary), of_seeds(summary)]):
        results.print(sentence)
    echo(f"report: {output / 'report.html'}")


# -- looking at models ------------------------------------------------------------------------------------------


@app.command(epilog="Example: [cyan]pruneonce inspect sparse --json[/cyan]")
@takes_roles()
def inspect(model: Model, as_json: AsJson = False) -> None:
    """Sparsity by layer, of the encoder and of the whole model; zero pattern, provenance and size."""
    from pruneonce.sparsity import inspect_model

    inspection = inspect_model(model)
    if as_json:
        typer.echo(json.dumps(inspection.to_json(), indent=1))
    else:
        results.print(tables.layers(inspection.layers))
        results.print(tables.totals(inspection))


@app.command(epilog="Example: [cyan]pruneonce verify task --against sparse[/cyan]")
@takes_roles("against")
def verify(
    child: Annotated[str, typer.Argument(metavar="CHILD", help="Model folder.", show_default=False)],
    against: Annotated[str, typer.Option(metavar="PARENT", help="The sparse model that it was made from.")],
) -> None:
    """Check that the parent's zeros are all zeros in the child. Exits with 1 if not."""
    from pruneonce.sparsity import verify

    check = verify(child, against)
    if check.scattered:
        echo(f"not compared, since {against} has too few zeros in them for a pattern: {', '.join(check.scattered)}")
    if check.ok:
        absent = f"; not in the child: {', '.join(check.missing)}" if check.missing else ""
        echo(f"all {check.zeros:,} zeros of {against} are zeros in {child}{absent}")
        return
    lost = [layer for layer in check.layers if layer.lost]
    if lost:
        results.print(tables.lost_zeros(lost))
    more = f" and {len(check.wanted) - 1} more" if len(check.wanted) > 1 else ""
    absent = f"; not in the child, or of another shape: {check.wanted[0]}{more}" if check.wanted else ""
    echo(f"{child} does not keep the zeros of {against}{absent}")
    raise typer.Exit(1)
