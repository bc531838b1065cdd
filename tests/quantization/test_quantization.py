"""Fake quantization against plain references and hand values; quantized model folders, with and without our code."""

import copy
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shared.models import CONFIGS
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

import pruneonce
from pruneonce import quantization, stages
from pruneonce.errors import UserError
from pruneonce.export.qdq import IntegerEmbedding, with_nodes
from pruneonce.models import grid as grid_file
from pruneonce.quantization import LearningEmbedding, LearningLinear, QuantizedEmbedding, QuantizedLinear
from pruneonce.recipe import Calibrate, Quantization, Quantize
from pruneonce.sparsity import verify
from pruneonce.storage import pack, unpack
from pruneonce.system.durable import read_json, write_json

GRIDS = {
    "channel": Quantization(),
    "tensor": Quantization(granularity="tensor"),
    "int4": Quantization(bits=4, granularity="group", group_size=16),
}
TABLES = {
    "bert": {"word_embeddings", "position_embeddings", "token_type_embeddings"},
    "distilbert": {"word_embeddings", "position_embeddings"},
    "electra": {"word_embeddings", "position_embeddings", "token_type_embeddings"},
    "modernbert": {"tok_embeddings"},
    "mpnet": {"word_embeddings", "position_embeddings"},
    "roberta": {"word_embeddings", "position_embeddings", "token_type_embeddings"},
}
SHAPES = {"channel": (64,), "tensor": (1,), "int4": (64, 2)}


def classifier(architecture):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(CONFIGS[architecture]).eval()


