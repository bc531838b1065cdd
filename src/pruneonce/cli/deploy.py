"""Verbs of the command line after transfer: `quantize`, `product-quantize` and `export`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pruneonce import recipe
from pruneonce.cli.stages import Model, Output, Seed, Sets, epilog_of, sections, show_result
from pruneonce.cli.task_options import takes_task, task_values
from pruneonce.console import echo
from pruneonce.engines import ENGINES
from pruneonce.errors import UserError
from pruneonce.export import FORMATS
from pruneonce.wording import listed

# The paper's settings on GLUE; its learning rate is the default of recipe.Quantize.
QUANTIZE = {"epochs": 3, "batch_size": 32}
PRODUCT_QUANTIZE = {"epochs": 6, "batch_size": 32}

FIRST_FORMAT = next(iter(FORMATS))

app = typer.Typer()


@app.command(
    epilog=epilog_of("quantize task --teacher dense --train train.jsonl --dev dev.jsonl --output int8", QUANTIZE)
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
        folder = stages.calibrate(model, data, settings, output, seed=seed)
    else:
        folder = stages.quantize(model, data, settings, output, teacher=teacher, seed=seed)
    show_result(folder, "export", output, "--output", f"{output}-onnx")


@app.command(
    epilog=epilog_of(
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

    folder = stages.product_quantize(model, data, settings, output, teacher=teacher, seed=seed)
    bytes_by_part = codebooks.size(folder)
    parts = ", ".join(f"{part} {count / 1e6:.2f}" for part, count in bytes_by_part.items() if part != "total")
    echo(f"size as codebooks: {bytes_by_part['total'] / 1e6:.2f} MB ({parts})")
    show_result(folder, "evaluate", output, *(("--dev", values["dev"]) if "dev" in values else ()))


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
    """Write a model in the format of an inference engine."""
    from pruneonce import stages

    folder = stages.export(model, output, format=format)
    # Weights above 2 GB stand in a further file, whose name begins with that of the model.
    files = FORMATS[format].files
    size = sum(file.stat().st_size for file in folder.iterdir() if file.name.startswith(files))
    echo(f"made {folder}: {size / 1e6:.1f} MB for {format}")
