"""A packed file that is cut, changed, or made to do harm gives a PruneonceError of one line, in little memory."""

import copy
import hashlib
import json
import struct
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import HEADS, packed, random_model
from safetensors.numpy import load_file, save_file

from pruneonce_runtime import PruneonceError, load

MEMORY = 24 << 20  # bytes; an index of 4 MiB as Python objects, and a tiny model
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
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    return packed(folder, random_model(HEADS["sequence"], "bert"), "calibrated").file


@pytest.fixture(scope="module")
def parts(whole):
    """The index as JSON and the streams, taken apart without our code."""
    found = load_file(whole)
    index = json.loads(zstandard.decompress(found["index"].tobytes()))
    ends = np.cumsum([0, *index["streams"]])
    data = found["data"].tobytes()
    return index, [data[start:end] for start, end in pairwise(ends)]


def write(index, streams, folder, metadata=FORMAT):
    """A file that is well made whatever it says."""
    index["streams"] = index["streams"] and [len(stream) for stream in streams]
    return write_index(index, streams, folder, metadata)


def write_index(index, streams, folder, metadata=FORMAT):
    found = {"index": zstandard.compress(json.dumps(index).encode()), "data": b"".join(streams)}
    digest = hashlib.sha256(found["index"] + found["data"]).hexdigest()
    arrays = {name: np.frombuffer(part, np.uint8) for name, part in found.items()}
    save_file(arrays, folder / "x.pruneonce", metadata={"sha256": digest, **metadata})
    return folder / "x.pruneonce"


def refused(file, match=None, memory=MEMORY):
    tracemalloc.start()
    try:
        with pytest.raises(PruneonceError, match=match) as caught:
            load(file)("a great river")
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def survived(file):
    """Loading and running gives an answer or a PruneonceError, in little memory."""
    tracemalloc.start()
    message = ""
    try:
        load(file)("a great river")
    except PruneonceError as error:
        message = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert "\n" not in message
    assert peak < MEMORY


def member(index):
    return index["members"]["model"]


def tensor(index, ending):
    return next(entry for entry in member(index)["tensors"] if entry["name"].endswith(ending))


def test_the_file_taken_apart_and_put_together_is_whole(parts, whole, tmp_path):
    index, streams = parts
    assert load(write(index, streams, tmp_path))("a great river") == load(whole)("a great river")


# -- by accident -------------------------------------------------------------------------------------------------


@given(data=st.data())
@fuzz(40)
def test_cut_off(whole, data, tmp_path):
    content = whole.read_bytes()
    (tmp_path / "x.pruneonce").write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    refused(tmp_path / "x.pruneonce")


@given(data=st.data())
@fuzz(80)
def test_a_bit_flipped(whole, data, tmp_path):
    content = bytearray(whole.read_bytes())
    where = data.draw(st.integers(0, 400) | st.integers(0, len(content) - 1))
    content[where] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "x.pruneonce").write_bytes(content)
    survived(tmp_path / "x.pruneonce")  # a flip in the padding of the header changes nothing


def test_no_file(tmp_path):
    refused(tmp_path / "x.pruneonce", "no packed file at")
    refused(tmp_path, "no packed file at")


# -- on purpose: all hashes are right ----------------------------------------------------------------------------


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


def lie(value, data):
    path = data.draw(st.sampled_from(list(places(value))[1:]))
    target = value
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = data.draw(LIES)


@given(data=st.data())
@fuzz(120)
def test_a_lie_in_the_index(parts, data, tmp_path):
    index = copy.deepcopy(parts[0])
    lie(index, data)
    survived(write_index(index, parts[1], tmp_path))


@pytest.mark.parametrize("name", ["config.json", "quantized_inputs.json", "tokenizer_config.json", "tokenizer.json"])
@given(data=st.data())
@fuzz(60)
def test_a_lie_in_a_file(name, parts, data, tmp_path):
    def change(values):
        lie(values, data)
        return values

    index, streams = other_file(name, change)(*map(copy.deepcopy, parts))
    survived(write(index, streams, tmp_path))


@given(data=st.data())
@fuzz(40)
def test_another_stream(parts, data, tmp_path):
    index, streams = copy.deepcopy(parts[0]), list(parts[1])
    number = data.draw(st.integers(0, len(streams) - 1))
    size = len(zstandard.decompress(streams[number]))
    new = data.draw(st.sampled_from([size, size, size + 1, 0, 5000]))
    content = data.draw(st.binary(max_size=min(new, 50))).ljust(new, b"\1")
    streams[number] = zstandard.compress(content)
    survived(write(index, streams, tmp_path))


