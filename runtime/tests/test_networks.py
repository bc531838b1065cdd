"""Every architecture with every head against PyTorch: integers bit for bit, logits to float32's rounding."""

import numpy as np
import pytest
import torch
from oracle import HEADS, KINDS, Following, batch, network_of, packed, random_model, run, torch_logits
from pruneonce.quantization import QuantizedLinear
from shared.models import CONFIGS
from transformers import AutoModel, AutoModelForSequenceClassification

from pruneonce_runtime import PruneonceError, functions
from pruneonce_runtime.architectures import ARCHITECTURES
from pruneonce_runtime.reference import ReferenceEngine
from pruneonce_runtime.spec import Linear

# Every head, with inputs quantized; the other kinds of weights with one head.
CASES = [(architecture, head, "calibrated") for architecture in CONFIGS for head in HEADS]
CASES += [(architecture, "sequence", kind) for architecture in CONFIGS for kind in KINDS if kind != "calibrated"]


def close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_every_architecture_of_the_main_package_is_known():
    assert set(ARCHITECTURES) == set(CONFIGS)


@pytest.mark.parametrize(("architecture", "head", "kind"), CASES)
def test_logits(architecture, head, kind, tmp_path):
    config = {} if head == "answers" else {"num_labels": 3}
    case = packed(tmp_path, random_model(HEADS[head], architecture, **config), kind)
    network = network_of(case.file)
    calls = []
    for module in case.model.modules():
        if isinstance(module, QuantizedLinear) and module.input_grid:
            module.register_forward_hook(lambda module, args, output: calls.append((module, args[0], output)))
    for text in batch():
        calls.clear()
        expected = torch_logits(case.model, text)
        assert bool(calls) == (kind in ("calibrated", "calibrated per tensor"))
        inputs = [x.reshape(-1, module.in_features).numpy() for module, x, _ in calls]
        engine = Following(network, inputs)
        close(run(engine, [text]), expected)
        assert not engine.inputs
        close(run(ReferenceEngine(network), [text]), expected, 0.05 if calls else 1e-5)


