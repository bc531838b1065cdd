"""CrAM, the compression-aware minimizer."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pruneonce.plugins.plugin import Options, Plugin


class Cram(Options):
    """Trains weights that stay good when they are pruned in one step afterwards; two gradients a step.

    Every step compresses what training pushes the weights to, with a pattern drawn from `patterns` and a sparsity drawn
    from `sparsities`; of one value each, always with that.
    """

    name: Literal["cram"] = "cram"
    rho: float = Field(0.05, ge=0, description="length of the ascent, times the gradient, before compressing")
    plus: bool = Field(
        True, description="CrAM+: add the gradient at the weights as they are, which keeps them good too"
    )
    sparsities: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.5, 0.7, 0.9], min_length=1, description="shares of zeros in every weight, drawn at even odds"
    )
    patterns: list[str] = Field(
        ["unstructured"],
        min_length=1,
        description="patterns drawn at even odds; N:M ones such as 2:4 have the sparsity that is their own",
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
