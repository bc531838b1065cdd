"""What training does to suit the machine that it runs on."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Generator
from contextlib import contextmanager

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def has_bf16() -> bool:
    """Whether bf16 products are faster than fp32 here: a GPU that has them, or a CPU with AMX or AVX-512 BF16."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch before 2.10 does not tell
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


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
