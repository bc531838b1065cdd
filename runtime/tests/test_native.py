"""The kernels against the reference engine, on every instruction set that this processor has."""

import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from oracle import HEADS, batch, network_of, packed, random_model
from shared.models import CONFIGS
from transformers import AutoModel

from pruneonce_runtime import functions
from pruneonce_runtime.native import NativeEngine, instruction_sets, kernels, peak
from pruneonce_runtime.reference import ReferenceEngine
from pruneonce_runtime.spec import Linear, Matrix

pytestmark = pytest.mark.skipif(kernels is None, reason="the kernels are not built")
SETS = instruction_sets()


def joined(texts):
    return np.concatenate(texts), np.cumsum([0, *map(len, texts)]).astype(np.int32)


def random_linear(outputs, inputs, density, block=1, worst=False, seed=0):
    """A Linear with quantized inputs; with `worst`, the largest numbers that there are, of one sign."""
    draw = np.random.default_rng(seed)
    kept = np.repeat(draw.random((outputs, -(-inputs // block))) < density, block, axis=1)[:, :inputs]
    values = np.full((outputs, inputs), -127) if worst else draw.integers(-127, 128, (outputs, inputs))
    weight = np.where(kept, values, 0).astype(np.int8)
    scale = draw.uniform(0.001, 0.01, outputs).astype(np.float32)
    bias = draw.normal(size=outputs).astype(np.float32)
    return Linear(Matrix((outputs, inputs), weight), 8, scale, bias, np.float32(0.02), 0 if worst else 117)


KERNELS = {name: ["", "dense", "groups"] for name in SETS}
WITH_VBMI = [name for name in SETS if name in ("avx512bf16", "avx512vbmi")]
for name in WITH_VBMI:
    KERNELS[name] += ["interleaved", "windows"]


@pytest.mark.parametrize(("name", "kernel"), [(name, kernel) for name in SETS for kernel in KERNELS[name]])
@pytest.mark.parametrize("density", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (8, 64), (33, 130), (203, 1601)])
def test_integer_sums_are_those_of_numpy(name, kernel, density, shape):
    linear = random_linear(*shape, density, block=4 if density == 0.3 else 1)
    x = np.random.default_rng(1).normal(0, 2, (101, shape[1])).astype(np.float32)
    quantized = functions.quantize(x, linear.input_scale, linear.input_zero)
    expected = functions.integer_sums(quantized, linear.input_zero, linear.weight)
    matrix = kernels.Linear(linear, name, kernel)
    for rows in (1, 16, 21, 48, 64, 101):  # tiles of every width
        np.testing.assert_array_equal(matrix.sums(x[:rows]), expected[:rows])
    np.testing.assert_allclose(matrix(x), functions.linear(linear, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SETS)
def test_an_unknown_kernel_is_refused(name):
    with pytest.raises(ValueError, match="no kernel of the name sparse"):
        kernels.Linear(random_linear(8, 64, 0.5), name, "sparse")


@pytest.mark.skipif("avx512vbmi" not in SETS, reason="this processor has no AVX-512 VBMI")
@pytest.mark.parametrize(
    ("kept", "kernel", "short"),
    [
        ("all", "dense", "dense"),
        ("blocks of four", "groups", "groups"),
        ("any", "interleaved", "windows"),
        ("4 of 64", "windows", "windows"),
    ],
)
def test_the_fastest_kernel_is_taken(kept, kernel, short):
    density = {"all": 1.0, "blocks of four": 0.1, "any": 0.1, "4 of 64": 1.0}[kept]
    linear = random_linear(128, 256, density, block=4 if kept == "blocks of four" else 1)
    if kept == "4 of 64":
        order = np.random.default_rng(0).random((128, 4, 64)).argsort(-1)
        weight = np.where(order < 4, linear.weight.reshape(order.shape), 0).reshape(128, 256)
        linear = replace(linear, matrix=Matrix(weight.shape, weight.astype(np.int8)))
    assert kernels.Linear(linear, "avx512vbmi").kernels == (kernel, short)


@pytest.mark.parametrize("name", SETS)
def test_the_largest_sums_do_not_saturate(name):
    """255 * -127 twice in 16 bits would: that is what `vpmaddubsw` does."""
    linear = random_linear(16, 3072, 1.0, worst=True)
    x = np.full((3, 3072), 255 * 0.02, np.float32)
    assert (kernels.Linear(linear, name).sums(x) == -127 * 255 * 3072).all()


def bfloat16(x):
    """float32 rounded to the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


def attention_in_bfloat16(queries, keys, values, bias, window):
    """See `functions.attention`; queries, keys, values and e^score are rounded to bfloat16."""
    distances = np.arange(len(keys))[None, :] - np.arange(len(queries))[:, None]
    scores = np.einsum("ihd,jhd->hij", bfloat16(queries), bfloat16(keys)) * np.float32(queries.shape[2] ** -0.5)
    if bias is not None:
        scores = scores + bias.table[:, np.clip(distances, -bias.reach, bias.reach) + bias.reach]
    if window is not None:
        scores = np.where(np.abs(distances) <= window, scores, -np.inf)
    powers = np.exp(scores - scores.max(-1, keepdims=True)).astype(np.float32)
    mixed = np.einsum("hij,jhd->hid", bfloat16(powers), bfloat16(values)) / powers.sum(-1, keepdims=True)
    return mixed.transpose(1, 0, 2).reshape(len(queries), -1).astype(np.float32)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", ["fp32", "int4", "calibrated"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_hidden_states_are_those_of_the_reference(architecture, kind, name, tmp_path):
    case = packed(tmp_path, random_model(AutoModel, architecture), kind)
    network = network_of(case.file)
    ids, offsets = joined(batch())
    expected = ReferenceEngine(network).forward(ids, offsets)
    hidden = NativeEngine(network, name).forward(ids, offsets)
    # A sum of floats in another order may move an input of the next layer over the middle between two integers.
    tolerance = 0.05 if kind == "calibrated" else 2e-5
    np.testing.assert_allclose(hidden, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.skipif("avx512bf16" not in SETS, reason="this processor has no AVX-512 BF16")
@pytest.mark.parametrize("architecture", CONFIGS)
def test_attention_in_bfloat16(architecture, tmp_path, monkeypatch):
    network = network_of(packed(tmp_path, random_model(AutoModel, architecture), "calibrated").file)
    ids, offsets = joined(batch())
    exact = ReferenceEngine(network).forward(ids, offsets)
    monkeypatch.setattr(functions, "attention", attention_in_bfloat16)
    expected = ReferenceEngine(network).forward(ids, offsets)
    hidden = NativeEngine(network, "avx512bf16").forward(ids, offsets)
    # What is left is a float32 that was rounded the other way, and with it an integer now and then.
    assert np.abs(hidden - expected).mean() < 0.5 * np.abs(exact - expected).mean()


@pytest.mark.parametrize("name", SETS)
def test_queries_keys_and_values_may_need_different_kernels(name, tmp_path):
    """They read the same inputs, which each kernel wants in an order of its own."""
    network = network_of(packed(tmp_path, random_model(AutoModel, "bert"), "calibrated").file)
    layer = network.encoder.layers[0]
    inputs = tuple(
        replace(random_linear(linear.outputs, linear.inputs, density, seed=number), input_scale=scale, input_zero=zero)
        for number, (linear, density) in enumerate(zip(layer.inputs, (1.0, 0.05, 0.4), strict=True))
        for scale, zero in [(layer.inputs[0].input_scale, layer.inputs[0].input_zero)]
    )
    layers = (replace(layer, inputs=inputs), *network.encoder.layers[1:])
    network = replace(network, encoder=replace(network.encoder, layers=layers))
    ids, offsets = joined(batch())
    engine = NativeEngine(network, name)
    if name in WITH_VBMI:
        assert len({choice["kernel"] for choice in engine.choices()[:3]}) > 1
    expected = ReferenceEngine(network).forward(ids, offsets)
    np.testing.assert_allclose(engine.forward(ids, offsets), expected, rtol=0, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("architecture", ["bert", "mpnet", "modernbert"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_bits_do_not_depend_on_the_batch_or_the_threads(architecture, threads, tmp_path):
    network = network_of(packed(tmp_path, random_model(AutoModel, architecture), "calibrated").file)
    texts = batch(lengths=(12, 1, 30, 3, 17, 64, 100, 2, 31, 90, 128))
    alone = [NativeEngine(network).forward(*joined([text])) for text in texts]
    ids, offsets = joined(texts)
    together = NativeEngine(network, threads=threads).forward(ids, offsets)
    np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("is_first_call", [False, True])
def test_calls_from_several_threads(is_first_call, tmp_path):
    network = network_of(packed(tmp_path, random_model(AutoModel, "bert"), "calibrated").file)
    texts = batch(lengths=(60, 7, 33))
    expected = NativeEngine(network).forward(*joined(texts))
    results = []
    for _ in range(10 if is_first_call else 1):  # an engine's first call starts its threads
        engine = NativeEngine(network, threads=3)
        if not is_first_call:
            engine.forward(*joined(texts))
        together = threading.Barrier(4)

        def call(engine=engine, together=together):
            together.wait()
            for _ in range(20):
                results.append(np.array_equal(engine.forward(*joined(texts)), expected))

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert results == [True] * len(results)
    assert len(results) == (800 if is_first_call else 80)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
def test_a_forked_process_has_threads_of_its_own(tmp_path):
    file = packed(tmp_path, random_model(AutoModel, "bert"), "calibrated").file
    code = """
import os, sys
import numpy as np
import pruneonce_runtime
from pruneonce_runtime.native import NativeEngine

engine = NativeEngine(pruneonce_runtime.load(sys.argv[1]).network, threads=3)
ids, offsets = np.load(sys.argv[2]), np.load(sys.argv[3])
expected = engine.forward(ids, offsets)
child = os.fork()
same = all(np.array_equal(engine.forward(ids, offsets), expected) for _ in range(20))
threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 3
if child == 0:
    os._exit(0 if same and threads >= 3 else 1)
sys.exit(0 if same and os.waitpid(child, 0)[1] == 0 else 1)
"""
    arrays = [tmp_path / "ids.npy", tmp_path / "offsets.npy"]
    for name, array in zip(arrays, joined(batch(lengths=(60, 7, 33))), strict=True):
        np.save(name, array)
    command = [sys.executable, "-c", code, *map(str, (file, *arrays))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_no_texts(tmp_path):
    network = network_of(packed(tmp_path, random_model(AutoModel, "bert"), "calibrated").file)
    empty = NativeEngine(network).forward(np.zeros(0, np.int32), np.zeros(1, np.int32))
    assert empty.shape == (0, network.encoder.hidden)


def test_heads_are_those_of_the_reference(tmp_path):
    network = network_of(packed(tmp_path, random_model(HEADS["sequence"], "bert", num_labels=3), "calibrated").file)
    x = np.random.default_rng(0).normal(size=(5, network.encoder.hidden)).astype(np.float32)
    engine, reference = NativeEngine(network), ReferenceEngine(network)
    for linear in (network.head.dense, network.head.output):
        np.testing.assert_allclose(engine.linear(linear, x), reference.linear(linear, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["sse9", "avx512"])
def test_unknown_instructions_are_refused(name, tmp_path):
    network = network_of(packed(tmp_path, random_model(AutoModel, "bert"), "calibrated").file)
    with pytest.raises(ValueError, match="instructions"):
        NativeEngine(network, name)


def test_seconds_of_operations(tmp_path):
    network = network_of(packed(tmp_path, random_model(AutoModel, "bert"), "calibrated").file)
    seconds = NativeEngine(network).seconds(*joined(batch()))
    assert list(seconds)[:4] == ["embeddings", "normalization", "quantization", "query, key, value"]
    assert min(seconds.values()) > 0


@pytest.mark.parametrize("name", SETS)
def test_the_peak_is_a_rate_of_products(name):
    lanes = {"portable": 8, "avx2": 16, "avxvnni": 32}.get(name, 64)
    assert 0.1e9 * lanes < peak(name) < 40e9 * lanes  # a vector of products in 10 ns to a fortieth
