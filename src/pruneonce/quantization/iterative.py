"""Iterative product quantization (iPQ) in a training run: groups of weights go onto codebooks one after another, while
the others, and the centroids, train on.

Source: https://arxiv.org/abs/2004.07320, section 3; the order of the groups is that of its section 5. The parameters
stay what they are: blocks with one code have equal values, get the mean of their gradients, and so move together. That
is the paper's `c <- c - lr * mean of dL/db over the blocks b of c`, for any optimizer.
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
    """The weights to put on codebooks, in the order in which it is done; without groups that have none.

    Those are the Linears of the encoder, its pooler, and the embedding tables, as far as a codebook makes them smaller
    than fp16 would. A task head stays as it is.

    Raises:
        UserError: the architecture is not supported, a block size does not fit, or nothing becomes smaller.
    """
    found: dict[str, Group] = {"feed-forward": {}, "embeddings": {}, "attention": {}}
    for name, linear in quantizable(model, head=False).items():
        is_attention = {"attention", "attn", "pooler"} & set(name.split("."))
        found["attention" if is_attention else "feed-forward"][f"{name}.weight"] = linear.weight
    found["embeddings"] = {f"{name}.weight": table.weight for name, table in tables(model).items()}
    for name, weight in [pair for group in found.values() for pair in group.items()]:
        if weight.shape[1] % settings.block_size:
            raise UserError(
                f"`block_size` {settings.block_size} does not divide the {weight.shape[1]} inputs of {name}"
            )
    smaller = {
        kind: {name: weight for name, weight in group.items() if _is_smaller(weight, settings)}
        for kind, group in found.items()
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
    """What goes onto codebooks and what does not, in a few lines."""
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
    """A weight whose blocks are those of a codebook.

    Attributes:
        codes: int64 [n].
        centroids: float32 [k, b].
        kept: bool [n, b]; None: all.
    """

    weight: Tensor
    codes: Tensor
    centroids: Tensor
    kept: Tensor | None

    def __post_init__(self) -> None:
        self.counts = product.block_counts(self.kept, self.codes, len(self.centroids))

    def means(self, numbers: Tensor) -> Tensor:
        """Of numbers for each weight, 0 where it is masked, the mean over the blocks of each centroid."""
        blocks = numbers.reshape(-1, self.centroids.shape[1])
        return product.block_sums(blocks, self.codes, len(self.centroids)) / self.counts

    def spread(self, numbers: Tensor) -> Tensor:
        """Numbers for each centroid, at the weights that have it."""
        return product.decode(self.codes, numbers, self.kept).view_as(self.weight)

    def average_gradient(self) -> None:
        if self.weight.grad is not None:
            self.weight.grad.copy_(self.spread(self.means(self.weight.grad)))

    def follow(self) -> None:
        """After an optimizer step: the centroids move as their blocks did on average, and the blocks with them. Equal
        gradients make equal steps, but for a while an optimizer's moments are still those of untied blocks."""
        self.centroids += self.means(self.weight - self.spread(self.centroids))
        self.weight.copy_(self.spread(self.centroids))

    def codebook(self) -> Codebook:
        """What is stored; the weight becomes what it stands for, in place."""
        made = Codebook(
            self.codes.view(len(self.weight), -1).to(torch.uint8).cpu(),
            self.centroids.half().cpu(),
            None if self.kept is None else self.kept.view_as(self.weight).cpu(),
        )
        self.weight.copy_(made.weight())
        return made


class OnCodebooks(LockedZeros):
    """Masks that stay, and weights that go onto codebooks at their steps.

    Args:
        weights: prunable parameters by name; what is zero in them stays so.
        groups: what goes onto codebooks, see `groups_of`.
        steps: of the run; each group gets an equal share of them for what is not quantized yet to adapt.
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
            found = hashlib.sha256(codes.cpu().numpy().tobytes()).hexdigest()
            distributed.must_agree(found, f"the codes of {name}")
        tied = Tied(weight, codes, centroids, kept)
        weight.copy_(tied.spread(centroids))
        return tied

    def _kept(self, weight: Tensor) -> Tensor | None:
        """The mask in blocks; None where there is none to keep."""
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
        """All weights as they are stored, and put there in place."""
        return {name: tied.codebook() for name, tied in self.tied.items()}

    def save(self, folder: Path) -> None:
        super().save(folder)
        codes = {f"{name}.codes": tied.codes.to(torch.uint8) for name, tied in self.tied.items()}
        centroids = {f"{name}.centroids": tied.centroids for name, tied in self.tied.items()}
        save_file(codes | centroids, folder / FILE)

    def load(self, folder: Path) -> None:
        super().load(folder)
        found = load_file(folder / FILE)
        self.tied = {
            name: Tied(
                weight,
                found[f"{name}.codes"].long().to(weight.device),
                found[f"{name}.centroids"].to(weight.device),
                self._kept(weight),
            )
            for group in self.groups.values()
            for name, weight in group.items()
            if f"{name}.codes" in found
        }
