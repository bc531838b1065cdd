"""Product quantization: k-means, weights on codebooks, their file, and the stage that puts a model there."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from shared.models import CONFIGS
from transformers import AutoModelForSequenceClassification

from pruneonce import stages
from pruneonce.errors import UserError
from pruneonce.models.architectures import prunable_weights
from pruneonce.quantization import codebooks, product
from pruneonce.quantization.codebooks import Codebook
from pruneonce.quantization.iterative import OnCodebooks, groups_of
from pruneonce.recipe import ProductQuantize
from pruneonce.sparsity import verify

TRAIN = {"steps": 9, "batch_size": 8, "learning_rate": 1e-3}
SETTINGS = ProductQuantize(**TRAIN, centroids=16, block_size=8)


def sparse_blocks(rows=60, size=4, density=0.4):
    """Blocks with zeros, some all zero, and their mask."""
    random = torch.Generator().manual_seed(0)
    kept = torch.rand(rows, size, generator=random) < density
    kept[::7] = False
    return torch.randn(rows, size, generator=random).masked_fill_(~kept, 0.0), kept


def learned(blocks, kept, centroids=8, seed=0, **options):
    return product.learn(blocks, kept, centroids, torch.Generator().manual_seed(seed), **options)


# -- k-means ----------------------------------------------------------------------------------------------------


def reference_nearest(blocks, kept, centroids):
    found = []
    for block, mask in zip(blocks.tolist(), kept.tolist(), strict=True):
        errors = [
            sum(m * (x - c) ** 2 for x, c, m in zip(block, centroid, mask, strict=True))
            for centroid in centroids.tolist()[1:]
        ]
        found.append((1 + errors.index(min(errors)), min(errors)) if any(block) else (0, 0.0))
    return found


def reference_means(values, kept, codes, centroids):
    found = torch.zeros(centroids, values.shape[1])
    for code in range(1, centroids):
        for column in range(values.shape[1]):
            there = [
                values[row, column]
                for row in range(len(values))
                if codes[row] == code and (kept is None or kept[row, column])
            ]
            if there:
                found[code, column] = sum(there) / len(there)
    return found


@pytest.mark.parametrize("masked", [True, False])
def test_assignment_and_means_equal_the_reference(masked, monkeypatch):
    monkeypatch.setattr(product, "CHUNK", 13)
    blocks, kept = sparse_blocks()
    centroids = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    centroids[0] = 0
    mask = kept if masked else None
    codes, distances = product.nearest(blocks, mask, centroids)
    expected = reference_nearest(blocks, kept if masked else torch.ones_like(kept), centroids)
    assert codes.tolist() == [code for code, _ in expected]
    torch.testing.assert_close(distances, torch.tensor([error for _, error in expected]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(product.block_means(blocks, mask, codes, 6), reference_means(blocks, mask, codes, 6))


def error_of(blocks, kept, codes, centroids):
    return float((product.decode(codes, centroids, kept) - blocks).square().sum())


@pytest.mark.parametrize("masked", [True, False])
def test_k_means_only_gets_better(masked):
    blocks, kept = sparse_blocks(400)
    mask = kept if masked else None
    errors = [error_of(blocks, mask, *learned(blocks, mask, 32, iterations=count)) for count in (1, 2, 4, 8, 16, 32)]
    assert errors == sorted(errors, reverse=True)
    codes, centroids = learned(blocks, mask, 32, iterations=100)
    assert torch.equal(product.nearest(blocks, mask, centroids)[0], codes)  # it has converged
    torch.testing.assert_close(product.block_means(blocks, mask, codes, 32), centroids)


def test_the_mask_is_known_while_it_learns():
    """What a centroid has in a pruned place costs nothing, and so the error is less."""
    blocks, kept = sparse_blocks(400)
    blind = learned(blocks, None, 32)
    assert error_of(blocks, kept, *learned(blocks, kept, 32)) < 0.8 * error_of(blocks, kept, *blind)


@pytest.mark.parametrize("masked", [True, False])
def test_the_zero_block_is_reserved(masked):
    blocks, kept = sparse_blocks()
    codes, centroids = learned(blocks, kept if masked else None)
    assert not centroids[0].any()
    assert torch.equal(codes == 0, ~blocks.any(1))
    assert not product.decode(codes, centroids, kept)[~kept].any()


def test_the_same_seed_gives_the_same():
    blocks, kept = sparse_blocks()
    one, again, other = learned(blocks, kept), learned(blocks, kept), learned(blocks, kept, seed=1)
    assert all(torch.equal(left, right) for left, right in zip(one, again, strict=True))
    assert not torch.equal(one[1], other[1])


def test_as_many_centroids_as_blocks_lose_nothing():
    """Also where some of the blocks are equal: those centroids that are too many find no place."""
    blocks = torch.randn(5, 4).repeat_interleave(3, 0)
    codes, centroids = learned(blocks, None, 12, iterations=30)
    torch.testing.assert_close(product.decode(codes, centroids, None), blocks)
    assert centroids.isfinite().all()


def test_an_empty_centroid_moves_to_what_is_far():
    """Drawn from many equal blocks, all centroids but one would stay empty."""
    blocks = torch.cat([torch.ones(200, 2), torch.tensor([[5.0, 5.0], [-3.0, 1.0]])])
    codes, centroids = learned(blocks, None, 4)
    torch.testing.assert_close(product.decode(codes, centroids, None), blocks)


def test_nothing_but_zeros():
    codes, centroids = learned(torch.zeros(10, 4), torch.zeros(10, 4, dtype=torch.bool))
    assert not codes.any()
    assert not centroids.any()


def test_a_sample_of_many_blocks(monkeypatch):
    blocks, kept = sparse_blocks(2000)
    whole = error_of(blocks, kept, *learned(blocks, kept))
    monkeypatch.setattr(product, "SAMPLE", 30)
    codes, centroids = learned(blocks, kept)
    assert torch.equal(codes == 0, ~blocks.any(1))
    assert error_of(blocks, kept, codes, centroids) < 1.2 * whole


# -- the file ---------------------------------------------------------------------------------------------------


def book(rows=8, inputs=32, size=8, centroids=16, density=0.3):
    """A sparse weight's codebook."""
    blocks, kept = sparse_blocks(rows * inputs // size, size, density)
    codes, found = learned(blocks, kept, centroids)
    return Codebook(codes.view(rows, -1).to(torch.uint8), found.half(), kept.view(rows, inputs))


def saved(books, folder):
    """A model folder of these weights and a bias."""
    codebooks.save(books, folder)
    weights = {name: each.weight() for name, each in books.items()}
    save_file({**weights, "bias": torch.zeros(10)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("density", [0.02, 0.3, 0.9, 2.0])
def test_the_file_gives_the_weights_bit_for_bit(density, tmp_path):
    made = book(density=density)
    again = codebooks.load(saved({"layer.weight": made}, tmp_path))["layer.weight"]
    assert torch.equal(again.weight().view(torch.int32), made.weight().view(torch.int32))
    assert not again.weight()[~made.kept].any()
    assert (again.mask() is None) == (density == 2.0)


def test_size_is_that_of_the_formula(tmp_path):
    """log2(K) / block bits a weight and K * block fp16 numbers a layer, of a weight without zeros."""
    rows, inputs, size, centroids = 96, 64, 8, 256
    codes = torch.randint(1, centroids, (rows, inputs // size), dtype=torch.uint8)
    made = Codebook(codes, torch.randn(centroids, size).half())
    found = codebooks.size(saved({"layer.weight": made}, tmp_path))
    assert found == {
        "codes": rows * inputs * 8 // size // 8,
        "centroids": centroids * size * 2,
        "masks": 0,
        "rest": 40,
        "total": rows * inputs // size + centroids * size * 2 + 40,
    }
    assert found["codes"] + found["centroids"] == product.coded_bytes(rows * inputs, centroids, size)


def test_the_mask_of_a_sparse_weight_is_counted(tmp_path):
    found = codebooks.size(saved({"a": book(64, 64), "b": book(64, 64, density=2.0)}, tmp_path))
    assert found["masks"] > 0
    header = int.from_bytes((tmp_path / codebooks.FILE).read_bytes()[:8], "little") + 8
    in_file = (tmp_path / codebooks.FILE).stat().st_size - header
    assert in_file == found["codes"] + found["centroids"] + found["masks"]


def test_blocks_that_are_whole_or_zero_need_no_mask(tmp_path):
    """What `pattern: 1x8` makes."""
    weight = torch.randn(32, 64).view(-1, 8)
    weight[::3] = 0
    kept = weight != 0
    codes, centroids = learned(weight, kept, 16)
    made = Codebook(codes.view(32, -1).to(torch.uint8), centroids.half(), kept.view(32, 64))
    assert codebooks.size(saved({"w": made}, tmp_path))["masks"] == 0
    assert torch.equal(codebooks.load(tmp_path)["w"].weight() != 0, kept.view(32, 64))


@pytest.mark.parametrize(
    "harm",
    [
        lambda tensors: tensors.pop("w.centroids"),
        lambda tensors: tensors.pop("w.mask"),
        lambda tensors: tensors.update({"w.mask": tensors["w.mask"][:-3]}),
        lambda tensors: tensors.update({"w.codes": tensors["w.codes"] + 200}),
        lambda tensors: tensors.update({"w.codes": tensors["w.codes"].flatten()}),
        lambda tensors: tensors.update({"w.centroids": tensors["w.centroids"].float()}),
        lambda tensors: tensors.update({"w.centroids": torch.zeros(16, 1 << 16).half()}),
        lambda tensors: tensors.update({"w.codes": torch.zeros(1 << 16, 4, dtype=torch.uint8)}),
        lambda tensors: tensors.update({f"v.{part}": tensors[f"w.{part}"].clone() for part in ("codes", "centroids")}),
    ],
)
def test_damage_is_told(harm, tmp_path):
    saved({"w": book()}, tmp_path)
    tensors = load_file(tmp_path / codebooks.FILE)
    harm(tensors)
    save_file(tensors, tmp_path / codebooks.FILE, {**codebooks.FORMAT, "masks": json.dumps({"w": "bits"})})
    with pytest.raises(UserError, match="is damaged"):
        codebooks.load(tmp_path)


def test_without_codebooks(tmp_path):
    with pytest.raises(UserError, match="is not what `pruneonce product-quantize` made"):
        codebooks.size(tmp_path)
    saved({"w": book()}, tmp_path)
    (tmp_path / codebooks.FILE).write_bytes(b"no")
    with pytest.raises(UserError, match="is damaged"):
        codebooks.load(tmp_path)


# -- in training ------------------------------------------------------------------------------------------------


def classifier(architecture):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(CONFIGS[architecture])


GROUPS = {
    "bert": (4, 2, 9),
    "distilbert": (4, 2, 8),
    "electra": (4, 2, 8),
    "modernbert": (4, 1, 4),
    "mpnet": (4, 2, 8),
    "roberta": (4, 2, 8),
}


@pytest.mark.parametrize("architecture", CONFIGS)
def test_groups_by_role(architecture):
    groups = groups_of(classifier(architecture), SETTINGS)
    assert list(groups) == ["feed-forward", "embeddings", "attention"]
    assert tuple(map(len, groups.values())) == GROUPS[architecture]
    assert all("embeddings" in name for name in groups["embeddings"])
    assert not any("token_type" in name for name in groups["embeddings"])  # 16 centroids are more than it is


def test_mistakes_are_told():
    model = classifier("bert")
    with pytest.raises(UserError, match="`block_size` 5 does not divide the 32 inputs of bert"):
        groups_of(model, SETTINGS.model_copy(update={"block_size": 5}))
    with pytest.raises(UserError, match="no weight becomes smaller with 256 centroids of 32 weights"):
        groups_of(model, SETTINGS.model_copy(update={"centroids": 256, "block_size": 32}))
    with pytest.raises(UserError, match="3 groups of weights are quantized in turn"):
        OnCodebooks(prunable_weights(model), groups_of(model, SETTINGS), SETTINGS, 2, 0)
    with pytest.raises(ValueError, match="has no place here"):
        ProductQuantize(**TRAIN, method="quant-noise")


def on_codebooks(sparse=True, steps=9):
    """A model whose feed-forward weights are on codebooks."""
    model = classifier("bert")
    weights = prunable_weights(model)
    if sparse:
        for weight in weights.values():
            weight.data[torch.rand(weight.shape) < 0.7] = 0
    made = OnCodebooks(weights, groups_of(model, SETTINGS), SETTINGS, steps, seed=0)
    made.before_step(0)
    return model, made


@pytest.mark.parametrize("sparse", [True, False])
def test_centroids_move_by_the_mean_gradient_of_their_blocks(sparse):
    """With plain gradient descent, against the paper's rule written out."""
    _, made = on_codebooks(sparse)
    name, tied = next(iter(made.tied.items()))
    assert len(made.tied) == len(made.groups["feed-forward"])
    weight, codes, before = tied.weight, tied.codes, tied.centroids.clone()
    gradient = torch.randn(weight.shape)
    weight.grad = gradient.clone()
    made.mask_gradients()
    torch.optim.SGD([weight], lr=0.1).step()
    made.apply()
    kept = torch.ones(weight.shape, dtype=torch.bool) if tied.kept is None else tied.kept.view_as(weight)
    assert (tied.kept is None) is not sparse
    mean = reference_means(gradient.masked_fill(~kept, 0).view(-1, 8), kept.view(-1, 8), codes, 16)
    torch.testing.assert_close(tied.centroids, before - 0.1 * mean)
    expected = tied.centroids[codes].view_as(weight).masked_fill(~kept, 0)
    assert torch.equal(weight, expected), name


def test_blocks_of_a_code_stay_equal_and_zeros_zero():
    model, made = on_codebooks()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    ids = torch.randint(5, 50, (4, 12), generator=torch.Generator().manual_seed(0))
    zeros = {name: weight == 0 for name, weight in made.weights.items()}
    for step in range(9):
        if step:
            made.before_step(step)
        model(input_ids=ids, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        made.mask_gradients()
        optimizer.step()
        optimizer.zero_grad()
        made.apply()
    assert len(made.tied) == sum(GROUPS["bert"])
    for tied in made.tied.values():
        assert torch.equal(tied.weight, tied.spread(tied.centroids))
        assert not tied.centroids[0].any()
    assert all(not made.weights[name][where].any() for name, where in zeros.items())


# -- the stage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_model_on_codebooks(kind, models, task, tmp_path, capsys):
    dense, sparse = models
    source = dense if kind == "dense" else sparse
    settings = SETTINGS.model_copy(update={"steps": 24, "learning_rate": 3e-3})
    made = stages.product_quantize(source, task, settings, tmp_path / "pq", teacher=dense)
    said = capsys.readouterr().out
    assert "on codebooks: feed-forward, 4 weights" in said
    assert "kept fp32: bert.embeddings.token_type_embeddings, classifier, norms, biases" in " ".join(said.split())

    weights, books = load_file(made / "model.safetensors"), codebooks.load(made)
    assert len(books) == sum(GROUPS["bert"])
    for name, each in books.items():
        assert torch.equal(each.weight().view(torch.int32), weights[name].view(torch.int32)), name
        blocks = {tuple(block) for block in each.weight().view(-1, 8).tolist()}
        assert kind == "sparse" or len(blocks) <= 16
    if kind == "sparse":
        assert verify(made, sparse).ok
    plain = AutoModelForSequenceClassification.from_pretrained(made)
    assert sum(weight.numel() for weight in plain.parameters()) == sum(weight.numel() for weight in weights.values())
    found = stages.evaluate(made, task)["test"]["accuracy"]
    assert found >= stages.evaluate(source, task)["test"]["accuracy"] - 0.15
    sizes = codebooks.size(made)
    assert (sizes["masks"] > 0) == (kind == "sparse")
    assert sizes["total"] < 0.5 * (made / "model.safetensors").stat().st_size
