"""Quant-Noise: training with some of the weights quantized, others in each step."""

from typing import Literal

from pydantic import Field

from pruneonce.plugins.plugin import Options, Plugin


class QuantNoise(Options):
    """Quantize a random part of the weights in each step, so that the model bears quantization of all of them."""

    name: Literal["quant-noise"] = Field("quant-noise", description="Name of the method.")
    probability: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the blocks that a forward pass quantizes. Without it, 0.5 in `quantize`, 0.1 elsewhere.",
    )
    block_size: int | None = Field(
        None,
        ge=1,
        description="Neighbouring inputs that are quantized together. Without it, 1 in `quantize`, 8 elsewhere.",
    )


plugin = Plugin(
    options=QuantNoise,
    code="pruneonce.methods.quant_noise.quant_noise:QuantizationNoise",
    paper="https://arxiv.org/abs/2004.07320",
    stages=frozenset({"prune", "gradual", "finetune", "transfer", "quantize"}),
    example={},
)
