"""The command line: verbs only. Each parses its options, builds sections of a recipe and hands over.

Whatever imports torch is imported inside the verb that needs it, so that help is there at once.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from typer.exceptions import TyperException

from pruneonce import __version__, recipe, tables
from pruneonce.console import console
from pruneonce.errors import UserError

# What the stage verbs use where no option says otherwise: the paper's lengths, batches and transfer rate.
PREPARE = {"steps": 100_000, "batch_size": 256, "learning_rate": 5e-5, "warmup": 0.01}
PRUNE = {"steps": 100_000, "batch_size": 256, "learning_rate": 5e-5, "warmup": 0.01}
FINETUNE = {"epochs": 3, "batch_size": 32, "learning_rate": 3e-5}
TRANSFER = {"epochs": 8, "batch_size": 32, "learning_rate": 1.5e-4}

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or hub id.", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="RECIPE", help="Shipped name or YAML file.", show_default=False)]
Output = Annotated[Path, typer.Option(help="Folder to write; what it holds is never overwritten.")]
Source = Annotated[str, typer.Option("--corpus", help="Text, JSONL or Parquet file, a folder of them, or a hub id.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as recipes name it; may be repeated."),
]
Seed = Annotated[int, typer.Option(min=0)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# A task's options: named as the fields of recipe.Task, so that `_task_values` picks them out.
Train = Annotated[str | None, typer.Option(help="JSONL, CSV or Parquet file; with --hub, a split.")]
Dev = Annotated[str | None, typer.Option(help="The same, held out.")]
Test = Annotated[str | None, typer.Option(help="The same, to measure on.")]
TextColumn = Annotated[str | None, typer.Option("--text", metavar="COLUMN", help="Default: text.")]
PairColumn = Annotated[str | None, typer.Option("--text-pair", metavar="COLUMN", help="Second text of a pair.")]
LabelColumn = Annotated[str | None, typer.Option("--label", metavar="COLUMN", help="Default: label.")]
Labels = Annotated[str | None, typer.Option(metavar="A,B,...", help="Label names in order. Default: from the data.")]
Hub = Annotated[str | None, typer.Option("--hub", metavar="ID", help="Hub data set, instead of files.")]
Subset = Annotated[str | None, typer.Option(help="Configuration of the hub data set.")]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: [cyan]pruneonce quickstart[/cyan]",
)
recipes = typer.Typer(help="List, show or copy the shipped recipes.", epilog="Example: pruneonce recipes list")
app.add_typer(recipes, name="recipes")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 2 for the user's mistakes, 1 for ours, 130 when interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given or bool(os.environ.get("PRUNEONCE_DEBUG"))
    given = [argument for argument in given if argument != "--debug"]
    if not debug:
        _silence_libraries()
    try:
        code = app(given or ["--help"], prog_name="pruneonce", standalone_mode=False) or 0
        return _fail("interrupted", code) if code == 130 else code
    except (UserError, TyperException, OSError) as error:
        return _fail(_line(error), 2, debug)
    except Exception as error:
        hint = "" if debug else "; run it again with --debug for the details"
        return _fail(f"{type(error).__name__}: {error} (this is a bug in pruneonce{hint})", 1, debug)


def _silence_libraries() -> None:
    """Turn off the libraries' own warnings and progress bars, in the one way that needs no import of them."""
    warnings.simplefilter("ignore")
    for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    for library in ("HF_HUB", "HF_DATASETS"):
        os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")


def _line(error: Exception) -> str:
    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        hint = f" See `{context.command_path} --help`." if context else ""
        return error.format_message() + hint
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror}: {error.filename}"
    return str(error)


