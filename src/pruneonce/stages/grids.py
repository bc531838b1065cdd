"""Start and end of quantization, which `quantize` and `calibrate` have in common."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pruneonce import quantization
from pruneonce.console import console
from pruneonce.recipe import Quantization
from pruneonce.system import distributed


def start_learning(
    model: nn.Module, settings: Quantization, averaging: float = 1.0
) -> dict[str, quantization.LearningLinear]:
    """Put fake quantization in place of the modules to quantize, and print a line on each sort of them.

    Args:
        model: changed in place.
        settings: the grid.
        averaging: constant of the inputs' moving average.

    Returns:
        The Linears by name, whose inputs have ranges to learn.
    """
    lines = quantization.describe(model, settings).splitlines()
    console.print("\n".join(f"  {line}" for line in lines))
    return quantization.insert(model, settings, averaging)


def put_on_grid(model: nn.Module, folder: Path) -> None:
    """Make the modules plain again, with their weights on the grid, and write the scales into `folder`."""
    fixed = quantization.freeze(model)
    distributed.by_first(lambda: quantization.save(fixed, folder))
    quantization.unwrap(model)
