"""The sections of a recipe that put a model on a grid or on codebooks."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pruneonce.config.section import Section
from pruneonce.recipe.sections import Transfer

Granularity = Literal["channel", "tensor", "group"]


class Quantization(Section):
    """The grid: integer weights times a scale and, with 8 bits, uint8 inputs of every quantized layer.

    With 4 bits the inputs stay fp32, which is what engines have kernels for.
    """

    bits: Literal[8, 4] = Field(8, description="bits of a weight")
    granularity: Granularity = Field(
        "channel", description="a scale for each output channel, for the whole weight, or for a group of inputs"
    )
    group_size: int = Field(64, ge=2, description="inputs that share a scale when granularity is group")
    head: bool = Field(True, description="quantize the task head too")
    embeddings: bool = Field(True, description="embedding tables in int8 too, a scale for each row")

    @model_validator(mode="after")
    def _engines_have_it(self) -> Quantization:
        if (self.bits == 4) != (self.granularity == "group"):
            raise ValueError(
                "`bits: 4` and `granularity: group` go together; 8 bits have a scale per channel or tensor"
            )
        return self

    @property
    def quantizes_inputs(self) -> bool:
        return self.bits == 8


class Quantize(Transfer, Quantization):
    """Quantization-aware training of a task model with its zeros locked."""

    stage: ClassVar[str | None] = "quantize"
    learning_rate: float = Field(1e-5, gt=0)
    averaging: float = Field(0.01, gt=0, le=1, description="constant of the moving average of the inputs' ranges")


class Calibrate(Quantization):
    """Quantization after training: no weight learns, the inputs' ranges are read off some examples."""

    examples: int = Field(256, ge=1, description="training examples to read the ranges off")
    batch_size: int = Field(32, ge=1)


class Int4(Quantize):
    """As `Quantize`, with the 4-bit grid as default."""

    bits: Literal[8, 4] = 4
    granularity: Granularity = "group"


class ProductQuantize(Transfer):
    """Iterative product quantization of a task model with its zeros locked: weights in blocks, blocks on codebooks."""

    stage: ClassVar[str | None] = None
    learning_rate: float = Field(1e-4, gt=0)
    centroids: int = Field(256, ge=2, le=256, description="blocks that a weight can have, the zero block among them")
    block_size: int = Field(8, ge=2, description="neighbouring inputs that have one code, of a byte")
    iterations: int = Field(20, ge=1, description="of k-means")


class Quantizations(Section):
    """The quantized models to make of the sparse model of each task; every one is an arm of the task."""

    int8: Quantize | None = Field(None, description="8 bits, by training on the grid with the zeros locked")
    int8_ptq: Calibrate | None = Field(None, description="8 bits after training, by calibration alone")
    int4: Int4 | None = Field(None, description="4-bit weights, by training on the grid")

    @model_validator(mode="after")
    def _bits_are_those_of_the_name(self) -> Quantizations:
        for name in type(self).model_fields:
            settings = getattr(self, name)
            if settings and settings.bits != int(name[3]):
                raise ValueError(f"`{name}` has `bits: {settings.bits}`; that is `int{settings.bits}`")
        return self
