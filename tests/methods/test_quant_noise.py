"""Quant-Noise: which blocks, what becomes of them, and training with it."""

import copy
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from shared.models import CONFIGS
from transformers import AutoModelForSequenceClassification

from pruneonce import quantization, stages
from pruneonce.errors import UserError
from pruneonce.methods import quant_noise
from pruneonce.methods.quant_noise import QuantNoise
from pruneonce.methods.quant_noise.quant_noise import draw_blocks, partly_dropped, partly_rounded
from pruneonce.plugins import make
from pruneonce.quantization import LearningEmbedding, LearningLinear
from pruneonce.recipe import Corpus, Gradual, Prepare, Prune, Quantization, Quantize, Training, Transfer
from pruneonce.sparsity import inspect_module, verify

INT4 = Quantization(bits=4, granularity="group", group_size=16)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


# -- functions --------------------------------------------------------------------------------------------------


def chosen_by_hand(rows, inputs, block_size, probability):
    """One number a block, row after row; it is the block's own draw."""
    chosen = torch.zeros(rows, inputs, dtype=torch.bool)
    blocks = -(-inputs // block_size)
    draws = torch.rand(rows * blocks).tolist()
    for row in range(rows):
        for column in range(inputs):
            chosen[row, column] = draws[row * blocks + column // block_size] < probability
    return chosen


def reference_rounded(weight, rounded, probability, block_size):
    chosen = chosen_by_hand(*weight.shape, block_size, probability)
    return weight + (rounded - weight).masked_fill(~chosen, 0)


def reference_dropped(weight, probability, block_size):
    chosen = chosen_by_hand(*weight.shape, block_size, probability)
    return (weight / (1 - probability)).masked_fill(chosen, 0)


def against_reference():
    """What the shared test compares. 24 inputs: 5 leaves a ragged block, 64 is more than a row."""
    weight = torch.randn(6, 24, generator=torch.Generator().manual_seed(0))
    for block_size, probability in product([1, 4, 5, 64], [0.1, 0.5]):
        for found, expected, inputs in (
            (partly_rounded, reference_rounded, (weight, weight.round())),
            (partly_dropped, reference_dropped, (weight,)),
        ):
            torch.manual_seed(1)
            noisy = found(*inputs, probability, block_size)
            torch.manual_seed(1)
            yield noisy, expected(*inputs, probability, block_size)


README = (Path(quant_noise.__file__).parent / "README.md").read_text(encoding="utf-8")


def test_the_examples_run():
    on_grid, on_codebooks = (block.split("```")[0] for block in README.split("```python\n")[1:])
    found = {}
    exec(on_grid, found)
    assert found["loss"] < 0.5
    exec(on_codebooks, found)
    assert (found["decoded"] - found["weight"]).square().mean() < 0.5
    assert 0.05 < (found["noisy"] == 0).float().mean() < 0.15
    values = yaml.safe_load(README.split("```yaml\n")[1].split("```")[0])
    assert Quantize(**values["quantize"]["int8"]).method == QuantNoise(probability=0.5)


def test_without_and_with_full_probability():
    weight, rounded = torch.randn(6, 24), torch.randn(6, 24)
    assert torch.equal(partly_rounded(weight, rounded, 0.0), weight)
    assert torch.equal(partly_rounded(weight, rounded, 1.0), rounded)
    assert torch.equal(partly_dropped(weight, 0.0), weight)


def test_as_many_as_the_probability_says_and_others_each_time():
    shape = torch.Size([400, 400])
    one, other = (draw_blocks(shape, 1, 0.3, torch.device("cpu")) for _ in range(2))
    assert one.float().mean() == pytest.approx(0.3, abs=0.01)
    assert (one & other).float().mean() == pytest.approx(0.09, abs=0.01)


def test_expected_weights_are_exact_where_blocks_are_dropped():
    weight = torch.ones(1, 8)
    mean = torch.stack([partly_dropped(weight, 0.25, 4) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, weight, atol=0.05, rtol=0)


def test_gradients_are_straight_through_and_exact():
    weight = torch.randn(6, 24, requires_grad=True)
    upstream = torch.randn(6, 24)
    partly_rounded(weight, torch.fake_quantize_per_tensor_affine(weight, 0.1, 0, -127, 127), 0.5).backward(upstream)
    assert torch.equal(weight.grad, upstream)
    weight.grad = None
    noisy = partly_dropped(weight, 0.5, 4)
    noisy.backward(upstream)
    assert torch.equal(weight.grad, torch.where(noisy == 0, upstream, upstream * 2))


def test_zeros_stay_zeros():
    weight = torch.randn(6, 24)
    weight[:, ::2] = 0
    for noisy in (partly_rounded(weight, (weight * 10).round() / 10, 0.5), partly_dropped(weight, 0.5, 4)):
        assert not noisy[:, ::2].any()


def test_options_that_do_nothing_or_too_much_are_refused():
    with pytest.raises(ValueError):
        QuantNoise(probability=0)
    method = make(QuantNoise(probability=1.0))
    with pytest.raises(UserError, match="would drop every weight"), method.parametrized(classifier()):
        pass
    with pytest.raises(ValueError, match="has no place here"):
        Prepare(steps=1, learning_rate=1e-3, method="quant-noise")


# -- modules ----------------------------------------------------------------------------------------------------


def classifier(architecture="bert"):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(copy.deepcopy(CONFIGS[architecture])).eval()


def batch():
    return {"input_ids": torch.randint(5, 50, (4, 12), generator=torch.Generator().manual_seed(0))}


def on_grid(settings=INT4):
    """A model that learns on the grid, its ranges known; without dropout in training."""
    model = classifier()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.config.attention_probs_dropout_prob = 0.0
    for layer in quantization.insert(model, settings, 1.0).values():
        layer.train()
    with torch.no_grad():
        model(**batch())
    return model


def noise(probability, **options):
    return make(QuantNoise(probability=probability, **options))


@pytest.mark.parametrize("settings", [INT4, Quantization()], ids=["int4", "int8"])
def test_in_evaluation_and_with_probability_1_it_is_training_on_the_grid(settings):
    model = on_grid(settings)
    usual = model.eval()(**batch()).logits
    with noise(0.5).parametrized(model):
        assert torch.equal(model.eval()(**batch()).logits, usual)
    trained = copy.deepcopy(model).train()(**batch()).logits
    state = torch.get_rng_state()
    with noise(1.0).parametrized(model):
        assert torch.equal(model.train()(**batch()).logits, trained)
    assert torch.equal(torch.get_rng_state(), state)  # so that dropout is the same too


def test_a_vanishing_probability_is_the_exact_layer():
    layer = LearningLinear(torch.nn.Linear(32, 8), 4, "group", 16)
    model = torch.nn.Sequential(layer)
    x = torch.randn(5, 32)
    with noise(1e-12).parametrized(model):
        assert torch.equal(model(x), F.linear(x, layer.weight, layer.bias))
    assert not torch.equal(model(x), F.linear(x, layer.weight, layer.bias))


def ranges_of(state):
    """What a forward pass in training does move: the ranges of inputs."""
    return {name: value for name, value in state.items() if "input_" in name}


@pytest.mark.parametrize("settings", [None, INT4, Quantization()], ids=["dropped", "int4", "int8"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_forward_changes_no_weight_and_no_name(settings, architecture):
    model = classifier(architecture)
    if settings:
        quantization.insert(model, settings)
    begun = copy.deepcopy(model.state_dict())
    model.train()
    with noise(0.3).parametrized(model):
        with torch.no_grad():
            state = torch.get_rng_state()
            one, other = model(**batch()).logits, model(**batch()).logits
            assert not torch.equal(one, other)
            torch.set_rng_state(state)
            model.load_state_dict({**model.state_dict(), **ranges_of(begun)})
            assert torch.equal(model(**batch()).logits, one)  # it is a function of the random state
        inside = dict(model.named_parameters())
    after = model.state_dict()
    assert after.keys() == begun.keys()
    assert all(torch.equal(after[name], begun[name]) for name in begun.keys() - ranges_of(begun).keys())
    assert inside.keys() == dict(model.named_parameters()).keys()
    assert all(inside[name] is value for name, value in model.named_parameters())


def test_modules_are_what_they_were_afterwards():
    model = classifier()
    kinds = dict(model.named_modules())
    with noise(0.1).parametrized(model.train()):
        assert type(model.bert.pooler.dense).__name__ == "NoisyLinear"
        assert type(model.bert.embeddings.word_embeddings).__name__ == "NoisyEmbedding"
        assert type(model.classifier) is torch.nn.Linear
    assert dict(model.named_modules()) == kinds
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("kind", ["rounded", "dropped"])
def test_a_row_is_the_same_wherever_it_is_looked_up(kind):
    table = torch.nn.Embedding(10, 16)
    model = torch.nn.ModuleDict({"table": LearningEmbedding(table) if kind == "rounded" else table})
    if kind == "rounded":
        context = noise(0.5).parametrized(model)
    else:
        from pruneonce.methods.quant_noise.quant_noise import NoisyEmbedding

        model["table"] = NoisyEmbedding(table, 0.5, 4)
        context = torch.enable_grad()
    with context:
        rows = model.train()["table"](torch.tensor([[3, 5, 3], [7, 3, 5]]))
    assert torch.equal(rows[0, 0], rows[0, 2])
    assert torch.equal(rows[0, 0], rows[1, 1])
    assert torch.equal(rows[0, 1], rows[1, 2])
    assert not torch.equal(rows[0, 0], table.weight[3])
    rows.sum().backward()
    assert table.weight.grad[3].min() >= 3
    assert not table.weight.grad[4].any()


# -- stages -----------------------------------------------------------------------------------------------------

TRAIN = {"steps": 8, "batch_size": 8, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def models(encoder, task, tmp_path_factory):
    """A dense teacher and a sparse model."""
    folder = tmp_path_factory.mktemp("task")
    dense = stages.finetune(encoder, task, Training(**TRAIN), folder / "dense")
    return dense, stages.prune_one_shot(encoder, Prune(steps=1, learning_rate=1, sparsity=0.8), folder / "sparse")


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def differs(one, other):
    ours, theirs = weights_of(one), weights_of(other)
    assert ours.keys() == theirs.keys()
    return any(not torch.equal(ours[name], theirs[name]) for name in ours)


def quantized(models, task, output, **changes):
    dense, sparse = models
    return stages.quantize(sparse, task, Quantize(**{**TRAIN, **changes}), output, teacher=dense)


@pytest.mark.parametrize("grid", [{}, {"bits": 4, "granularity": "group", "group_size": 16}], ids=["int8", "int4"])
def test_quantizing_with_noise(grid, models, task, tmp_path):
    plain = quantized(models, task, tmp_path / "plain", **grid)
    noisy = quantized(models, task, tmp_path / "noisy", method="quant-noise", **grid)
    full = quantized(models, task, tmp_path / "full", method={"name": "quant-noise", "probability": 1.0}, **grid)
    assert verify(noisy, models[1]).ok
    assert differs(noisy, plain)
    assert not differs(full, plain)  # with dropout and all
    quantization.load(noisy)


def transferred(models, task, output, **changes):
    dense, sparse = models
    return stages.transfer(sparse, task, Transfer(**TRAIN, **changes), output, teacher=dense)


def gradual(models, task, output, **changes):
    dense, _ = models
    settings = Gradual(**TRAIN, sparsity=0.5, every=1, rewind=False, **changes)
    return stages.transfer_gradual(dense, task, settings, output, teacher=dense)


def finetuned(models, task, output, **changes):
    return stages.finetune(models[0], task, Training(**TRAIN, **changes), output)


@pytest.mark.parametrize("stage", [transferred, gradual, finetuned])
def test_stages_with_dropped_blocks(stage, models, task, tmp_path):
    plain = stage(models, task, tmp_path / "plain")
    noisy = stage(models, task, tmp_path / "noisy", method={"name": "quant-noise", "probability": 0.2})
    assert differs(noisy, plain)
    assert stage is not transferred or verify(noisy, models[1]).ok


def test_pruning_with_dropped_blocks(encoder, corpus_file, tmp_path):
    corpus = Corpus(source=str(corpus_file), block_length=16, validation=0.1)
    settings = Prune(**TRAIN, objective="hidden", every=1, rewind=False, method="quant-noise")
    made = stages.prune(encoder, corpus, settings, tmp_path / "noisy")
    assert inspect_module(AutoModelForSequenceClassification.from_pretrained(made)).encoder > 0.89