def batch(seed=0, rows=4, length=12):
    ids = torch.randint(5, 50, (rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def learned(model, settings=GRIDS["channel"]):
    """`model` with ranges from one batch, in place."""
    for layer in quantization.insert(model, settings, 1.0).values():
        layer.train()
    with torch.no_grad():
        model(**batch())
    return model.eval()


# -- functions --------------------------------------------------------------------------------------------------


def reference_weight(weight, bits, granularity, group_size):
    """Group by group, in plain float64; the scale is the next larger one of 8 significant bits."""
    most = 2 ** (bits - 1) - 1
    out, inputs = weight.shape
    width = {"tensor": inputs, "channel": inputs, "group": group_size}[granularity]
    found = np.zeros((out, inputs))
    for row in range(out):
        for start in range(0, inputs, width):
            part = weight[row, start : start + width].astype(np.float64)
            largest = np.abs(weight if granularity == "tensor" else part).max()
            fraction, exponent = math.frexp(np.float32(largest) / np.float32(most))
            scale = math.ldexp(math.ceil(256 * fraction) / 256, exponent) if largest else 1.0
            found[row, start : start + width] = np.clip(np.rint(part / scale), -most, most) * scale
    return found


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("granularity", ["channel", "tensor", "group"])
def test_weights_equal_the_reference(bits, granularity):
    weight = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    scale = quantization.symmetric_scale(weight, bits, granularity, 8)
    assert scale.shape == {"channel": (6,), "tensor": (1,), "group": (6, 4)}[granularity]
    found = quantization.fake_quantize_weight(weight, scale, bits)
    np.testing.assert_allclose(found, reference_weight(weight.numpy(), bits, granularity, 8), rtol=1e-6)
    integers = quantization.quantize_weight(weight, scale, bits)
    assert integers.abs().max() == 2 ** (bits - 1) - 1
    if granularity == "channel":
        np.testing.assert_array_equal(scale, grid_file.fit(weight.numpy(), bits).scale)  # as `pack` rounds
    assert torch.equal((integers.view(scale.numel(), -1) * scale.view(-1, 1)).view_as(weight), found)
    assert torch.equal(quantization.fake_quantize_weight(found, scale, bits), found)  # what is on the grid stays


def test_a_row_by_hand():
    weight = torch.tensor([[1.27, -0.5, 0.0, 0.004]])
    scale = quantization.symmetric_scale(weight)
    step = 164 / 128 / 128  # 0.01 is 1.28 / 128, and 1.28 lies between 163 and 164 of 128
    assert scale.item() == step
    assert quantization.fake_quantize_weight(weight, scale)[0].tolist() == [127 * step, -50 * step, 0, 0]
    assert quantization.quantize_weight(weight, scale)[0].tolist() == [127, -50, 0, 0]


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"),
    [(-1.0, 1.55, 0.01, 100), (0.5, 2.55, 0.01, 0), (-2.55, -1.0, 0.01, 255), (0.0, 0.0, 1.0, 0)],
)
def test_zero_is_exact_for_activations(low, high, scale, zero_point):
    found, zero = quantization.affine_parameters(torch.tensor(low), torch.tensor(high))
    assert (found.item(), zero.item()) == (pytest.approx(scale), zero_point)
    x = torch.tensor([0.0, -1e4, 1e4])
    y = torch.fake_quantize_per_tensor_affine(x, found, zero, 0, 255)
    assert y[0] == 0
    assert y[1:].tolist() == pytest.approx([-zero_point * scale, (255 - zero_point) * scale])


def test_the_moving_average():
    average = torch.tensor(torch.inf)
    seen = []
    for value in (-1.0, -2.0, -2.0):
        average = quantization.moving_average(average, torch.tensor(value), 0.01)
        seen.append(average.item())
    assert seen == pytest.approx([-1.0, -1.01, -1.0199])


def test_gradients_pass_straight_through():
    layer = LearningLinear(torch.nn.Linear(4, 3), averaging=0.5)
    layer(torch.tensor([[-1.0, 0.2, 0.3, 2.0]]))  # the range is now -1..2
    x = torch.tensor([[-9.0, 0.2, 0.3, 1.0]], requires_grad=True)
    layer.eval()(x).sum().backward()
    on_grid = quantization.fake_quantize_weight(layer.weight, layer.weight_scale())
    assert x.grad[0].tolist() == pytest.approx([0.0, *on_grid.sum(0)[1:].tolist()])  # outside the range: none
    assert torch.allclose(layer.weight.grad[:, 1:], x.detach()[:, 1:].expand(3, -1), atol=0.01)


def test_a_table_learns_on_the_grid_of_its_rows():
    """Only what is looked up is rounded, and to what the whole table will be; rows that are not stay as they are."""
    torch.manual_seed(0)
    table = torch.nn.Embedding(10, 6, padding_idx=3)
    table.weight.data[7] *= 100
    layer, ids = LearningEmbedding(table), torch.tensor([[1, 7, 3], [1, 1, 9]])
    assert layer.weight is table.weight
    found = layer(ids)
    before = table.weight.detach().clone()
    expected = reference_weight(before.numpy(), 8, "channel", 0)
    np.testing.assert_allclose(found.detach(), expected[ids], rtol=1e-6)
    assert not torch.equal(found, before[ids])
    assert torch.equal(table.weight, before)

    found.sum().backward()
    assert table.weight.grad[:, 0].tolist() == [0, 3, 0, 0, 0, 0, 0, 1, 0, 1]  # straight through, and none for padding

    frozen = layer.frozen()
    assert torch.equal(frozen(ids), found)
    assert frozen.weight_scale[3] == 1  # all zero
    assert frozen.plain().padding_idx == 3
    assert frozen.plain().weight is table.weight


def test_a_tied_vocabulary_head_stays_tied_and_fp32():
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(CONFIGS["bert"]).eval()
    quantization.freeze(learned(model))
    table = model.get_input_embeddings()
    assert isinstance(table, QuantizedEmbedding)
    assert model.get_output_embeddings().weight is table.weight
    assert not isinstance(model.get_output_embeddings(), QuantizedLinear)

    with_nodes(model)  # an export holds the shared table once, in fp32, and the others in int8
    assert model.get_input_embeddings() is table
    assert isinstance(model.bert.embeddings.position_embeddings, IntegerEmbedding)


def test_what_pack_has_rounded_is_known_as_such(encoder, tmp_path):
    """A model that was rounded only to be packed is exported in integers, too, without ranges of inputs."""
    pack([encoder], tmp_path / "rounded.pruneonce")
    (unpacked,) = unpack(tmp_path / "rounded.pruneonce", tmp_path / "unpacked")
    model = quantization.load(unpacked)
    assert all(isinstance(table, QuantizedEmbedding) for table in quantization.tables(model).values())
    plain = pruneonce.load(tmp_path / "rounded.pruneonce")
    assert torch.equal(model(**batch()).last_hidden_state, plain(**batch()).last_hidden_state)


# -- models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", CONFIGS)
def test_which_modules(architecture):
    model = classifier(architecture)
    every = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    found = quantization.quantizable(model)
    assert every - set(found) == ({"electra.embeddings_project"} if architecture == "electra" else set())
    heads = set(found) - set(quantization.quantizable(model, head=False))
    assert heads
    assert all(name.startswith(("classifier", "pre_classifier", "head")) for name in heads)
    first, second, kept = quantization.describe(model, Quantization()).splitlines()
    assert f"{len(found)} Linears" in first
    assert second.startswith("quantized: ")
    assert not any(name in kept for name in found)
    assert "norms, biases" in kept
    tables = {name.rpartition(".")[2]: module for name, module in quantization.tables(model).items()}
    assert tables.keys() == TABLES[architecture]
    assert all(name in second and name not in kept for name in tables)
    assert ("relative_attention_bias" in kept) == (architecture == "mpnet")
    fp32 = quantization.describe(model, Quantization(embeddings=False)).splitlines()
    assert fp32[0] == first
    assert all(name in fp32[1] for name in tables)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("architecture", CONFIGS)
def test_save_and_load(architecture, grid, tokenizer, tmp_path):
    """The same outputs after loading; names in the files agree; the plain model holds the weights on the grid."""
    model = classifier(architecture)
    exact = model(**batch(1)).logits
    learned(model, GRIDS[grid])
    before = model(**batch(1)).logits
    frozen = quantization.freeze(model)
    assert torch.equal(model(**batch(1)).logits, before)
    quantization.unwrap(model)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    quantization.save(frozen, tmp_path)

    loaded = quantization.load(tmp_path)
    assert torch.equal(loaded(**batch(1)).logits, before)
    weights, grids = load_file(tmp_path / "model.safetensors"), grid_file.load(tmp_path)
    tables = {f"{name}.weight" for name in quantization.tables(loaded)}
    assert grids.keys() == {f"{name}.weight" for name in quantization.quantizable(loaded)} | tables
    for name, found in grids.items():
        assert found.bits == (8 if name in tables else GRIDS[grid].bits)
        on_grid = found.dequantize(found.quantize(weights[name].numpy()))
        assert torch.equal(torch.from_numpy(on_grid), weights[name])
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert not any(isinstance(module, QuantizedLinear | QuantizedEmbedding) for module in plain.modules())
    assert (plain(**batch(1)).logits - exact).abs().max() < 0.2 * exact.abs().max()
    assert not torch.equal(before, exact)


def test_scales_have_the_shapes_of_the_interface():
    for grid, settings in GRIDS.items():
        model = learned(classifier("bert"), settings)
        made = quantization.freeze(model)["bert.encoder.layer.0.intermediate.dense"]
        assert made.weight_scale.shape == SHAPES[grid]
        assert (made.input_grid is None) == (grid == "int4")


def test_a_layer_that_saw_nothing_is_refused():
    model = classifier("bert")
    quantization.insert(model, GRIDS["channel"])
    with pytest.raises(UserError, match=r"no input reached bert\.encoder"):
        quantization.freeze(model)


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="`group_size` 24 does not divide the 32 inputs of bert"):
        quantization.insert(classifier("bert"), Quantization(bits=4, granularity="group", group_size=24))


