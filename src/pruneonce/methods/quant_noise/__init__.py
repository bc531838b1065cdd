"""Quant-Noise: training with some of the weights quantized, others in each step."""

from typing import Literal

from pydantic import Field

from pruneonce.plugins.plugin import Options, Plugin


class QuantNoise(Options):
    """Quantizes a random part of the weights in each step, so that the model bears quantization of them all."""

    name: Literal["quant-noise"] = "quant-noise"
    probability: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the blocks that a forward pass quantizes; none: 0.5 in the stage quantize, 0.1 elsewhere",
    )
    block_size: int | None = Field(
        None,
        ge=1,
        description="neighbouring inputs that are quantized together; none: 1 in the stage quantize, 8 elsewhere",
    )


plugin = Plugin(
    options=QuantNoise,
    code="pruneonce.methods.quant_noise.quant_noise:QuantizationNoise",
    paper="https://arxiv.org/abs/2004.07320",
    stages=frozenset({"prune", "gradual", "finetune", "transfer", "quantize"}),
    example={},
)
