"""Model that is open in an engine, called in the same way whichever engine it is."""

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
class Session:
    """Model that is open in an engine. Calling it on a batch gives all outputs of the model, by name.

    Attributes:
        name: of the engine.
        inputs: names of the inputs that it takes; others in a batch are ignored.
        precision: of calculation where nothing is quantized: `fp32`, `bf16` or `fp16`.
        threads: of the processor.
    """

    name: str
    inputs: list[str]
    precision: str
    threads: int
    run: Callable[[dict[str, Array]], Outputs]

    def __call__(self, batch: Mapping[str, Tensor | Array]) -> Outputs:
        """Run the model on a batch.

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
def in_one_line(failure: str) -> Generator[None, None, None]:
    """Turn any error of an engine into one line that begins with `failure`: engines' errors share no class."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{failure}: {error}") from error


def _as_array(value: Tensor | Array) -> Array:
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
