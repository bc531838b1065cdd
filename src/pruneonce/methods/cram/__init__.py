"""CrAM, the compression-aware minimizer."""

from typing import Literal

from pruneonce.methods.plugin import Options, Plugin


class Cram(Options):
    """Trains weights that stay good when they are pruned in one step afterwards; two gradients a step."""

    name: Literal["cram"] = "cram"


plugin = Plugin(
    options=Cram,
    code="pruneonce.methods.cram.cram:CompressionAware",
    paper="https://arxiv.org/abs/2207.14200",
    stages=frozenset({"finetune", "transfer"}),
)