def test_scales_of_another_model_are_refused(tmp_path):
    model = learned(classifier("bert"))
    quantization.save(quantization.freeze(model), tmp_path)
    with pytest.raises(UserError, match="is of another model: bert"):
        quantization.restore(classifier("roberta"), tmp_path)
    with pytest.raises(UserError, match="is not quantized"):
        quantization.load(tmp_path / "elsewhere")


def test_the_scale_follows_weights_that_shrink():
    layer = LearningLinear(torch.nn.Linear(8, 2))
    before = layer.weight_scale()
    with torch.no_grad():
        layer.weight.mul_(0.5)
    assert torch.equal(layer.weight_scale(), before * 0.5)


# -- stages -----------------------------------------------------------------------------------------------------


TRAIN = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}


@pytest.mark.parametrize("grid", GRIDS)
def test_training_on_the_grid(grid, models, task, tmp_path, capsys):
    dense, sparse = models
    settings = Quantize(**TRAIN, **GRIDS[grid].model_dump())
    made = stages.quantize(sparse, task, settings, tmp_path / "int", teacher=dense)
    assert verify(made, sparse).ok
    assert "quantized: 14 Linears" in capsys.readouterr().out
    found = stages.evaluate(made, task)["test"]["accuracy"]
    assert found >= stages.evaluate(sparse, task)["test"]["accuracy"] - 0.1
    after, before = (load_file(folder / "model.safetensors") for folder in (made, sparse))
    grids = grid_file.load(made)
    for name in ("bert.encoder.layer.0.output.dense.weight", "bert.embeddings.word_embeddings.weight"):
        rounded = grids[name].dequantize(grids[name].quantize(before[name].numpy()))
        assert not torch.equal(after[name], before[name])
        assert not torch.equal(after[name], torch.from_numpy(rounded))  # it has learned, besides


