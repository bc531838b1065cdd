"""Reweighted group lasso: the penalty by loops, its limits, and runs in which it prunes at `end` and not before."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from shared.settings import BLOCKS

from pruneonce import stages
from pruneonce.config.pattern import Pattern
from pruneonce.errors import UserError
from pruneonce.methods import block_lasso
from pruneonce.methods.block_lasso import BlockLasso
from pruneonce.methods.block_lasso.block_lasso import betas_of, group_norms, penalty
from pruneonce.models.architectures import prunable_weights
from pruneonce.plugins import make
from pruneonce.recipe import Classification, Corpus, Gradual, Prune, Training
from pruneonce.sparsity import PruningSchedule, holds, locked_masks
from pruneonce.training.sparsifier import Pruner

NAMES = ["unstructured", "1x1", *BLOCKS, "16x16", "2:4"]  # 10 x 14 is ragged for most


def weights_of(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw) for name, shape in (("a", (10, 14)), ("b", (5, 4)))}


def groups_of(shape, pattern):
    """Index pairs of each group, row by row of groups."""
    rows, columns = pattern.rows or shape[0], pattern.columns or shape[1]
    for top in range(0, shape[0], rows):
        for left in range(0, shape[1], columns):
            yield [
                (i, j)
                for i in range(top, min(top + rows, shape[0]))
                for j in range(left, min(left + columns, shape[1]))
            ]


def reference_norms(weight, pattern):
    return [sum(float(weight[at]) ** 2 for at in group) ** 0.5 for group in groups_of(weight.shape, pattern)]


def reference_penalty(weights, at, pattern, epsilon):
    """The penalty of `weights` with the betas of `at`."""
    return sum(
        norm / (old + epsilon)
        for name in weights
        for norm, old in zip(
            reference_norms(weights[name], pattern), reference_norms(at[name], pattern), strict=True
        )
    )  # fmt: skip


def against_reference():
    """Norms and penalties, ours and by loops."""
    weights, older = weights_of(), weights_of(1)
    for pattern in map(Pattern.parse, NAMES):
        for weight in weights.values():
            yield group_norms(weight, pattern).flatten(), torch.tensor(reference_norms(weight, pattern))
        found = penalty(weights, betas_of(older, pattern, 1e-3), pattern)
        yield found, torch.tensor(reference_penalty(weights, older, pattern, 1e-3))


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_the_formula_and_finite_at_zero(name):
    pattern = Pattern.parse(name)
    weight = weights_of()["a"]
    weight[:3], weight[:, 8:12] = 0, 0  # whole groups of most patterns
    betas = betas_of({"a": weight}, pattern, 1e-3)
    expected = torch.zeros_like(weight)
    norms = reference_norms(weight, pattern)
    for group, norm, beta in zip(groups_of(weight.shape, pattern), norms, betas["a"].flatten(), strict=True):
        for at in group:
            expected[at] = beta * weight[at] / norm if norm else 0.0
    weight.requires_grad_()
    penalty({"a": weight}, betas, pattern).backward()
    torch.testing.assert_close(weight.grad, expected)
    assert not weight.grad[:3][:, 8:12].any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tiny", [0.0, 1e-45, 1e-30, 1e-20])  # the squares of these are 0, or near the least number
def test_gradient_is_finite_where_a_square_is_zero(name, tiny):
    pattern, weight = Pattern.parse(name), torch.full((10, 14), tiny)
    betas = betas_of({"a": weight}, pattern, 1e-3)
    weight.requires_grad_()
    penalty({"a": weight}, betas, pattern).backward()
    assert weight.grad.abs().max() <= 1001 if tiny else not weight.grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_without_reweighting_it_is_group_lasso(name):
    """epsilon -> infinity with weight / epsilon fixed."""
    pattern, weights, ratio = Pattern.parse(name), weights_of(), 0.3
    plain = ratio * sum(sum(reference_norms(weight, pattern)) for weight in weights.values())
    gaps = []
    for epsilon in (1e2, 1e4, 1e8):
        found = ratio * epsilon * penalty(weights, betas_of(weights_of(1), pattern, epsilon), pattern)
        gaps.append(abs(float(found) - plain) / plain)
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-5


@pytest.mark.parametrize("name", ["unstructured", "1x1"])
def test_single_weights_are_reweighted_l1(name):
    pattern, weights, older = Pattern.parse(name), weights_of(), weights_of(1)
    expected = sum((weights[key].abs() / (older[key].abs() + 0.01)).sum() for key in weights)
    torch.testing.assert_close(penalty(weights, betas_of(older, pattern, 0.01), pattern), expected)


def method_of(pattern="unstructured", steps=20, weights=None, **settings):
    values = {"steps": steps, "learning_rate": 1e-3, "every": 2, "pattern": pattern, "rewind": False, **settings}
    section = Prune(**values, method={"name": "block-lasso", "epsilon": 0.01})
    method = make(section.method)
    method.begin(SimpleNamespace(settings=section, steps=steps, weights=weights or weights_of()))
    return method, section


def pruned_at_end(pattern, weights):
    method, section = method_of(pattern, weights=weights, sparsity=0.5)
    sparsifier = Pruner(weights, section, PruningSchedule.of(section, 20), method)
    for step in range(10):
        sparsifier.before_step(step)
        assert sparsifier.sparsity() == 0
        assert method.extra_loss(step) > 0
    sparsifier.before_step(10)
    assert method.extra_loss(10) is None
    return sparsifier.masks


def test_blocks_of_full_height_are_columns():
    weights = {"a": weights_of()["a"]}
    for one, other in (("column", "10x1"), ("row", "1x14"), ("column", "9999x1")):
        first, second = Pattern.parse(one), Pattern.parse(other)
        betas, others = betas_of(weights, first, 0.01), betas_of(weights, second, 0.01)
        assert torch.equal(betas["a"], others["a"])
        assert torch.equal(penalty(weights, betas, first), penalty(weights, others, second))
        masks = pruned_at_end(one, {"a": weights["a"].clone()})["a"]
        assert torch.equal(masks, pruned_at_end(other, {"a": weights["a"].clone()})["a"])
    columns = pruned_at_end("column", {"a": weights["a"].clone()})["a"]
    lowest = weights["a"].norm(dim=0).argsort()[:7]
    assert not columns[:, lowest].any()
    assert int(columns.sum()) == 70


@pytest.mark.parametrize("name", NAMES)
def test_nothing_goes_before_the_end_and_all_at_it(name):
    weights = {"a": weights_of()["a"][:, :12].clone()}  # 2:4 has to divide it
    masks = pruned_at_end(name, weights)["a"]
    assert holds(masks, Pattern.parse(name))
    assert torch.equal(masks, weights["a"] != 0)
    if name != "16x16":  # one block
        assert 0.4 <= 1 - masks.float().mean() <= 0.6


def test_small_groups_at_the_edge_compare_with_whole_ones():
    """As large by the root mean square, not by the norm: else what is left over at an edge would go first."""
    weight = torch.ones(4, 9)
    weight[:, 8] = 1.5  # alone in its blocks of 1 x 4
    weight[0, :4] = 0.9
    method, _ = method_of("1x4")
    scores = method.scores(0, {"a": weight}, Pattern.parse("1x4"))["a"]
    assert scores.argmin() == 0
    assert torch.equal(scores[:, 2], torch.full((4,), 1.5))


def test_betas_are_refreshed_at_mask_updates_alone():
    weights = weights_of()
    method, section = method_of("1x4", start=4, end=10, weights=weights)
    sparsifier = Pruner(weights, section, PruningSchedule.of(section, 20), method)
    found = {}
    for step in range(14):
        sparsifier.before_step(step)
        found[step] = dict(method.betas)
        assert (method.extra_loss(step) is not None) == (4 <= step < 10)
        for weight in weights.values():
            weight.mul_(0.9)
    assert [step for step in range(1, 14) if not same(found[step - 1], found[step])] == [4, 6, 8, 10]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_saved_and_loaded(tmp_path):
    weights = weights_of()
    method, section = method_of("3x1", weights=weights)
    method.save(tmp_path)
    assert not list(tmp_path.iterdir())  # nothing yet
    method.sparsity(2, PruningSchedule.of(section, 20))
    method.save(tmp_path)
    expected = method.extra_loss(3)
    other, _ = method_of("3x1", weights=weights)
    assert other.extra_loss(3) is None
    other.load(tmp_path)
    assert torch.equal(other.extra_loss(3), expected)
    assert same(load_file(tmp_path / "betas.safetensors"), method.betas)


def test_an_initial_sparsity_is_refused():
    with pytest.raises(UserError, match="initial_sparsity"):
        method_of(initial_sparsity=0.1, sparsity=0.5)


@pytest.mark.parametrize("wrong", [{"weight": 0}, {"epsilon": 0}, {"weight": float("inf")}, {"wait": 1}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError):
        BlockLasso(**wrong)


PRUNING = {"batch_size": 8, "learning_rate": 3e-3, "sparsity": 0.5, "every": 2, "rewind": False, "weight_decay": 0}


def history(folder: Path):
    return json.loads((folder / "metrics.json").read_text())["history"]


def check(folder, pattern, load):
    """Nothing is pruned before `end`, then everything; the penalty is in the log as long as it is on."""
    entries = history(folder)
    end = len(entries) // 2
    # The log of step n is written after n steps: the masks are those of step n - 1.
    assert [entry["sparsity"] for entry in entries[:end]] == [0] * end
    assert all(entry["sparsity"] == pytest.approx(0.5, abs=0.02) for entry in entries[end:])
    assert [entry["step"] for entry in entries if "loss_method" in entry] == list(range(1, end + 1))
    for name, mask in locked_masks(prunable_weights(load(folder))).items():
        assert holds(mask, Pattern.parse(pattern)), name
        assert 1 - mask.float().mean() == pytest.approx(0.5, abs=0.02), name


@pytest.mark.parametrize("pattern", ["1x4", "column", "12x1", "2:4"])
def test_sparse_pretraining(pattern, encoder, corpus_file, tmp_path):
    from transformers import AutoModel

    settings = Prune(**PRUNING, steps=20, objective="hidden", pattern=pattern, method="block-lasso")
    corpus = Corpus(source=str(corpus_file), block_length=16, validation=0.1)
    folder = stages.prune(encoder, corpus, settings, tmp_path / "sparse")
    check(folder, pattern, AutoModel.from_pretrained)


def test_gradual(encoder, task_files, tmp_path):
    from transformers import AutoModelForSequenceClassification

    task = Classification(**{split: str(task_files / f"{split}.jsonl") for split in ("train", "dev")})
    teacher = stages.finetune(encoder, task, Training(epochs=1, batch_size=16, learning_rate=1e-3), tmp_path / "dense")
    method = {"name": "block-lasso", "weight": 1e-2}
    settings = Gradual(**PRUNING, steps=20, accumulate=2, pattern="row", method=method)
    folder = stages.transfer_gradual(encoder, task, settings, tmp_path / "gradual", teacher=teacher)
    check(folder, "row", AutoModelForSequenceClassification.from_pretrained)


def test_the_example_of_the_readme_runs():
    example = (Path(block_lasso.__file__).parent / "README.md").read_text().split("```python\n")[1].split("```")[0]
    found = {}
    exec(example, found)
    assert 1 - locked_masks(found["weights"])["weight"].float().mean() == 0.5


def test_it_finds_the_inputs_that_say_nothing():
    """Of a regression on 16 inputs of which the last 8 are noise, those go to zero and the others stay."""
    draw = torch.Generator().manual_seed(0)
    inputs, truth = torch.randn(64, 16, generator=draw), torch.randn(4, 8, generator=draw)
    targets = inputs[:, :8] @ truth.T + 0.3 * torch.randn(64, 4, generator=draw)
    weight = torch.randn(4, 16, generator=draw).requires_grad_()
    pattern = Pattern.parse("column")
    optimizer = torch.optim.Adam([weight], lr=0.01)
    for step in range(1500):
        if step % 100 == 0:
            betas = betas_of({"a": weight}, pattern, 1e-2)
        optimizer.zero_grad()
        loss = (inputs @ weight.T - targets).square().mean() + 0.01 * penalty({"a": weight}, betas, pattern)
        loss.backward()
        optimizer.step()
    norms = weight.detach().norm(dim=0)
    assert norms[8:].max() < 0.05 < 0.5 < norms[:8].min()
