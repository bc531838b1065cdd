"""Masks, pruning schedules, and inspection of a model's zeros."""

from typing import TYPE_CHECKING

from pruneonce.lazy import lazily

if TYPE_CHECKING:
    from pruneonce.models.architectures import (
        ARCHITECTURES,
        attention_inputs,
        base_of,
        describe,
        embedding_tables,
        prunable_weights,
    )
    from pruneonce.sparsity.inspection import Inspection, Verification, inspect_model, inspect_module, verify
    from pruneonce.sparsity.masks import apply_masks, locked_masks, magnitude_masks, pattern_hash, sparsity_of
    from pruneonce.sparsity.patterns import Masks, exact_k_mask, holds, masks_of
    from pruneonce.sparsity.schedule import PruningSchedule, cubic_sparsity, linear_multiplier, rewound_multiplier
else:
    __getattr__ = lazily(
        __name__,
        "pruneonce.models.architectures",
        *(f"{__name__}.{module}" for module in ("inspection", "schedule", "patterns", "masks")),
    )

__all__ = [
    "ARCHITECTURES",
    "Inspection",
    "Masks",
    "PruningSchedule",
    "Verification",
    "apply_masks",
    "attention_inputs",
    "base_of",
    "cubic_sparsity",
    "describe",
    "embedding_tables",
    "exact_k_mask",
    "holds",
    "inspect_model",
    "inspect_module",
    "linear_multiplier",
    "locked_masks",
    "magnitude_masks",
    "masks_of",
    "pattern_hash",
    "prunable_weights",
    "rewound_multiplier",
    "sparsity_of",
    "verify",
]
