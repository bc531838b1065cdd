"""Iterative product quantization (iPQ) in a training run.

Groups of weights are put on codebooks one after another, while the other weights and the centroids train on. Source:
https://arxiv.org/abs/2004.07320, section 3, with the order of the groups in section 5. The parameters stay tensors of
weights: blocks with the same code have equal values, get the mean of their gradients, and so move together. That is the
paper's `c <- c - lr * mean of dL/db over the blocks b of c`, for any optimizer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pruneonce.errors import UserError
from pruneonce.quantization import product
from pruneonce.quantization.codebooks import FILE, Codebook
from pruneonce.quantization.selection import quantizable, tables
from pruneonce.recipe import ProductQuantize
from pruneonce.system import distributed
from pruneonce.training.sparsifier import LockedZeros

Group = dict[str, Tensor]  # parameters by their name in the model


def groups_of(model: nn.Module, settings: ProductQuantize) -> dict[str, Group]:
    """The weights to put on codebooks, by group, in the order of quantization; without empty groups.

    The weights are those of the encoder's Linears, its pooler, and the embedding tables, if a codebook makes them
    smaller than fp16 would. A task head keeps its weights.

    Raises:
        UserError: the architecture is not supported, a block size does not fit, or nothing becomes smaller.
    """
    groups: dict[str, Group] = {"feed-forward": {}, "embeddings": {}, "attention": {}}
    for name, linear in quantizable(model, head=False).items():
        is_attention = {"attention", "attn", "pooler"} & set(name.split("."))
        groups["attention" if is_attention else "feed-forward"][f"{name}.weight"] = linear.weight
    groups["embeddings"] = {f"{name}.weight": table.weight for name, table in tables(model).items()}
    for name, weight in [pair for group in groups.values() for pair in group.items()]:
        if weight.shape[1] % settings.block_size:
            raise UserError(
                f"`block_size` {settings.block_size} does not divide the {weight.shape[1]} inputs of {name}"
            )
    smaller = {
        kind: {name: weight for name, weight in group.items() if _is_smaller(weight, settings)}
        for kind, group in groups.items()
    }
    if not any(smaller.values()):
        raise UserError(
            f"no weight becomes smaller with {settings.centroids} centroids of {settings.block_size} weights; "
            "lower `centroids`"
        )
    return {kind: group for kind, group in smaller.items() if group}


def _is_smaller(weight: Tensor, settings: ProductQuantize) -> bool:
    return product.coded_bytes(weight.numel(), settings.centroids, settings.block_size) < 2 * weight.numel()


def describe(model: nn.Module, groups: Mapping[str, Group]) -> str:
    """Describe in a few lines which weights are put on codebooks and which stay fp32."""
    lines = []
    for kind, group in groups.items():
        millions = sum(weight.numel() for weight in group.values()) / 1e6
        lines.append(f"on codebooks: {kind}, {len(group)} weights, {millions:.2f} M")
    chosen = {id(weight) for group in groups.values() for weight in group.values()}
    kept = [
        name.removesuffix(".weight")
        for name, weight in model.named_parameters()
        if weight.dim() > 1 and id(weight) not in chosen
    ]
    return "\n".join([*lines, f"kept fp32: {', '.join([*kept, 'norms', 'biases'])}"])


@dataclass
class Tied:
    """Weight whose blocks are tied to the centroids of a codebook.

    Attributes:
        weight: the parameter.
        codes: int64 [n], the number of each block's centroid.
        centroids: float32 [k, b].
        kept: bool [n, b], False at masked weights; None: no weight is masked.
    """

    weight: Tensor
    codes: Tensor
    centroids: Tensor
    kept: Tensor | None

    def __post_init__(self) -> None:
        self.counts = product.block_counts(self.kept, self.codes, len(self.centroids))

    def means(self, numbers: Tensor) -> Tensor:
        """Mean over the blocks of each centroid of numbers shaped like the weight, which are 0 at masked weights."""
        blocks = numbers.reshape(-1, self.centroids.shape[1])
        return product.block_sums(blocks, self.codes, len(self.centroids)) / self.counts

    def spread(self, numbers: Tensor) -> Tensor:
        """Spread numbers of each centroid over its blocks, shaped like the weight."""
        return product.decode(self.codes, numbers, self.kept).view_as(self.weight)

    def average_gradient(self) -> None:
        """Replace the gradient of each block by the mean over the blocks of its centroid."""
        if self.weight.grad is not None:
            self.weight.grad.copy_(self.spread(self.means(self.weight.grad)))

    def follow(self) -> None:
        """Move the centroids by the mean step of their blocks, after an optimizer step, and the blocks with them.

        Equal gradients make equal steps, but at first an optimizer's moments are still those of untied blocks.
        """
        self.centroids += self.means(self.weight - self.spread(self.centroids))
        self.weight.copy_(self.spread(self.centroids))

    def codebook(self) -> Codebook:
        """Make the codebook to store, and set the weight to its decoded values, in place."""
        book = Codebook(
            self.codes.view(len(self.weight), -1).to(torch.uint8).cpu(),
            self.centroids.half().cpu(),
            None if self.kept is None else self.kept.view_as(self.weight).cpu(),
        )
        self.weight.copy_(book.weight())
        return book


class OnCodebooks(LockedZeros):
    """Fixed masks, and weights that are put on codebooks group by group.

    Args:
        weights: prunable parameters by name; their zeros stay zero.
        groups: weights to put on codebooks, see `groups_of`.
        settings: the stage's settings.
        steps: of the run; after each group, the remaining weights adapt for an equal share of the steps.
        seed: of k-means.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        groups: Mapping[str, Group],
        settings: ProductQuantize,
        steps: int,
        seed: int,
    ):
        super().__init__(weights)
        if steps < len(groups):
            raise UserError(
                f"{len(groups)} groups of weights are quantized in turn: `steps` has to be as many at least"
            )
        self.starts = {kind: index * steps // len(groups) for index, kind in enumerate(groups)}
        self.groups = groups
        self.names = [name for group in groups.values() for name in group]
        self.settings = settings
        self.seed = seed
        self.tied: dict[str, Tied] = {}

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        for kind, start in self.starts.items():
            if step == start:
                self.tied |= {name: self._tie(name, weight) for name, weight in self.groups[kind].items()}

    def _tie(self, name: str, weight: Tensor) -> Tied:
        kept, blocks = self._kept(weight), weight.detach().reshape(-1, self.settings.block_size)
        generator = torch.Generator().manual_seed(self.seed + self.names.index(name))
        codes, centroids = product.learn(blocks, kept, self.settings.centroids, generator, self.settings.iterations)
        if distributed.world() > 1:
            digest = hashlib.sha256(codes.cpu().numpy().tobytes()).hexdigest()
            distributed.must_agree(digest, f"the codes of {name}")
        tied = Tied(weight, codes, centroids, kept)
        weight.copy_(tied.spread(centroids))
        return tied

    def _kept(self, weight: Tensor) -> Tensor | None:
        """The mask in blocks; None for a weight without pruned weights."""
        for name, pruned in self.pruned.items():
            if self.weights[name] is weight and pruned.any():
                return ~pruned.view(-1, self.settings.block_size)
        return None

    @torch.no_grad()
    def mask_gradients(self) -> None:
        super().mask_gradients()
        for tied in self.tied.values():
            tied.average_gradient()

    @torch.no_grad()
    def apply(self) -> None:
        super().apply()
        for tied in self.tied.values():
            tied.follow()

    @torch.no_grad()
    def codebooks(self) -> dict[str, Codebook]:
        """Make the codebooks of all tied weights, and set the weights to their decoded values, in place."""
        return {name: tied.codebook() for name, tied in self.tied.items()}

    def save(self, folder: Path) -> None:
        super().save(folder)
        codes = {f"{name}.codes": tied.codes.to(torch.uint8) for name, tied in self.tied.items()}
        centroids = {f"{name}.centroids": tied.centroids for name, tied in self.tied.items()}
        save_file(codes | centroids, folder / FILE)

    def load(self, folder: Path) -> None:
        super().load(folder)
        tensors = load_file(folder / FILE)
        self.tied = {
            name: Tied(
                weight,
                tensors[f"{name}.codes"].long().to(weight.device),
                tensors[f"{name}.centroids"].to(weight.device),
                self._kept(weight),
            )
            for group in self.groups.values()
            for name, weight in group.items()
            if f"{name}.codes" in tensors
        }
