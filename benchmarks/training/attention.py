"""Time and memory of MiniLM's training step by attention, length and dropout; writes ../results/attention.md.

    python benchmarks/training/attention.py

Every measurement has a process of its own, for its peak of memory. The weights are random (seed 0).
"""

import json
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated

import torch
import typer
from measure import SHAPES, WORDS
from transformers import BertConfig, BertForSequenceClassification

from pruneonce.plan.clock import peak_memory
from pruneonce.system import machine
from pruneonce.training import attention

TOKENS = 4096  # in a step
LENGTHS = (128, 256, 384, 512)
STEPS = 5


def main(
    threads: Annotated[int, typer.Option(help="processor threads")] = 1,
    one: Annotated[str, typer.Option(help="measure this alone, and print it: a list of JSON", hidden=True)] = "",
) -> None:
    torch.set_num_threads(threads)
    if one:
        print(json.dumps(step(*json.loads(one))))
        return
    lines = [
        "# Attention in training",
        "",
        f"`python benchmarks/training/attention.py --threads {threads}`, {date.today()}, {machine.processor()}, torch "
        f"{version('torch')}, transformers {version('transformers')}. MiniLM's shape, {TOKENS:,} tokens a step, bf16 "
        f"where the processor has it ({'here it has' if machine.has_bf16() else 'here it has not'}): the median of "
        f"{STEPS - 1} steps, forward and backward, and the process's peak of memory. In bold: the package's choice.",
        "",
        "| tokens | dropout | weights kept, s | PyTorch's, s | kept is faster by | weights kept, MB | PyTorch's, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for length in LENGTHS:
        for dropout in (0.0, 0.1):
            kept, usual = (measured(threads, length, dropout, keep) for keep in (True, False))
            cells = [f"{found[0]:.2f}" for found in (kept, usual)]
            chosen = int(not attention.keeps_weights(config(dropout), length))
            cells[chosen] = f"**{cells[chosen]}**"
            memory = [f"{found[1] / 1e6:,.0f}" for found in (kept, usual)]
            row = [str(length), f"{dropout:g}", *cells, f"{usual[0] / kept[0]:.2f}", *memory]
            lines.append(f"| {' | '.join(row)} |")
    file = Path(__file__).parents[1] / "results" / "attention.md"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measured(threads: int, *of: float) -> tuple[float, float]:
    command = [sys.executable, __file__, "--threads", str(threads), "--one", json.dumps(of)]
    seconds, peak = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return seconds, peak


def step(length: int, dropout: float, keep: bool) -> tuple[float, int]:
    """Seconds and bytes.

    Args:
        keep: the attention weights; False: PyTorch's attention.
    """
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
