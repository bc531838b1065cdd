"""Processes of one run, started by `torchrun` or `accelerate launch`: shared results, agreement and failure.

transformers' Trainer distributes weights, gradients and batches (DistributedDataParallel over nccl or gloo).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers import set_seed

from pruneonce.errors import LostProcessError, ToldByFirstError, UserError

T = TypeVar("T")

PATIENCE = timedelta(days=1)  # enough for the first process to prepare a corpus; a dead process is detected at once
SHARDED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")


def start(seed: int | None = None) -> torch.device:
    """Join the other processes, if there are any, and return the device of this process.

    Args:
        seed: of all random generators; None leaves them unchanged.

    Raises:
        UserError: the launcher asks for sharded weights.
    """
    flags = [name for name in SHARDED if os.environ.get(name, "false").lower() not in ("false", "0", "")]
    if flags:
        raise UserError(
            f"weights sharded over processes ({flags[0]} is set) are not supported: a layer's threshold is taken from "
            "the whole layer. Launch without FSDP or DeepSpeed; the models fit a single device's memory"
        )
    if seed is not None:
        set_seed(seed)
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE).device


def leave() -> None:
    """Leave the process group once all processes have arrived, since an early exit can break the others."""
    if world() > 1:
        dist.barrier()
        # The group is never destroyed, neither with DistributedDataParallel nor when the interpreter ends. Its
        # destructor waits for a thread of gloo with the interpreter locked. The thread may wait for that lock for ever,
        # or end the process (SIGABRT) by asking for it late: https://github.com/pytorch/pytorch/issues/56297
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(dist.group.WORLD))
        dist.destroy_process_group()


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


def by_first(function: Callable[[], T]) -> T:
    """Run `function` in the first process only; all processes wait, and return its result or raise its error."""
    if world() == 1:
        return function()
    outcome: list[Any] = [None, None]
    failure: BaseException | None = None
    if rank() == 0:
        try:
            outcome[0] = function()
        except BaseException as error:
            failure = error
            outcome[1] = (isinstance(error, UserError), f"{error}")
    dist.broadcast_object_list(outcome, src=0)
    if failure:
        raise failure
    if outcome[1]:
        expected, text = outcome[1]
        raise ToldByFirstError(text) if expected else RuntimeError(f"the first process failed: {text}")
    result: T = outcome[0]
    return result


def first_then_all(function: Callable[[], T]) -> T:
    """Run `function` in the first process, which fills a cache, then in the others; each returns its result."""
    results: list[T] = []
    by_first(lambda: results.append(function()))
    return results[0] if results else function()


def gathered(value: T) -> list[T]:
    """Gather the `value` of each process, in the order of ranks."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def largest(number: int) -> int:
    """Return the largest `number` of all processes."""
    if world() == 1:
        return number
    shared = torch.tensor(number, device=PartialState().device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def must_agree(value: str, what: str) -> None:
    """Raise an error unless `value` is the same in every process.

    Args:
        value: the value of this process.
        what: phrase that names the values, for the message.

    Raises:
        RuntimeError: the values differ.
    """
    values = gathered(value)
    if len(set(values)) > 1:
        raise RuntimeError(f"{what} differ between the processes: {values}")


@contextmanager
def watching_others() -> Generator[None, None, None]:
    """Turn failed communication into an error that says that another process is gone.

    Raises:
        LostProcessError: communication with another process failed.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if world() > 1 and any(sign in text for sign in ("gloo", "nccl", "connection", "peer", "backend")):
            raise LostProcessError(
                "another process of this run ended or cannot be reached. Start all of them again with the same "
                "command: it goes on from the last checkpoint"
            ) from error
        raise


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model without torch's wrappers for many processes and for compilation."""
    return extract_model_from_parallel(model, keep_torch_compile=False)  # type: ignore[no-any-return]
