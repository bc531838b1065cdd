"""The native engine: the kernels in C++, where they were built."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pruneonce_runtime.spec import Floats, Int32s, Linear, Network, check_batch

kernels: Any
try:
    kernels = import_module("pruneonce_runtime._native")
except ImportError:  # installed without a compiler: the reference engine runs everything
    kernels = None


def instruction_sets() -> list[str]:
    """Names of the instruction sets that there are kernels for on this processor; the first is taken.

    `avx512bf16`, which is asked for by its name alone, is `avx512vbmi` with attention in bfloat16 where a network
    quantizes its inputs.
    """
    return [] if kernels is None else list(kernels.instruction_sets())


def peak(instructions: str = "") -> float:
    """Products of two integers that a core does in a second, and adds up, if it does nothing else."""
    return float(kernels.peak(instructions))


class NativeEngine:
    """See `spec.Engine`.

    Safe to call from several threads, which it does not block: it gives up the interpreter's lock while it runs.

    Args:
        instructions: one of `instruction_sets`; empty: the first.
        threads: of one call, the calling one included.
    """

    def __init__(self, network: Network, instructions: str = "", threads: int = 1) -> None:
        self.network = network
        self._encoder = kernels.Encoder(network.encoder, instructions, threads)
        self._linears: dict[int, Any] = {}

    @property
    def instructions(self) -> str:
        return str(self._encoder.instructions)

    @property
    def threads(self) -> int:
        return int(self._encoder.threads)

    def forward(self, ids: Int32s, offsets: Int32s, types: Int32s | None = None) -> Floats:
        """The last hidden states of a ragged batch, [total, hidden].

        Raises:
            PruneonceError: the arrays are no batch of this network.
        """
        check_batch(self.network.encoder, ids, offsets, types)
        hidden: Floats = self._encoder.forward(ids, offsets, types)
        return hidden

    def seconds(self, ids: Int32s, offsets: Int32s, types: Int32s | None = None) -> dict[str, float]:
        """The time of a call's operations, on one thread; products include what is fused into them.

        Raises:
            PruneonceError: the arrays are no batch of this network.
        """
        check_batch(self.network.encoder, ids, offsets, types)
        return dict(self._encoder.seconds(ids, offsets, types))

    def linear(self, linear: Linear, x: Floats) -> Floats:
        """x [rows, in] to [rows, out]."""
        if id(linear) not in self._linears:
            self._linears[id(linear)] = (kernels.Linear(linear, self.instructions), linear)  # kept, so that its id is
        y: Floats = self._linears[id(linear)][0](x)
        return y

    def choices(self) -> list[dict[str, Any]]:
        """The kernel of each matrix, in the order of the layers.

        `kernel` takes calls of more tokens than a vector of the processor holds, `short` the others. `kept` is the
        share of weights that are not 0, `work` and `short_work` are the shares of products that the two kernels do.
        """
        names = ("kernel", "short", "outputs", "inputs", "kept", "work", "short_work")
        return [dict(zip(names, choice, strict=True)) for choice in self._encoder.choices()]
