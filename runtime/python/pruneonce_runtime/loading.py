"""From a packed file to models that are ready to run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from pruneonce_runtime.architectures import build
from pruneonce_runtime.configuration import Configuration
from pruneonce_runtime.errors import PruneonceError
from pruneonce_runtime.file import PackedFile
from pruneonce_runtime.model import Parts
from pruneonce_runtime.native import NativeEngine, instruction_sets
from pruneonce_runtime.reference import ReferenceEngine
from pruneonce_runtime.spec import Engine, Network
from pruneonce_runtime.tasks import AnyModel, kind_of
from pruneonce_runtime.tokenize import Tokenizer

REFERENCE = "reference"


@dataclass(frozen=True)
class Settings:
    """How the models of a file are loaded; see `load`."""

    max_length: int | None
    threads: int
    instructions: str | None
    verify: bool

    def engine(self, network: Network) -> Engine:
        """What runs the network."""
        sets = instruction_sets()
        if self.instructions == REFERENCE or (self.instructions is None and not sets):
            return ReferenceEngine(network)
        if self.instructions is not None and self.instructions not in sets:
            known = ", ".join([*sets, REFERENCE])
            raise PruneonceError(f"no kernels for {self.instructions!r} here; there are {known}")
        return NativeEngine(network, self.instructions or "", self.threads)


class Family(Mapping[str, AnyModel]):
    """The models of a file by name; each is loaded when it is first asked for.

    Their common zero pattern, their embedding tables if these are equal, and their tokenizer are in memory once.
    """

    def __init__(self, packed: PackedFile, settings: Settings) -> None:
        self._packed = packed
        self._settings = settings
        self._models: dict[str, AnyModel] = {}
        self._lock = Lock()

    def __getitem__(self, name: str) -> AnyModel:
        if name not in self._packed.members:
            raise KeyError(name)
        with self._lock:
            if name not in self._models:
                self._models[name] = _load(self._packed, name, self._settings)
            return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed.members)

    def __len__(self) -> int:
        return len(self._packed.members)


def load(
    path: str | Path,
    member: str | None = None,
    *,
    max_length: int | None = None,
    threads: int = 1,
    instructions: str | None = None,
    verify: bool = True,
) -> AnyModel | Family:
    """The model of a packed file; of a file with several and without `member`, all of them.

    Args:
        member: which model of a family.
        max_length: tokens that texts are cut to; None: what the tokenizer and the positions allow, of an embedding
            model `max_seq_length`, of one that answers questions 384. A file does not record the value of training.
        threads: of one call. Several calls may run at a time, whatever this is.
        instructions: the instruction set of the kernels, one of `instruction_sets()`, or "reference" for plain numpy;
            None: the fastest of this processor, and plain numpy where no kernels were built.
        verify: compare the unpacked weights with their hash. The bytes of the file are compared with theirs in any
            case; this takes about as long as loading.

    Raises:
        PruneonceError: there is no such file or member, it is damaged, or it is of a kind that cannot be run.
    """
    if threads < 1:
        raise PruneonceError(f"threads: {threads}; 1 is the least")
    settings = Settings(max_length, threads, instructions, verify)
    packed = PackedFile(path)
    if member is None and len(packed.members) > 1:
        return Family(packed, settings)
    return _load(packed, packed.member(member).name, settings)


def _load(packed: PackedFile, name: str, settings: Settings) -> AnyModel:
    member = packed.member(name)
    config = Configuration(member)
    kind = kind_of(config)
    network = build(member, config)
    if settings.verify:
        member.verify()
    tokenizer = Tokenizer(member, network)
    return kind(Parts(member, config, network, settings.engine(network), tokenizer, settings.max_length))
