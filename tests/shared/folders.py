"""Comparing folders that stages make, without any of the package's code."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

PASSING = {"begun.json", "checkpoints", "lock", "head", "cache"}  # of a stage that is at work


def content(folder: Path) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """All that a stage wrote: tensors, and metrics and provenance without the clock."""
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            tensors |= {f"{file.name} {name}": opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    provenance = json.loads((folder / "pruneonce.json").read_text())
    provenance["training"].pop("seconds")
    names = ("metrics.json", "quantized_inputs.json", "config.json")
    return tensors, [provenance, *((folder / name).read_text() for name in names if (folder / name).is_file())]


def assert_same(one: Path, other: Path) -> None:
    """Both have the same tensors, bit for bit, and the same records; the other has no file of unfinished work."""
    (tensors, records), (other_tensors, other_records) = content(one), content(other)
    assert tensors.keys() == other_tensors.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == other_tensors[name].dtype
        assert torch.equal(tensor.view(torch.uint8), other_tensors[name].view(torch.uint8)), name
    assert records == other_records
    assert not {path.name for path in other.iterdir()} & PASSING


def zeros_in_file(folder: Path) -> dict[str, float]:
    """The share of zeros of each matrix of an encoder's layers and of its pooler."""
    shares = {}
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
            tensor = file.get_tensor(name)
            if tensor.dim() == 2 and (".layer" in name or "layers." in name or "pooler" in name):
                shares[name] = int((tensor == 0).sum()) / tensor.numel()
    return shares
