"""Sparse encoder from elsewhere, taken as it is: its zeros are the pattern that tasks lock.

The stage stands in the place of `prune` where a recipe has `sparse`. A task head of the encoder is left behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pruneonce.console import console, styled
from pruneonce.errors import UserError
from pruneonce.models import content_key, load_encoder
from pruneonce.models.architectures import prunable_weights
from pruneonce.models.lineage import maker
from pruneonce.recipe import Section
from pruneonce.sparsity.inspection import Inspection, inspect_model
from pruneonce.stages import keys
from pruneonce.stages.output import Build, Origin, is_finished, unfinished
from pruneonce.system import distributed
from pruneonce.wording import listed

# Facts of the source's own provenance that are recorded; others may name places on its maker's machine.
RECORDED = ("stage", "key", "parents", "settings", "seed", "versions", "sha256", "training")


def take(model: str | Path, output: Path) -> Path:
    """Write the encoder of the sparse `model`, its weights unchanged, as the model that tasks start from.

    Scattered zeros (`Inspection.scattered`) are no pattern. They become the smallest normal number, 1.2e-38, so that
    nothing locks them.

    Raises:
        UserError: there is no model, or its encoder is dense.
    """
    key = keys.take(content_key(model))
    distributed.start(0)
    if is_finished(output, key, model):
        return output
    with unfinished(output, key, model):
        inspection = check_sparse(model)
        if inspection.scattered:
            names = styled("{names}", names=listed([f"`{name}`" for name in inspection.scattered]))
            console.print("  not locked, too few zeros for a pattern:", names, soft_wrap=True)
        encoder = load_encoder(model)
        _without_task(encoder.config)
        weights = prunable_weights(encoder)
        for name in inspection.scattered:
            with torch.no_grad():
                weights[name][weights[name] == 0] = torch.finfo(weights[name].dtype).tiny
        taken = {
            "from": maker(inspection.provenance),
            "zeros": inspection.encoder,
            "pattern": inspection.pattern,
            "scattered": inspection.scattered,
            "provenance": _recorded(inspection.provenance),
        }
        origin = Origin("take", model, key, Section(), {"taken": taken})
        return Build(output, seed=0).save(encoder, origin)


def check_sparse(model: str | Path) -> Inspection:
    """Return the inspection of a sparse encoder.

    Raises:
        UserError: there is no model, or none of its weights has a pattern of zeros.
    """
    inspection = inspect_model(model)
    if len(inspection.scattered) == sum(layer.zeros > 0 for layer in inspection.layers):
        raise UserError(
            f"{model} has {inspection.encoder:.1%} zeros in its encoder, and `sparse` takes a pruned one; to prune it, "
            "give it as `model`, with `corpus` and `prune` in the place of `sparse`"
        )
    return inspection


def _without_task(config: Any) -> None:
    """Take what belongs to a task's head out of a configuration."""
    usual = type(config)()
    for name in ("id2label", "label2id", "problem_type"):
        setattr(config, name, getattr(usual, name))


def _recorded(provenance: dict[str, Any] | None) -> dict[str, Any] | None:
    return provenance and {name: provenance[name] for name in RECORDED if name in provenance}
