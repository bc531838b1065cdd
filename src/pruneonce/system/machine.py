"""What the machine has, and what is done to suit it."""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

# What decides how fast products of int8, bf16 and fp32 are, as PyTorch calls it; the last three are of ARM.
INSTRUCTIONS = (
    *("avx2", "avx_vnni", "avx512_f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_int8", "amx_bf16", "amx_fp16", "asimddp", "i8mm", "sve"),
)
VNNI = {"avx_vnni", "avx512_vnni"}

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def has_bf16() -> bool:
    """Whether bf16 products are faster than fp32 here: a GPU that has them, or a CPU with AMX or AVX-512 BF16."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool({"amx_bf16", "avx512_bf16"} & _capabilities())


def instruction_sets() -> list[str]:
    """Those of INSTRUCTIONS that the processor has: as PyTorch tells, or else Linux."""
    told = _capabilities() or _flags(Path("/proc/cpuinfo"))
    return [name for name in INSTRUCTIONS if name in told]


def overflows_int8() -> bool:
    """Whether this is an x86 processor that sums products of uint8 and int8 in 16 bits, which may overflow.

    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html#data-type-selection
    """
    return platform.machine().lower() in ("x86_64", "amd64") and not VNNI & set(instruction_sets())


def _capabilities() -> set[str]:
    """PyTorch before 2.10 does not tell: then it is empty."""
    told: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return {name for name, has in told.items() if has is True}


def _flags(cpuinfo: Path) -> set[str]:
    """The processor's features as Linux lists them, where there is Linux, named as PyTorch names them."""
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return set()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.M)
    return {name.replace("avx512f", "avx512_f") for name in (found[1] if found else "").split()}


def autocast(device: torch.device) -> torch.autocast:
    """Products in bf16 where this machine is faster with them, as in training."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bf16())


@contextmanager
def flushed_denormals() -> Generator[None, None, None]:
    """Adam's moments of pruned weights decay to denormals, which slow the step: within it they are 0."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next one, instead of asking the system for fresh pages every time."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # larger ones come and go: kept, they would leave holes
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def accelerator() -> str | None:
    """The name of the GPU that trains here; None: the processor does."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
