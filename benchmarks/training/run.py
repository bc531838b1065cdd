"""All measurements of training in turn, each in a process of its own; writes results/training.json and its page.

    python -m benchmarks.training.run --output runs/training

It takes 15 minutes and, interrupted, goes on with what is missing. Ratios are of medians of
one run; the machine has to be idle.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import typer

from benchmarks import common, tables

MEASURE = [sys.executable, "-m", "benchmarks.training.measure"]
GROWTH = [sys.executable, "-m", "benchmarks.training.growth"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TWO += ["-m", "benchmarks.training.measure"]
BASE = ["--shape", "bert-base", "--steps", "6"]

# name: (command, rounds); the rounds of all are interleaved
RUNS: dict[str, tuple[list[str], int]] = {
    "plain": ([*MEASURE, "plain"], 2),
    "dense": ([*MEASURE, "dense"], 2),
    "ours": ([*MEASURE, "ours"], 2),
    "base plain": ([*MEASURE, "plain", *BASE], 1),
    "base dense": ([*MEASURE, "dense", *BASE], 1),
    "base ours": ([*MEASURE, "ours", *BASE], 1),
    "fused attention": ([*MEASURE, "ours", "--fused-attention"], 1),
    "compiled": ([*MEASURE, "ours", "--compile"], 1),
    "checkpointed": ([*MEASURE, "ours", "--checkpointing"], 1),
    "kd masked": ([*MEASURE, "ours", "--kd-tokens", "masked"], 1),
    "hidden": ([*MEASURE, "ours", "--objective", "hidden"], 1),
    "256 kept": ([*MEASURE, "ours", "--length", "256", "--batch", "16"], 1),
    "256 fused": ([*MEASURE, "ours", "--length", "256", "--batch", "16", "--fused-attention"], 1),
    "512": ([*MEASURE, "ours", "--length", "512", "--steps", "6"], 1),
    "layers x4": ([*MEASURE, "ours", "--shape", "minilm-x4", "--steps", "6"], 1),
    "one process": ([*MEASURE, "ours", "--batch", "32"], 1),
    "two processes": ([*TWO, "ours", "--batch", "16"], 1),
    "corpus x1": ([*GROWTH, "corpus"], 1),
    "corpus x10": ([*GROWTH, "corpus", "--times", "10"], 1),
    "tasks x1": ([*GROWTH, "tasks"], 1),
    "tasks x4": ([*GROWTH, "tasks", "--times", "4"], 1),
}
SIZES = {
    "MiniLM (6 layers of 384)": {"hidden": 384, "layers": 6, "inner": 1536},
    "BERT-Base (12 layers of 768)": {"hidden": 768, "layers": 12, "inner": 3072},
}
VARIANTS = {
    "PyTorch's fused attention": "fused attention",
    "`compile: true`": "compiled",
    "`activation_checkpointing: true`": "checkpointed",
    "`kd_tokens: masked`": "kd masked",
    "`objective: hidden`": "hidden",
}
ATTENTION = {"weights kept (what the package chooses)": "256 kept", "fused": "256 fused"}


def main(output: Path = Path("runs/training")) -> None:
    ceiling = common.kept(output / "ceiling.json", ceilings)
    for number in range(max(rounds for _, rounds in RUNS.values())):
        for name, (command, rounds) in RUNS.items():
            if number < rounds:
                print(f"{name}, round {number + 1} of {rounds}", flush=True)
                common.kept(file_of(output, name, number), lambda command=command: measured(command))  # type: ignore[misc]
    found = {
        name: [json.loads(file_of(output, name, number).read_text()) for number in range(rounds)]
        for name, (_, rounds) in RUNS.items()
    }
    title, made = "Training: speed and memory of the prune stage", common.made(note="seeds 0 and 1")
    tables.write("training", {"title": title, "made": made, "blocks": blocks(found, ceiling)})


def file_of(output: Path, name: str, number: int) -> Path:
    return output / f"{name.replace(' ', '-')}-{number}.json"


def ceilings() -> dict[str, float]:
    return {"bf16": flops_per_second(torch.bfloat16), "fp32": flops_per_second(torch.float32)}


def measured(command: list[str]) -> dict[str, Any]:
    threads = {"OMP_NUM_THREADS": "1"} if "torch.distributed.run" in command else {}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads})
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    return result


def flops_per_second(dtype: torch.dtype, size: int = 4096) -> float:
    """Of a product of two square matrices: the ceiling of training."""
    one, other = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    times = []
    for _ in range(6):
        began = perf_counter()
        one @ other
        times.append(perf_counter() - began)
    return 2 * size**3 / median(times[1:])


def step_flops(hidden: int, layers: int, inner: int, tokens: int, length: int, words: int = 30_522) -> float:
    """Products of a training step: student forward and twice that backward, teacher forward, both vocabulary heads."""
    encoder = layers * (2 * tokens * (4 * hidden**2 + 2 * hidden * inner) + 4 * tokens * length * hidden)
    head = 2 * tokens * hidden * (words + hidden)
    return 4 * (encoder + head)


@dataclass(frozen=True)
class Arm:
    """The rounds of one measurement, put together."""

    step: float  # seconds: median of the steps after the first two, of all rounds
    tokens: int
    peak: float
    losses: list[float]
    masking: float  # seconds of a step
    update: float  # seconds, at its slowest
    pattern: str | None

    @classmethod
    def of(cls, rounds: list[dict[str, Any]], processes: int = 1) -> Arm:
        masks = [found["masks"] for found in rounds if found["masks"]]
        return cls(
            step=median(second for found in rounds for second in found["seconds"][2:]),
            tokens=processes * rounds[0]["tokens"],
            peak=median(found["peak_mb"] for found in rounds),
            losses=rounds[0]["losses"],
            masking=median(second for found in masks for second in found["step"][2:]) if masks else 0.0,
            update=max((second for found in masks for second in found["update"]), default=0.0),
            pattern=rounds[0]["pattern"],
        )


def apart(one: Arm, other: Arm) -> float:
    return max(abs(a - b) / a for a, b in zip(one.losses, other.losses, strict=True))


SPEED: list[Any] = [{"name": "seconds a step", "format": "{:.2f}"}, {"name": "tokens a second", "format": "{:,.0f}"}]
SPEED += [{"name": "times plain", "format": "{:.2f}"}, {"name": "peak MB", "format": "{:,.0f}"}]
METHOD = (
    "A step has 32 x 128 tokens. The objective is `mlm`: cross-entropy of masked tokens and distillation of all. "
    "Weights and tokens are random, there is no dropout, and products are in bf16.",
    "Times are medians of the steps after the first two. The peak is the process's resident memory with libraries, "
    "which take about 500 MB.",
)
PLAIN = (
    "`plain` is transformers.Trainer with `BertForMaskedLM` and a distillation term over full logits. `dense` is this "
    "package's training without masks, which is the same mathematics. `sparse` is the prune stage with masks and "
    "updates."
)
PATTERNS = (
    "Within a run, patterns are compared between the processes at every update. `tests/system/test_distributed.py` "
    "kills a process and resumes the run."
)


def speed(first: str, rows: dict[str, Arm], plain: Arm | None = None) -> dict[str, Any]:
    """A table of arms, compared with `plain` where it is given."""
    cells = [
        [name, arm.step, arm.tokens / arm.step, plain.step / arm.step if plain else None, arm.peak]
        for name, arm in rows.items()
    ]
    return {"columns": [first, *SPEED], "rows": cells}


def blocks(found: dict[str, list[dict[str, Any]]], ceiling: dict[str, float]) -> list[Any]:
    growing = {name: rounds[0] for name, rounds in found.items() if name.startswith(("corpus", "tasks"))}
    arms = {
        name: Arm.of(rounds, processes=2 if name == "two processes" else 1)
        for name, rounds in found.items()
        if name not in growing
    }
    rate = {name: f"{value / 1e12:.2f}" for name, value in ceiling.items()}
    products = f"Products of 4096 x 4096 matrices ran at {rate['bf16']} TFLOP/s in bf16 and {rate['fp32']} in fp32."
    page: list[Any] = [products, *METHOD, {"heading": "Against the plain formula"}, PLAIN]
    costs = []
    for (name, sizes), prefix in zip(SIZES.items(), ("", "base "), strict=True):
        plain, dense, ours = (arms[prefix + arm] for arm in ("plain", "dense", "ours"))
        flops = step_flops(**sizes, tokens=4096, length=128)
        least = flops / ceiling["bf16"]
        page += [
            speed(name, {"plain": plain, "dense": dense, "sparse": ours}, plain),
            f"The sparse run has {ours.peak / plain.peak:.2f} times the memory of plain. The products alone "
            f"({flops / 1e12:.2f} TFLOP) would take {least:.2f} s at the measured ceiling; the sparse step takes "
            f"{ours.step / least:.1f} times that. Losses of plain and dense differ by at most "
            f"{apart(plain, dense):.1e} of their value in {len(plain.losses)} steps.",
        ]
        shares = [100 * ours.masking / ours.step, ours.update / ours.step, 100 * (ours.step / dense.step - 1)]
        costs.append([name, *shares])
    columns = [
        {"name": "masking, % of a step", "format": "{:.2f}"},
        {"name": "an update in 100 steps, %", "format": "{:.2f}"},
    ]
    columns += [{"name": "sparse against dense, %", "format": "{:+.1f}"}]
    page += [
        {"heading": "What sparsity costs"},
        "Masking covers gradients and weights. The last column compares two separate runs, noise included.",
        {"columns": ["model", *columns], "rows": costs},
        {"heading": "Variants, MiniLM"},
        speed(
            "", {"sparse, as above": arms["ours"], **{name: arms[key] for name, key in VARIANTS.items()}}, arms["plain"]
        ),
        "Attention by length, 4 096 tokens a step:",
        speed("", {f"16 x 256, {name}": arms[key] for name, key in ATTENTION.items()}),
        *growth(arms, growing),
    ]
    one, two = arms["one process"], arms["two processes"]
    same = "equal" if one.pattern == two.pattern else "not equal: rounding decides for weights at the threshold"
    processes = {
        "one process, 2 threads, batch 32": one,
        "two processes, a thread and batch 16 each (peak: of one)": two,
    }
    losses = f"Losses of one and of two processes differ by at most {apart(one, two):.1e} of their value"
    return [
        *page,
        {"heading": "Two processes over gloo"},
        speed("", processes),
        f"{losses} in {len(one.losses)} steps (bf16). The final patterns are {same}.",
        PATTERNS,
    ]


def growth(arms: dict[str, Arm], growing: dict[str, Any]) -> list[Any]:
    """How time and memory grow with the model, the length, the corpus and the number of tasks."""
    larger = {
        "MiniLM, 32 x 128": "ours",
        "four times the layers": "layers x4",
        "four times the length, 32 x 512": "512",
    }
    corpora = [[name, growing[f"corpus {name}"]] for name in ("x1", "x10")]
    tasks = [[number, growing[f"tasks x{number}"]] for number in (1, 4)]
    of_corpus: list[Any] = [{"name": "tokens", "format": "{:.1f} M"}, {"name": "seconds", "format": "{:.1f}"}]
    of_corpus += [
        {"name": "tokens a second", "format": "{:.2f} M"},
        {"name": "MB over the process before", "format": "{:.0f}"},
    ]
    of_tasks: list[Any] = [
        {"name": name, "format": "{:.1f}"} for name in ("seconds", "of these pruning, once", "for each task")
    ]
    return [
        {"heading": "As work grows"},
        speed("", {name: arms[key] for name, key in larger.items()}),
        {
            "columns": ["corpus", *of_corpus],
            "rows": [
                [
                    name,
                    it["tokens"] / 1e6,
                    it["seconds"],
                    it["tokens"] / it["seconds"] / 1e6,
                    it["peak_mb"] - it["at_start_mb"],
                ]
                for name, it in corpora
            ],
        },
        "A small run has 10 steps of pruning and tasks of 512 short texts, with an epoch for each model:",
        {
            "columns": ["tasks", *of_tasks, {"name": "peak MB", "format": "{:,.0f}"}],
            "rows": [
                [number, it["seconds"], it["prune"], (it["seconds"] - it["prune"]) / number, it["peak_mb"]]
                for number, it in tasks
            ],
        },
    ]


if __name__ == "__main__":
    typer.run(main)