def other_file(name, change):
    """Another content of a file that travels: `change` of its JSON, or bytes."""

    def apply(index, streams):
        entry = next(entry for entry in member(index)["files"] if entry["name"] == name)
        streams = list(streams)
        content = change if isinstance(change, bytes) else None
        if content is None:
            content = json.dumps(change(json.loads(zstandard.decompress(streams[entry["stream"]])))).encode()
        entry["size"], entry["stream"] = len(content), len(streams)
        return index, [*streams, zstandard.compress(content)]

    return apply


def config(**values):
    return other_file("config.json", lambda found: {**found, **values})


def inputs(**values):
    name = "bert.encoder.layer.0.output.dense"
    return other_file("quantized_inputs.json", lambda found: {**found, name: {**found[name], **values}})


def bomb(size):
    """A frame that says that it holds `size` bytes, and does not."""
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(70_000)))
    assert frame[4] >> 6 == 2  # the content's size is the four bytes after the descriptor, or after the window byte
    start = 5 if frame[4] >> 5 & 1 else 6
    frame[start : start + 4] = size.to_bytes(4, "little")
    return bytes(frame)


def huge_shape(index, streams):
    member(index)["tensors"][0]["shape"] = [1 << 14, 1 << 15]
    return index, streams


def many_huge_shapes(index, streams):
    for each in member(index)["tensors"]:
        each["shape"] = [1 << 14, 1 << 14]
    return index, streams


def bomb_of_values(index, streams):
    streams = list(streams)
    streams[tensor(index, "word_embeddings.weight")["values"]["stream"]] = bomb(1 << 31)
    return index, streams


def bomb_of_gaps(index, streams):
    streams = list(streams)
    pattern = next(t["pattern"] for t in member(index)["tensors"] if t.get("pattern", {}).get("coding") == "gaps")
    streams[pattern["stream"]] = bomb(1 << 31)
    return index, streams


def pattern_beyond(index, streams):
    streams = list(streams)
    pattern = next(t["pattern"] for t in member(index)["tensors"] if t.get("pattern", {}).get("coding") == "gaps")
    length = len(zstandard.decompress(streams[pattern["stream"]]))
    streams[pattern["stream"]] = zstandard.compress(b"\xff" * length)
    return index, streams


def negative_scale(index, streams):
    streams = list(streams)
    entry = tensor(index, "word_embeddings.weight")
    numbers = np.full(entry["shape"][0], -1, "<f4").view(np.uint8).reshape(-1, 4).T
    streams[entry["grid"]["stream"]] = zstandard.compress(numbers.tobytes())
    return index, streams


def too_few_bits(index, streams):
    tensor(index, "word_embeddings.weight")["grid"]["bits"] = 4
    return index, streams


def other_pattern(index, streams):
    """As many kept weights elsewhere: only the hash of the weights sees it."""
    streams = list(streams)
    pattern = next(t["pattern"] for t in member(index)["tensors"] if t.get("pattern", {}).get("coding") == "gaps")
    gaps = zstandard.decompress(streams[pattern["stream"]])
    streams[pattern["stream"]] = zstandard.compress(gaps[::-1])
    return index, streams


def same_file_often(index, streams):
    entry = member(index)["files"][0]
    member(index)["files"] = [{**entry, "name": f"{number}.json", "size": 1 << 20} for number in range(10_000)]
    return index, streams