@pytest.mark.parametrize("kind", ["calibrated", "calibrated per tensor"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_integers_of_every_linear(architecture, kind, tmp_path):
    case = packed(tmp_path, random_model(HEADS["sequence"], architecture), kind)
    linears = {}
    for part in parts_of(network_of(case.file)):
        if isinstance(part, Linear) and part.input_scale is not None:
            linears[part.weight.tobytes()] = part
    calls = []
    for module in case.model.modules():
        if isinstance(module, QuantizedLinear):
            module.register_forward_hook(lambda module, args, output: calls.append((module, args[0], output)))
    torch_logits(case.model, batch(lengths=(40,))[0])
    assert len(calls) == len(linears) > 8
    for module, inputs, output in calls:
        q, weight, sums = torch_integers(module, inputs)
        linear = linears[weight.astype(np.int8).tobytes()]
        x = inputs.reshape(-1, linear.inputs).numpy()
        np.testing.assert_array_equal(functions.quantize(x, linear.input_scale, linear.input_zero), q)
        np.testing.assert_array_equal(
            functions.integer_sums(q.astype(np.uint8), linear.input_zero, linear.weight), sums
        )
        close(functions.linear(linear, x), output.reshape(-1, linear.outputs).numpy(), 2e-6)


def parts_of(part):
    """Every part of a network."""
    yield part
    if isinstance(part, tuple):
        for each in part:
            yield from parts_of(each)
    elif hasattr(part, "__dataclass_fields__"):
        for name in part.__dataclass_fields__:
            yield from parts_of(getattr(part, name))


def torch_integers(module, x):
    """Inputs and weights as PyTorch's fake quantization rounds them, and their sums, all in integers."""
    scale, zero = module.input_grid
    fake = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)
    centred = (fake.double() / np.float32(scale)).round().long().reshape(-1, module.in_features)
    rows = module.weight.reshape(module.weight_scale.numel(), -1) / module.weight_scale.reshape(-1, 1)
    weight = rows.round().long().view_as(module.weight)
    return (centred + zero).numpy(), weight.numpy(), (centred @ weight.T).numpy()


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_ragged_batch_is_its_texts_one_by_one(architecture, tmp_path):
    case = packed(tmp_path, random_model(HEADS["tokens"], architecture), "calibrated")
    engine = ReferenceEngine(network_of(case.file))
    texts = batch(lengths=(1, 9, 128, 2))
    np.testing.assert_array_equal(run(engine, texts), np.concatenate([run(engine, [text]) for text in texts]))
    nothing = engine.forward(np.zeros(0, np.int32), np.zeros(1, np.int32))
    assert nothing.shape == (0, 32)


@pytest.mark.parametrize("architecture", ["bert", "electra", "roberta"])
def test_token_types(architecture, tmp_path):
    case = packed(tmp_path, random_model(HEADS["sequence"], architecture), "int8")
    text = batch(lengths=(8,))[0]
    types = np.array([0, 0, 0, 1, 1, 1, 1, 0], np.int32)
    found = run(ReferenceEngine(network_of(case.file)), [text], types)
    close(found, torch_logits(case.model, text, types))
    assert np.abs(found - torch_logits(case.model, text)).max() > 1e-3


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("bert", {"hidden_act": "gelu_new"}),
        ("bert", {"hidden_act": "relu", "layer_norm_eps": 1e-3}),
        ("roberta", {"hidden_act": "silu"}),
        ("distilbert", {"activation": "relu"}),
        ("electra", {"embedding_size": 32}),
        ("modernbert", {"classifier_pooling": "mean"}),
        ("modernbert", {"local_attention": 8, "layer_types": ["sliding_attention", "full_attention"]}),
        ("modernbert", {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True}),
        ("modernbert", {"hidden_activation": "gelu_pytorch_tanh", "classifier_activation": "relu", "norm_eps": 1e-3}),
        ("mpnet", {"max_position_embeddings": 400}),
    ],
    ids=str,
)
def test_what_a_configuration_may_ask_for(architecture, config, tmp_path):
    case = packed(tmp_path, random_model(AutoModelForSequenceClassification, architecture, **config), "fp32")
    engine = ReferenceEngine(network_of(case.file))
    for text in batch(lengths=(5, 100) if architecture != "mpnet" else (300,)):
        close(run(engine, [text]), torch_logits(case.model, text))


def test_a_bare_encoder_gives_hidden_states(tmp_path):
    case = packed(tmp_path, random_model(AutoModel, "bert"), "calibrated")
    network = network_of(case.file)
    assert network.head is None
    text = batch()[0]
    found = ReferenceEngine(network).forward(text, np.array([0, len(text)], np.int32))
    with torch.no_grad():
        close(found, case.model(input_ids=torch.from_numpy(text)[None].long()).last_hidden_state[0].numpy(), 1e-4)


@pytest.mark.parametrize(
    ("ids", "offsets", "types", "message"),
    [
        ([53], [0, 1], None, "not one of the model's 53"),
        ([-1], [0, 1], None, "not one of the model's 53"),
        ([1] * 129, [0, 129], None, "a text of 129 tokens; the model takes 128"),
        ([1], [0, 2], None, "offsets have to"),
        ([1], [0, 0, 1], None, "offsets have to"),
        ([1], [1, 1], None, "offsets have to"),
        ([1], [], None, "offsets have to"),
        ([1, 1], [0, 1, 0, 2], None, "offsets have to"),
        ([1], [0, 1], [2], "token types have to be"),
        ([1], [0, 1], [0, 0], "token types have to be"),
    ],
)
def test_what_is_no_batch_is_refused(ids, offsets, types, message, tmp_path_factory, bert):
    given = [None if array is None else np.array(array, np.int32) for array in (ids, offsets, types)]
    with pytest.raises(PruneonceError, match=message):
        bert.forward(*given)
    with pytest.raises(PruneonceError, match="have to be int32"):
        bert.forward(np.array([1]), np.array([0, 1]))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    case = packed(tmp_path_factory.mktemp("bert"), random_model(HEADS["sequence"], "bert"), "int8")
    return ReferenceEngine(network_of(case.file))
