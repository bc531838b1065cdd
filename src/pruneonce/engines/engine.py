"""What the engines have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
Outputs = dict[str, Array]


@dataclass(frozen=True)
class Engine:
    """A model in an engine. Calling it on a batch gives all outputs of the model, by name.

    Attributes:
        name: `torch`, `onnxruntime` or `openvino`.
        inputs: names of the inputs that it takes; others in a batch are ignored.
        precision: what it calculates in where nothing is quantized: `fp32`, `bf16` or `fp16`.
        threads: of the processor.
    """

    name: str
    inputs: list[str]
    precision: str
    threads: int
    run: Callable[[dict[str, Array]], Outputs]

    def __call__(self, batch: Mapping[str, Tensor | Array]) -> Outputs:
        """
        Args:
            batch: [sequences, tokens] integers for each of `inputs`.

        Returns:
            Outputs by name, such as `logits` [sequences, classes].
        """
        return self.run({name: _as_array(batch[name]) for name in self.inputs})


def _as_array(value: Tensor | Array) -> Array:
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
