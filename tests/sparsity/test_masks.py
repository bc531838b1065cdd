"""Masks against plain references, and the traps that earlier tools fell into."""

import pytest
import torch

from pruneonce.recipe import Sparsification
from pruneonce.sparsity import (
    PruningSchedule,
    apply_masks,
    exact_k_mask,
    locked_masks,
    magnitude_masks,
    pattern_hash,
    sparsity_of,
)
from pruneonce.sparsity.masks import load_masks, save_masks
from pruneonce.sparsity.patterns import count
from pruneonce.training.sparsifier import LockedZeros, Pruner


def reference_mask(scores: torch.Tensor, k: int) -> torch.Tensor:
    """By a stable full sort."""
    mask = torch.ones(scores.numel(), dtype=torch.bool)
    mask[scores.flatten().argsort(stable=True)[:k]] = False
    return mask.view_as(scores)


@pytest.mark.parametrize("k", [0, 1, 7, 30, 59, 60])
def test_exact_k_equals_a_stable_sort(k):
    torch.manual_seed(k)
    scores = torch.randint(0, 9, (6, 10)).float()  # many ties
    assert torch.equal(exact_k_mask(scores, k), reference_mask(scores, k))


def test_a_constant_tensor_loses_exactly_half():
    mask = exact_k_mask(torch.ones(10, 10), 50)
    assert int((~mask).sum()) == 50


def test_k_outside_the_tensor_is_refused():
    with pytest.raises(ValueError, match="outside"):
        exact_k_mask(torch.ones(3), 4)


@pytest.mark.parametrize(("sparsity", "size", "k"), [(0.29, 100, 29), (0.57, 100, 57), (0.9, 147_456, 132_710)])
def test_count_is_not_floored(sparsity, size, k):
    assert count(sparsity, size) == k


def test_uniform_prunes_every_layer_and_global_one_threshold():
    weights = {"small": torch.full((10, 10), 0.1), "large": torch.full((10, 10), 5.0)}
    uniform = magnitude_masks(weights, 0.5)
    assert [int((~mask).sum()) for mask in uniform.values()] == [50, 50]
    together = magnitude_masks(weights, 0.5, "global")
    assert not together["small"].any()
    assert together["large"].all()


def test_nested_masks_keep_what_was_pruned_even_against_exact_zeros():
    weights = {"w": torch.tensor([0.0, 0.0, 0.0, 1.0])}
    before = {"w": torch.tensor([True, True, False, True])}
    after = magnitude_masks(weights, 0.5, within=before)
    assert after["w"].tolist() == [False, True, False, True]


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_existing_zeros_stay_below_the_schedule(allocation):
    """A model that is 60 % sparse and pruned from a schedule's 20 % on gets none of its zeros back."""
    weights = {"w": torch.randn(100), "v": torch.randn(50)}
    apply_masks(weights, magnitude_masks(weights, 0.6))
    before = locked_masks(weights)
    after = magnitude_masks(weights, 0.2, allocation, within=before)
    assert pattern_hash(after) == pattern_hash(before)


def test_applying_leaves_plain_zeros():
    weight = torch.tensor([-1.0, 2.0, float("nan")])
    apply_masks({"w": weight}, {"w": torch.tensor([False, True, False])})
    assert weight.tolist() == [0.0, 2.0, 0.0]
    assert not torch.signbit(weight).any()


def test_pattern_hash_tells_patterns_apart(tmp_path):
    masks = {"a": torch.rand(3, 5) > 0.5, "b": torch.rand(9) > 0.5}
    again = {"b": masks["b"].clone(), "a": masks["a"].clone()}
    assert pattern_hash(masks) == pattern_hash(again)
    again["b"][0] = ~again["b"][0]
    assert pattern_hash(masks) != pattern_hash(again)
    assert pattern_hash({"a": torch.ones(2, 3, dtype=torch.bool)}) != pattern_hash(
        {"a": torch.ones(3, 2, dtype=torch.bool)}
    )


def test_masks_round_trip_through_a_file(tmp_path):
    masks = {"a": torch.rand(3, 5) > 0.5, "b": torch.rand(9) > 0.5}
    save_masks(masks, tmp_path / "masks.safetensors")
    loaded = load_masks(tmp_path / "masks.safetensors")
    assert loaded.keys() == masks.keys()
    assert all(torch.equal(loaded[name], masks[name]) for name in masks)


def make_gradual(nested: bool, weight: torch.Tensor) -> Pruner:
    settings = Sparsification(sparsity=0.5, start=0, end=4, until=8, every=2, nested=nested)
    return Pruner({"w": weight}, settings, PruningSchedule.of(settings, 10))


def test_re_entering_weights_come_back_with_the_value_they_had():
    weight = torch.tensor([0.1, 0.2, 0.3, 0.4])
    sparsifier = make_gradual(False, weight)
    for step in (0, 2, 4):
        sparsifier.before_step(step)
    assert weight.tolist() == pytest.approx([0.0, 0.0, 0.3, 0.4])
    weight[2:] = torch.tensor([0.05, 0.06])  # what survived shrinks below what was pruned
    sparsifier.before_step(6)
    assert weight.tolist() == pytest.approx([0.1, 0.2, 0.0, 0.0])
    sparsifier.before_step(9)  # past `until` nothing moves
    assert weight.tolist() == pytest.approx([0.1, 0.2, 0.0, 0.0])


def test_nested_weights_never_come_back():
    weight = torch.tensor([0.1, 0.2, 0.3, 0.4])
    sparsifier = make_gradual(True, weight)
    for step in (0, 2, 4):
        sparsifier.before_step(step)
    weight[2:] = torch.tensor([0.05, 0.06])
    sparsifier.before_step(6)
    assert weight.tolist() == pytest.approx([0.0, 0.0, 0.05, 0.06])


@pytest.mark.parametrize("nested", [True, False])
def test_a_sparsifier_resumes_where_it_was(tmp_path, nested):
    torch.manual_seed(0)
    one, other = torch.randn(64), torch.randn(64)
    sparsifier = make_gradual(nested, one)
    for step in (0, 2):
        sparsifier.before_step(step)
    sparsifier.save(tmp_path)
    resumed = make_gradual(nested, other)
    other.copy_(one)
    resumed.load(tmp_path)
    for each in (sparsifier, resumed):
        each.before_step(4)
    assert torch.equal(one, other)
    assert pattern_hash(sparsifier.masks) == pattern_hash(resumed.masks)


def test_locked_zeros_survive_adamw_with_weight_decay():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(20, 20))
    apply_masks({"w": weight}, magnitude_masks({"w": weight}, 0.9))
    pattern = pattern_hash(locked_masks({"w": weight}))
    sparsifier = LockedZeros({"w": weight})
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.1)
    for _ in range(20):
        (weight @ torch.randn(20)).square().sum().backward()
        sparsifier.mask_gradients()
        assert not weight.grad[~sparsifier.masks["w"]].any()
        optimizer.step()
        sparsifier.apply()
        optimizer.zero_grad()
    assert pattern_hash(locked_masks({"w": weight})) == pattern
    assert sparsity_of(sparsifier.masks) == 0.9
