"""One-shot baseline of sparse pre-training: the pre-trained model, pruned in one step without any training.

Tasks start from it as they do from the model of `prune`. Pruning a fine-tuned task model is the stage `one_shot`.
"""

from __future__ import annotations

from pathlib import Path

from pruneonce.config.pattern import Pattern
from pruneonce.models import content_key, load_encoder
from pruneonce.models.architectures import prunable_weights
from pruneonce.recipe import Prune
from pruneonce.sparsity import apply_masks, magnitude_masks
from pruneonce.stages import keys
from pruneonce.stages.output import Build, Origin, is_finished, unfinished
from pruneonce.stages.prune import check_settings
from pruneonce.system import distributed


def prune_one_shot(model: str | Path, settings: Prune, output: Path, *, seed: int = 42) -> Path:
    """Prune the pre-trained `model` by magnitude, to the sparsity of `settings` in one step, without any training.

    Raises:
        UserError: a mistake in the model or the settings.
    """
    check_settings(settings)
    distributed.start(seed)
    key = keys.prune_one_shot(content_key(model), settings, seed)
    if is_finished(output, key, model):
        return output
    with unfinished(output, key, model):
        pruned = load_encoder(model)
        weights = prunable_weights(pruned)
        masks = magnitude_masks(
            weights, settings.sparsity, settings.allocation, pattern=Pattern.parse(settings.pattern)
        )
        apply_masks(weights, masks)
        origin = Origin("prune-one-shot", model, key, settings)
        return Build(output, seed).save(pruned, origin)