def test_tables_may_stay_fp32(models, task, tmp_path):
    _, sparse = models
    made = stages.calibrate(sparse, task, Calibrate(examples=16, embeddings=False), tmp_path / "int8")
    name = "bert.embeddings.word_embeddings.weight"
    assert name not in grid_file.load(made)
    assert torch.equal(*(load_file(folder / "model.safetensors")[name] for folder in (made, sparse)))


def test_calibration_alone(models, task, tmp_path):
    _, sparse = models
    made = stages.calibrate(sparse, task, Calibrate(examples=40, batch_size=16), tmp_path / "int8")
    assert verify(made, sparse).ok
    exact = AutoModelForSequenceClassification.from_pretrained(sparse)
    difference = quantization.load(made)(**batch()).logits - exact(**batch()).logits
    assert 0 < difference.abs().max() < 0.2 * exact(**batch()).logits.abs().max()
    assert stages.evaluate(made, task)["test"]["accuracy"] == pytest.approx(
        stages.evaluate(sparse, task)["test"]["accuracy"], abs=0.1
    )


def test_evaluation_is_of_the_quantized_model(models, task, tmp_path):
    """Inputs clipped to a hair's breadth of zero leave nothing to tell the classes by."""
    _, sparse = models
    made = stages.calibrate(sparse, task, Calibrate(examples=40), tmp_path / "int8")
    inputs = read_json(made / quantization.model.INPUTS)
    tiny = {name: {**found, "scale": found["scale"] * 1e-9} for name, found in inputs.items()}
    write_json(tiny, made / quantization.model.INPUTS)
    assert stages.evaluate(made, task)["test"]["accuracy"] == pytest.approx(0.5)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("architecture", CONFIGS)
def test_packing_loses_nothing(architecture, grid, tokenizer, tmp_path):
    """The packed file takes the grids that were recorded and rounds nothing; the inputs' ranges travel along."""
    made = tmp_path / "quantized"
    made.mkdir()
    model = learned(classifier(architecture), GRIDS[grid])
    quantization.save(quantization.freeze(model), made)
    quantization.unwrap(model)
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)

    report = pack([made], tmp_path / "packed.pruneonce")
    assert not any(error.weights for error in report.errors.values())
    (unpacked,) = unpack(tmp_path / "packed.pruneonce", tmp_path / "again")
    assert read_json(unpacked / quantization.model.INPUTS) == read_json(made / quantization.model.INPUTS)
    one, other = (load_file(folder / "model.safetensors") for folder in (made, unpacked))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = (load_file(folder / "quantization.safetensors") for folder in (made, unpacked))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(quantization.load(unpacked)(**batch()).logits, quantization.load(made)(**batch()).logits)
    packed = pruneonce.load(tmp_path / "packed.pruneonce")
    assert torch.equal(packed(**batch()).logits, pruneonce.load(made)(**batch()).logits)


def test_resuming_equals_going_straight_through(models, task, tmp_path, monkeypatch):
    dense, sparse = models
    settings = Quantize(**{**TRAIN, "epochs": None, "steps": 6}, checkpoint_every=3)
    straight = stages.quantize(sparse, task, settings, tmp_path / "straight", teacher=dense)

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pruneonce.training.trainer.MaskHooks.on_step_end", stop, raising=False)
        with pytest.raises(KeyboardInterrupt):
            stages.quantize(sparse, task, settings, tmp_path / "resumed", teacher=dense)
    assert (tmp_path / "resumed.partial" / "checkpoints" / "checkpoint-3").is_dir()
    resumed = stages.quantize(sparse, task, settings, tmp_path / "resumed", teacher=dense)
    assert read_json(straight / quantization.model.INPUTS) == read_json(resumed / quantization.model.INPUTS)
    assert "bert.embeddings.word_embeddings.weight" in grid_file.load(resumed)
    for name in ("model.safetensors", "quantization.safetensors"):
        one, other = load_file(straight / name), load_file(resumed / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_quantized_copy_leaves_the_original_alone():
    model = classifier("bert")
    before = copy.deepcopy(model.state_dict())
    quantization.freeze(learned(copy.deepcopy(model)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
