"""Properties of the machine (instruction sets, GPU, processor), and settings that suit it."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

# Instruction sets that determine the speed of products of int8, bf16 and fp32, by PyTorch's names; asimddp, i8mm and
# sve are ARM's.
INSTRUCTIONS = (
    *("avx2", "avx_vnni", "avx512_f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_int8", "amx_bf16", "amx_fp16", "asimddp", "i8mm", "sve"),
)
VNNI = {"avx_vnni", "avx512_vnni"}

SPARE = 0.2  # processors that others may use: the system itself always does a little

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def has_bf16() -> bool:
    """Return whether bf16 products are faster than fp32: on a GPU with bf16, or a CPU with AMX or AVX-512 BF16."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool({"amx_bf16", "avx512_bf16"} & _capabilities())


def instruction_sets() -> list[str]:
    """The processor's instruction sets out of INSTRUCTIONS, by PyTorch, or else by Linux."""
    features = _capabilities() or _flags(Path("/proc/cpuinfo"))
    return [name for name in INSTRUCTIONS if name in features]


def overflows_int8() -> bool:
    """Return whether the processor is an x86 that sums products of uint8 and int8 in 16 bits, which can overflow.

    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html#data-type-selection
    """
    return platform.machine().lower() in ("x86_64", "amd64") and not VNNI & set(instruction_sets())


def _capabilities() -> set[str]:
    """The processor's features by PyTorch; empty before PyTorch 2.10."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return {name for name, has in capabilities.items() if has is True}


def _flags(cpuinfo: Path) -> set[str]:
    """The processor's features by Linux, under PyTorch's names; empty on other systems."""
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return set()
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.M)
    return {name.replace("avx512f", "avx512_f") for name in (match[1] if match else "").split()}


def autocast(device: torch.device, allowed: bool = True) -> torch.autocast:
    """Autocast to bf16 if this machine is faster with it and the model's code allows it, as in training."""
    return torch.autocast(device.type, torch.bfloat16, enabled=allowed and has_bf16())


@contextmanager
def flushed_denormals() -> Generator[None, None, None]:
    """Context in which denormals are flushed to 0: Adam's moments of pruned weights decay to them, slowing steps."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def keep_freed_memory() -> None:
    """Make glibc keep the memory that a step frees for the next step, instead of fetching fresh pages."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # larger blocks are returned: kept, they would leave holes
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def seconds_of_others() -> float:
    """Return the processor seconds that other programs have used since the machine was started."""
    everyone, this = psutil.cpu_times(), psutil.Process().cpu_times()
    return float(everyone.user + everyone.system - this.user - this.system)


def is_short_of_processors(threads: int, others: float) -> bool:
    """Return whether there were fewer free processors than threads.

    Args:
        threads: of the work.
        others: processors that other programs used meanwhile, on average.
    """
    return threads + others > (os.cpu_count() or 1) + SPARE


def accelerator() -> str | None:
    """Name of the GPU for training; None if training runs on the CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def processor() -> str:
    """Name of the processor, or its architecture if the system has no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
