"""Comparing folders that stages make."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModel

from pruneonce.models.architectures import prunable_weights

PASSING = {"begun.json", "checkpoints", "lock", "head", "cache"}  # of a stage that is at work


def content(folder: Path) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """All that a stage wrote: tensors, and metrics and provenance without the clock."""
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            tensors |= {f"{file.name} {name}": opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    record = provenance(folder)
    record["training"].pop("seconds")
    names = ("metrics.json", "quantized_inputs.json", "config.json")
    return tensors, [record, *((folder / name).read_text() for name in names if (folder / name).is_file())]


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


def assert_zeros_as_recorded(folder: Path) -> None:
    """Plain transformers loads a model with as many zeros in each layer as its pruneonce.json says."""
    recorded = {layer["name"]: layer["zeros"] for layer in provenance(folder)["sparsity"]["layers"]}
    weights = prunable_weights(AutoModel.from_pretrained(folder))
    assert weights
    assert {name: int((weight == 0).sum()) for name, weight in weights.items()} == {
        name: recorded[name] for name in weights
    }


def provenance(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "pruneonce.json").read_text())
    return record
