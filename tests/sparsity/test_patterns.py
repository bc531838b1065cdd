"""Mask patterns: the lowest groups go, whole ones or so many of every M, and as many as asked for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared.settings import BLOCKS, PATTERNS

from pruneonce.config.pattern import UNSTRUCTURED, Pattern
from pruneonce.errors import UserError
from pruneonce.sparsity import holds, magnitude_masks
from pruneonce.sparsity.patterns import blocks, expand, group_means, group_sizes, masks_of


def matrix(seed, rows=16, columns=24):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def reference_group_means(scores, pattern):
    rows, columns = pattern.rows or scores.shape[0], pattern.columns or scores.shape[1]
    return torch.tensor(
        [
            [scores[top : top + rows, left : left + columns].mean() for left in range(0, scores.shape[1], columns)]
            for top in range(0, scores.shape[0], rows)
        ]
    )


def reference_n_of_m(scores, keep, of):
    """The mask of exactly N of every M."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for row in range(scores.shape[0]):
        for left in range(0, scores.shape[1], of):
            group = scores[row, left : left + of].tolist()
            for best in sorted(range(of), key=lambda i: -group[i])[:keep]:
                mask[row, left + best] = True
    return mask


@pytest.mark.parametrize("name", PATTERNS)
def test_the_mean_of_a_group_equals_the_reference(name):
    pattern, scores = Pattern.parse(name), matrix(0, 14, 22)
    torch.testing.assert_close(group_means(scores, pattern), reference_group_means(scores, pattern))


@pytest.mark.parametrize("name", BLOCKS)
def test_groups_spread_over_their_weights(name):
    pattern, shape = Pattern.parse(name), torch.Size((14, 22))
    sizes = group_sizes(shape, pattern)
    assert int(sizes.sum()) == shape.numel()
    numbers = torch.arange(float(sizes.numel())).view_as(sizes)
    spread = expand(numbers, pattern, shape)
    assert spread.shape == shape
    torch.testing.assert_close(group_means(spread, pattern), numbers)
    assert blocks(spread, pattern).shape[:2] == sizes.shape


@pytest.mark.parametrize(("name", "keep", "of"), [("2:4", 2, 4), ("4:8", 4, 8), ("1:4", 1, 4)])
def test_n_of_m_equals_the_reference(name, keep, of):
    pattern, weight = Pattern.parse(name), matrix(1)
    mask = magnitude_masks({"w": weight}, pattern.least_sparsity, pattern=pattern)["w"]
    assert torch.equal(mask, reference_n_of_m(weight.abs(), keep, of))


@given(
    name=st.sampled_from(PATTERNS),
    sparsity=st.floats(0, 0.99),
    allocation=st.sampled_from(["uniform", "global"]),
    seed=st.integers(0, 99),
)
def test_as_much_is_pruned_as_asked_for_in_the_pattern(name, sparsity, allocation, seed):
    pattern = Pattern.parse(name)
    weights = {"a": matrix(seed), "b": matrix(seed + 1, 8, 40)}
    masks = magnitude_masks(weights, sparsity, allocation, pattern=pattern)
    largest = max(int(group_sizes(weight.shape, pattern).max()) for weight in weights.values())
    together = [masks] if allocation == "global" else [{key: mask} for key, mask in masks.items()]
    for part in together:
        size = sum(mask.numel() for mask in part.values())
        pruned = sum(int((~mask).sum()) for mask in part.values())
        assert abs(pruned - sparsity * size) <= largest / 2 + 0.5
    if pattern.of == 1 or (sparsity >= pattern.least_sparsity and allocation == "uniform"):
        assert all(holds(mask, pattern) for mask in masks.values())


@pytest.mark.parametrize("name", PATTERNS)
def test_the_groups_with_the_lowest_scores_go(name):
    pattern, weight = Pattern.parse(name), matrix(2)
    mask = magnitude_masks({"w": weight}, pattern.least_sparsity or 0.5, pattern=pattern)["w"]
    scores, kept = group_means(weight.abs(), pattern), group_means(mask.float(), pattern) > 0
    if pattern.of == 1:
        assert scores[~kept].max() <= scores[kept].min()
    else:
        groups, of_groups = weight.abs().unflatten(1, (-1, pattern.of)), mask.unflatten(1, (-1, pattern.of))
        highest_pruned = groups.masked_fill(of_groups, 0.0).amax(-1)
        assert (highest_pruned <= groups.masked_fill(~of_groups, torch.inf).amin(-1)).all()


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_beyond_n_of_m_the_lowest_of_the_rest_go(allocation):
    weights = {"a": matrix(3), "b": 2 * matrix(4)}
    masks = magnitude_masks(weights, 0.8, allocation, pattern=Pattern.parse("2:4"))
    assert all(holds(mask, Pattern.parse("2:4")) for mask in masks.values())
    size = sum(mask.numel() for mask in masks.values())
    if allocation == "global":
        assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.8 * size)
    else:
        assert all(int((~mask).sum()) == round(0.8 * mask.numel()) for mask in masks.values())


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_nested_masks_only_grow(name, allocation):
    pattern, weight = Pattern.parse(name), {"w": matrix(5), "v": matrix(6, 8, 40)}
    masks = None
    for step, sparsity in enumerate((0.2, 0.5, 0.7, 0.9)):
        moved = {key: value + 0.5 * matrix(7 + step, *value.shape) for key, value in weight.items()}
        new = magnitude_masks(moved, sparsity, allocation, masks, pattern)
        for key in new:
            assert masks is None or not (new[key] & ~masks[key]).any()
        masks = new


def test_a_model_that_was_sparse_keeps_its_zeros_in_any_pattern():
    weight = matrix(8)
    within = {"w": matrix(9) > 0}
    mask = magnitude_masks({"w": weight}, 0.5, within=within, pattern=Pattern.parse("1x4"))["w"]
    assert not (mask & ~within["w"]).any()


def test_rows_of_different_lengths_are_counted_in_weights():
    weights = {"short": matrix(10, 8, 8), "long": matrix(11, 8, 64)}
    masks = magnitude_masks(weights, 0.5, "global", pattern=Pattern.parse("row"))
    pruned = sum(int((~mask).sum()) for mask in masks.values())
    assert abs(pruned - 0.5 * 8 * 72) <= 32


def test_inputs_that_n_of_m_does_not_divide_are_refused():
    with pytest.raises(UserError, match="pattern 2:4 does not divide the 22 inputs"):
        masks_of({"w": matrix(0, 4, 22)}, {"w": torch.Size((4, 22))}, Pattern.parse("2:4"), 0.5)


@pytest.mark.parametrize("name", ["", "4", "4:2", "4:4", "0:4", "2:", "0x4", "1x", "rows", "-1x4", "1x4 ", "2:400"])
def test_what_is_no_pattern_is_refused(name):
    with pytest.raises(ValueError, match="a pattern is unstructured, row, column, blocks"):
        Pattern.parse(name)


def test_what_holds():
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]).bool()
    held = {name: holds(mask, Pattern.parse(name)) for name in ("unstructured", "1x2", "2x2", "row", "2:4", "1:4")}
    assert held == {"unstructured": True, "1x2": True, "2x2": False, "row": False, "2:4": True, "1:4": False}
    assert UNSTRUCTURED.least_sparsity == 0
