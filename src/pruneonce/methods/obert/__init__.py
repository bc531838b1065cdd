"""oBERT, the Optimal BERT Surgeon: second-order pruning with an update of the weights that stay."""

from typing import Literal

from pydantic import Field

from pruneonce.plugins.plugin import Options, Plugin


class Obert(Options):
    """Prunes by the block-diagonal empirical Fisher information and lets the other weights make up for what goes."""

    name: Literal["obert"] = "obert"
    gradients: int = Field(1024, ge=0, description="batches to take gradients of at each mask update; 0: magnitude")
    block_size: int = Field(50, ge=1, le=1024, description="consecutive weights whose interaction counts")
    damping: float = Field(1e-7, gt=0, description="added to the diagonal; too much of it is magnitude pruning")
    update: Literal["summed", "joint"] = Field(
        "summed", description="of the weights that stay: for each pruned one by itself, or for all of a block together"
    )
    memory: float = Field(5.5, gt=0, description="GiB for inverses; what does not fit is done in several passes")


plugin = Plugin(
    options=Obert,
    code="pruneonce.methods.obert.obert:OptimalSurgeon",
    paper="https://arxiv.org/abs/2203.07259",
    stages=frozenset({"prune", "gradual", "one-shot"}),
    example={"gradients": 16, "block_size": 50},
)
