"""CrAM, the compression-aware minimizer."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pruneonce.plugins.plugin import Options, Plugin


class Cram(Options):
    """Train weights that stay good when they are pruned in one step afterwards; takes two gradients a step.

    Every step pushes the weights up the gradient and compresses them, with a pattern drawn from `patterns` and a
    sparsity drawn from `sparsities`. A single value of each is always used.
    """

    name: Literal["cram"] = Field("cram", description="Name of the method.")
    rho: float = Field(0.05, ge=0, description="Length of the step up the gradient that comes before compressing.")
    plus: bool = Field(
        True, description="CrAM+: add the gradient at the uncompressed weights, which keeps those good too."
    )
    sparsities: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.5, 0.7, 0.9],
        min_length=1,
        description="Shares of zeros in every weight, one of which a step draws at even odds.",
    )
    patterns: list[str] = Field(
        ["unstructured"],
        min_length=1,
        description="Patterns, one of which a step draws at even odds. N:M patterns such as `2:4` fix the sparsity.",
    )

    @field_validator("patterns")
    @classmethod
    def _are_patterns(cls, patterns: list[str]) -> list[str]:
        from pruneonce.config.pattern import Pattern  # later: a recipe's sections need the methods first

        return [Pattern.parse(pattern).name for pattern in patterns]


plugin = Plugin(
    options=Cram,
    code="pruneonce.methods.cram.cram:CompressionAware",
    paper="https://arxiv.org/abs/2207.14200",
    stages=frozenset({"finetune", "transfer", "gradual"}),
    example={"rho": 0.05, "sparsities": [0.5, 0.7, 0.95]},
    passes=2,
)
