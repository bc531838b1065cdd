"""oBERT, the Optimal BERT Surgeon: second-order pruning with an update of the weights that stay."""

from typing import Literal

from pydantic import Field

from pruneonce.plugins.plugin import Options, Plugin


class Obert(Options):
    """Prune by the block-diagonal empirical Fisher information, and let the kept weights make up for the pruned."""

    name: Literal["obert"] = Field("obert", description="Name of the method.")
    gradients: int = Field(
        1024, ge=0, description="Batches whose gradients are taken at each mask update; with 0, magnitude decides."
    )
    block_size: int = Field(50, ge=1, le=1024, description="Consecutive weights whose interaction counts.")
    damping: float = Field(1e-7, gt=0, description="Number added to the diagonal; a large one gives magnitude pruning.")
    update: Literal["summed", "joint"] = Field(
        "summed",
        description="Update of the kept weights: `summed` over the pruned weights, each by itself, or `joint` for all "
        "pruned weights of a block.",
    )
    memory: float = Field(
        5.5, gt=0, description="GiB for inverse matrices. Where they need more, weights are done in several passes."
    )


plugin = Plugin(
    options=Obert,
    code="pruneonce.methods.obert.obert:OptimalSurgeon",
    paper="https://arxiv.org/abs/2203.07259",
    stages=frozenset({"prune", "gradual", "one-shot"}),
    example={"gradients": 16, "block_size": 50},
)
