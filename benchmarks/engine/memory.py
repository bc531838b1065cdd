"""Memory, load time, import time and size of the pruneonce runtime beside ONNX Runtime; writes results/memory.md.

    python -m benchmarks.engine.memory --output runs/engine

The model has MiniLM's shape, random weights, 90 % zeros in 1x4 and int8, as in benchmarks/engine/speed.py. A family has
six of them, with one zero pattern and one embedding table, and other values of the kept weights. Each row is a process
of its own. Times are those of the processor, which other programs change little; the least of five processes counts.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from safetensors.numpy import load_file, save_file

from benchmarks import common, tables
from benchmarks.engine import speed
from pruneonce import storage

MEMBERS = 6
REPEATS = 5

# What a process does, and how its memory is counted: resident now, and at most.
BEGIN = """
import json, re, sys, time
def note(**more):
    status = open("/proc/self/status").read()
    found = {name: int(re.search(name + r":\\s+(\\d+) kB", status)[1]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM")}
    print(json.dumps({"resident": found["VmRSS"], "peak": found["VmHWM"], **more}))
text = " ".join(["river"] * 126)  # 128 tokens with the special ones
"""
IMPORT = "began = time.process_time()\n{}\nimporting = time.process_time() - began\n"
RUNTIME = """
began = time.process_time()
loaded = pruneonce_runtime.load(sys.argv[1])
models = [loaded] if len(sys.argv) == 2 else [loaded[name] for name in loaded]
loading = time.process_time() - began
for model in models:
    model(text)
note(loading=loading, importing=importing, models=len(models))
"""
ONNX = """
began = time.process_time()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[2])
file, count = sys.argv[1], int(sys.argv[3])
sessions = [onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"]) for _ in range(count)]
loading = time.process_time() - began
encoded = tokenizer.encode(text)
values = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
for session in sessions:
    session.run(None, {one.name: numpy.array([values[one.name]], numpy.int64) for one in session.get_inputs()})
note(loading=loading, importing=importing, models=len(sessions))
"""
ENGINES = {
    "pruneonce-runtime": ("pruneonce-runtime", "import pruneonce_runtime"),
    "ONNX Runtime, numpy and tokenizers": ("onnxruntime", "import numpy, onnxruntime, tokenizers"),
}
TEXT = [
    "`resident` is the memory of the process after a call of each model with a text of 128 tokens, `peak` the most "
    "that it had until then. ONNX Runtime's six sessions open the same file six times, beside one tokenizer.",
    "Loading by the runtime compares the file with its hash and the unpacked weights with theirs.",
]


def main(
    output: Annotated[Path, typer.Option(help="Folder of the models; kept, and used again.")] = Path("runs/engine"),
) -> None:
    folder = speed.model(output, "MiniLM", "1x4", 0.9)
    family = make_family(folder, output / "family")
    runtime, onnx = ENGINES["pruneonce-runtime"][1], ENGINES["ONNX Runtime, numpy and tokenizers"][1]
    exported, tokenizer = folder / "onnx" / "model.onnx", folder / "tokenizer.json"
    cases = {
        "pruneonce-runtime, no model": (runtime, "note(importing=importing)", ()),
        "pruneonce-runtime, a model": (runtime, RUNTIME, (folder / "model.pruneonce",)),
        "pruneonce-runtime, a family of six": (runtime, RUNTIME, (family, "family")),
        "ONNX Runtime, no model": (onnx, "note(importing=importing)", ()),
        "ONNX Runtime, a model": (onnx, ONNX, (exported, tokenizer, 1)),
        "ONNX Runtime, six sessions": (onnx, ONNX, (exported, tokenizer, MEMBERS)),
    }
    rows = []
    for name, (imports, code, arguments) in cases.items():
        found = least(BEGIN + IMPORT.format(imports) + code, *arguments)
        file = arguments[0].stat().st_size / 1e6 if arguments else None
        file = file and file * (MEMBERS if name.endswith("sessions") else 1)
        rows.append([name, file, found["resident"], found["peak"], found.get("loading"), found["importing"]])
    columns = [
        "process",
        {"name": "files", "format": "{:,.1f} MB"},
        {"name": "resident", "format": "{:,.0f} MB"},
        {"name": "peak", "format": "{:,.0f} MB"},
        {"name": "loading", "format": "{:.2f} s"},
        {"name": "import", "format": "{:.2f} s"},
    ]
    sizes = []
    for name, (distribution, _) in ENGINES.items():
        alone, needed = size(distribution), sorted(closure(distribution) | closure("tokenizers"))
        sizes.append([name.partition(",")[0], alone, sum(map(size, needed)), ", ".join(needed)])
    blocks: list[Any] = [
        *TEXT,
        {"columns": columns, "rows": rows},
        {"heading": "Installed size"},
        "Files of the distribution, and of all that it needs; ONNX Runtime together with tokenizers.",
        {
            "columns": [
                "engine",
                {"name": "alone", "format": "{:,.1f} MB"},
                {"name": "with all that it needs", "format": "{:,.1f} MB"},
                "needs",
            ],
            "rows": sizes,
        },
    ]
    made = common.made(note="one thread", libraries=("numpy", "tokenizers", "onnxruntime", "pruneonce-runtime"))
    tables.write("memory", {"title": "Memory and size of the pruneonce runtime", "made": made, "blocks": blocks})


def make_family(folder: Path, output: Path) -> Path:
    """Six models with the zeros and tables of one; the kept values of each row of a matrix change places."""
    file = output / "family.pruneonce"
    if not file.is_file():
        shutil.rmtree(output, ignore_errors=True)
        tensors = load_file(folder / "model.safetensors")
        members = []
        for number in range(MEMBERS):
            member = output / f"task-{number}"
            shutil.copytree(folder, member, ignore=shutil.ignore_patterns("onnx", "openvino", "*.pruneonce"))
            changed = {name: moved(weight, number) if "layer." in name else weight for name, weight in tensors.items()}
            save_file(changed, member / "model.safetensors", metadata={"format": "pt"})
            members.append(member)
        storage.pack(members, file, "fp32")
    return file


def moved(weight: np.ndarray, places: int) -> np.ndarray:
    """The matrix with the numbers of each row that are not 0 moved on by some places among these."""
    if weight.ndim < 2:
        return weight
    changed = weight.copy()
    for row in changed:
        kept = row != 0
        row[kept] = np.roll(row[kept], places)
    return changed


def least(code: str, *arguments: object) -> dict[str, float]:
    """The least of each number that a few processes print."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
        for _ in range(REPEATS)
    ]
    assert all(run.keys() == runs[0].keys() for run in runs)
    return {name: min(run[name] for run in runs) for name in runs[0]}


def closure(distribution: str) -> set[str]:
    """The distribution and all that it needs, by name, without extras."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    left = [distribution]
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name not in found:
            found.add(name)
            needs = map(Requirement, importlib.metadata.requires(name) or [])
            left += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def size(distribution: str) -> float:
    """MB of the files of a distribution, without those that Python writes at the first import."""
    if distribution == "pruneonce-runtime":  # may be installed from its source, with its kernels elsewhere
        import pruneonce_runtime
        from pruneonce_runtime.native import kernels

        files = {*Path(pruneonce_runtime.__file__).parent.glob("*.py")} | (
            {Path(kernels.__file__)} if kernels else set()
        )
    else:
        listed = importlib.metadata.files(distribution) or []
        files = {Path(str(one.locate())) for one in listed if one.suffix != ".pyc"}
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


if __name__ == "__main__":
    typer.run(main)
