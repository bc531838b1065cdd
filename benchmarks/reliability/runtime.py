"""Packed files as targets of pruneonce-runtime: what its loader lets through, its native code runs."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from benchmarks.reliability.mutations import lie, mutated, other_settings
from pruneonce import storage
from pruneonce.errors import UserError

TEXT = "a great river the city awful winter of people"
FORMAT = {"format": "pruneonce-packed", "version": "1"}
NUMBERS = (0, 1, 2, 7, 16, 31, 32, 33, 53, 54, 64, 128, 1024, 2**20, 2**30, -1, 0.5, None)


class Source(NamedTuple):
    """A well-made packed file, taken apart."""

    content: bytes
    index: Any
    streams: list[bytes]


class Runtime:
    """Each case writes a packed file into an empty folder, loads it and calls the model once."""

    def __init__(self, folder: Path):
        import pruneonce_runtime
        from shared.exports import task_model
        from shared.models import make_tokenizer
        from transformers import AutoModel, AutoModelForQuestionAnswering, AutoModelForSequenceClassification
        from transformers import AutoModelForTokenClassification as ForTokens

        self.runtime = pruneonce_runtime
        self.instructions = [None, *pruneonce_runtime.instruction_sets(), "reference"]
        kinds = {
            "classes": ("bert", "int8", AutoModelForSequenceClassification),
            "words": ("modernbert", "int8-tensor", ForTokens),
            "answers": ("roberta", "fp32", AutoModelForQuestionAnswering),
            "vectors": ("mpnet", "int8", AutoModel),
        }
        files = []
        for name, (architecture, grid, auto) in kinds.items():
            model = task_model(folder / name, architecture, make_tokenizer(), grid, auto)
            files.append(folder / f"{name}.pruneonce")
            storage.pack([model], files[-1], "int8")
        family = [folder / "classes", shutil.copytree(folder / "classes", folder / "second")]
        files.append(folder / "family.pruneonce")
        storage.pack(family, files[-1], "int4")
        self.sources = [_source(file) for file in files]

    def container(self, data: Any, folder: Path) -> None:
        """The file's bytes, changed by accident: header, index and data."""
        source = data.draw(st.sampled_from(self.sources))
        content = mutated(data, source.content)
        (folder / "x.pruneonce").write_bytes(content)
        self._use(data, folder)

    def index(self, data: Any, folder: Path) -> None:
        """A lie in the index, all hashes of bytes put right."""
        source = data.draw(st.sampled_from(self.sources))
        self._write(data, folder, lie(data, source.index), source.streams)

    def tensors(self, data: Any, folder: Path) -> None:
        """Shapes, codings, grids and streams of tensors that contradict each other, one another's, or are missing."""
        source = data.draw(st.sampled_from(self.sources))
        index = copy.deepcopy(source.index)
        for _ in range(data.draw(st.integers(1, 3))):
            tensors = data.draw(st.sampled_from(sorted(index["members"])).map(lambda name: index["members"][name]))
            _other_tensor(data, tensors["tensors"], len(index["streams"]))
        self._write(data, folder, index, source.streams)

    def streams(self, data: Any, folder: Path) -> None:
        """Other bytes in the place of weights, positions, scales and files: of the right size, or of another."""
        source = data.draw(st.sampled_from(self.sources))
        index, streams = copy.deepcopy(source.index), list(source.streams)
        for _ in range(data.draw(st.integers(1, 3))):
            number = data.draw(st.integers(0, len(streams) - 1))
            streams[number] = _other_stream(data, source.streams[number])
        index["streams"] = [len(stream) for stream in streams]
        self._write(data, folder, index, streams)

    def files(self, data: Any, folder: Path) -> None:
        """Lies in configuration, tokenizer, ranges of inputs and the settings of an embedding model."""
        source = data.draw(st.sampled_from(self.sources))
        index, streams = copy.deepcopy(source.index), list(source.streams)
        member = index["members"][data.draw(st.sampled_from(sorted(index["members"])))]
        entry = data.draw(st.sampled_from([file for file in member["files"] if file["name"].endswith(".json")]))
        content = zstandard.decompress(streams[entry["stream"]])
        if data.draw(st.integers(0, 7)) == 0:
            content = mutated(data, content)
        else:
            values = json.loads(content)
            for _ in range(data.draw(st.integers(1, 2))):
                is_config = entry["name"] == "config.json"
                values = other_settings(data, values) if is_config else lie(data, values) if values else values
            try:
                content = json.dumps(values).encode()
            except (ValueError, UnicodeError):  # lone surrogates
                return
        entry["size"], entry["stream"] = len(content), len(streams)
        streams.append(zstandard.compress(content))
        index["streams"] = [len(stream) for stream in streams]
        self._write(data, folder, index, streams)

    def _write(self, data: Any, folder: Path, index: Any, streams: list[bytes]) -> None:
        try:
            text = json.dumps(index).encode()
        except (ValueError, UnicodeError):  # lone surrogates
            return
        parts = {"index": zstandard.compress(text), "data": b"".join(streams)}
        digest = hashlib.sha256(parts["index"] + parts["data"]).hexdigest()
        arrays = {name: np.frombuffer(part, np.uint8) for name, part in parts.items()}
        save_file(arrays, folder / "x.pruneonce", metadata={**FORMAT, "sha256": digest})
        self._use(data, folder)

    def _use(self, data: Any, folder: Path) -> None:
        """Load the file and run every model in it; without `verify`, as its author can put that hash right, too."""
        instructions = data.draw(st.sampled_from(self.instructions))
        verify = data.draw(st.integers(0, 3)) == 0
        threads = data.draw(st.sampled_from([1, 1, 1, 2]))
        with _as_user_error(self.runtime.PruneonceError):
            loaded = self.runtime.load(
                folder / "x.pruneonce", instructions=instructions, verify=verify, threads=threads
            )
            for model in loaded.values() if isinstance(loaded, self.runtime.Family) else [loaded]:
                _call(model)


