"""Bounds of models, as docs/threat-model.md has them: small files cannot ask for much memory."""

import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from safetensors.torch import load_file, save_file
from shared.models import make_model

import pruneonce
from pruneonce import UserError, storage
from pruneonce.models import load_as_saved, load_encoder
from pruneonce.models.source import MOST_LABELS
from pruneonce.quantization import codebooks
from pruneonce.sparsity import inspect_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")

MIB = 1 << 20
REFUSED = 64 * MIB  # beyond the process that refuses a file of some kB
LOADED = 32 * MIB  # beyond three times a file of 16 bits
UNPACKED = 8  # times the largest tensor, beyond the packed file


def _limited(call, argument, most, answer):
    began = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (began + most, began + most))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        call(argument)
        answer.put("done")
    except UserError as error:
        answer.put(f"refused: {error}")
    except BaseException as error:
        answer.put(f"{type(error).__name__}: {error}")


def within(most, call, argument):
    """What `call` comes to in a process that may ask for `most` bytes more than it began with."""
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    process = context.Process(target=_limited, args=(call, argument, most, answer))
    process.start()
    process.join(60)
    return f"ended with {process.exitcode}" if answer.empty() else answer.get()


def reconfigured(source, folder, **changes):
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


LARGE = {
    "a large table": {"vocab_size": 1 << 20, "hidden_size": 512, "num_attention_heads": 8},
    "large layers": {"intermediate_size": 1 << 20, "num_hidden_layers": 900},
    "both": {"intermediate_size": 1 << 20, "hidden_size": 1 << 20},
    "sinusoids": {"model_type": "distilbert", "sinusoidal_pos_embds": True, "max_position_embeddings": 1 << 20},
}


def test_the_limit_of_memory_is_one(tmp_path):
    assert within(REFUSED, lambda _: bytearray(2 * REFUSED), None).startswith("MemoryError")


@pytest.mark.parametrize("weights", ["one", "all"])
@pytest.mark.parametrize("case", LARGE)
def test_a_large_configuration_beside_a_small_file(case, weights, encoder, tmp_path):
    folder = reconfigured(encoder, tmp_path / "model", **LARGE[case])
    if weights == "one":
        save_file({"x": torch.zeros(400)}, folder / "model.safetensors", metadata={"format": "pt"})
    for read in (load_encoder, load_as_saved, inspect_model, pruneonce.load):
        assert within(REFUSED, read, folder).startswith("refused")


def test_a_large_head_beside_a_small_file(encoder, tmp_path):
    large = {"num_labels": MOST_LABELS, "architectures": ["BertForSequenceClassification"]}
    folder = reconfigured(encoder, tmp_path / "model", **large)
    assert within(2 * REFUSED, load_as_saved, folder).startswith("refused")
    more = reconfigured(encoder, tmp_path / "more", num_labels=MOST_LABELS + 1)
    assert within(REFUSED, load_encoder, more).endswith(f"`num_labels` is {MOST_LABELS + 1}")


def test_a_model_of_16_bits_takes_three_times_its_file(tokenizer, tmp_path):
    """The file, which is mapped, and its tensors as fp32; the file has 18 MB."""
    size = {"hidden_size": 256, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 2}
    file = make_model(tmp_path / "model", tokenizer, **size) / "model.safetensors"
    save_file({name: weight.half() for name, weight in load_file(file).items()}, file, metadata={"format": "pt"})
    assert file.stat().st_size > 16 * MIB
    assert within(3 * file.stat().st_size + LOADED, load_encoder, file.parent) == "done"


def repacked(file, target, change):
    """A packed file with another config.json, all of its hashes right."""
    found = load_file(file)
    index = json.loads(zstandard.decompress(found["index"].numpy().tobytes()))
    data = found["data"].numpy().tobytes()
    (member,) = index["members"].values()
    entry = next(entry for entry in member["files"] if entry["name"] == "config.json")
    start, length = sum(index["streams"][: entry["stream"]]), index["streams"][entry["stream"]]
    config = json.dumps({**json.loads(zstandard.decompress(data[start : start + length])), **change}).encode()
    stream = zstandard.compress(config)
    index["streams"][entry["stream"]], entry["size"] = len(stream), len(config)
    parts = {
        "index": zstandard.compress(json.dumps(index).encode()),
        "data": data[:start] + stream + data[start + length :],
    }
    digest = hashlib.sha256(parts["index"] + parts["data"]).hexdigest()
    arrays = {name: torch.from_numpy(np.frombuffer(part, np.uint8).copy()) for name, part in parts.items()}
    save_file(arrays, target, {"format": "pruneonce-packed", "version": "1", "sha256": digest})
    return target


@pytest.mark.parametrize("case", ["a large table", "large layers"])
def test_a_large_configuration_in_a_packed_file(case, encoder, tmp_path):
    storage.pack([encoder], tmp_path / "x.pruneonce")
    file = repacked(tmp_path / "x.pruneonce", tmp_path / "large.pruneonce", LARGE[case])
    assert file.stat().st_size < 100_000
    for read in (pruneonce.load, lambda file: storage.unpack(file, tmp_path / "out")):
        assert within(REFUSED, read, file).startswith("refused")
    assert within(REFUSED, lambda file: storage.unpack(file, tmp_path / "out"), tmp_path / "x.pruneonce") == "done"


def test_codebooks_decode_to_the_models_weights_alone(encoder, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "model")
    name, codes = "encoder.layer.0.attention.self.query.weight", 190_000
    tensors = {
        f"{name}.codes": torch.ones(1, codes, dtype=torch.uint8),
        f"{name}.centroids": torch.zeros(2, 4096).half(),
        f"{name}.mask": torch.from_numpy(np.frombuffer(zstandard.compress(bytes(codes * 512)), np.uint8).copy()),
    }
    save_file(tensors, folder / codebooks.FILE, {**codebooks.FORMAT, "masks": json.dumps({name: "bits"})})
    assert (folder / codebooks.FILE).stat().st_size < 250_000
    assert "has not the shape of the weight in the model" in within(REFUSED, codebooks.load, folder)


def test_unpacking_holds_one_tensor_at_a_time(tokenizer, tmp_path):
    """Two members of 37 MB each; the largest tensor has 2 MiB."""
    size = {"hidden_size": 256, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 2}
    folders = [make_model(tmp_path / name, tokenizer, **size) for name in ("first", "second")]
    for folder in folders:
        tensors = {name: (weight > 0.02).float() for name, weight in load_file(folder / "model.safetensors").items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    file, largest = tmp_path / "family.pruneonce", 2048 * 256 * 4
    storage.pack(folders, file, "fp32")
    stored = file.stat().st_size
    assert (folders[0] / "model.safetensors").stat().st_size > 18 * largest
    most = UNPACKED * largest + 4 * stored
    assert most < 15 * largest
    assert within(most, lambda file: storage.unpack(file, tmp_path / "out"), file) == "done"
    assert len(list((tmp_path / "out").iterdir())) == 2
