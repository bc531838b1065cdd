"""From a packed file to models that are ready to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Lock

from pruneonce_runtime.architectures import build
from pruneonce_runtime.configuration import Configuration
from pruneonce_runtime.file import PackedFile
from pruneonce_runtime.model import Parts
from pruneonce_runtime.reference import ReferenceEngine
from pruneonce_runtime.spec import Engine, Network
from pruneonce_runtime.tasks import AnyModel, kind_of
from pruneonce_runtime.tokenize import Tokenizer

MakeEngine = Callable[[Network], Engine]


class Family(Mapping[str, AnyModel]):
    """The models of a file by name; each is loaded when it is first asked for.

    Their common zero pattern, their embedding tables if these are equal, and their tokenizer are in memory once.
    """

    def __init__(self, packed: PackedFile, max_length: int | None, make_engine: MakeEngine, verify: bool) -> None:
        self._packed = packed
        self._settings = (max_length, make_engine, verify)
        self._models: dict[str, AnyModel] = {}
        self._lock = Lock()

    def __getitem__(self, name: str) -> AnyModel:
        if name not in self._packed.members:
            raise KeyError(name)
        with self._lock:
            if name not in self._models:
                self._models[name] = _load(self._packed, name, *self._settings)
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
    make_engine: MakeEngine = ReferenceEngine,
    verify: bool = True,
) -> AnyModel | Family:
    """The model of a packed file; of a file with several and without `member`, all of them.

    Args:
        member: which model of a family.
        max_length: tokens that texts are cut to; None: what the tokenizer and the positions allow, of an embedding
            model `max_seq_length`, of one that answers questions 384. A file does not record the value of training.
        make_engine: makes what runs a network.
        verify: compare the unpacked weights with their hash. The bytes of the file are compared with theirs in any
            case; this takes about as long as loading.

    Raises:
        PruneonceError: there is no such file or member, it is damaged, or it is of a kind that cannot be run.
    """
    packed = PackedFile(path)
    if member is None and len(packed.members) > 1:
        return Family(packed, max_length, make_engine, verify)
    return _load(packed, packed.member(member).name, max_length, make_engine, verify)


def _load(packed: PackedFile, name: str, max_length: int | None, make_engine: MakeEngine, verify: bool) -> AnyModel:
    member = packed.member(name)
    config = Configuration(member)
    kind = kind_of(config)
    network = build(member, config)
    if verify:
        member.verify()
    tokenizer = Tokenizer(member, network)
    return kind(Parts(member, config, network, make_engine(network), tokenizer, max_length))
