"""A packed file that is cut, changed, or made to do harm gives a UserError: no crash, little memory, no stray file."""

import copy
import hashlib
import json
import shutil
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from shared.models import make_model

from pruneonce import storage
from pruneonce.errors import UserError

MEMORY = 40 << 20  # bytes; a few tiny models, and transformers building their outlines
FORMAT = {"format": "pruneonce-packed", "version": "1"}


def fuzz(cases):
    return settings(
        max_examples=cases,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture(scope="module")
def packed(tmp_path_factory, tokenizer):
    """A family of two: with shared streams, zero patterns, and 4-bit values."""
    folder = tmp_path_factory.mktemp("hostile")
    first = make_model(folder / "first", tokenizer)
    tensors = load_file(first / "model.safetensors")
    for name, weight in tensors.items():
        if weight.ndim == 2 and "embeddings" not in name:
            weight[np.abs(weight) < np.quantile(np.abs(weight), 0.9)] = 0
    save_file(tensors, first / "model.safetensors", metadata={"format": "pt"})
    second = shutil.copytree(first, folder / "second")
    name = "encoder.layer.0.output.dense.weight"
    save_file({**tensors, name: tensors[name] * 2}, second / "model.safetensors", metadata={"format": "pt"})
    storage.pack([first, second], folder / "family.pruneonce", "int4")
    return folder / "family.pruneonce"


@pytest.fixture(scope="module")
def parts(packed):
    """The index as JSON and the streams, taken apart without our code."""
    found = load_file(packed)
    index = json.loads(zstandard.decompress(found["index"].tobytes()))
    ends = np.cumsum([0, *index["streams"]])
    data = found["data"].tobytes()
    return index, [data[start:end] for start, end in pairwise(ends)]


@pytest.fixture
def place(tmp_path):
    """A folder inside a folder, both empty: what gets out of the one is seen in the other."""
    (tmp_path / "deep").mkdir()
    return tmp_path / "deep"


def write(index, streams, file, metadata=FORMAT):
    """A file that is well made whatever it says."""
    found = {"index": zstandard.compress(json.dumps(index).encode()), "data": b"".join(streams)}
    digest = hashlib.sha256(found["index"] + found["data"]).hexdigest()
    arrays = {name: np.frombuffer(part, np.uint8) for name, part in found.items()}
    save_file(arrays, file, metadata={"sha256": digest, **metadata})
    return file


def refused(file, match=None):
    """Unpacking fails as it should, in little memory, and leaves nothing."""
    target = file.parent / "out"
    before = sorted(file.parent.parent.rglob("*"))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=match) as caught:
            storage.unpack(file, target)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value).strip()
    assert sorted(file.parent.parent.rglob("*")) == before


def survived(file):
    """Unpacking gives a model or a UserError, in little memory."""
    target = file.parent / "out"
    tracemalloc.start()
    try:
        storage.unpack(file, target)
    except UserError:
        assert not target.exists()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        shutil.rmtree(target, ignore_errors=True)
    assert peak < MEMORY
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name]


def test_the_file_taken_apart_and_put_together_is_whole(parts, place):
    index, streams = parts
    assert len(storage.unpack(write(index, streams, place / "x.pruneonce"), place / "out")) == 2


# -- by accident ------------------------------------------------------------------------------------------------


@given(data=st.data())
@fuzz(60)
def test_cut_off(packed, data, place):
    content = packed.read_bytes()
    file = place / "x.pruneonce"
    file.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    refused(file)


@given(data=st.data())
@fuzz(120)
def test_a_bit_flipped(packed, data, place):
    content = bytearray(packed.read_bytes())
    where = data.draw(st.integers(0, 400) | st.integers(0, len(content) - 1))
    content[where] ^= 1 << data.draw(st.integers(0, 7))
    file = place / "x.pruneonce"
    file.write_bytes(content)
    survived(file)  # a flip in the padding of the header changes nothing


# -- on purpose: all hashes are right ---------------------------------------------------------------------------


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


LIES = st.one_of(
    st.integers(-3, 400),
    st.sampled_from([2**31, 2**63, 10**40, 0.5, None, True, "", "x", "../x", "gaps", "bytes", "planes", [], {}, [[]]]),
    st.lists(st.sampled_from([0, 1, 32, 2**20, 2**30, 2**40]), max_size=4),
)


@given(data=st.data())
@fuzz(200)
def test_a_lie_in_the_index(parts, data, place):
    index, streams = copy.deepcopy(parts[0]), parts[1]
    path = data.draw(st.sampled_from(list(places(index))[1:]))
    target = index
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = data.draw(LIES)
    survived(write(index, streams, place / "x.pruneonce"))


@given(data=st.data())
@fuzz(60)
def test_another_stream(parts, data, place):
    index, streams = copy.deepcopy(parts[0]), list(parts[1])
    number = data.draw(st.integers(0, len(streams) - 1))
    size = len(zstandard.decompress(streams[number]))
    new = data.draw(st.sampled_from([size, size, size + 1, 0, 5000]))
    content = data.draw(st.binary(max_size=min(new, 50))).ljust(new, b"\1")
    streams[number] = zstandard.compress(content)
    index["streams"][number] = len(streams[number])
    file = write(index, streams, place / "x.pruneonce")
    # Other text in a file that travels is no damage that we could know of.
    is_text = any(entry["stream"] == number for member in index["members"].values() for entry in member["files"])
    if is_text or content == zstandard.decompress(parts[1][number]):
        survived(file)
    else:
        refused(file)


def first(index):
    return index["members"]["first"]


def bomb(size):
    """A frame that says that it holds `size` bytes, and does not."""
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(70_000)))
    assert frame[4] >> 6 == 2  # the content's size is the four bytes after the descriptor, or after the window byte
    start = 5 if frame[4] >> 5 & 1 else 6
    frame[start : start + 4] = size.to_bytes(4, "little")
    return bytes(frame)