def _fail(message: str, code: int, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    line = Text.assemble(("error: ", "bold red"), " ".join(message.split()))
    Console(stderr=True).print(line, soft_wrap=True)
    return code


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pruneonce {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; goes before or after the verb.")] = False,
) -> None:
    """Prune a Transformer encoder once, then fine-tune the sparse model on any task with its zeros locked."""


# -- a whole run ------------------------------------------------------------------------------------------------


@app.command(epilog="Example: [cyan]pruneonce run bert-base-90 --output runs/bert --set prune.sparsity=0.85[/cyan]")
def run(name: Name, output: Output, sets: Sets = None) -> None:
    """Run a recipe: prune once, transfer to every task, measure, report. Run again, it goes on where it stopped."""
    resolved = recipe.load(name, sets)
    from pruneonce import pipeline

    _show_results(pipeline.run(resolved, output), output)


@app.command(epilog="Example: [cyan]pruneonce quickstart --output quickstart[/cyan]")
def quickstart(output: Output = Path("quickstart")) -> None:
    """Prune a real model on real text and measure it, in minutes and without any download."""
    from pruneonce import quickstart

    _show_results(quickstart.run(output), output / "run")


def _show_results(summary: dict[str, Any], output: Path) -> None:
    from pruneonce.report import verdict

    if summary["results"]:
        console.print(tables.results(summary["results"]))
    for sentence in verdict(summary):
        console.print(sentence, markup=False)
    typer.echo(f"report: {output / 'report.html'}")


# -- stages -----------------------------------------------------------------------------------------------------


def _defaults(example: str, settings: dict[str, Any]) -> str:
    shown = ", ".join(f"{name} {value:g}" for name, value in settings.items())
    return f"Defaults: {shown}.\n\nExample: [cyan]pruneonce {example}[/cyan]"


@app.command(epilog=_defaults("prepare bert-base-uncased --corpus wiki/ --output teacher", PREPARE))
def prepare(model: Model, corpus: Source, output: Output, sets: Sets = None, seed: Seed = 42) -> None:
    """Teach a dense model the corpus (MLM). A model without an MLM head gets one."""
    text, settings = _sections(recipe.Corpus, {"source": corpus}, recipe.Prepare, PREPARE, {}, sets)
    from pruneonce import stages

    made = stages.prepare(model, text, settings, output, seed=seed)
    _show_made(made, "prune", output, "--corpus", corpus, "--output", "sparse")


@app.command(
    epilog=_defaults("prune MiniLM --corpus wiki.txt --output sparse --objective hidden --steps 2000", PRUNE),
)
def prune(
    model: Model,
    corpus: Source,
    output: Output,
    sparsity: Annotated[float | None, typer.Option(help="Share of zeros to reach. Default: 0.9.")] = None,
    objective: Annotated[str | None, typer.Option(help="mlm, hidden or both. Default: mlm.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    sets: Sets = None,
    seed: Seed = 42,
) -> None:
    """Sparse pre-training, the step that is done once. The dense model is the teacher."""
    options = {"sparsity": sparsity, "objective": objective, "steps": steps}
    text, settings = _sections(recipe.Corpus, {"source": corpus}, recipe.Prune, PRUNE, options, sets)
    from pruneonce import stages

    made = stages.prune(model, text, settings, output, seed=seed)
    task = ("--train", "train.jsonl", "--dev", "dev.jsonl")
    _show_made(made, "transfer", output, "--teacher", "dense", *task, "--output", "task")


@app.command(epilog=_defaults("finetune MiniLM --train train.jsonl --dev dev.jsonl --output dense", FINETUNE))
def finetune(
    context: typer.Context,
    model: Model,
    train: Train,
    dev: Dev,
    output: Output,
    test: Test = None,
    text: TextColumn = None,
    text_pair: PairColumn = None,
    label: LabelColumn = None,
    labels: Labels = None,
    source: Hub = None,
    subset: Subset = None,
    sets: Sets = None,
    seed: Seed = 42,
) -> None:
    """Fine-tune a dense model on a task: the teacher of the sparse one, and what it is compared with."""
    values = _task_values(context.params)
    task, settings = _sections(recipe.Task, values, recipe.Training, FINETUNE, {}, sets)
    from pruneonce import stages

    made = stages.finetune(model, task, settings, output, seed=seed)
    _show_made(made, "transfer", "sparse", "--teacher", output, *_as_options(values), "--output", "task")


@app.command(
    epilog=_defaults("transfer sparse --teacher dense --train train.jsonl --dev dev.jsonl --output task", TRANSFER),
)
def transfer(
    context: typer.Context,
    model: Model,
    teacher: Annotated[str, typer.Option(help="Dense model fine-tuned on the same task.")],
    train: Train,
    dev: Dev,
    output: Output,
    test: Test = None,
    text: TextColumn = None,
    text_pair: PairColumn = None,
    label: LabelColumn = None,
    labels: Labels = None,
    source: Hub = None,
    subset: Subset = None,
    sets: Sets = None,
    seed: Seed = 42,
) -> None:
    """Fine-tune a sparse model on a task with its zeros locked, distilling from a dense teacher."""
    task, settings = _sections(recipe.Task, _task_values(context.params), recipe.Transfer, TRANSFER, {}, sets)
    from pruneonce import stages

    made = stages.transfer(model, task, settings, output, teacher=teacher, seed=seed)
    _show_made(made, "verify", output, "--against", model)


@app.command(epilog="Example: [cyan]pruneonce evaluate task --test test.jsonl --json[/cyan]")
def evaluate(
    context: typer.Context,
    model: Model,
    dev: Dev = None,
    test: Test = None,
    text: TextColumn = None,
    text_pair: PairColumn = None,
    label: LabelColumn = None,
    labels: Labels = None,
    source: Hub = None,
    subset: Subset = None,
    as_json: AsJson = False,
) -> None:
    """Measure a task model. Its own label names are used unless --labels are given."""
    splits = [split for split in ("dev", "test") if context.params[split] is not None]
    if not splits:
        raise UserError("nothing to measure on: give --dev, --test or both")
    from pruneonce import stages
    from pruneonce.modelfolder import load_config

    names = load_config(model).id2label
    first = context.params[splits[0]]
    values = {"labels": [names[index] for index in sorted(names)], "train": first, "dev": first}
    task = recipe.validate(recipe.Task, {**values, **_task_values(context.params)})
    found = stages.evaluate(model, task, splits=splits)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        console.print(tables.metrics(found))


def _sections(
    inputs: type[recipe.Section],
    given: dict[str, Any],
    section: type[recipe.Section],
    defaults: dict[str, Any],
    options: dict[str, Any],
    sets: list[str] | None,
) -> tuple[Any, Any]:
    """The `inputs` (a Corpus or a Task) and the settings of a stage verb: defaults, then options, then --set, where
    `corpus.KEY` or `task.KEY` is a key of the inputs."""
    prefix = inputs.__name__.lower()
    values = {prefix: given, **{name: value for name, value in options.items() if value is not None}}
    for override in sets or []:
        recipe._set(values, override)
    inputs_given = values.pop(prefix)
    if {"steps", "epochs"} & values.keys():
        defaults = {name: value for name, value in defaults.items() if name not in ("steps", "epochs")}
    return recipe.validate(inputs, inputs_given), recipe.validate(section, {**defaults, **values})


def _task_values(parameters: dict[str, Any]) -> dict[str, Any]:
    """The options that are fields of a Task."""
    values = {name: value for name, value in parameters.items() if name in recipe.Task.model_fields and value}
    if "labels" in values:
        values["labels"] = [name.strip() for name in values["labels"].split(",")]
    return values


def _as_options(task: dict[str, Any]) -> list[str]:
    """A task's values as they were typed."""
    typed = {**task, "labels": ",".join(task.get("labels", []))}
    flags = {name: "--hub" if name == "source" else f"--{name.replace('_', '-')}" for name in typed}
    return [part for name, value in typed.items() if value for part in (flags[name], value)]


def _show_made(folder: Path, *following: str | Path) -> None:
    from pruneonce.modelfolder import read_provenance

    made = read_provenance(folder) or {}
    typer.echo(f"made {folder}: {made['sparsity']['encoder']:.1%} of the encoder's Linear weights are zero")
    typer.echo(f"next: pruneonce {shlex.join(map(str, following))}")


# -- recipes ----------------------------------------------------------------------------------------------------


@recipes.command("list", epilog="Example: [cyan]pruneonce recipes list[/cyan]")
def list_recipes() -> None:
    """The shipped recipes."""
    table = Table("recipe", "description", box=None)
    for name in recipe.shipped():
        table.add_row(name, recipe.load(name).description)
    console.print(table)


@recipes.command("show", epilog="Example: [cyan]pruneonce recipes show bert-base-90 > mine.yaml[/cyan]")
def show_recipe(name: Name) -> None:
    """A recipe with every setting that it would run with."""
    text = _dump(recipe.load(name).model_dump(mode="json"))
    if console.is_terminal:
        console.print(Syntax(text, "yaml", background_color="default", word_wrap=True))
    else:
        typer.echo(text, nl=False)


@recipes.command("copy", epilog="Example: [cyan]pruneonce recipes copy bert-base-90 mine.yaml[/cyan]")
def copy_recipe(
    name: Name,
    file: Annotated[Path | None, typer.Argument(help="Default: NAME.yaml here.", show_default=False)] = None,
) -> None:
    """Copy what a recipe sets to a file of your own, which stands alone."""
    resolved = recipe.load(name)
    target = file or Path(f"{resolved.name}.yaml")
    text = _dump(resolved.model_dump(mode="json", exclude_unset=True))
    try:
        with target.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UserError(f"{target} exists; choose another file") from None
    typer.echo(f"next: pruneonce run {shlex.quote(str(target))} --output {shlex.quote(f'runs/{target.stem}')}")


def _dump(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


# -- looking at models ------------------------------------------------------------------------------------------


@app.command(epilog="Example: [cyan]pruneonce inspect sparse --json[/cyan]")
def inspect(model: Model, as_json: AsJson = False) -> None:
    """Sparsity by layer, of the encoder and of the whole model; zero pattern, provenance and size."""
    from pruneonce.sparsity import inspect_model

    found = inspect_model(model)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
    else:
        console.print(tables.layers(found.layers))
        console.print(tables.totals(found))


@app.command(epilog="Example: [cyan]pruneonce verify task --against sparse[/cyan]")
def verify(
    child: Annotated[str, typer.Argument(metavar="CHILD", help="Model folder.", show_default=False)],
    against: Annotated[str, typer.Option(metavar="PARENT", help="The sparse model that it was made from.")],
) -> None:
    """Are the parent's zeros all zeros in the child? Exits with 1 if not."""
    from pruneonce.sparsity import verify

    found = verify(child, against)
    absent = f"; not in the child: {', '.join(found.missing)}" if found.missing else ""
    if found.ok:
        typer.echo(f"all {found.zeros:,} zeros of {against} are zeros in {child}{absent}")
        return
    lost = [layer for layer in found.layers if layer.lost]
    if lost:
        console.print(tables.lost_zeros(lost))
    typer.echo(f"{child} does not keep the zeros of {against}{absent}")
    raise typer.Exit(1)
