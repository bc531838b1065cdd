"""Many processes of one run, as `torchrun` or `accelerate launch` start them: what the first does, all must agree on.

Weights, gradients and batches are shared out by transformers' Trainer (DistributedDataParallel over nccl or gloo).
"""

from __future__ import annotations

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

PATIENCE = timedelta(days=1)  # for the first process to prepare a corpus; one that dies is seen at once
SHARDED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
_left: list[Any] = []  # groups of processes that this one was in


def start(seed: int | None = None) -> torch.device:
    """Join the other processes, if there are any; gives the device of this one.

    Args:
        seed: of everything that is random from now on; None leaves it as it is.

    Raises:
        UserError: the launcher asks for sharded weights.
    """
    asked = [name for name in SHARDED if os.environ.get(name, "false").lower() not in ("false", "0", "")]
    if asked:
        raise UserError(
            f"weights sharded over processes ({asked[0]} is set) are not supported: a layer's threshold is taken from "
            "the whole layer. Launch without FSDP or DeepSpeed; the models fit a single device's memory"
        )
    if seed is not None:
        set_seed(seed)
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE).device


def leave() -> None:
    """Part from the other processes, when all have come so far; one that just ends may take the others with it."""
    if world() > 1:
        dist.barrier()
        # DistributedDataParallel must not be the last to hold the group: it would wait for a thread of gloo with the
        # interpreter locked, and the thread may wait for that lock: https://github.com/pytorch/pytorch/issues/56297
        _left.append(dist.group.WORLD)
        dist.destroy_process_group()


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world() > 1 else 0


def by_first(function: Callable[[], T]) -> T:
    """What `function` gives in the first process, the only one that runs it; all wait for it and fail as it fails."""
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
    """What `function` gives in each process, after the first has run it alone and left in a cache what it made."""
    made: list[T] = []
    by_first(lambda: made.append(function()))
    return made[0] if made else function()


def gathered(value: T) -> list[T]:
    """The `value` of each process, in the order of their ranks."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def largest(number: int) -> int:
    """The largest `number` of all processes."""
    if world() == 1:
        return number
    shared = torch.tensor(number, device=PartialState().device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def must_agree(value: str, what: str) -> None:
    """Raise unless `value` is the same in every process."""
    values = gathered(value)
    if len(set(values)) > 1:
        raise RuntimeError(f"{what} differ between the processes: {values}")


@contextmanager
def watching_others() -> Generator[None, None, None]:
    """Say plainly that another process is gone, where the communication between them only breaks.

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
    """The model without what torch wraps around it for many processes or for compilation."""
    return extract_model_from_parallel(model, keep_torch_compile=False)  # type: ignore[no-any-return]
