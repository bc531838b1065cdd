"""What is fuzzed: each reader of pruneonce that is given a file from outside."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
import zstandard
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from benchmarks.reliability import data_files, labels
from benchmarks.reliability.exports import Exports
from benchmarks.reliability.mutations import LINES, lie, mutated, other_settings, other_tensors
from pruneonce import quantization, recipe, storage
from pruneonce.models import load_as_saved, load_encoder
from pruneonce.sparsity import inspect_model
from pruneonce.system import durable
from pruneonce.training import checkpoints

RECIPE = """name: mine
model: some/encoder
corpus: {source: some/text, block_length: 128}
prune: {sparsity: 0.9, steps: 100, learning_rate: 1.0e-4, warmup: 0.1}
teacher: &t {epochs: 3, batch_size: 32, learning_rate: 3.0e-5}
transfer: *t
tasks:
  mood: {train: a.jsonl, dev: b.jsonl, labels: [good, bad]}
"""
RECIPE_VALUES = yaml.safe_load(RECIPE)


class Share(NamedTuple):
    """What a target is called in the table, its percentage of all cases, and how many the test suite runs."""

    title: str
    percent: int
    quick: int


SHARES = {
    "recipe": Share("recipes, and `--set`", 25, 300),
    "packed_bytes": Share("packed files, damaged", 26, 100),
    "packed_lies": Share("packed files, lying: every hash is right", 11, 60),
    "tables": Share("tables of tasks, damaged and odd: rows as Python's own readers give them", 6, 150),
    "conll_files": Share("files of CoNLL, damaged and odd", 2, 60),
    "grids": Share("scales and input ranges of a quantized model", 8, 60),
    "checkpoint_files": Share("checkpoints: each change must be found", 6, 60),
    "model_folder": Share("weights and configuration of a model folder, damaged", 2, 25),
    "model_lies": Share("names, shapes and settings of a model folder: no weight may be new", 5, 120),
    "labels": Share("labels: each the right class by name, or refused", 4, 150),
    "exports_damaged": Share("exports for ONNX Runtime and OpenVINO, damaged", 4, 60),
    "exports_lying": Share("exports, damaged with the hash put right: engines on their own", 1, 25),
}


# Of packed files that are loaded and run by pruneonce-runtime.
RUNTIME_SHARES = {
    "container": Share("bytes of the file, damaged", 20, 100),
    "index": Share("the index, lying: every hash of bytes is right", 20, 100),
    "tensors": Share("shapes, codings, grids and names of tensors", 20, 100),
    "streams": Share("weights, positions of zeros, scales", 20, 100),
    "files": Share("configuration, tokenizer, input ranges", 20, 100),
}


class Targets:
    """What is fuzzed. Each case writes its input into an empty folder, and reads it as a user would."""

    def __init__(self, folder: Path):
        from shared.models import make_model, make_tokenizer

        self.model = make_model(folder / "model", make_tokenizer())
        self.tensors = load_file(self.model / "model.safetensors")
        for number, name in enumerate(self.tensors):  # no two alike, and none like new ones, which are 0 and 1
            self.tensors[name] = self.tensors[name] + np.float32(0.001 * (number + 1))
        tensors = load_file(self.model / "model.safetensors")
        for name, weight in tensors.items():
            if weight.ndim == 2 and "embeddings" not in name:
                weight[np.abs(weight) < np.quantile(np.abs(weight), 0.9)] = 0
        save_file(tensors, self.model / "model.safetensors", metadata={"format": "pt"})
        second = shutil.copytree(self.model, folder / "second")
        storage.pack([self.model, second], folder / "family.pruneonce", "int4")
        self.packed = (folder / "family.pruneonce").read_bytes()
        found = load_file(folder / "family.pruneonce")
        self.index = json.loads(zstandard.decompress(found["index"].tobytes()))
        ends = np.cumsum([0, *self.index["streams"]])
        self.streams = [found["data"].tobytes()[start:end] for start, end in pairwise(ends)]
        (self.int4,) = storage.unpack(folder / "family.pruneonce", folder / "int4", "second")
        names = [name for name, _ in quantization_modules(self.model)]
        durable.write_json(
            {name: {"scale": 0.1, "zero_point": 3} for name in names}, self.int4 / quantization.model.INPUTS
        )
        checkpoints.write(folder / "checkpoints", 5, self._fill)
        self.checkpoint = folder / "checkpoints" / "checkpoint-5"
        self.encoder = load_encoder(self.model)
        exports = Exports(folder / "exports")
        self.exports_damaged, self.exports_lying = exports.damaged, exports.lying

    def tables(self, data: Any, folder: Path) -> None:
        data_files.tables(data, folder)

    def conll_files(self, data: Any, folder: Path) -> None:
        data_files.conll_files(data, folder)

    def _fill(self, folder: Path) -> None:
        for name in ("model.safetensors", "config.json"):
            shutil.copyfile(self.model / name, folder / name)

    def recipe(self, data: Any, folder: Path) -> None:
        how = data.draw(st.sampled_from(["bytes", "lines", "values", "set"]))
        file = folder / "recipe.yaml"
        file.write_text(RECIPE)
        if how == "bytes":
            file.write_bytes(mutated(data, RECIPE.encode()))
        elif how == "lines":
            lines = RECIPE.splitlines()
            for _ in range(data.draw(st.integers(1, 3))):
                lines.insert(data.draw(st.integers(0, len(lines))), data.draw(LINES))
            file.write_text("\n".join(lines))
        elif how == "values":
            file.write_text(json.dumps(lie(data, RECIPE_VALUES)))
        keys = ("prune.steps", "tasks.mood", "tasks.x.train", "corpus", "prune.sparsity.x", "", "=", "name")
        sets = [f"{data.draw(st.sampled_from(keys))}={data.draw(st.text(max_size=12) | LINES)}"]
        recipe.load(str(file), sets if how == "set" else [])

    def labels(self, data: Any, folder: Path) -> None:
        """Names, numbers and orders of labels in data, task and model."""
        labels.read(data, folder)

    def packed_bytes(self, data: Any, folder: Path) -> None:
        (folder / "x.pruneonce").write_bytes(mutated(data, self.packed))
        storage.unpack(folder / "x.pruneonce", folder / "out")

    def packed_lies(self, data: Any, folder: Path) -> None:
        """All hashes are right, and the index says something else; or a stream does."""
        index, streams = self.index, list(self.streams)
        if data.draw(st.booleans()):
            index = lie(data, index)
        else:
            index = copy.deepcopy(index)
            number = data.draw(st.integers(0, len(streams) - 1))
            plain = data.draw(st.binary(max_size=60)) * data.draw(st.sampled_from([1, 1000]))
            streams[number] = zstandard.compress(plain)
            index["streams"][number] = len(streams[number])
        try:
            text = json.dumps(index).encode()
        except (ValueError, UnicodeError):  # lone surrogates
            return
        parts = {"index": zstandard.compress(text), "data": b"".join(streams)}
        metadata = {
            "format": "pruneonce-packed",
            "version": "1",
            "sha256": hashlib.sha256(parts["index"] + parts["data"]).hexdigest(),
        }
        arrays = {name: np.frombuffer(part, np.uint8) for name, part in parts.items()}
        save_file(arrays, folder / "x.pruneonce", metadata=metadata)
        storage.unpack(folder / "x.pruneonce", folder / "out")

    def grids(self, data: Any, folder: Path) -> None:
        """The scales of a quantized model, and those of its inputs."""
        for name in ("quantization.safetensors", quantization.model.INPUTS):
            content = (self.int4 / name).read_bytes()
            if data.draw(st.booleans()):
                broken = name.endswith("json") and data.draw(st.booleans())
                content = json.dumps(lie(data, json.loads(content))).encode() if broken else mutated(data, content)
            (folder / name).write_bytes(content)
        quantization.restore(copy.deepcopy(self.encoder), folder)

    def model_folder(self, data: Any, folder: Path) -> None:
        shutil.copytree(self.model, folder, dirs_exist_ok=True)
        name = data.draw(st.sampled_from(["model.safetensors", "config.json", "config.json"]))
        content = (self.model / name).read_bytes()
        lies = name == "config.json" and data.draw(st.booleans())
        changed = json.dumps(lie(data, json.loads(content))).encode() if lies else mutated(data, content)
        (folder / name).write_bytes(changed)
        load_encoder(folder)

    def model_lies(self, data: Any, folder: Path) -> None:
        """Other names, shapes, numbers or settings; a model that is loaded has all its weights from the file."""
        shutil.copytree(self.model, folder, dirs_exist_ok=True)
        tensors = dict(self.tensors)
        for _ in range(data.draw(st.integers(0, 3))):
            tensors = other_tensors(data, tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((self.model / "config.json").read_text())
        for _ in range(data.draw(st.integers(0, 2))):
            config = other_settings(data, config)
        try:
            (folder / "config.json").write_text(json.dumps(config))
        except UnicodeError:  # lone surrogates
            return
        given = {weight.astype(np.float32).tobytes() for weight in tensors.values()}
        masked = [name.removesuffix("_orig") for name in tensors if name.endswith("_orig")]
        given |= {
            (tensors[f"{name}_orig"] * tensors[f"{name}_mask"]).astype(np.float32).tobytes()
            for name in masked
            if f"{name}_mask" in tensors and tensors[f"{name}_mask"].shape == tensors[f"{name}_orig"].shape
        }
        for load in (load_encoder, load_as_saved):
            model = load(folder)
            strange = [name for name, weight in model.state_dict().items() if weight.numpy().tobytes() not in given]
            assert not strange, f"{load.__name__} made up {strange}"
        inspect_model(folder)

    def checkpoint_files(self, data: Any, folder: Path) -> None:
        """Every change of a checkpoint is found."""
        shutil.copytree(self.checkpoint, folder / "checkpoint-5")
        name = data.draw(st.sampled_from(sorted(file.name for file in self.checkpoint.iterdir())))
        content = (self.checkpoint / name).read_bytes()
        changed = mutated(data, content)
        (folder / "checkpoint-5" / name).write_bytes(changed)
        same = changed == content
        if name == checkpoints.HASHES:
            try:
                same = json.loads(changed) == json.loads(content)
            except ValueError:
                same = False
        assert (checkpoints.damage(folder / "checkpoint-5") is None) == same


def quantization_modules(model: Path) -> Any:
    encoder = load_encoder(model)
    return [(name, module) for name, module in encoder.named_modules() if isinstance(module, torch.nn.Linear)]
