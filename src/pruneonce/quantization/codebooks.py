"""Codebooks of a model folder's weights, in the file `codebooks.safetensors`, see docs/format.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruneonce.errors import UserError
from pruneonce.models.source import stored_weights
from pruneonce.quantization.product import decode
from pruneonce.storage.coding import DamagedError, decode_pattern, encode_pattern

FILE = "codebooks.safetensors"
FORMAT = {"format": "pruneonce-codebooks", "version": "1"}


@dataclass(frozen=True, eq=False)
class Codebook:
    """One weight on a codebook.

    Attributes:
        codes: uint8 [out, in / b], the number of each block's centroid.
        centroids: float16 [k, b]; centroid 0 is the zero block.
        kept: bool [out, in], False at masked weights; None: no weight is masked.
    """

    codes: Tensor
    centroids: Tensor
    kept: Tensor | None = None

    def weight(self) -> Tensor:
        """Decode the weight, float32 [out, in]."""
        size = self.centroids.shape[1]
        kept = None if self.kept is None else self.kept.reshape(-1, size)
        return decode(self.codes.flatten().long(), self.centroids.float(), kept).view(len(self.codes), -1)

    def mask(self) -> tuple[str, Tensor] | None:
        """Coding and bytes of `kept` in all blocks but the zero block; None if nothing in them is masked."""
        if self.kept is None:
            return None
        kept = self.kept.reshape(-1, self.centroids.shape[1])[self.codes.flatten() != 0]
        if kept.all():
            return None
        coding, data = encode_pattern(kept.flatten().numpy())
        return coding, torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def save(codebooks: Mapping[str, Codebook], folder: Path) -> None:
    """Write the codebooks of a model folder's weights, by their names in model.safetensors."""
    tensors: dict[str, Tensor] = {}
    codings: dict[str, str] = {}
    for name, book in codebooks.items():
        tensors |= {f"{name}.codes": book.codes, f"{name}.centroids": book.centroids}
        if coded_mask := book.mask():
            codings[name], tensors[f"{name}.mask"] = coded_mask
    save_file(tensors, folder / FILE, {**FORMAT, "masks": json.dumps(codings, sort_keys=True)})


def load(folder: str | Path) -> dict[str, Codebook]:
    """Read the codebooks of a model folder; each `weight()` equals the weight in model.safetensors bit for bit.

    Raises:
        UserError: there are no codebooks, the file is damaged, or it is of another model.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        raise UserError(f"{folder} has no {FILE}: it is not what `pruneonce product-quantize` made")
    shapes = {name: weight.shape for name, weight in stored_weights(Path(folder)).items()}
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
        tensors, codings = load_file(file), json.loads(metadata["masks"])
        if metadata.get("format") != FORMAT["format"]:
            raise ValueError("it is of another format")
        names = [name.removesuffix(".codes") for name in tensors if name.endswith(".codes")]
        return {name: _read(tensors, name, codings.get(name), shapes.get(name)) for name in names}
    except (SafetensorError, KeyError, ValueError, IndexError, RuntimeError, AttributeError, DamagedError) as error:
        raise UserError(f"{file} is damaged: {' '.join(str(error).split())}") from None


def _read(tensors: Mapping[str, Tensor], name: str, coding: str | None, shape: tuple[int, ...] | None) -> Codebook:
    """Read one weight's codebook; its decoded size is that of the weight in the model's file, before it is decoded."""
    codes, centroids = tensors[f"{name}.codes"], tensors[f"{name}.centroids"]
    if codes.dtype != torch.uint8 or codes.dim() != 2 or centroids.dtype != torch.float16 or centroids.dim() != 2:
        raise ValueError(f"{name} has no codes or no centroids")
    if shape != (codes.shape[0], codes.shape[1] * centroids.shape[1]):
        raise ValueError(f"{name} has not the shape of the weight in the model")
    if codes.numel() and int(codes.max()) >= len(centroids):
        raise ValueError(f"{name} has codes without a centroid")
    if coding is None:
        return Codebook(codes, centroids)
    filled, size = codes.flatten() != 0, centroids.shape[1]
    data = tensors[f"{name}.mask"].numpy().tobytes()
    kept = torch.ones(codes.numel(), size, dtype=torch.bool)
    kept[filled] = torch.from_numpy(decode_pattern(coding, data, int(filled.sum()) * size)).view(-1, size)
    return Codebook(codes, centroids, kept.view(len(codes), -1))


def size(folder: str | Path) -> dict[str, int]:
    """Bytes of a model with weights stored as codebooks: `codes`, `centroids`, `masks`, `rest` and their `total`.

    `rest` is all other tensors in the types of model.safetensors. Names, shapes, configuration and tokenizer are not
    counted.

    Raises:
        UserError: there are no codebooks.
    """
    books = load(folder)
    stored = {name: tensor.nbytes for name, tensor in load_file(Path(folder) / FILE).items()}
    sizes: dict[str, Any] = {
        part: sum(count for name, count in stored.items() if name.endswith(f".{part}"))
        for part in ("codes", "centroids", "mask")
    }
    sizes["masks"] = sizes.pop("mask")
    weights = load_file(Path(folder) / "model.safetensors")
    sizes["rest"] = sum(tensor.nbytes for name, tensor in weights.items() if name not in books)
    return {**sizes, "total": sum(sizes.values())}
