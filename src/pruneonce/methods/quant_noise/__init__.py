"""Quant-Noise: training with some of the weights quantized, others in each step."""

from typing import Literal

from pydantic import Field

from pruneonce.methods.plugin import Options, Plugin


class QuantNoise(Options):
    """Quantizes a random part of the weights in each step, so that the model bears quantization of them all."""

    name: Literal["quant-noise"] = "quant-noise"
    probability: float = Field(0.5, ge=0, le=1, description="share of blocks quantized in a step")


plugin = Plugin(
    options=QuantNoise,
    code="pruneonce.methods.quant_noise.quant_noise:QuantizationNoise",
    paper="https://arxiv.org/abs/2004.07320",
    stages=frozenset({"quantize"}),
)
