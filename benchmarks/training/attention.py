"""Time and memory of MiniLM's training step by attention, length and dropout; writes ../results/attention.json.

    python -m benchmarks.training.attention

Every measurement has a process of its own, for its peak of memory. The weights are random (seed 0).
"""

from statistics import median
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from transformers import BertConfig, BertForSequenceClassification

from benchmarks import common, tables
from benchmarks.training.measure import SHAPES, WORDS
from pruneonce.plan.clock import peak_memory
from pruneonce.system import machine
from pruneonce.training import attention

TOKENS = 4096  # in a step
LENGTHS = (128, 256, 384, 512)
STEPS = 5


COLUMNS: list[Any] = [{"name": "tokens", "format": "{:,}"}, {"name": "dropout", "format": "{:g}"}]
COLUMNS += [{"name": name, "format": "{:,.2f}"} for name in ("weights kept, s", "PyTorch's, s", "kept is faster by")]
COLUMNS += [{"name": name, "format": "{:,.0f}"} for name in ("weights kept, MB", "PyTorch's, MB")]
TEXT = (
    f"Time is the median of {STEPS - 1} steps of MiniLM's shape, forward and backward, of {TOKENS:,} tokens each. "
    "Memory is the process's peak.",
    "The package keeps the attention weights where the last column says so, and has PyTorch's attention elsewhere.",
)


def main(threads: Annotated[int, typer.Option(help="processor threads")] = 1) -> None:
    rows = []
    for length in LENGTHS:
        for dropout in (0.0, 0.1):
            kept, usual = (common.alone(step, length, dropout, keep, threads) for keep in (True, False))
            seconds, memory = [kept[0], usual[0], usual[0] / kept[0]], [kept[1] / 1e6, usual[1] / 1e6]
            choice = "weights kept" if attention.keeps_weights(config(dropout), length) else "PyTorch's"
            rows.append([length, dropout, *seconds, *memory, choice])
    note = f"{threads} threads; bf16" if machine.has_bf16() else f"{threads} threads; fp32"
    blocks = [*TEXT, {"columns": [*COLUMNS, "the package's choice"], "rows": rows}]
    tables.write("attention", {"title": "Attention in training", "made": common.made(note=note), "blocks": blocks})


def step(length: int, dropout: float, keep: bool, threads: int) -> tuple[float, int]:
    """Seconds and bytes.

    Args:
        keep: the attention weights; False: PyTorch's attention.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    machine.keep_freed_memory()
    model = BertForSequenceClassification(config(dropout)).train()
    if keep:
        model.set_attn_implementation(attention.NAME)
    rows = TOKENS // length
    batch = {"input_ids": torch.randint(5, WORDS, (rows, length)), "labels": torch.zeros(rows, dtype=torch.long)}
    batch["attention_mask"] = torch.ones(rows, length, dtype=torch.long)
    batch["attention_mask"][1:, -8:] = 0
    times = []
    for _ in range(STEPS):
        began = perf_counter()
        with machine.autocast(torch.device("cpu")):
            loss = model(**batch).loss
        loss.backward()
        model.zero_grad()
        times.append(perf_counter() - began)
    return median(times[1:]), peak_memory()


def config(dropout: float) -> BertConfig:
    return BertConfig(**SHAPES["minilm"], hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)


if __name__ == "__main__":
    typer.run(main)
