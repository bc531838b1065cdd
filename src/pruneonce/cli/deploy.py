"""The command line's verbs after transfer: `quantize`, `product-quantize` and `export`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pruneonce import recipe
from pruneonce.cli.stages import Model, Output, Seed, Sets, defaults, sections, show_made
from pruneonce.cli.task_options import takes_task, task_values
from pruneonce.engines import ENGINES
from pruneonce.errors import UserError
from pruneonce.export import FORMATS
from pruneonce.wording import listed

# The paper's, on GLUE; its learning rate is the default of recipe.Quantize.
QUANTIZE = {"epochs": 3, "batch_size": 32}
PRODUCT_QUANTIZE = {"epochs": 6, "batch_size": 32}

FIRST_FORMAT = next(iter(FORMATS))

app = typer.Typer()


@app.command(
    epilog=defaults("quantize task --teacher dense --train train.jsonl --dev dev.jsonl --output int8", QUANTIZE)
)
@takes_task()
def quantize(
    task: dict[str, Any],
    model: Model,
    output: Output,
    teacher: Annotated[str | None, typer.Option(help="Dense model fine-tuned on the same task.")] = None,
    post_training: Annotated[
        bool, typer.Option("--post-training", help="Only read ranges off training examples; needs no teacher.")
    ] = False,
    sets: Sets = None,
    seed: Seed = 42,
) -> None:
    """Int8 (or 4-bit) weights and uint8 activations, by training with the zeros locked or by calibration alone."""
    if (teacher is None) is not post_training:
        raise UserError("give either --teacher, to train on the grid, or --post-training, to calibrate only")
    section, start = (recipe.Calibrate, {}) if post_training else (recipe.Quantize, QUANTIZE)
    data, settings = sections(recipe.Task, task_values(task), section, start, {}, sets)
    from pruneonce import stages

    if teacher is None:
        made = stages.calibrate(model, data, settings, output, seed=seed)
    else:
        made = stages.quantize(model, data, settings, output, teacher=teacher, seed=seed)
    show_made(made, "export", output, "--output", f"{output}-onnx")


@app.command(
    epilog=defaults(
        "product-quantize task --teacher dense --train train.jsonl --dev dev.jsonl --output pq", PRODUCT_QUANTIZE
    )
)
@takes_task()
def product_quantize(
    task: dict[str, Any],
    model: Model,
    output: Output,
    teacher: Annotated[str, typer.Option(help="Dense model fine-tuned on the same task.")],
    sets: Sets = None,
    seed: Seed = 42,
) -> None:
    """Weights in blocks on codebooks (iPQ): about a bit a weight, by training with the zeros locked."""
    values = task_values(task)
    data, settings = sections(recipe.Task, values, recipe.ProductQuantize, PRODUCT_QUANTIZE, {}, sets)
    from pruneonce import stages
    from pruneonce.quantization import codebooks

    made = stages.product_quantize(model, data, settings, output, teacher=teacher, seed=seed)
    found = codebooks.size(made)
    parts = ", ".join(f"{part} {count / 1e6:.2f}" for part, count in found.items() if part != "total")
    typer.echo(f"size as codebooks: {found['total'] / 1e6:.2f} MB ({parts})")
    show_made(made, "evaluate", output, *(("--dev", values["dev"]) if "dev" in values else ()))


@app.command(
    help="Write a model, dense, sparse or quantized, for "
    f"{listed([engine.title for engine in ENGINES.values() if engine.format], 'or')}, with dynamic batch and sequence.",
    epilog="Example: [cyan]pruneonce export int8 --output int8-onnx[/cyan]",
)
def export(
    model: Model,
    output: Output,
    format: Annotated[recipe.Format, typer.Option(help="What to write.")] = FIRST_FORMAT,
) -> None:
    from pruneonce import stages

    made = stages.export(model, output, format=format)
    files = FORMATS[
        format
    ].files  # weights above 2 GB stand in a further file, whose name begins with that of the model
    size = sum(file.stat().st_size for file in made.iterdir() if file.name.startswith(files))
    typer.echo(f"made {made}: {size / 1e6:.1f} MB for {format}")
