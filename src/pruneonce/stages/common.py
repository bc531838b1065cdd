"""What every stage does the same way: recognise finished work, start from a seed, record provenance."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import torch
from torch import nn
from transformers import set_seed

from pruneonce.console import console
from pruneonce.data.corpus import blocks_of
from pruneonce.errors import InUseError, UserError
from pruneonce.models import BEGUN, content_key, dropouts, load_config, read_provenance, remove_scratch, save_model
from pruneonce.recipe import Corpus, Section, Training
from pruneonce.sparsity import inspect_module
from pruneonce.system import distributed, durable, locks
from pruneonce.system.machine import has_bf16
from pruneonce.training import Trained, total_steps

P = ParamSpec("P")


def tidy(stage: Callable[P, Path]) -> Callable[P, Path]:
    """One process at a time makes an output; a mistake that is found before there is anything to resume from leaves no
    unfinished folder behind."""

    @wraps(stage)
    def run(*args: P.args, **kwargs: P.kwargs) -> Path:
        begun = durable.partial(inspect.signature(stage).bind(*args, **kwargs).arguments["output"])
        is_new = not begun.exists()
        with locks.scope():
            try:
                return stage(*args, **kwargs)
            except InUseError:
                raise
            except UserError:
                if is_new and distributed.rank() == 0 and not list(begun.glob("**/checkpoint-*")):
                    shutil.rmtree(begun, ignore_errors=True)
                raise

    return run


def is_made(output: Path, key: str) -> bool:
    """Whether `output` already holds the result of this very stage; anything else there is never overwritten.

    Raises:
        UserError: the folder holds something else, or unfinished work of other settings.
    """
    return distributed.by_first(lambda: _is_made(output, key))


def _is_made(output: Path, key: str) -> bool:
    made = read_provenance(output)
    if made and made.get("key") == key:
        remove_scratch(output)
        console.print(f"  [dim]{output}: already made[/dim]", soft_wrap=True)
        return True
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} already holds something else; choose another output or remove it")
    begun = durable.partial(output)
    with durable.writing(output):
        begun.mkdir(parents=True, exist_ok=True)
        locks.take(begun)
        unfinished = durable.read_json(begun / BEGUN)
        if unfinished is None:
            durable.write_json({"key": key}, begun / BEGUN)
        elif unfinished["key"] != key:
            raise UserError(f"{begun} is unfinished work of other settings or other data; remove it to start again")
    return False


def corpus_blocks(corpus: Corpus, settings: Training, tokenizer: Any, cache: Path, seed: int) -> tuple[Any, Any, int]:
    """The (train, held out) blocks of a corpus, and the number of steps.

    The first process prepares the blocks, the others read what it wrote.
    """
    if corpus.streaming and settings.steps is None:
        raise UserError("a streamed corpus has no known length: give `steps`, not `epochs`")
    blocks, held_out = distributed.first_then_all(lambda: blocks_of(corpus, tokenizer, cache, seed))
    return blocks, held_out, settings.steps or total_steps(settings, len(blocks))


def begin(seed: int) -> torch.device:
    """Seed everything that is random, join the other processes of the run if there are any, give the device."""
    set_seed(seed)
    return distributed.start()


def freeze(model: nn.Module, device: torch.device) -> nn.Module:
    """A teacher: on the device, without dropout and gradients, in bf16 where that is faster."""
    model = model.to(device).eval().requires_grad_(False)
    return model.bfloat16() if has_bf16() else model


def finish(
    model: nn.Module,
    tokenizer: Any,
    output: Path,
    *,
    stage: str,
    source: str | Path,
    key: str,
    settings: Section,
    seed: int,
    trained: Trained | None = None,
    final: dict[str, float] | None = None,
) -> Path:
    """Save the model folder with its provenance and metrics, the model's own dropout restored."""
    usual = load_config(source)
    for name in dropouts(usual):
        setattr(model.config, name, getattr(usual, name))

    def save() -> None:
        found = inspect_module(model)
        provenance = {
            "stage": stage,
            "key": key,
            "source": str(source),
            "parents": [content_key(source)],
            "settings": settings.model_dump(),
            "seed": seed,
            "training": trained.spent() if trained else {"steps": 0, "tokens": 0, "seconds": 0.0},
            "pattern": found.pattern,
            "sparsity": {
                "encoder": found.encoder,
                "model": found.model,
                "layers": [asdict(layer) | {"sparsity": layer.sparsity} for layer in found.layers],
            },
        }
        metrics = {"history": trained.history if trained else [], "final": final or {}}
        save_model(model.cpu(), tokenizer, output, source=source, provenance=provenance, metrics=metrics)

    distributed.by_first(save)
    return output
