"""Block-structured pruning by reweighted group lasso."""

from typing import Literal

from pydantic import Field

from pruneonce.plugins.plugin import Options, Plugin


class BlockLasso(Options):
    """Drives whole groups of weights towards zero by a reweighted group lasso, then prunes them at once.

    The groups are those of the section's `pattern`. The penalty is on from `start` to `end`, reweighted at every mask
    update; at `end` all of `sparsity` is pruned, and from then on training goes on with these masks.
    """

    name: Literal["block-lasso"] = "block-lasso"
    weight: float = Field(1e-4, gt=0, description="of the penalty in the loss; less for smaller groups, there are more")
    epsilon: float = Field(1e-3, gt=0, description="a norm below which groups are no longer told apart by reweighting")


plugin = Plugin(
    options=BlockLasso,
    code="pruneonce.methods.block_lasso.block_lasso:ReweightedLasso",
    paper="https://arxiv.org/abs/2009.08065",
    stages=frozenset({"prune", "gradual"}),
    example={"weight": 1e-4},
)