def huge_shape(index, streams):
    first(index)["tensors"][0]["shape"] = [1 << 14, 1 << 15]


def many_huge_shapes(index, streams):
    for tensor in first(index)["tensors"]:
        tensor["shape"] = [1 << 14, 1 << 14]


def bomb_of_values(index, streams):
    tensor = next(t for t in first(index)["tensors"] if t["name"] == "embeddings.word_embeddings.weight")
    streams[tensor["values"]["stream"]] = bomb(1 << 31)
    index["streams"] = [len(stream) for stream in streams]


def bomb_of_gaps(index, streams):
    pattern = next(t["pattern"] for t in first(index)["tensors"] if t.get("pattern", {}).get("coding") == "gaps")
    streams[pattern["stream"]] = bomb(1 << 31)
    index["streams"] = [len(stream) for stream in streams]


def bomb_of_a_file(index, streams):
    entry = first(index)["files"][0]
    entry["size"] = 1 << 26
    streams[entry["stream"]] = bomb(1 << 26)
    index["streams"] = [len(stream) for stream in streams]


def same_file_often(index, streams):
    entry = first(index)["files"][0]
    first(index)["files"] = [{**entry, "name": f"{number}.json", "size": 1 << 20} for number in range(10_000)]


def other_config(**values):
    def change(index, streams):
        entry = next(entry for entry in first(index)["files"] if entry["name"] == "config.json")
        config = json.loads(zstandard.decompress(streams[entry["stream"]]))
        text = json.dumps({**config, **values}).encode()
        entry["size"] = len(text)
        streams[entry["stream"]] = zstandard.compress(text)
        index["members"]["second"]["files"] = [
            {**other, "size": len(text)} if other["name"] == "config.json" else other
            for other in index["members"]["second"]["files"]
        ]
        index["streams"] = [len(stream) for stream in streams]

    return change


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (huge_shape, "far more than its bytes can hold"),
        (many_huge_shapes, "declares more than"),
        (bomb_of_values, "not the size that its tensor needs"),
        (bomb_of_gaps, "longer than its tensor"),
        (bomb_of_a_file, "damaged"),
        (same_file_often, "far more than its bytes can hold"),
        (other_config(vocab_size=54), "config.json asks for"),
        (other_config(num_hidden_layers=10**9), "`num_hidden_layers` is 1000000000"),
        (other_config(num_hidden_layers=10**6), "`num_hidden_layers` is 1000000"),
        (other_config(num_hidden_layers=900), "900 layers"),
        (other_config(hidden_size=-1), "does not describe a model"),
        (other_config(model_type="gpt5"), "transformers has no architecture 'gpt5'"),
        (other_config(model_type="x", auto_map={"AutoConfig": "evil.Config"}), "it wants to run code of its own"),
        (other_config(architectures=["pipeline"], intermediate_size=65), "config.json asks for"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_lies(lie, message, parts, place):
    index, streams = copy.deepcopy(parts[0]), list(parts[1])
    lie(index, streams)
    refused(write(index, streams, place / "x.pruneonce"), message)


def test_a_configuration_that_cannot_be_loaded(parts, place):
    index, streams = copy.deepcopy(parts[0]), list(parts[1])
    other_config(quantization_config={"quant_method": "awq"})(index, streams)
    with pytest.raises(UserError, match="quantized by another library"):
        storage.load(write(index, streams, place / "x.pruneonce"), "first")


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "/tmp/evil.json",
        "a/b.json",
        "1_Pooling/../../evil.json",
        "1_Pooling/x.py",
        "C:evil.json",
        "..\\evil.json",
        ".hidden.json",
        "modeling.py",
        "pytorch_model.bin",
        "training_args.pkl",
        "model.safetensors",
        "quantization.safetensors",
        "CONFIG.json",
        "config.json\n",
        "nul\0.json",
    ],
)
def test_names_of_files_stay_in_the_folder(name, parts, place):
    index, streams = copy.deepcopy(parts[0]), parts[1]
    first(index)["files"].append({**first(index)["files"][0], "name": name})
    refused(write(index, streams, place / "x.pruneonce"), "it holds a file called|two files have one name")


@pytest.mark.parametrize("name", ["..", ".", "../x", "a/b", "/tmp/x", "", "a\n"])
def test_names_of_members_stay_in_the_folder(name, parts, place):
    index, streams = copy.deepcopy(parts[0]), parts[1]
    index["members"][name] = index["members"].pop("second")
    refused(write(index, streams, place / "x.pruneonce"), "is no name for a member")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({**FORMAT, "version": "2"}, "format version 2, and this pruneonce reads version 1"),
        ({"format": "pt"}, "not one that `pruneonce pack` made"),
        ({**FORMAT, "sha256": "0" * 64}, "its bytes are not those that were written"),
    ],
)
def test_headers(metadata, message, parts, place):
    refused(write(*parts, place / "x.pruneonce", metadata), message)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"index": np.zeros(4, np.uint8)}, "other parts"),
        ({"index": np.zeros(4, np.uint8), "data": np.zeros(4, np.float32)}, "not bytes"),
    ],
)
def test_other_parts(found, message, place):
    save_file(found, place / "x.pruneonce", metadata=FORMAT)
    refused(place / "x.pruneonce", message)


def test_an_index_without_bound(parts, place):
    index = {**parts[0], "more": "x" * (1 << 25)}
    refused(write(index, parts[1], place / "x.pruneonce"), "its index is too large")
    nested = json.loads("[" * 900 + "]" * 900)
    refused(write({**parts[0], "streams": nested}, parts[1], place / "x.pruneonce"), "its index is wrong")
