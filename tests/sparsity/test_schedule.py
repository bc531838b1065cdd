"""Published values of the schedules (Prune Once for All, arXiv 2111.05754)."""

import pytest

from pruneonce.errors import UserError
from pruneonce.recipe import Sparsification
from pruneonce.sparsity import PruningSchedule, cubic_sparsity, linear_multiplier, rewound_multiplier


@pytest.mark.parametrize(
    ("step", "at_90", "at_85"),
    [
        (0, 0.0, 0.0),
        (1_000, 0.052927, 0.049987),
        (5_000, 0.2439, 0.23035),
        (10_000, 0.4392, 0.4148),
        (25_000, 0.7875, 0.74375),
        (40_000, 0.8928, 0.8432),
        (49_000, 0.899993, 0.849993),
        (50_000, 0.9, 0.85),
        (99_000, 0.9, 0.85),
    ],
)
def test_cubic_sparsity(step, at_90, at_85):
    assert cubic_sparsity(step, 0, 50_000, 0.0, 0.90) == pytest.approx(at_90, abs=5e-7)
    assert cubic_sparsity(step, 0, 50_000, 0.0, 0.85) == pytest.approx(at_85, abs=5e-7)


def test_cubic_sparsity_is_clamped_before_the_start():
    assert cubic_sparsity(5, 10, 20, 0.3, 0.9) == 0.3


@pytest.mark.parametrize(
    ("step", "multiplier"),
    [
        (500, 0.5),
        (999, 0.999),
        (1_000, 1.020408),
        (1_999, 1.00002),
        (2_000, 1.020408),
        (50_000, 1.020408),
        (51_000, 1.0),
        (75_000, 0.510204),
        (100_000, 0.0),
    ],
)
def test_rewound_multiplier(step, multiplier):
    found = rewound_multiplier(step, 100_000, 1_000, 0, 50_000, 1_000)
    assert found == pytest.approx(multiplier, abs=5e-7)


def test_rewinding_before_a_late_start():
    """b = P before the start: N = 100, W = 10, policy 20 -> 60, so N' = 60 and the decay takes 50 steps."""
    assert rewound_multiplier(15, 100, 10, 20, 60, 10) == pytest.approx((100 - 40 - 15) / 50)
    assert rewound_multiplier(20, 100, 10, 20, 60, 10) == pytest.approx((60 - 20) / 50)
    assert rewound_multiplier(29, 100, 10, 20, 60, 10) == pytest.approx((60 - 29) / 50)
    assert rewound_multiplier(30, 100, 10, 20, 60, 10) == pytest.approx((60 - 20) / 50)


def test_linear_multiplier():
    assert [linear_multiplier(t, 10, 2) for t in (0, 1, 2, 6, 10)] == [0.0, 0.5, 1.0, 0.5, 0.0]


def test_lengths_are_fractions_or_steps():
    by_share = PruningSchedule.of(Sparsification(), 1_000)
    assert (by_share.start, by_share.end, by_share.until, by_share.every) == (0, 500, 800, 10)
    by_step = PruningSchedule.of(Sparsification(start=10, end=70, until=80, every=7), 100)
    assert (by_step.start, by_step.end, by_step.until, by_step.every) == (10, 70, 80, 7)


def test_the_target_is_reached_off_the_grid_too():
    schedule = PruningSchedule.of(Sparsification(start=0, end=10, until=15, every=4), 20)
    assert [step for step in range(20) if schedule.is_due(step)] == [0, 4, 8, 10, 12]
    assert schedule.sparsity(10) == 0.9


@pytest.mark.parametrize(("start", "end", "total"), [(5, 5, 20), (8, 4, 20), (0, 50, 20), (0, 20, 20)])
def test_a_policy_that_does_not_fit_is_refused(start, end, total):
    with pytest.raises(UserError, match="does not fit"):
        PruningSchedule.of(Sparsification(start=start, end=end), total)
