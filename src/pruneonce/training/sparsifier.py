"""Masks of a model in training, applied after each optimizer step.

`LockedZeros` keeps the zeros of a sparse model. `Pruner` prunes more weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruneonce.config.pattern import Pattern
from pruneonce.plugins import Method
from pruneonce.recipe import OneShot, Sparsification
from pruneonce.sparsity.masks import load_masks, locked_masks, pattern_hash, save_masks, sparsity_of, zero
from pruneonce.sparsity.patterns import Masks, masks_of
from pruneonce.sparsity.schedule import PruningSchedule
from pruneonce.system import distributed


class Sparsifier(ABC):
    """Masks over the weights of a model, initially the masks of its zeros: `mask = weight != 0`.

    Args:
        weights: prunable parameters by name; the masks are applied to them in place.

    Attributes:
        schedule: steps at which the masks change, and the learning rate; None: no schedule.
    """

    schedule: PruningSchedule | None = None

    def __init__(self, weights: Mapping[str, Tensor]):
        self.weights = weights
        self.masks = locked_masks(weights)

    @property
    def masks(self) -> Masks:
        """Masks by parameter name; True keeps a weight."""
        return {name: ~pruned for name, pruned in self.pruned.items()}

    @masks.setter
    def masks(self, masks: Masks) -> None:
        # The complement is stored: each step uses it twice, and computing it costs as much as using it.
        self.pruned = {name: ~mask for name, mask in masks.items()}

    @abstractmethod
    def before_step(self, step: int) -> None:
        """Change the masks or the weights if a change is due before the forward pass of `step`."""

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights, which must count neither in clipping nor in the moments."""
        for name, pruned in self.pruned.items():
            grad = self.weights[name].grad
            if grad is not None:
                grad.masked_fill_(pruned, 0.0)

    def apply(self) -> None:
        """Zero the pruned weights."""
        zero(self.weights, self.pruned)

    def sparsity(self) -> float:
        """Share of pruned weights over all masks."""
        return sparsity_of(self.masks)

    def save(self, folder: Path) -> None:
        """Write the state to the folder of a checkpoint."""
        save_masks(self.masks, folder / "masks.safetensors")

    def load(self, folder: Path) -> None:
        """Read the state from the folder of a checkpoint."""
        masks = load_masks(folder / "masks.safetensors")
        self.masks = {name: mask.to(self.weights[name].device) for name, mask in masks.items()}


class LockedZeros(Sparsifier):
    """Sparsifier that keeps the zeros of a sparse model, and adds no others."""

    def before_step(self, step: int) -> None:
        """Do nothing: the masks never change."""


class Pruner(Sparsifier):
    """Sparsifier that prunes the weights with a method's lowest scores, in a pattern; without a method, by magnitude.

    In training, the masks follow a schedule: gradual pruning as in Prune Once for All
    (https://arxiv.org/abs/2111.05754), section 3. Without a schedule, they change when `prune` is called.

    With nested masks, a pruned weight stays pruned. Otherwise, as in the paper, pruned weights keep their values and
    compete again at each update until `until`. These values are parked in the pruner, so that the model itself holds
    zeros only.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        settings: Sparsification | OneShot,
        schedule: PruningSchedule | None,
        method: Method | None = None,
    ):
        super().__init__(weights)
        self.allocation = settings.allocation
        self.pattern = Pattern.parse(settings.pattern)
        self.schedule = schedule
        self.method = method or Method()
        self.nested = settings.nested or self.method.moves_weights
        self.parked = {} if self.nested else {name: torch.zeros_like(w) for name, w in weights.items()}

    def before_step(self, step: int) -> None:
        assert self.schedule is not None
        if not self.schedule.is_due(step):
            return
        sparsity = self.method.sparsity(step, self.schedule)
        is_final = self.nested and step > self.schedule.end  # nested masks would not change any more
        if sparsity and not is_final:
            self.prune(step, sparsity)

    @torch.no_grad()
    def prune(self, step: int, sparsity: float) -> None:
        """Choose new masks at the given sparsity, and apply them."""
        for name, parked in self.parked.items():
            self.weights[name].add_(parked)
        shapes = {name: weight.shape for name, weight in self.weights.items()}
        within = self.masks if self.nested else None
        with torch.enable_grad():
            scores = self.method.scores(step, self.weights, self.pattern)
        masks = masks_of(scores, shapes, self.pattern, sparsity, self.allocation, within)
        if distributed.world() > 1:
            distributed.must_agree(pattern_hash(masks), f"the masks of step {step}")
        with torch.enable_grad():
            self.method.on_mask_update(step, self.weights, masks)
        self.masks = masks
        for name, parked in self.parked.items():
            parked.copy_(self.weights[name].masked_fill(masks[name], 0.0))
        self.apply()

    def save(self, folder: Path) -> None:
        super().save(folder)
        if self.parked:
            save_file(self.parked, folder / "parked.safetensors")

    def load(self, folder: Path) -> None:
        super().load(folder)
        if self.parked:
            self.parked = {k: v.to(self.weights[k].device) for k, v in load_file(folder / "parked.safetensors").items()}