def deep_json(index, streams):
    return other_file("config.json", b"[" * 100_000 + b"]" * 100_000)(index, streams)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (huge_shape, "far more than its bytes can hold"),
        (many_huge_shapes, "declares more than"),
        (bomb_of_values, "not the size that its tensor needs"),
        (bomb_of_gaps, "longer than its tensor"),
        (pattern_beyond, "reaches beyond its tensor"),
        (negative_scale, "are not positive numbers"),
        (too_few_bits, "has more than 4 bits"),
        (other_pattern, "not those that were packed"),
        (same_file_often, "far more than its bytes can hold"),
        (deep_json, "JSON that cannot be read"),
        (other_file("config.json", b"\xff{}"), "JSON that cannot be read"),
        (other_file("config.json", b'{"a": 1, "a": 2}'), "a key comes twice"),
        (other_file("config.json", b"[]"), "it has no config.json"),
        (other_file("config.json", b" " * (1 << 23)), "config.json has 8,388,608 bytes"),
        (other_file("tokenizer.json", b"{}"), "tokenizer.json is damaged"),
        (other_file("tokenizer.json", b"\xff"), "tokenizer.json is damaged"),
        (other_file("tokenizer_config.json", b"[1]"), "tokenizer_config.json is not an object"),
        (other_file("quantized_inputs.json", b"[1]"), "quantized_inputs.json is not an object"),
        (config(vocab_size=54), "config.json asks for numbers"),
        (config(num_hidden_layers=10**9), "`num_hidden_layers` in config.json is 1000000000"),
        (config(num_hidden_layers=10**6), "`num_hidden_layers` in config.json is 1000000"),
        (config(num_hidden_layers=3), "no weights for encoder.layer.2"),
        (config(num_hidden_layers=True), "`num_hidden_layers`"),
        (config(hidden_size=-1), "`hidden_size`"),
        (config(num_attention_heads=5), "`num_attention_heads`"),
        (config(layer_norm_eps=0), "`layer_norm_eps`"),
        (config(layer_norm_eps="x"), "`layer_norm_eps`"),
        (config(hidden_act="evil"), "activation evil is not supported"),
        (config(hidden_act=["gelu"]), r"activation \['gelu'\] is not supported"),
        (config(model_type="gpt5"), "'gpt5' is not supported; these are: bert, "),
        (config(model_type=["bert"]), "is not supported"),
        (config(model_type="roberta"), "`architectures`"),
        (config(architectures="Bert"), "`architectures`"),
        (config(architectures=["pipeline"]), "holds a pipeline; these can be run"),
        (config(architectures=["BertForMultipleChoice"]), "holds a BertForMultipleChoice; these can be run"),
        (config(is_decoder=True), "`is_decoder`"),
        (config(quantization_config={"quant_method": "awq"}), "`quantization_config`"),
        (config(id2label={"0": "a", "2": "b"}), "`id2label`"),
        (config(id2label={str(number): "a" for number in range(70_000)}), "`id2label`"),
        (config(id2label={"0": "a", "1": "b", "2": "c"}), "config.json asks for numbers"),
        (config(problem_type="multi_label_classification"), "any number of labels"),
        (inputs(scale=0), "no scale and zero point for bert.encoder.layer.0.output.dense"),
        (inputs(scale=1e-60), "no scale and zero point"),
        (inputs(scale=1e-40), "no scale and zero point"),
        (inputs(scale=-1.0), "no scale and zero point"),
        (inputs(scale="inf"), "no scale and zero point"),
        (inputs(scale=None), "no scale and zero point"),
        (inputs(zero_point=256), "no scale and zero point"),
        (inputs(zero_point=10**400), "no scale and zero point"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_lies(change, message, parts, tmp_path):
    index, streams = change(copy.deepcopy(parts[0]), parts[1])
    refused(write(index, streams, tmp_path), message)


@pytest.mark.parametrize("instructions", [None, "reference"])
def test_numbers_that_overflow_are_no_answer(instructions, parts, tmp_path):
    """A head with infinite biases gives a label and the probability NaN, unless this is refused."""
    index, streams = copy.deepcopy(parts[0]), list(parts[1])
    entry = tensor(index, "classifier.bias")
    count = len(zstandard.decompress(streams[entry["values"]["stream"]])) // 4
    planes = np.full(count, np.inf, "<f4").view(np.uint8).reshape(-1, 4).T
    streams[entry["values"]["stream"]] = zstandard.compress(planes.tobytes())
    model = load(write(index, streams, tmp_path), instructions=instructions, verify=False)
    with pytest.raises(PruneonceError, match=r"x\.pruneonce is damaged: model gives numbers that are not finite"):
        model("a great river")


def without_unknown(tokenizer):
    tokenizer["model"]["unk_token"] = "[NOT THERE]"
    return tokenizer


def without_special(tokenizer):
    for one in tokenizer["post_processor"]["single"] + tokenizer["post_processor"]["pair"]:
        one.get("SpecialToken", {})["id"] = "[NOT THERE]"
    return tokenizer


@pytest.mark.parametrize("change", [without_unknown, without_special])
def test_tokenizers_that_fail_at_a_text(change, parts, tmp_path):
    """The library raises a plain Exception, or panics, and may do so as late as for the first unknown word."""
    index, streams = other_file("tokenizer.json", change)(copy.deepcopy(parts[0]), parts[1])
    file = write(index, streams, tmp_path)
    for texts in ("nonsense", ["nonsense", "nonsense"]):
        with pytest.raises(PruneonceError, match=r"tokenizer\.json is damaged: ."):
            load(file)(texts)


def test_grids_that_cannot_be_run(parts, tmp_path):
    index, streams = copy.deepcopy(parts[0]), list(parts[1])
    entry = tensor(index, "layer.0.output.dense.weight")
    planes = np.ones((32, 2), "<f4").view(np.uint8).reshape(-1, 4).T
    entry["grid"] = {"bits": 8, "shape": [32, 2], "stream": len(streams)}
    refused(write(index, [*streams, zstandard.compress(planes.tobytes())], tmp_path), "quantized inputs with groups")


@pytest.mark.parametrize("shape", [[31], [32, 3], [32, 0], [], [1, 1, 1], [0]])
def test_grids_that_do_not_fit(shape, parts, tmp_path):
    index, streams = copy.deepcopy(parts[0]), list(parts[1])
    entry = tensor(index, "layer.0.output.dense.weight")
    planes = np.ones(int(np.prod(shape)), "<f4").view(np.uint8).reshape(-1, 4).T
    entry["grid"] = {"bits": 8, "shape": shape, "stream": len(streams)}
    refused(write(index, [*streams, zstandard.compress(planes.tobytes())], tmp_path), "grid of .* does not fit")


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "/tmp/evil.json",
        "a/b.json",
        "x.py",
        ".hidden.json",
        "model.bin",
        "model.safetensors",
        "CONFIG.json",
        "config.json\n",
        "nul\0.json",
        "x" * 5000,
    ],
)
def test_names_of_files(name, parts, tmp_path):
    index = copy.deepcopy(parts[0])
    member(index)["files"].append({**member(index)["files"][0], "name": name})
    refused(write(index, parts[1], tmp_path), "it holds a file called|two files have one name")


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "", "a\n", "x" * 5000])
def test_names_of_members(name, parts, tmp_path):
    index = copy.deepcopy(parts[0])
    index["members"][name] = index["members"].pop("model")
    refused(write(index, parts[1], tmp_path), "is no name for a member")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({**FORMAT, "version": "2"}, "format version 2, and this pruneonce-runtime reads version 1"),
        ({"format": "pt"}, "not one that `pruneonce pack` made"),
        ({**FORMAT, "sha256": "0" * 64}, "its bytes are not those that were written"),
        ({**FORMAT, "x": "y" * 70_000}, "not a packed file"),
    ],
)
def test_metadata(metadata, message, parts, tmp_path):
    refused(write(copy.deepcopy(parts[0]), parts[1], tmp_path, metadata), message)


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


