"""All measurements of training in turn, each in a process of its own; writes results/training.md. Takes 15 minutes.

    python benchmarks/training/run.py --output runs/training

Interrupted, it goes on with what is missing. Ratios are of medians of one run; nothing else should run meanwhile.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import typer
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pruneonce.system.machine import processor

HERE = Path(__file__).parent
MEASURE = [sys.executable, str(HERE / "measure.py")]
GROWTH = [sys.executable, str(HERE / "growth.py")]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(HERE / "measure.py")]
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


def main(output: Path = Path("runs/training")) -> None:
    output.mkdir(parents=True, exist_ok=True)
    ceiling = output / "ceiling.json"
    if not ceiling.is_file():
        ceiling.write_text(
            json.dumps({"bf16": flops_per_second(torch.bfloat16), "fp32": flops_per_second(torch.float32)})
        )
    for number in range(max(rounds for _, rounds in RUNS.values())):
        for name, (command, rounds) in RUNS.items():
            file = output / f"{name.replace(' ', '-')}-{number}.json"
            if number < rounds and not file.is_file():
                print(f"{name}, round {number + 1} of {rounds}", flush=True)
                file.write_text(json.dumps(measured(command)))
    found = {
        name: [json.loads((output / f"{name.replace(' ', '-')}-{number}.json").read_text()) for number in range(rounds)]
        for name, (_, rounds) in RUNS.items()
    }
    print(write_page(found, json.loads(ceiling.read_text())))


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


# -- the page ---------------------------------------------------------------------------------------------------


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


def write_page(found: dict[str, list[dict[str, Any]]], ceiling: dict[str, float]) -> Path:
    growing = {name: rounds[0] for name, rounds in found.items() if name.startswith(("corpus", "tasks"))}
    arms = {
        name: Arm.of(rounds, processes=2 if name == "two processes" else 1)
        for name, rounds in found.items()
        if name not in growing
    }
    shapes = [
        {"name": name, "flops": step_flops(**SIZES[name], tokens=4096, length=128)}
        | {arm: arms[prefix + arm] for arm in ("plain", "dense", "ours")}
        for name, prefix in (("MiniLM (6 layers of 384)", ""), ("BERT-Base (12 layers of 768)", "base "))
    ]
    environment = Environment(loader=FileSystemLoader(HERE), undefined=StrictUndefined, keep_trailing_newline=True)
    page = HERE.parent / "results" / "training.md"
    text = environment.get_template("page.md.j2").render(
        command=shlex.join(["python", *sys.argv]),
        date=date.today(),
        processor=processor(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        ceiling=ceiling,
        shapes=shapes,
        arms=arms,
        growth=growing,
        variants=VARIANTS,
        apart=apart,
    )
    page.write_text(text.lstrip(), encoding="utf-8")
    return page


if __name__ == "__main__":
    typer.run(main)
