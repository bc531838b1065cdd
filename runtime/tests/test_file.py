"""What is read out of a packed file, and how often it is in memory."""

import gc
import shutil

import numpy as np
import pytest
import torch
from oracle import HEADS, batch, network_of, packed, random_model, run, torch_logits
from pruneonce import storage
from pruneonce.models import grid
from safetensors.numpy import load_file, save_file
from shared.models import CONFIGS, make_tokenizer

from pruneonce_runtime import PruneonceError, load
from pruneonce_runtime.file import PackedFile
from pruneonce_runtime.reference import ReferenceEngine
from pruneonce_runtime.spec import arrays_of


@pytest.mark.parametrize("kind", ["fp32", "int8", "int4", "calibrated", "calibrated int4"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_tensor_is_that_of_the_unpacked_folder(architecture, kind, tmp_path):
    case = packed(tmp_path, random_model(HEADS["sequence"], architecture), kind)
    expected = load_file(tmp_path / "model-back" / "model.safetensors")
    grids = grid.load(tmp_path / "model-back")
    member = PackedFile(case.file).member()
    assert member.tensors.keys() == expected.keys()
    for name, numbers in expected.items():
        weight = member.weight(name)
        assert weight.numbers().tobytes() == numbers.tobytes(), name
        assert not weight.values.flags.writeable
        if name in grids:
            assert weight.bits == grids[name].bits
            np.testing.assert_array_equal(weight.scale, grids[name].scale)
            np.testing.assert_array_equal(weight.dense(), grids[name].quantize(numbers))
        if weight.pattern:
            assert weight.pattern.kept == np.count_nonzero(weight.pattern.mask()) == weight.values.size
    member.verify()
    files = {path.name: path.read_bytes() for path in (tmp_path / "model-back").glob("*.json")}
    assert {name: member.file(name) for name in member.files} == files
    assert member.file("other.json") is member.json("other.json") is None


def test_weights_of_the_network_are_sparse_integers(tmp_path):
    network = network_of(packed(tmp_path, random_model(HEADS["sequence"], "bert"), "calibrated").file)
    for layer in network.encoder.layers:
        for linear in linears(layer):
            assert linear.matrix.values.dtype == np.int8
            assert linear.matrix.pattern.kept == pytest.approx(0.2 * linear.inputs * linear.outputs, rel=0.1)
            assert np.count_nonzero(linear.weight) <= linear.matrix.pattern.kept
            assert linear.scale.shape == (linear.outputs,)
            assert 0 < linear.input_scale < 1
            assert linear.bits == 8
    assert network.encoder.embeddings.words.values.dtype == np.int8
    assert network.head.output.input_scale is not None


def linears(layer):
    return (*layer.inputs, layer.output, layer.up, layer.down)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Three task models of one sparse parent with frozen embeddings."""
    folder = tmp_path_factory.mktemp("family")
    packed(folder, random_model(HEADS["sequence"], "bert", num_labels=3), "fp32", "parent")
    folders = []
    for number, name in enumerate(("mood", "topic", "spam")):
        copy = shutil.copytree(folder / "parent", folder / name / "sparse")
        tensors = load_file(copy / "model.safetensors")
        for key, weight in tensors.items():
            if "embeddings" not in key:
                weight *= np.float32(1 + number / 3)
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        folders.append(copy)
    storage.pack(folders, folder / "family.pruneonce", "int8")
    return folder / "family.pruneonce"


def test_a_family_shares_its_pattern_tables_and_tokenizer(family):
    models = load(family)
    assert list(models) == ["mood", "topic", "spam"]
    assert len(models) == 3
    first, *others = models.values()
    layer = first.network.encoder.layers[1]
    for other in others:
        theirs = other.network.encoder
        assert theirs.layers[1].up.matrix.pattern is layer.up.matrix.pattern
        assert np.shares_memory(theirs.embeddings.words.values, first.network.encoder.embeddings.words.values)
        assert np.shares_memory(theirs.embeddings.words.scale, first.network.encoder.embeddings.words.scale)
        assert np.shares_memory(theirs.embeddings.norm.weight, first.network.encoder.embeddings.norm.weight)
        assert not np.shares_memory(theirs.layers[1].up.scale, layer.up.scale)
        assert other._parts.tokenizer.shared is first._parts.tokenizer.shared
        assert other("a great river") != first("a great river")
    tables = first.network.encoder.embeddings
    parts = [first.network.head.dense, *(part for layer in first.network.encoder.layers for part in linears(layer))]
    shared = sum(part.matrix.pattern.bits.nbytes for part in parts)
    shared += sum(table.values.nbytes + table.scale.nbytes for table in (tables.words, tables.positions, tables.types))
    together = sum(array.nbytes for array in arrays_of(tuple(model.network for model in models.values())).values())
    assert 0 < together <= sum(model.network.nbytes for model in models.values()) - 2 * shared
    assert models["mood"] is first
    with pytest.raises(KeyError):
        models["other"]


def test_what_nobody_holds_is_given_back(family):
    file = PackedFile(family)
    weight = file.member("mood").weight("bert.embeddings.word_embeddings.weight")
    assert len(file._shared)
    del weight
    gc.collect()
    assert not len(file._shared)


def test_a_member_of_a_family(family):
    assert load(family, "topic").name == "topic"
    with pytest.raises(PruneonceError, match=r"has no member 'x'; it holds mood, topic, spam"):
        load(family, "x")
    with pytest.raises(PruneonceError, match="is a family: choose a member"):
        PackedFile(family).member()


def test_other_shapes_of_grids(tmp_path):
    """A table with one scale is looked up as it is, a grouped one as numbers."""
    source = tmp_path / "grids"
    model = random_model(HEADS["sequence"], "bert")
    model.save_pretrained(source)
    make_tokenizer().save_pretrained(source)
    tensors = load_file(source / "model.safetensors")
    grids = {
        "bert.embeddings.word_embeddings.weight": grid.Grid(8, np.array([0.02], np.float32)),
        "bert.embeddings.position_embeddings.weight": grid.fit(
            tensors["bert.embeddings.position_embeddings.weight"], 8, 4
        ),
        "bert.encoder.layer.0.output.dense.weight": grid.Grid(5, np.full((32, 1), 0.1, np.float32)),
    }
    for name, each in grids.items():
        tensors[name] = each.dequantize(each.quantize(tensors[name]))
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    grid.save(source, grids)
    storage.pack([source], tmp_path / "grids.pruneonce", "fp32")
    network = network_of(tmp_path / "grids.pruneonce")
    embeddings = network.encoder.embeddings
    assert embeddings.words.scale.shape == (53,)
    assert embeddings.positions.scale is None
    assert network.encoder.layers[0].down.scale.shape == (32,)
    assert network.encoder.layers[0].down.bits == 5
    model.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    for text in batch():
        np.testing.assert_allclose(run(ReferenceEngine(network), [text]), torch_logits(model, text), rtol=1e-5)