@contextmanager
def _as_user_error(error: type[Exception]) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    except error as refused:
        raise UserError(str(refused)) from None


def _call(model: Any) -> None:
    if model.task == "embedding":
        vectors = model.encode([TEXT, "a"])
        assert vectors.ndim == 2, vectors.shape
        assert len(vectors) == 2
    elif model.task == "question-answering":
        assert model("a river", TEXT) is not None
    else:
        assert len(model([TEXT, "a"])) == 2


def _source(file: Path) -> Source:
    found = load_file(file)
    index = json.loads(zstandard.decompress(found["index"].tobytes()))
    ends = np.cumsum([0, *index["streams"]])
    return Source(file.read_bytes(), index, [found["data"].tobytes()[start:end] for start, end in pairwise(ends)])


def _other_tensor(data: Any, tensors: list[Any], streams: int) -> None:
    """Change one tensor of a member in place."""
    entry = data.draw(st.sampled_from(tensors))
    other = data.draw(st.sampled_from(tensors))
    stream = st.integers(0, streams - 1)
    how = data.draw(st.sampled_from(["shape", "dtype", "values", "pattern", "grid", "swap", "out", "name"]))
    if how == "shape":
        place = data.draw(st.integers(0, len(entry["shape"])))
        size = data.draw(st.sampled_from(NUMBERS))
        if place == len(entry["shape"]):
            entry["shape"] = data.draw(st.sampled_from([other["shape"], entry["shape"][::-1], [*entry["shape"], 1]]))
        else:
            entry["shape"][place] = size
    elif how == "dtype":
        entry["dtype"] = data.draw(st.sampled_from(["F64", "F32", "F16", "I64", "I8", "U8", "BOOL"]))
    elif how == "values":
        coding = data.draw(st.sampled_from(["bytes", "nibbles", "planes", "gaps", "bits"]))
        entry["values"] = {"stream": data.draw(stream), "coding": coding}
    elif how == "pattern":
        coding = data.draw(st.sampled_from(["gaps", "bits"]))
        entry["pattern"] = data.draw(st.sampled_from([None, {"stream": data.draw(stream), "coding": coding}]))
    elif how == "grid":
        size = data.draw(st.sampled_from([1, *entry["shape"]]))
        shape = data.draw(st.sampled_from([[size], [size, 1], [size, 2], [1], []]))
        grid = {"bits": data.draw(st.integers(2, 8)), "shape": shape, "stream": data.draw(stream)}
        entry["grid"] = data.draw(st.sampled_from([None, grid]))
    elif how == "swap":
        keys = ("dtype", "shape", "values", "pattern", "grid")
        for key in data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=5, unique=True)):
            entry[key], other[key] = copy.deepcopy(other.get(key)), copy.deepcopy(entry.get(key))
    elif how == "name":
        entry["name"], other["name"] = other["name"], entry["name"]
    elif len(tensors) > 1:
        tensors.remove(entry)


def _other_stream(data: Any, stream: bytes) -> bytes:
    """Other content, compressed, or a damaged frame."""
    how = data.draw(st.sampled_from(["bytes", "fill", "floats", "random", "size", "frame"]))
    if how == "frame":
        return mutated(data, stream)
    content = bytearray(zstandard.decompress(stream))
    if how == "size" or not content:
        content = bytearray(data.draw(st.binary(max_size=60)) * data.draw(st.sampled_from([1, 1000])))
    elif how == "bytes":
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    elif how == "fill":
        content[:] = bytes([data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))]) * len(content)
    elif how == "random":
        content[:] = np.random.default_rng(data.draw(st.integers(0, 2**32))).bytes(len(content))
    else:  # floats are stored as four planes of bytes: infinities, NaNs, the smallest and the largest numbers
        value = data.draw(st.sampled_from([np.inf, -np.inf, np.nan, 1e-45, 3.4e38, -3.4e38, 0.0]))
        plane = np.frombuffer(np.float32(value).tobytes(), np.uint8)
        filled = np.repeat(plane, len(content) // 4)
        content[: len(filled)] = filled.tobytes()
    return zstandard.compress(bytes(content))
