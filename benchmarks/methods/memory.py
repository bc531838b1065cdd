"""oBERT's memory on BERT-Base's shape: one mask update, within a limit; writes ../results/obert_memory.json.

    python -m benchmarks.methods.memory

The weights and the token ids are random: neither memory nor time depends on them. Each limit has a process of its own.
"""

import resource
from time import monotonic
from typing import Any

import psutil
import torch
import typer
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from benchmarks import common, tables
from pruneonce import methods, recipe
from pruneonce.models.architectures import prunable_weights
from pruneonce.plugins.run import Run
from pruneonce.sparsity import sparsity_of
from pruneonce.training.sparsifier import Pruner

BLOCK, GRADIENTS, BATCH, LENGTH = 50, 8, 16, 64
LIMITS = (8.0, 4.0)  # GiB
TEXT = (
    f"One mask update to 50 % of a model of BERT-Base's shape in fp32. The block size is {BLOCK}; there are "
    f"{GRADIENTS} gradients of {BATCH} x {LENGTH} tokens.",
    "Memory is in GiB. The peak is counted from the memory that the process holds after it has taken a gradient.",
)
COLUMNS = [{"name": name, "format": "{:,}"} for name in ("`memory`", "prunable weights", "groups")]
COLUMNS += [{"name": name, "format": "{:,.2f}"} for name in ("process before", "peak beyond it")]
COLUMNS += [{"name": "seconds", "format": "{:,}"}]


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
    rows = []
    for limit in LIMITS:
        found = common.alone(measured, limit)
        assert abs(found["sparsity"] - 0.5) < 0.001
        memory = [found["before"], found["more"]]
        rows.append([round(limit), found["weights"], found["groups"], *memory, round(found["seconds"])])
    blocks = [*TEXT, {"columns": COLUMNS, "rows": rows}]
    tables.write("obert_memory", {"title": "The memory of oBERT", "made": common.made(note="seed 0"), "blocks": blocks})


if __name__ == "__main__":
    typer.run(main)
