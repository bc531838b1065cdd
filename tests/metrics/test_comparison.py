"""Intervals and tests of differences, against plain computations and published examples."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from pruneonce.metrics import glue, spans, units
from pruneonce.metrics.comparison import RESAMPLES, Comparison, interval, mcnemar
from pruneonce.metrics.units import Units

# LSAT and GPA of 15 law schools, Efron and Tibshirani, An Introduction to the Bootstrap, table 3.1.
LSAT = [576, 635, 558, 578, 666, 580, 555, 661, 651, 605, 653, 575, 545, 572, 594]
GPA = [3.39, 3.30, 2.81, 3.03, 3.44, 3.07, 3.00, 3.43, 3.36, 3.13, 3.12, 2.74, 2.76, 2.88, 2.96]


def test_the_interval_of_the_law_schools():
    """Efron, Better Bootstrap Confidence Intervals, 1987: percentile interval of 90 %, 0.524 to 0.928."""
    scores, targets = np.array(LSAT, dtype=float), np.array(GPA)
    index = np.arange(15)
    assert units.correlation("pearson", scores, targets, index) == pytest.approx(0.776, abs=5e-4)
    low, high = interval(lambda index: units.correlation("pearson", scores, targets, index), 15, 0.9)
    assert (low, high) == (pytest.approx(0.524, abs=0.02), pytest.approx(0.928, abs=0.02))


def test_the_interval_of_a_share_is_that_of_the_binomial():
    right = np.arange(400) < 360
    low, high = interval(lambda index: right[index].mean(-1), 400)
    exact = stats.binom.ppf([0.025, 0.975], 400, 0.9) / 400
    assert (low, high) == (pytest.approx(exact[0], abs=0.005), pytest.approx(exact[1], abs=0.005))
    _, bound = interval(lambda index: right[index].mean(-1), 400, upper_only=True)
    assert bound == pytest.approx(stats.binom.ppf(0.95, 400, 0.9) / 400, abs=0.005)


def test_an_interval_is_the_same_every_time_and_needs_two_units():
    def mean(index):
        return index.mean(-1)

    assert interval(mean, 50) == interval(mean, 50)
    assert interval(mean, 1) is None
    assert interval(lambda index: np.zeros(index.shape[:-1]), 5) == (0.0, 0.0)


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (3, 0), (11, 1), (1, 11), (25, 15), (86, 150)])
def test_mcnemar_is_a_sum_of_binomials(lost, won):
    """The (86, 150) are approval ratings of a prime minister, Agresti, Categorical Data Analysis, table 10.1."""
    number, few = lost + won, min(lost, won)
    tail = sum(math.comb(number, k) for k in range(few + 1)) / 2**number
    assert mcnemar(lost, won) == pytest.approx(min(1.0, 2 * tail), abs=1e-12)


def test_mcnemar_is_near_its_chi_square_where_that_is_published():
    corrected = stats.chi2.sf((abs(86 - 150) - 1) ** 2 / (86 + 150), 1)
    assert corrected == pytest.approx(4.115e-5, rel=1e-3)  # R's mcnemar.test of that table
    assert mcnemar(86, 150) == pytest.approx(corrected, rel=0.1)


def means(values, index):
    return values["value"][index].mean(-1)


def paired(ours, theirs):
    return Comparison(means, Units({"value": np.asarray(ours)}), Units({"value": np.asarray(theirs)}))


def test_the_permutation_test_swaps_within_pairs():
    """All 2^n ways of swapping, counted one by one: Fisher's exact test of the mean difference."""
    ours, theirs = np.array([3.0, 1.0, 4.0, 2.5, 6.0, 5.0]), np.array([2.0, 1.5, 2.0, 2.0, 3.0, 4.5])
    difference = ours - theirs
    means_of_all = [np.mean(difference * signs) for signs in product((1, -1), repeat=6)]
    above = sum(mean >= difference.mean() - 1e-12 for mean in means_of_all) / 64
    name, p = paired(ours, theirs).p_value()
    assert name == "paired permutation"
    assert p == pytest.approx(2 * above)


