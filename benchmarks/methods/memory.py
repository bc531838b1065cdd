"""oBERT's memory on BERT-Base's shape: one mask update, within a limit; writes ../results/obert_memory.md.

    python benchmarks/methods/memory.py

The weights and the token ids are random: neither memory nor time depends on them. Each limit has a process of its own.
"""

import resource
from datetime import date
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import torch
import typer
from joblib.externals.loky import ProcessPoolExecutor
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from pruneonce import methods, recipe
from pruneonce.models.architectures import prunable_weights
from pruneonce.plugins.run import Run
from pruneonce.sparsity import sparsity_of
from pruneonce.system import machine
from pruneonce.training.sparsifier import Pruner

BLOCK, GRADIENTS, BATCH, LENGTH = 50, 8, 16, 64
LIMITS = (8.0, 4.0)  # GiB


def loss(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"loss": model(**batch).loss}


def collate(rows: list[Tensor]) -> dict[str, Tensor]:
    return {"input_ids": torch.stack(rows), "labels": torch.zeros(len(rows), dtype=torch.long)}


def measured(limit: float) -> dict[str, Any]:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig())
    weights = prunable_weights(model)
    options = {"name": "obert", "gradients": GRADIENTS, "block_size": BLOCK, "memory": limit}
    settings = recipe.OneShot(sparsity=0.5, method=options, batch_size=BATCH)
    method = methods.make(settings.method)
    data = torch.randint(1000, 30000, (BATCH * GRADIENTS, LENGTH))
    run = Run(model, weights, 1, 0, loss, data, collate, settings)
    for _ in run.gradients(list(weights), 1):  # what gradients take by themselves
        pass
    before, began = psutil.Process().memory_info().rss, monotonic()
    method.begin(run)
    sparsifier = Pruner(weights, settings, None, method)
    sparsifier.prune(0, 0.5)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "weights": sum(weight.numel() for weight in weights.values()),
        "groups": len(method.groups),  # type: ignore[attr-defined]
        "before": before / 2**30,
        "more": (peak - before) / 2**30,
        "seconds": monotonic() - began,
        "sparsity": sparsity_of(sparsifier.masks),
    }


def main() -> None:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "pruneonce"))
    lines = [
        "# The memory of oBERT",
        "",
        f"`python benchmarks/methods/memory.py`, {date.today()}, {machine.processor()}, {torch.get_num_threads()} "
        f"threads, {versions}, seed 0.",
        "",
        f"BERT-Base's shape, fp32, one mask update to 50 %, block size {BLOCK}, {GRADIENTS} gradients of {BATCH} x "
        f"{LENGTH} tokens. GiB beyond what the process holds after a gradient has been taken.",
        "",
        "| `memory` | prunable weights | groups | process before | peak beyond it | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for limit in LIMITS:
        with ProcessPoolExecutor(max_workers=1) as process:
            found = process.submit(measured, limit).result()
        assert abs(found["sparsity"] - 0.5) < 0.001
        lines.append(
            f"| {limit:g} | {found['weights']:,} | {found['groups']} | {found['before']:.2f} | {found['more']:.2f} | "
            f"{found['seconds']:.0f} |"
        )
    file = Path(__file__).parent.parent / "results" / "obert_memory.md"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
