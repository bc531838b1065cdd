"""A model for one task: texts in, answers out, in batches of bounded size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from pruneonce_runtime.configuration import Configuration
from pruneonce_runtime.errors import PruneonceError
from pruneonce_runtime.file import Member
from pruneonce_runtime.native import NativeEngine
from pruneonce_runtime.reference import logits
from pruneonce_runtime.spec import Engine, Floats, Int32s, Network
from pruneonce_runtime.tokenize import Tokenizer, Tokens

Result = TypeVar("Result")

WINDOW = 1024  # inputs that are tokenized, sorted by length and run before the next are asked for
MAX_TOKENS = 4096  # of a batch, or one text


@dataclass(frozen=True, eq=False)
class Parts:
    """What every kind of model is made of.

    Attributes:
        max_length: tokens that texts are cut to; None: the kind of model has a default.
    """

    member: Member
    config: Configuration
    network: Network
    engine: Engine
    tokenizer: Tokenizer
    max_length: int | None


class Model(ABC, Generic[Result]):
    """A model of a packed file, ready to run.

    Attributes:
        task: what it is for.
        name: its name in the file.
        labels: names of its outputs; empty where there are none.
        max_length: tokens that texts are cut to.
        provenance: the content of pruneonce.json; empty where there is none.
    """

    task: ClassVar[str]

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.name = parts.member.name
        self.labels: tuple[str, ...] = ()
        self.max_length = self.usual_length() if parts.max_length is None else parts.max_length
        parts.tokenizer.check_length(self.max_length)
        provenance = parts.member.json("pruneonce.json")
        self.provenance: dict[str, Any] = provenance if isinstance(provenance, dict) else {}

    @property
    def network(self) -> Network:
        return self._parts.network

    @property
    def engine(self) -> Engine:
        return self._parts.engine

    @property
    def takes_types(self) -> bool:
        """Whether its tokenizer gives token types, and it takes them."""
        return self._parts.tokenizer.has_types

    def explain(self) -> str:
        """Which kernel does the products of each matrix, as a table; see `native.NativeEngine.choices`."""
        engine = self._parts.engine
        if not isinstance(engine, NativeEngine):
            return "plain numpy, the reference: no kernels"
        threads = f"{engine.threads} thread{'s' * (engine.threads > 1)}"
        lines = [f"{engine.instructions} instructions, {threads}; `short` takes texts of a vector of tokens", ""]
        lines.append(f"{'matrix':>14}  {'kept':>6}  {'kernel':<12}  {'done':>6}  {'short':<12}  {'done':>6}")
        for row in engine.choices():
            kernels = f"{row['kernel']:<12}  {row['work']:>6.1%}  {row['short']:<12}  {row['short_work']:>6.1%}"
            shape = f"{row['outputs']} x {row['inputs']}"
            lines.append(f"{shape:>14}  {row['kept']:>6.1%}  {kernels}")
        return "\n".join(lines)

    def usual_length(self) -> int:
        """`max_length` where none is given."""
        return self._parts.tokenizer.usual_length

    def __call__(self, inputs: Any, second: str | None = None, **options: Any) -> Any:
        """The result for one input, or a list of them for a list.

        Args:
            inputs: a text; a pair of texts as a tuple; or a list of either.
            second: the second text of a single pair.
            options: those of the kind of model.

        Raises:
            PruneonceError: an input is not what this model takes.
        """
        if second is not None:
            inputs = (inputs, second)
        if isinstance(inputs, str | tuple):
            return self.results([inputs], **options)[0]
        return list(self.stream(inputs, **options))

    def stream(self, inputs: Iterable[Any], **options: Any) -> Iterator[Result]:
        """Results for any number of inputs, in their order; at most 1,024 of them are held at a time.

        Within these, texts of like length run together: `MAX_TOKENS` tokens, or one text.
        """
        iterator = iter(inputs)
        while chosen := list(islice(iterator, WINDOW)):
            yield from self.results(chosen, **options)

    @abstractmethod
    def results(self, inputs: list[Any], **options: Any) -> list[Result]:
        """Results for a list of inputs, held in memory together."""

    def outputs(self, hidden: Floats, offsets: Int32s) -> Sequence[Floats]:
        """An array for each text of a batch: logits [labels], or [tokens, labels]."""
        network = self._parts.network
        found = logits(network, self._parts.engine, hidden, offsets)
        if network.head is not None and network.head.pool is not None:
            return list(found)
        return [found[start:end] for start, end in pairwise(offsets)]

    def run(self, texts: Sequence[Tokens]) -> list[Floats]:
        """The output for each tokenized text.

        Raises:
            PruneonceError: an output is infinite or no number, which only damaged weights or scales lead to.
        """
        found: list[Floats] = [np.empty(0, np.float32)] * len(texts)
        for chosen in batches([len(text) for text in texts]):
            batch = [texts[number] for number in chosen]
            offsets = np.array([0, *accumulate(map(len, batch))], np.int32)
            types = np.concatenate([text.types for text in batch if text.types is not None] or [np.empty(0, np.int32)])
            ids = np.concatenate([text.ids for text in batch])
            with np.errstate(all="ignore"):  # such numbers are refused below, whatever engine met them
                hidden = self._parts.engine.forward(ids, offsets, types if types.size else None)
                outputs = self.outputs(hidden, offsets)
            for number, output in zip(chosen, outputs, strict=True):
                if not np.isfinite(output).all():
                    raise PruneonceError(
                        f"{self._parts.member.packed.path} is damaged: {self.name} gives numbers that are not finite"
                    )
                found[number] = output
        return found


def batches(lengths: Sequence[int], most: int = MAX_TOKENS) -> Iterator[list[int]]:
    """Indices of texts that run together, shortest first: at most `most` tokens, or one text."""
    batch: list[int] = []
    tokens = 0
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and tokens + lengths[number] > most:
            yield batch
            batch, tokens = [], 0
        batch.append(number)
        tokens += lengths[number]
    if batch:
        yield batch
