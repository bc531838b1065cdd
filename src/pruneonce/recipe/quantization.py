"""Sections of a recipe that put a model on a grid or on codebooks."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pruneonce.config.section import Section
from pruneonce.recipe.sections import Transfer

Granularity = Literal["channel", "tensor", "group"]


class Quantization(Section):
    """The grid: integer weights times a scale and, with 8 bits, uint8 inputs of every quantized layer.

    With 4 bits the inputs stay fp32, which is what engines have kernels for.
    """

    bits: Literal[8, 4] = Field(8, description="Bits of a weight: 8, with uint8 inputs, or 4, with fp32 inputs.")
    granularity: Granularity = Field(
        "channel",
        description="Weights that share a scale: those of an output `channel`, the whole `tensor` as in the paper, or, "
        "with 4 bits and only then, a `group` of inputs.",
    )
    group_size: int = Field(
        64,
        ge=2,
        description="Inputs that share a scale where `granularity` is `group`. An error unless it divides every "
        "layer's number of inputs.",
    )
    head: bool = Field(True, description="Quantize the task head too.")
    embeddings: bool = Field(
        True,
        description="Quantize embedding tables too, with a scale for each row; to 8 bits also where `bits` is 4.",
    )

    @model_validator(mode="after")
    def _engines_have_it(self) -> Quantization:
        if (self.bits == 4) != (self.granularity == "group"):
            raise ValueError(
                "`bits: 4` and `granularity: group` go together; 8 bits have a scale per channel or tensor"
            )
        return self

    @property
    def quantizes_inputs(self) -> bool:
        """Return whether inputs of layers are on a grid too."""
        return self.bits == 8


class Quantize(Transfer, Quantization):
    """Quantization-aware training of a task model with its zeros locked."""

    stage: ClassVar[str | None] = "quantize"
    learning_rate: float = Field(
        1e-5, gt=0, description="Peak learning rate of AdamW; a tenth of the transfer's or less."
    )
    averaging: float = Field(
        0.01, gt=0, le=1, description="Weight of a new batch in the moving average of the inputs' ranges."
    )


class Calibrate(Quantization):
    """Quantization after training: no weight learns, the inputs' ranges are measured on some examples."""

    examples: int = Field(256, ge=1, description="Training examples to measure the inputs' ranges on.")
    batch_size: int = Field(
        32, ge=1, description="Examples in a batch. A range is the mean of the batches' smallest and largest values."
    )


class Int4(Quantize):
    """Quantization-aware training of a task model on a 4-bit grid, with its zeros locked."""

    bits: Literal[8, 4] = Field(4, description="Bits of a weight.")
    granularity: Granularity = Field("group", description="Weights that share a scale: a `group` of inputs.")


class ProductQuantize(Transfer):
    """Iterative product quantization of a task model with its zeros locked: weights in blocks, blocks on codebooks."""

    stage: ClassVar[str | None] = None
    learning_rate: float = Field(
        1e-4, gt=0, description="Peak learning rate of AdamW, for centroids and for weights without a codebook yet."
    )
    centroids: int = Field(
        256, ge=2, le=256, description="Blocks in the codebook of a weight, the block of zeros included."
    )
    block_size: int = Field(
        8,
        ge=2,
        description="Neighbouring inputs that share a code of one byte. An error unless it divides every layer's "
        "number of inputs.",
    )
    iterations: int = Field(20, ge=1, description="Iterations of k-means.")


class Quantizations(Section):
    """Quantized models of each task's sparse model. Each has its own folder, results and packed file."""

    int8: Quantize | None = Field(
        None, description="Model in 8 bits, by training on the grid with the zeros locked. Without it, not made."
    )
    int8_ptq: Calibrate | None = Field(
        None, description="Model in 8 bits after training, by calibration alone; `{}` will do. Without it, not made."
    )
    int4: Int4 | None = Field(
        None,
        description="Model with 4-bit weights, by training on the grid with the zeros locked. Without it, not made.",
    )

    @property
    def calibration(self) -> Calibrate:
        """Return the settings of the dense int8 baseline: those of `int8_ptq`, else the grid of `int8`."""
        if self.int8_ptq:
            return self.int8_ptq
        grid = self.int8.model_dump(include=set(Quantization.model_fields)) if self.int8 else {}
        return Calibrate.model_validate(grid)

    @model_validator(mode="after")
    def _bits_are_those_of_the_name(self) -> Quantizations:
        for name in type(self).model_fields:
            settings = getattr(self, name)
            promised = re.search(r"int(\d)", name)
            if settings and promised and settings.bits != int(promised[1]):
                raise ValueError(f"`{name}` has `bits: {settings.bits}`; that is `int{settings.bits}`")
        return self
