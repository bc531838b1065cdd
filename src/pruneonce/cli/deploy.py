"""Verbs of the command line after transfer: `quantize`, `product-quantize` and `export`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from pruneonce import recipe
from pruneonce.cli.roles import takes_roles
from pruneonce.cli.stages import Model, Output, Seed, Sets, epilog_of, sections, show_result
from pruneonce.cli.task_options import takes_task, task_values
from pruneonce.console import echo
from pruneonce.engines import ENGINES
from pruneonce.errors import UserError
from pruneonce.export import FORMATS, OPSETS, Options
from pruneonce.wording import listed

# The paper's settings on GLUE; its learning rate is the default of recipe.Quantize.
QUANTIZE = {"epochs": 3, "batch_size": 32}
PRODUCT_QUANTIZE = {"epochs": 6, "batch_size": 32}

FIRST_FORMAT, NEWEST_OPSET = next(iter(FORMATS)), OPSETS[-1]
INSIDE = listed([f"FOLDER/{name}" for name in FORMATS])

app = typer.Typer()


@app.command(
    epilog=epilog_of("quantize task --teacher dense --train train.jsonl --dev dev.jsonl --output int8", QUANTIZE)
)
@takes_roles()
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
@takes_roles()
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
    epilog="Example: [cyan]pruneonce export int8 --output int8-onnx[/cyan]\n\n"
    "For sentence-transformers, optimum and transformers.js, beside the weights: "
    "[cyan]pruneonce export int8 --into int8[/cyan]",
)
def export(
    model: Model,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write one format to; what it holds is never overwritten.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(help=f"Folder that gets {INSIDE}: the model's own, or another one."),
    ] = None,
    format: Annotated[
        recipe.Format | None,
        typer.Option(help=f"What to write; {FIRST_FORMAT} by default, with --into all.", show_default=False),
    ] = None,
    opset: Annotated[
        int, typer.Option(help=f"Version of the ONNX operators, {OPSETS[0]} to {OPSETS[-1]}.")
    ] = NEWEST_OPSET,
    fp16: Annotated[bool, typer.Option("--fp16", help="Store fp32 matrices in 16 bits: half the size.")] = False,
    single_output: Annotated[
        bool, typer.Option("--single-output", help="Of a bare encoder, give the hidden states alone.")
    ] = False,
    tokenizer: Annotated[
        bool, typer.Option("--tokenizer", help="Write openvino_tokenizer.xml too, which OpenVINO GenAI needs.")
    ] = False,
    safe: Annotated[
        bool, typer.Option("--safe", help="Fit int8 weights to x86 processors without VNNI: no product overflows.")
    ] = False,
) -> None:
    """Write a model in the format of an inference engine."""
    if (output is None) is (into is None):
        raise UserError("give either --output, for one format, or --into, for all formats in one folder")
    from pruneonce import stages

    options = Options(opset=opset, fp16=fp16, single_output=single_output, tokenizer=tokenizer, safe=safe)
    if output is not None:
        written = format or FIRST_FORMAT
        folder = stages.export(model, output, format=written, options=options)
        echo(f"made {folder}: {megabytes_of(folder, FORMATS[written].files)} for {written}")
        say_safety(folder)
        return
    assert into is not None
    shown: list[Path] = []
    for file in stages.export_into(model, into, formats=[format] if format else None, options=options):
        first = next((other for other in shown if other.parent == file.parent), None)
        shown.append(file)
        if first is None:
            size = megabytes_of(file.parent, FORMATS[file.parent.name].files)
            echo(f"{file.relative_to(into)}: {size}")
        else:
            how = "the same file" if file.samefile(first) else "a copy"
            echo(f"{file.relative_to(into)}: {how} as {first.name}, for clients that look for this name")
    say_safety(shown[0].parent)
    echo(f"next: pruneonce push {shlex.join([str(into)])} USER/NAME --dry-run")


def megabytes_of(folder: Path, files: tuple[str, ...]) -> str:
    """Return the size of a format's files; weights above 2 GB stand in a further file, named after the first."""
    size = sum(file.stat().st_size for file in folder.iterdir() if file.name.startswith(files))
    return f"{size / 1e6:.1f} MB"


def say_safety(folder: Path) -> None:
    """Say whether the int8 products of an export can overflow on an x86 processor without VNNI."""
    from pruneonce.models import read_provenance

    if counts := (read_provenance(folder) or {}).get("saturation"):
        echo(_safety(**counts))


def _safety(layers: int, overflowing: int) -> str:
    """Return whether the int8 products of an export can overflow on an x86 processor without VNNI, in a line."""
    if not overflowing:
        return "safe on every x86 processor: no pair of neighbouring int8 weights can overflow"
    return (
        f"{overflowing} of {layers} int8 layers have pairs of weights that can overflow on x86 processors without "
        "VNNI; --safe writes a model without them"
    )
