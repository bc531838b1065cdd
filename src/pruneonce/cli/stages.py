"""Verbs of the command line for single stages: `convert`, `prepare`, `prune`, `finetune`, `transfer` and more.

Each verb builds the stage's sections of a recipe from its options, runs the stage, and suggests the next command.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from pruneonce import recipe
from pruneonce.cli import tables
from pruneonce.cli.roles import takes_roles
from pruneonce.cli.task_options import MEASURED, TaskSets, as_options, takes_task, task_values, with_sets
from pruneonce.config.formats import CORPUS, FORMATS, listed_suffixes
from pruneonce.console import echo, results
from pruneonce.errors import UserError
from pruneonce.wording import percent

# Defaults of the stage verbs. The paper's: steps, sequences a step (32 x 8) and warm-up of pre-training, and the
# transfer (there to SQuAD). Our choice: the learning rate of pre-training, and the dense fine-tuning.
PRETRAIN = {"steps": 100_000, "batch_size": 32, "accumulate": 8, "learning_rate": 5e-5, "warmup": 0.01}
FINETUNE = {"epochs": 3, "batch_size": 32, "learning_rate": 3e-5}
TRANSFER = {"epochs": 8, "batch_size": 32, "learning_rate": 1.5e-4}

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or hub id.", show_default=False)]
Output = Annotated[Path, typer.Option(help="Folder to write; what it holds is never overwritten.")]
CORPUS_FILES = f"File ({', '.join(listed_suffixes([FORMATS[name] for name in CORPUS]))})"
Source = Annotated[str, typer.Option("--corpus", help=f"{CORPUS_FILES}, a folder of such files, or a hub id.")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, or corpus.KEY or task.KEY, as recipes name them; may be repeated.",
    ),
]
Seed = Annotated[int, typer.Option(min=0)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer()


def epilog_of(example: str, settings: dict[str, Any]) -> str:
    """Return the epilog of a verb's help: its default settings and an example."""
    values = ", ".join(f"{name} {value:g}" for name, value in settings.items())
    return f"Defaults: {values}.\n\nExample: [cyan]pruneonce {example}[/cyan]"


@app.command(
    epilog="Example: [cyan]pruneonce convert Intel/bert-base-uncased-sparse-85-unstructured-pruneofa sparse[/cyan]"
)
def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Folder, file of weights or hub id.", show_default=False)
    ],
    output: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write.", show_default=False)],
    config: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of config.json and the tokenizer, where they are not beside the weights."),
    ] = None,
) -> None:
    """Make a model folder, with safetensors, of another library's sparse model: pytorch_model.bin, masks, prefixes."""
    from pruneonce import stages

    folder = stages.convert(source, output, config=config)
    task = ("--train", "train.jsonl", "--dev", "dev.jsonl")
    show_result(folder, "transfer", output, "--teacher", "dense", *task, "--output", "task")


@app.command(epilog=epilog_of("prepare bert-base-uncased --corpus wiki/ --output teacher", PRETRAIN))
def prepare(model: Model, corpus: Source, output: Output, sets: Sets = None, seed: Seed = 42) -> None:
    """Teach a dense model the corpus (MLM). A model without an MLM head gets one."""
    text, settings = sections(recipe.Corpus, {"source": corpus}, recipe.Prepare, PRETRAIN, {}, sets)
    from pruneonce import stages

    folder = stages.prepare(model, text, settings, output, seed=seed)
    show_result(folder, "prune", output, "--corpus", corpus, "--output", "sparse")


