"""MiniLM, quantized by calibration on real sentences: the reference engine against PyTorch's fake quantization."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import network_of, pack_folder
from pruneonce import quantization
from pruneonce.errors import UserError
from pruneonce.models import load_encoder
from pruneonce.models.architectures import prunable_weights
from pruneonce.models.pooling import Pooling
from pruneonce.recipe import Quantization
from pruneonce.runs.quickstart import packaged_model
from transformers import AutoTokenizer

from pruneonce_runtime import load

DATA = Path(os.environ.get("PRUNEONCE_DATA", "../../shared/data")) / "sst2" / "dev.jsonl"

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
    sentences = [json.loads(line)["text"] for line in DATA.read_text().splitlines()[:128]]
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


def test_vectors_are_those_of_pytorch(case):
    file, theirs, sentences = case
    tokenizer, pooling = AutoTokenizer.from_pretrained(file.with_name("minilm")), Pooling.of(file.with_name("minilm"))
    model = load(file)
    expected = []
    with torch.no_grad():
        for sentence in sentences:
            given = tokenizer(sentence, truncation=True, max_length=model.max_length, return_tensors="pt")
            hidden = theirs(**given).last_hidden_state
            expected.append(pooling(hidden, given["attention_mask"])[0].numpy())
    vectors = model.encode(sentences)
    cosines = (vectors * np.array(expected)).sum(1)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    print(f"cosines with PyTorch: smallest {cosines.min():.7f}, mean {cosines.mean():.7f}")
    assert cosines.min() > 0.9999
    assert cosines.mean() > 0.99999


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