def test_the_difference_is_paired():
    """Two models that are wrong on the same examples but for a few differ by little, however uncertain each is."""
    draw = np.random.default_rng(1)
    theirs = draw.random(300)
    one = paired(theirs + 0.01, theirs)
    low, high = interval(one.difference, 300)
    assert (low, high) == (pytest.approx(0.01), pytest.approx(0.01))
    apart = paired(draw.permutation(theirs) + 0.01, theirs)
    low, high = interval(apart.difference, 300)
    assert high - low > 0.05
    _, p = one.p_value()
    assert p == pytest.approx(2 / (RESAMPLES + 1), rel=0.01), "the smallest that so many permutations can give"
    assert apart.p_value()[1] > 0.1


def test_classes_are_tested_by_the_examples_that_changed():
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    theirs, ours = np.array([0, 1, 0, 1, 0, 1, 1, 1]), np.array([1, 0, 1, 0, 0, 1, 0, 0])

    def outcome(predicted):
        return Units({"predicted": predicted, "label": labels}, predicted, predicted == labels)

    def accuracy(values, index):
        return units.classification("accuracy", values["predicted"], values["label"], index)

    compared = Comparison(accuracy, outcome(ours), outcome(theirs))
    assert compared.changes() == {
        "of": "examples",
        "number": 8,
        "changed": 6,
        "right_to_wrong": 5,
        "wrong_to_right": 1,
    }
    assert compared.p_value() == ("McNemar, exact", mcnemar(5, 1))
    assert compared.difference(np.arange(8)) == pytest.approx(-0.5)


RESAMPLED = np.random.default_rng(3).integers(0, 60, (5, 4, 60))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("metric", glue.CLASSIFICATION)
def test_classes_of_resamples_are_scored_as_scikit_learn_does(metric, classes):
    draw = np.random.default_rng(classes)
    labels = draw.integers(0, classes, 60)
    predicted = np.where(draw.random(60) < 0.6, labels, draw.integers(0, classes, 60))
    if (metric == "f1") == (classes == 2) or metric in ("accuracy", "matthews_correlation"):
        found = units.classification(metric, predicted, labels, RESAMPLED)
        assert found.shape == (5, 4)
        for place in np.ndindex(5, 4):
            plain = getattr(glue, metric)(predicted[RESAMPLED[place]], labels[RESAMPLED[place]])
            assert found[place] == pytest.approx(plain), place


@pytest.mark.parametrize(
    ("predicted", "labels"), [([0, 0, 0], [0, 0, 0]), ([0, 0, 0], [0, 1, 1]), ([1, 1, 0], [0, 0, 1])]
)
@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews_correlation"])
def test_the_edges_are_those_of_the_metric(metric, predicted, labels):
    predicted, labels = np.array(predicted), np.array(labels)
    found = units.classification(metric, predicted, labels, np.arange(3))
    assert found == pytest.approx(getattr(glue, metric)(predicted, labels))


@pytest.mark.parametrize("metric", glue.REGRESSION)
def test_correlations_of_resamples_are_those_of_scipy(metric):
    draw = np.random.default_rng(0)
    scores, targets = draw.normal(size=60) + 1e3, draw.integers(0, 6, 60).astype(float)
    found = units.correlation(metric, scores, targets, RESAMPLED)
    for place in np.ndindex(5, 4):
        plain = getattr(glue, metric)(scores[RESAMPLED[place]], targets[RESAMPLED[place]])
        assert found[place] == pytest.approx(plain), place
    constant = np.full(60, 0.1)
    assert (units.correlation(metric, constant, targets, RESAMPLED) == 0).all()
    assert (units.correlation(metric, np.where(scores > 1e3, np.nan, scores), targets, RESAMPLED) == 0).all()


def test_spans_of_resamples_are_scored_as_their_texts():
    draw = np.random.default_rng(5)
    tags = np.array(["O", "B-X", "I-X", "B-Y"])
    gold = [tags[draw.integers(0, 4, draw.integers(1, 9))].tolist() for _ in range(60)]
    predicted = [[str(draw.choice(tags)) if draw.random() < 0.3 else tag for tag in text] for text in gold]
    found = spans.of_counts(units.totals(spans.counts(predicted, gold), RESAMPLED))
    for place in np.ndindex(5, 4):
        plain = spans.score(*([texts[i] for i in RESAMPLED[place]] for texts in (predicted, gold)))
        assert {name: value[place] for name, value in found.items()} == pytest.approx(plain)
