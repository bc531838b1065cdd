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

from pruneonce import modelfolder
from pruneonce.console import console
from pruneonce.errors import UserError
from pruneonce.recipe import Section
from pruneonce.sparsity import inspect_module
from pruneonce.training import Trained

P = ParamSpec("P")


def tidy(stage: Callable[P, Path]) -> Callable[P, Path]:
    """A mistake that is found before there is anything to resume from leaves no unfinished folder behind."""

    @wraps(stage)
    def run(*args: P.args, **kwargs: P.kwargs) -> Path:
        begun = modelfolder.partial(inspect.signature(stage).bind(*args, **kwargs).arguments["output"])
        is_new = not begun.exists()
        try:
            return stage(*args, **kwargs)
        except UserError:
            if is_new and not list(begun.glob("checkpoints/*")):
                shutil.rmtree(begun, ignore_errors=True)
            raise

    return run


def is_made(output: Path, key: str) -> bool:
    """Whether `output` already holds the result of this very stage; anything else there is never overwritten.

    Raises:
        UserError: the folder holds something else, or unfinished work of other settings.
    """
    made = modelfolder.read_provenance(output)
    if made and made.get("key") == key:
        console.print(f"  [dim]{output}: already made[/dim]", soft_wrap=True)
        return True
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} already holds something else; choose another output or remove it")
    begun = modelfolder.partial(output)
    unfinished = modelfolder.read_json(begun / "begun.json")
    if unfinished is not None and unfinished["key"] != key:
        raise UserError(f"{begun} is unfinished work of other settings; remove it to start again")
    begun.mkdir(parents=True, exist_ok=True)
    modelfolder.write_json({"key": key}, begun / "begun.json")
    return False


def check_length(length: int, model: str | Path, key: str) -> None:
    """Texts longer than a model has positions for would fail deep inside it.

    Args:
        length: tokens of the longest input.
        key: the recipe's name for `length`.
    """
    config = modelfolder.load_config(model)
    first = config.pad_token_id + 1 if config.model_type in ("mpnet", "roberta") else 0  # theirs do not count from 0
    longest = config.max_position_embeddings - first
    if length > longest:
        raise UserError(f"`{key}` is {length}, but {model} takes at most {longest} tokens")


def begin(seed: int) -> torch.device:
    """Seed everything that is random, and choose the device."""
    set_seed(seed)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def freeze(model: nn.Module, device: torch.device) -> nn.Module:
    """A teacher: on the device, without dropout and without gradients."""
    return model.to(device).eval().requires_grad_(False)


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
    """Save the model folder with its provenance and metrics."""
    found = inspect_module(model)
    begun = modelfolder.partial(output)
    (begun / "begun.json").unlink()
    for scratch in ("cache", "head"):
        shutil.rmtree(begun / scratch, ignore_errors=True)
    provenance = {
        "stage": stage,
        "key": key,
        "source": str(source),
        "parents": [modelfolder.content_key(source)],
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
    return modelfolder.save(model.cpu(), tokenizer, output, source=source, provenance=provenance, metrics=metrics)