U8 = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
REST = {"dtype": "U8", "shape": [0], "data_offsets": [4, 4]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a packed file"),
        (b"\1\2", "not a packed file"),
        (raw({}, length=1 << 63), "not a packed file"),
        (raw({}, length=0), "not a packed file"),
        (raw(b"{"), "JSON that cannot be read"),
        (raw([]), "not one that"),
        (raw({"__metadata__": []}), "not one that"),
        (raw({"__metadata__": FORMAT}), "other parts"),
        (raw({"__metadata__": FORMAT, "index": U8}, b"1234"), "other parts"),
        (raw({"__metadata__": FORMAT, "index": {**U8, "dtype": "F32"}, "data": REST}, b"1234"), "header is wrong"),
        (raw({"__metadata__": FORMAT, "index": {**U8, "shape": [5]}, "data": REST}, b"1234"), "header is wrong"),
        (raw({"__metadata__": FORMAT, "index": {**U8, "data_offsets": [-1, 3]}, "data": REST}, b"1234"), "header is"),
        (raw({"__metadata__": FORMAT, "index": {**U8, "data_offsets": [0, 10**30]}, "data": REST}, b"1234"), "header"),
        (
            raw({"__metadata__": FORMAT, "index": {**U8, "data_offsets": None}, "data": REST}, b"1234"),
            "header is wrong",
        ),
        (raw({"__metadata__": FORMAT, "index": 7, "data": REST}, b"1234"), "header is wrong"),
        (raw({"__metadata__": FORMAT, "index": U8, "data": REST}, b"12345"), "longer or shorter"),
        (raw({"__metadata__": FORMAT, "index": U8, "data": REST}, b"1234"), "not those that were written"),
        (
            raw(
                {
                    "__metadata__": {**FORMAT, "sha256": hashlib.sha256(b"1234").hexdigest()},
                    "index": U8,
                    "data": REST,
                },
                b"1234",
            ),
            "not a Zstandard frame",
        ),
    ],
)
def test_containers(content, message, tmp_path):
    (tmp_path / "x.pruneonce").write_bytes(content)
    refused(tmp_path / "x.pruneonce", message)


def test_an_index_without_bound(parts, tmp_path):
    refused(write({**parts[0], "more": "x" * (1 << 25)}, parts[1], tmp_path), "its index is too large", 80 << 20)
    refused(write({**parts[0], "more": 1}, parts[1], tmp_path), "its index is wrong at `more`")
    nested = json.loads("[" * 900 + "]" * 900)
    refused(write_index({**parts[0], "streams": nested}, parts[1], tmp_path), "its index is wrong")
