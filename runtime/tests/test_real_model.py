"""MiniLM, quantized by calibration on real sentences: every engine against PyTorch's fake quantization."""

import copy
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import Following, network_of, pack_folder
from pruneonce import quantization
from pruneonce.errors import UserError
from pruneonce.models import load_encoder
from pruneonce.models.architectures import prunable_weights
from pruneonce.models.pooling import Pooling
from pruneonce.quantization import QuantizedLinear
from pruneonce.recipe import Quantization
from pruneonce.runs.quickstart import packaged_model
from transformers import AutoTokenizer

from pruneonce_runtime import instruction_sets, load

DATA = Path(os.environ.get("PRUNEONCE_DATA", "../../shared/data")) / "sst2" / "dev.jsonl"

BFLOAT16 = "avx512bf16"  # attention in bfloat16
EXACT = [name for name in instruction_sets() if name != BFLOAT16]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """90 % of the encoder's weights are zero: `(packed, PyTorch's model, sentences that it was not calibrated on)`."""
    if not DATA.is_file():
        pytest.skip(f"no sentences at {DATA}; set PRUNEONCE_DATA")
    try:
        source = packaged_model()
    except UserError as error:
        pytest.skip(str(error))
    sentences = [json.loads(line)["sentence"] for line in DATA.read_text().splitlines()[:128]]
    folder = tmp_path_factory.mktemp("real") / "minilm"
    shutil.copytree(source, folder)
    model = load_encoder(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        for weight in prunable_weights(model).values():
            weight[weight.abs() < weight.abs().flatten().kthvalue(int(0.9 * weight.numel())).values] = 0
    learning = quantization.insert(model, Quantization(), 1.0)
    for count, first in enumerate(range(0, 64, 16), start=1):
        for layer in learning.values():
            layer.averaging = 1 / count
            layer.train()
        with torch.no_grad():
            model(**tokenizer(sentences[first : first + 16], padding=True, truncation=True, return_tensors="pt"))
    quantization.save(quantization.freeze(model.eval()), folder)
    quantization.unwrap(model)
    model.save_pretrained(folder)
    return *pack_folder(folder).__dict__.values(), sentences[64:]


@torch.no_grad()
def torch_vectors(case):
    """Vectors of PyTorch, a text at a time, and for each text what goes into its quantized Linears."""
    file, theirs, sentences = case
    tokenizer, pooling = AutoTokenizer.from_pretrained(file.with_name("minilm")), Pooling.of(file.with_name("minilm"))
    inputs, vectors = [], []
    hooks = [
        module.register_forward_pre_hook(lambda module, args: inputs[-1].append(args[0][0].float().numpy()))
        for module in theirs.modules()
        if isinstance(module, QuantizedLinear) and module is not theirs.pooler.dense
    ]
    for sentence in sentences:
        inputs.append([])
        given = tokenizer(sentence, truncation=True, max_length=256, return_tensors="pt")
        vectors.append(pooling(theirs(**given).last_hidden_state, given["attention_mask"])[0].numpy())
    for hook in hooks:
        hook.remove()
    return np.array(vectors), inputs


def in_float64(module, x):
    """`QuantizedLinear.forward` with sums in float64."""
    x = torch.fake_quantize_per_tensor_affine(x.float(), *module.input_grid, 0, 255)
    return torch.nn.functional.linear(x.double(), module.weight, module.bias)


def test_from_equal_inputs_vectors_are_equal(case):
    file, _, sentences = case
    expected, inputs = torch_vectors(case)
    model = load(file, instructions="reference")
    for sentence, vector, seen in zip(sentences, expected, inputs, strict=True):
        model._parts = replace(model._parts, engine=Following(model.network, seen))
        assert model.encode(sentence) @ vector > 0.999999
        assert not seen


@pytest.mark.parametrize("instructions", ["reference", *EXACT])
def test_vectors_are_those_of_pytorch(instructions, case):
    """Most are to the sixth digit. Where rounding puts an input on the other side of a step, what follows differs by
    steps, as it does between PyTorch's own kernels."""
    vectors = load(case[0], instructions=instructions).encode(case[2])
    cosines = (vectors * torch_vectors(case)[0]).sum(1)
    print(f"{instructions}: cosines with PyTorch: median {np.median(cosines):.7f}, mean {cosines.mean():.7f}")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert np.median(cosines) > 0.999999
    assert cosines.mean() > 0.9999


@pytest.mark.skipif(BFLOAT16 not in instruction_sets(), reason="this processor has no AVX-512 BF16")
def test_vectors_with_attention_in_bfloat16(case):
    vectors = load(case[0], instructions=BFLOAT16).encode(case[2])
    cosines = (vectors * torch_vectors(case)[0]).sum(1)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert np.median(cosines) > 0.999
    assert cosines.mean() > 0.999


def test_the_reference_is_as_near_to_exact_sums_as_pytorch(case, monkeypatch):
    vectors, theirs = load(case[0], instructions="reference").encode(case[2]), torch_vectors(case)[0]
    monkeypatch.setattr(QuantizedLinear, "forward", in_float64)
    file, model, sentences = case
    exact = torch_vectors((file, copy.deepcopy(model).double(), sentences))[0]
    ours, other = (1 - (each * exact).sum(1).mean() for each in (vectors, theirs))
    print(f"1 - cosine with float64, mean: reference {ours:.2e}, PyTorch {other:.2e}")
    assert ours < max(2 * other, 1e-6)


def test_memory(case):
    """Int8 tables, a bit and a tenth of a byte for a weight: a fifth of float32 in all."""
    network = network_of(case[0])
    tables = network.encoder.embeddings
    rows = tables.words.rows + tables.positions.rows + tables.types.rows
    weights = sum(
        linear.inputs * linear.outputs
        for layer in network.encoder.layers
        for linear in (*layer.inputs, layer.output, layer.up, layer.down)
    )
    assert network.nbytes < 1.02 * (rows * (384 + 4) + weights * (1 / 8 + 1 / 10)) + 100_000
