"""What the engines have in common."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruneonce.errors import UserError

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

        Raises:
            UserError: the model takes an input that is not in the batch, or the engine fails.
        """
        if lacking := [name for name in self.inputs if name not in batch]:
            raise UserError(f"the model in {self.name} takes `{lacking[0]}`, which its tokenizer does not give")
        return self.run({name: _as_array(batch[name]) for name in self.inputs})


@contextmanager
def told_as(what: str) -> Generator[None, None, None]:
    """Turns whatever an engine raises into one line: their errors have no common class below this."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{what}: {error}") from error


def _as_array(value: Tensor | Array) -> Array:
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
