"""Reader of the tensors in a pickle of PyTorch, run as a process of its own with limits of memory and time.

`python -P -m pruneonce.models.unpickling FILE FOLDER SECONDS` writes the tensors of a state dict to
FOLDER/00000.safetensors and so on. It prints `{"files": N}`, or `{"error": "..."}`. `pruneonce.models.convert` starts
it; nothing else in this package reads a pickle.

`torch.load(weights_only=True)` runs no code of the file, https://pytorch.org/docs/stable/generated/torch.load.html, but
asks for as much memory as the file says; the limits bound that.
"""

from __future__ import annotations

import json
import pickle
import re
import resource
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

MIB = 1 << 20
# Memory beyond the process itself: the mapped file, its tensors and a copy of one piece of them.
TIMES, MORE = 4, 128 * MIB
PIECE = 64 * MIB  # bytes of tensors that are written together
VIEWS = 2  # tensors may share numbers, but have at most so many times the bytes of the file, and a MiB more
# Where training libraries keep the state dict: PyTorch Lightning, Accelerate's examples, fairseq and timm.
STATES = ("state_dict", "model_state_dict", "model")
TRUSTED = (
    "pruneonce runs no code of a file, so where you trust it, load it yourself and save `model.state_dict()` alone"
)
LONGEST = 500  # characters of a name
TYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool}
TYPES |= {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


class RefusedError(Exception):
    """A file that is not read; the message goes to the user, after the file's name."""


def main(arguments: list[str]) -> None:
    """Read FILE and write its tensors to FOLDER; print the answer as JSON."""
    file, folder, seconds = Path(arguments[0]), Path(arguments[1]), int(arguments[2])
    torch.set_num_threads(1)
    _limit(file.stat().st_size, seconds)
    try:
        answer: dict[str, Any] = {"files": write(read(file), file.stat().st_size, folder)}
    except RefusedError as error:
        answer = {"error": str(error)}
    except Exception as error:  # a hostile file fails anywhere in PyTorch, in any way
        answer = {"error": _reason(error)}
    print(json.dumps(answer))


def _limit(size: int, seconds: int) -> None:
    """Set the limits of this process, for a file of `size` bytes."""
    pages = Path("/proc/self/statm").read_text().split()  # all memory, ..., data and stack
    more = TIMES * size + MORE
    limits = {
        resource.RLIMIT_AS: int(pages[0]) * resource.getpagesize() + more,
        resource.RLIMIT_DATA: int(pages[5]) * resource.getpagesize() + more,
        resource.RLIMIT_FSIZE: more,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_CORE: 0,
    }
    for what, most in limits.items():
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def read(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of the state dict in a file, by name."""
    with file.open("rb") as stream:
        is_zip = stream.read(4) == b"PK\x03\x04"
    if is_zip:
        _check_zip(file)
    loaded = torch.load(file, weights_only=True, mmap=is_zip, map_location="cpu")
    if not isinstance(loaded, dict):
        raise RefusedError("has no state dict (tensors by name); save `model.state_dict()`")
    for inside in (*(loaded.get(key) for key in STATES), loaded):
        if isinstance(inside, dict):
            tensors = {name: value for name, value in inside.items() if isinstance(value, torch.Tensor)}
            if tensors:
                return tensors
    raise RefusedError("has no state dict (tensors by name); save `model.state_dict()`")


def _check_zip(file: Path) -> None:
    """Refuse an archive that is larger inside: PyTorch writes its parts as they are."""
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
    except zipfile.BadZipFile as error:
        raise RefusedError(f"is damaged: {error}") from None
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise RefusedError("is compressed inside, which PyTorch never writes; save `model.state_dict()` anew")
    if sum(part.file_size for part in parts) > file.stat().st_size:
        raise RefusedError("is damaged: its parts overlap")


def write(tensors: dict[str, torch.Tensor], size: int, folder: Path) -> int:
    """Write tensors to safetensors files of about `PIECE` bytes; return their number."""
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not name.isprintable() or len(name) > LONGEST:
            raise RefusedError("is damaged: a tensor's name is no name")
        if tensor.dtype not in TYPES or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise RefusedError(
                f"has {name} as {_kind(tensor)}, not as plain numbers; save the model before it was quantized or packed"
            )
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if total > VIEWS * size + MIB:
        raise RefusedError(f"has tensors of {total:,} bytes in {size:,}: they are views of the same numbers")
    number, piece, filled = 0, {}, 0
    for name, tensor in tensors.items():
        piece[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
        filled += tensor.numel() * tensor.element_size()
        if filled >= PIECE:
            save_file(piece, folder / f"{number:05}.safetensors")
            number, piece, filled = number + 1, {}, 0
    save_file(piece, folder / f"{number:05}.safetensors")
    return number + 1


def _kind(tensor: torch.Tensor) -> str:
    return str(tensor.layout if tensor.layout != torch.strided else tensor.dtype).removeprefix("torch.")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "allocate" in text or "Cannot allocate memory" in text:
        return f"asks for more memory than a file of its size needs (its size {TIMES} times, and {MORE // MIB} MiB)"
    if isinstance(error, pickle.UnpicklingError):
        match = re.search(r"GLOBAL (\S+)", text)
        return f"holds more than tensors{f': it names `{match[1]}`' if match else ''}; {TRUSTED}"
    if "legacy .tar" in text or "TorchScript" in text:
        kind = "TorchScript" if "TorchScript" in text else "PyTorch's .tar format of 2017"
        return f"is in {kind}; load it yourself and save `model.state_dict()`"
    return f"is damaged, or no file of PyTorch: {text[:200] or type(error).__name__}"


if __name__ == "__main__":
    main(sys.argv[1:])