@app.command(
    epilog=epilog_of("prune MiniLM --corpus wiki.txt --output sparse --objective hidden --steps 2000", PRETRAIN),
)
@takes_roles()
def prune(
    model: Model,
    corpus: Source,
    output: Output,
    sparsity: Annotated[float | None, typer.Option(help="Share of zeros to reach. Default: 0.9.")] = None,
    objective: Annotated[str | None, typer.Option(help="mlm, hidden or both. Default: mlm.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    teacher: Annotated[
        str | None, typer.Option(help="The dense model, where MODEL was pruned before and goes on.", show_default=False)
    ] = None,
    sets: Sets = None,
    seed: Seed = 42,
) -> None:
    """Sparse pre-training, the step that is done once. The dense model is the teacher.

    A sparse MODEL goes on with `--teacher DENSE`; `--set initial_sparsity=0.8` says how many of its zeros it keeps.
    """
    options = {"sparsity": sparsity, "objective": objective, "steps": steps}
    text, settings = sections(recipe.Corpus, {"source": corpus}, recipe.Prune, PRETRAIN, options, sets)
    from pruneonce import stages

    folder = stages.prune(model, text, settings, output, teacher=teacher, seed=seed)
    task = ("--train", "train.jsonl", "--dev", "dev.jsonl")
    show_result(folder, "transfer", output, "--teacher", "dense", *task, "--output", "task")


@app.command(epilog=epilog_of("finetune MiniLM --train train.jsonl --dev dev.jsonl --output dense", FINETUNE))
@takes_roles()
@takes_task()
def finetune(
    task: dict[str, Any],
    model: Model,
    output: Output,
    sets: Sets = None,
    seed: Seed = 42,
) -> None:
    """Fine-tune a dense model on a task: the teacher of the sparse model, and its baseline."""
    values = task_values(task)
    data, settings = sections(recipe.Task, values, recipe.Training, FINETUNE, {}, sets)
    from pruneonce import stages

    folder = stages.finetune(model, data, settings, output, seed=seed)
    show_result(folder, "transfer", "sparse", "--teacher", output, *as_options(values, sets), "--output", "task")


@app.command(
    epilog="The defaults are the paper's, for BERT; small encoders want more: --set learning_rate=0.001.\n\n"
    + epilog_of("transfer sparse --teacher dense --train train.jsonl --dev dev.jsonl --output task", TRANSFER),
)
@takes_roles()
@takes_task()
def transfer(
    task: dict[str, Any],
    model: Model,
    teacher: Annotated[str, typer.Option(help="Dense model fine-tuned on the same task.")],
    output: Output,
    sets: Sets = None,
    seed: Seed = 42,
) -> None:
    """Fine-tune a sparse model on a task with its zeros locked, distilling from a dense teacher."""
    data, settings = sections(recipe.Task, task_values(task), recipe.Transfer, TRANSFER, {}, sets)
    from pruneonce import stages

    folder = stages.transfer(model, data, settings, output, teacher=teacher, seed=seed)
    show_result(folder, "verify", output, "--against", model)


@app.command(
    "one-shot",
    epilog="By second-order information instead of magnitude: --set method.name=obert.\n\nExample: "
    "[cyan]pruneonce one-shot dense --train train.jsonl --dev dev.jsonl --sparsity 0.5 --output pruned[/cyan]",
)
@takes_roles()
@takes_task()
def one_shot(
    task: dict[str, Any],
    model: Model,
    output: Output,
    sparsity: Annotated[float | None, typer.Option(help="Share of zeros to reach. Default: 0.9.")] = None,
    sets: Sets = None,
    seed: Seed = 42,
) -> None:
    """Prune a fine-tuned model without training it; --train is what a method takes gradients of."""
    values = task_values(task)
    data, settings = sections(recipe.Task, values, recipe.OneShot, {}, {"sparsity": sparsity}, sets)
    from pruneonce import stages

    folder = stages.one_shot(model, data, settings, output, seed=seed)
    show_result(folder, "transfer", output, "--teacher", model, *as_options(values, sets), "--output", "task")


@app.command(epilog="Example: [cyan]pruneonce evaluate task --test test.jsonl --json[/cyan]")
@takes_task(MEASURED)
def evaluate(
    task: dict[str, Any],
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model folder, hub id, export or packed file.", show_default=False)
    ],
    sets: TaskSets = None,
    as_json: AsJson = False,
) -> None:
    """Measure a task model. Its own kind and label names are used unless --kind and --labels are given."""
    splits: list[str] = [split for split in ("dev", "test") if split in task]
    if not splits and "preset" not in task:
        raise UserError("nothing to measure on: give --dev, --test or both, or a known task by --task")
    from pruneonce import stages
    from pruneonce.models import load_config
    from pruneonce.storage import as_folder
    from pruneonce.tasks import kind_for

    values = with_sets(recipe.with_preset(task_values(task)), sets)
    with as_folder(model) as folder:
        values = {"kind": kind_for(load_config(folder), values, folder), **values}
    if "labels" in recipe.KINDS.get(values["kind"], recipe.Task).model_fields:
        values = {"metric": "accuracy", **values}  # no metric is quoted, and accuracy exists for any labels
    measured = values.get("dev") or values.get("test")  # in the place of `train`, which is not read
    data = recipe.make_task({"dev": measured, **values, "train": measured}, "task")
    scores = stages.evaluate(model, data, splits=splits or None, names_of_model=True)
    if as_json:
        typer.echo(json.dumps(scores, indent=1))
    else:
        results.print(tables.metrics(scores))


def sections(
    inputs: type[recipe.Section],
    input_values: dict[str, Any],
    section: type[recipe.Section],
    defaults: dict[str, Any],
    options: dict[str, Any],
    sets: list[str] | None,
) -> tuple[Any, Any]:
    """Return the inputs of a stage verb (a Corpus or a Task) and the settings of its stage, both validated.

    Values are laid over one another: defaults, then options, then `--set`, of which `corpus.KEY` or `task.KEY` belong
    to the inputs.
    """
    prefix = inputs.__name__.lower()
    if inputs is recipe.Task:
        input_values = recipe.with_preset(input_values)  # before --set, which may take keys out of it
    values = {prefix: input_values, **defaults, **{name: value for name, value in options.items() if value is not None}}
    for override in sets or []:
        recipe.set_value(values, override)
    input_values = values.pop(prefix, None)
    is_task = inputs is recipe.Task
    validated = recipe.make_task(input_values, prefix) if is_task else recipe.validate(inputs, input_values, prefix)
    return validated, recipe.validate(section, values)


def show_result(folder: Path, *following: str | Path) -> None:
    """Print the sparsity of a new model folder and the next command to type."""
    from pruneonce.models import read_provenance

    provenance = read_provenance(folder) or {}
    echo(f"made {folder}: {percent(provenance['sparsity']['encoder'])} of the encoder's Linear weights are zero")
    echo(f"next: pruneonce {shlex.join(map(str, following))}")
