"""Block-structured pruning by reweighted group lasso."""

from typing import Literal

from pydantic import Field

from pruneonce.plugins.plugin import Options, Plugin


class BlockLasso(Options):
    """Drive whole groups of weights towards zero by a reweighted group lasso, then prune them at once.

    The groups are those of the section's `pattern`. The penalty is on from `start` to `end`, reweighted at every mask
    update; at `end` all of `sparsity` is pruned, and from then on training goes on with these masks.
    """

    name: Literal["block-lasso"] = Field("block-lasso", description="Name of the method.")
    weight: float = Field(
        1e-4, gt=0, description="Weight of the penalty in the loss. Smaller groups, of which there are more, need less."
    )
    epsilon: float = Field(1e-3, gt=0, description="Norm of a group below which reweighting makes no more difference.")


plugin = Plugin(
    options=BlockLasso,
    code="pruneonce.methods.block_lasso.block_lasso:ReweightedLasso",
    paper="https://arxiv.org/abs/2009.08065",
    stages=frozenset({"prune", "gradual"}),
    example={"weight": 1e-4},
)
