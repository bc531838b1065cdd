"""Metrics of every family of tasks: known cases, plain second implementations, and what always holds."""

import itertools
import re
import string
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import ndcg_score

from pruneonce.errors import UserError
from pruneonce.metrics import glue, retrieval, spans, squad

# -- glue ---------------------------------------------------------------------------------------------------


def test_two_classes_by_hand():
    labels = np.array([1, 1, 1, 0, 0])
    logits = np.eye(2)[[1, 1, 0, 1, 0]]  # 2 true positives, 1 false negative, 1 false positive, 1 true negative
    found = glue.classification(logits, labels)
    assert found == pytest.approx(
        {
            "accuracy": 3 / 5,
            "f1": 2 * 2 / (2 * 2 + 1 + 1),
            "matthews_correlation": (2 * 1 - 1 * 1) / np.sqrt(3 * 3 * 2 * 2),
        }
    )


def test_three_classes_have_f1_macro():
    labels = np.array([0, 1, 2, 2])
    found = glue.classification(np.eye(3)[[0, 2, 2, 2]], labels)
    assert found.keys() == {"accuracy", "f1_macro", "matthews_correlation"}
    assert found["f1_macro"] == pytest.approx((1 + 0 + 4 / 5) / 3)
    assert set(found) < set(glue.CLASSIFICATION)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 0]])
def test_one_class_alone_is_worth_nothing_without_a_warning(labels):
    found = glue.classification(np.eye(2)[[0, 0, 0]], np.array(labels))
    assert found["f1"] == found["matthews_correlation"] == 0


def test_regression_is_scipys():
    chosen = np.random.default_rng(0)
    targets = chosen.normal(size=50)
    scores = (targets + chosen.normal(size=50)).round(1)  # with ties
    found = glue.regression(scores[:, None].astype(np.float32), targets)
    assert list(found) == glue.REGRESSION
    assert found["pearson"] == pytest.approx(np.corrcoef(scores, targets)[0, 1])
    ranks = np.corrcoef(stats.rankdata(scores), stats.rankdata(targets))[0, 1]
    assert found["spearman"] == pytest.approx(ranks)


@pytest.mark.parametrize("scores", [[2, 2, 2], [1, np.nan, 2], [1, np.inf, 2], [1, 1, 1 + 1e-15]])
def test_what_has_no_correlation_has_one_of_nothing(scores):
    found = glue.regression(np.array(scores), np.array([1.0, 2.0, 3.0]))
    assert all(np.isfinite(value) for value in found.values())
    assert found["pearson"] == 0 or len(set(scores)) > 1
    assert glue.regression(np.array([1.0]), np.array([2.0])) == {"pearson": 0, "spearman": 0}


def test_scores_for_other_targets_are_refused():
    with pytest.raises(ValueError, match="both have to be"):
        glue.pearson(np.zeros(3), np.zeros(4))


# -- squad --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  cat's, hat", "cats hat"),
        ("a-b", "ab"),  # punctuation goes before articles do
        ("A.", ""),
        ("an answer\tand\nanother", "answer and another"),
        ("theatre than", "theatre than"),
        ("Ünïcode “The” ÉCOLE", "ünïcode “ ” école"),  # typographic quotes are no punctuation to the scorer
        ("the_end", "theend"),
        ("", ""),
        ("中文 答案", "中文 答案"),
        ("$1,000.50", "100050"),
    ],
)
def test_normalized(text, expected):
    assert squad.normalized(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("The cat", ["cat"], 1, 1),
        ("black cat", ["cat"], 0, 2 / 3),
        ("cat", ["dog"], 0, 0),
        ("cat cat", ["cat"], 0, 2 / 3),  # the second "cat" has no counterpart
        ("cat cat cat", ["cat cat dog"], 0, 2 / 3),
        ("big black dog", ["dog", "black dog", "cat"], 0, 4 / 5),  # the best of the gold answers
        ("", ["cat"], 0, 0),
        ("", [], 1, 1),
        ("cat", [], 0, 0),
        ("the", [], 1, 1),  # nothing is left of it
        ("the", ["The", "cat"], 0, 0),
        ("cat", ["The", "cat"], 1, 1),
        ("the", ["The"], 1, 1),
    ],
)
def test_answers(prediction, answers, exact, f1):
    assert squad.exact_match(prediction, answers) == exact
    assert squad.f1(prediction, answers) == pytest.approx(f1)


def test_score_is_percent_and_breaks_down_where_both_kinds_are():
    answers = {"a": ["cat"], "b": ["black cat", "cat"], "c": [], "d": []}
    predictions = {"a": "the cat", "b": "cat dog", "c": "", "d": "dog", "unasked": "x"}
    assert squad.score(predictions, answers) == pytest.approx(
        {
            "exact_match": 50,
            "f1": 100 * (1 + 2 / 3 + 1 + 0) / 4,
            "HasAns_exact": 50,
            "HasAns_f1": 100 * (1 + 2 / 3) / 2,
            "NoAns_exact": 50,
            "NoAns_f1": 50,
        }
    )
    assert list(squad.score(predictions, {"a": ["cat"]})) == list(squad.score(predictions, {"c": []})) == squad.METRICS


def test_what_cannot_be_scored():
    with pytest.raises(UserError, match="question 'b' has no prediction"):
        squad.score({"a": ""}, {"a": [], "b": []})
    with pytest.raises(UserError, match="no questions"):
        squad.score({}, {})


def plain_normalized(text):
    kept = "".join(" " if c.isspace() else c for c in text.lower() if c not in string.punctuation)
    return [word for word in re.sub(r"(?<!\w)(the|an|a)(?!\w)", " ", kept).split(" ") if word]


def plain_f1(prediction, answer):
    ours, left = plain_normalized(prediction), plain_normalized(answer)
    if not ours or not left:
        return float(ours == left)
    size, common = len(left), 0
    for word in ours:
        if word in left:
            left.remove(word)
            common += 1
    precision, recall = common / len(ours), common / size
    return 2 * precision * recall / (precision + recall) if common else 0.0


TEXT = st.lists(st.sampled_from(["the", "a", "An", "cat", "Cat's", "dog", "--", "“x”", "é", "\u00a0", "1,0"])).map(
    " ".join
)


@settings(deadline=None)
@given(TEXT | st.text(max_size=20), TEXT | st.text(max_size=20))
def test_squad_always(one, other):
    assert squad.f1(one, [other]) == pytest.approx(plain_f1(one, other))
    assert squad.f1(one, [other]) == squad.f1(other, [one])  # symmetric
    assert squad.exact_match(one, [other]) == (plain_normalized(one) == plain_normalized(other))
    assert 0 <= squad.exact_match(one, [other]) <= squad.f1(one, [other]) <= 1
    assert squad.f1(one, [one]) == squad.exact_match(one, [one]) == 1
    assert squad.normalized(squad.normalized(one)) == squad.normalized(one)


@settings(deadline=None)
@given(TEXT, st.lists(TEXT, min_size=1, max_size=4))
def test_more_gold_answers_are_never_harder(prediction, answers):
    counted = [answer for answer in answers if squad.normalized(answer)] or answers
    assert squad.f1(prediction, answers) == max(squad.f1(prediction, [answer]) for answer in counted)


# -- retrieval ----------------------------------------------------------------------------------------------


def test_a_ranking_by_hand():
    assert retrieval.ndcg([3, 2, 1], [0, 3, 1]) == pytest.approx(
        (3 / np.log2(3) + 1 / 2) / (3 + 1 / np.log2(3))  # linear gains, not 7 and 1
    )
    assert retrieval.reciprocal_rank([3, 2, 1], [0, 3, 1]) == 1 / 2
    queries = [([3, 2, 1], [0, 3, 1]), ([1, 2], [0, 1]), ([1], [0])]
    found = retrieval.ranking(queries)
    assert found["mrr@10"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found["ndcg@10"] == pytest.approx((retrieval.ndcg(*queries[0]) + 1 + 0) / 3)


def test_what_is_behind_the_cut_does_not_count():
    scores, relevances = np.arange(12)[::-1], np.eye(12)
    assert retrieval.reciprocal_rank(scores, relevances[9]) == 1 / 10
    assert retrieval.reciprocal_rank(scores, relevances[10]) == retrieval.ndcg(scores, relevances[10]) == 0
    assert retrieval.ranking([(scores, relevances[1])], cut=1) == {"ndcg@1": 0, "mrr@1": 0}


def test_a_negative_relevance_is_none_and_a_nan_is_last():
    assert retrieval.ndcg([2, 1], [-2, 1]) == retrieval.ndcg([2, 1], [0, 1])
    assert retrieval.reciprocal_rank([np.nan, -5.0, np.inf], [1, 0, 0]) == 1 / 3


def test_a_model_that_scores_all_the_same_is_not_perfect():
    assert retrieval.ndcg([0.0] * 20, [1] + [0] * 19) < 0.25
    assert retrieval.reciprocal_rank([0.0] * 20, [1] + [0] * 19) == pytest.approx(sum(1 / i for i in range(1, 11)) / 20)


def test_what_cannot_be_ranked():
    with pytest.raises(UserError, match="no queries"):
        retrieval.ranking([])
    with pytest.raises(ValueError, match="both have to be"):
        retrieval.ndcg([1, 2], [1])


RANKED = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=15), st.randoms(use_true_random=False), st.integers(1, 12))
def test_ndcg_is_scikit_learns(relevances, chosen, cut):
    scores = list(range(len(relevances)))
    chosen.shuffle(scores)
    assert retrieval.ndcg(scores, relevances, cut) == pytest.approx(ndcg_score([relevances], [scores], k=cut))
    ties = [score // 3 for score in scores]
    assert retrieval.ndcg(ties, relevances, cut) == pytest.approx(ndcg_score([relevances], [ties], k=cut))


@settings(deadline=None)
@given(RANKED, st.integers(1, 6))
def test_ties_are_the_mean_over_all_orders(candidates, cut):
    orders = [
        sorted(order, key=lambda candidate: -candidate[0]) for order in itertools.permutations(candidates)
    ]  # sorting is stable, so all orders of a tie come, each as often

    def first(order):
        return next((1 / rank for rank, (_, gain) in enumerate(order[:cut], 1) if gain), 0.0)

    scores, relevances = zip(*candidates, strict=True)
    assert retrieval.reciprocal_rank(scores, relevances, cut) == pytest.approx(np.mean([first(o) for o in orders]))
    untied = [retrieval.ndcg(range(len(o))[::-1], [gain for _, gain in o], cut) for o in orders]
    assert retrieval.ndcg(scores, relevances, cut) == pytest.approx(np.mean(untied))


def test_many_ties_take_no_time():
    relevances = np.random.default_rng(0).integers(0, 3, 300_000)
    began = time.process_time()
    found = retrieval.ranking([(np.zeros(len(relevances)), relevances)])
    assert time.process_time() - began < 2, "0.03 s; what is quadratic takes hours"
    assert found["ndcg@10"] == pytest.approx(ndcg_score([relevances], [np.zeros(len(relevances))], k=10))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.5, np.inf]), st.integers(0, 4)), min_size=2, max_size=40))
def test_ndcg_of_ties_is_scikit_learns(candidates):
    scores, relevances = map(np.array, zip(*candidates, strict=True))
    finite = np.where(np.isinf(scores), 9.0, scores)
    assert retrieval.ndcg(scores, relevances) == pytest.approx(ndcg_score([relevances], [finite], k=10))


# -- spans --------------------------------------------------------------------------------------------------

# Gold, predicted, the predicted spans, and precision, recall, F1 and accuracy: all as seqeval 1.2.2 gives them.
SEQEVAL = [
    ("O O O B-MISC I-MISC I-MISC O", "O O B-MISC I-MISC I-MISC I-MISC O", [("MISC", 2, 5)], [0, 0, 0, 0.714286]),
    ("B-PER I-PER O", "B-PER I-PER O", [("PER", 0, 1)], [1, 1, 1, 1]),
    ("I-PER I-PER O B-PER", "I-PER I-PER O I-PER", [("PER", 0, 1), ("PER", 3, 3)], [1, 1, 1, 0.75]),
    ("I-PER B-PER I-PER", "B-PER B-PER I-PER", [("PER", 0, 0), ("PER", 1, 2)], [1, 1, 1, 0.666667]),
    ("B-PER I-LOC O", "B-PER I-PER O", [("PER", 0, 1)], [0, 0, 0, 0.666667]),
    ("B-PER I-LOC I-LOC O", "B-PER B-LOC I-LOC O", [("PER", 0, 0), ("LOC", 1, 2)], [1, 1, 1, 0.75]),
    ("B-A I-A E-A S-A O", "B-A E-A I-A S-A O", [("A", 0, 1), ("A", 2, 2), ("A", 3, 3)], [0.333333, 0.5, 0.4, 0.6]),
    ("S-A S-A O E-A", "S-A I-A O S-A", [("A", 0, 0), ("A", 1, 1), ("A", 3, 3)], [1, 1, 1, 0.5]),
    ("B-A E-A E-A I-A", "B-A I-A E-A E-A", [("A", 0, 2), ("A", 3, 3)], [0.5, 0.333333, 0.4, 0.5]),
    ("O O", "O O", [], [0, 0, 0, 1]),
    ("O B-A", "O O", [], [0, 0, 0, 0.5]),
    ("O O", "B-A O", [("A", 0, 0)], [0, 0, 0, 0.5]),
    ("B I O B", "B I O I", [("", 0, 1), ("", 3, 3)], [1, 1, 1, 0.75]),
    ("B-X-Y I-X-Y", "B-X-Y I-X", [("X-Y", 0, 0), ("X", 1, 1)], [0, 0, 0, 0.5]),
]


@pytest.mark.parametrize(("gold", "predicted", "found", "values"), SEQEVAL)
def test_spans_are_seqevals(gold, predicted, found, values):
    assert spans.spans(predicted.split()) == found
    scored = spans.score([predicted.split()], [gold.split()])
    assert list(scored) == spans.METRICS
    assert list(scored.values()) == pytest.approx(values, abs=1e-6)


def test_spans_of_many_texts_are_counted_together():
    scored = spans.score([case[1].split() for case in SEQEVAL], [case[0].split() for case in SEQEVAL])
    assert list(scored.values()) == pytest.approx([7 / 11, 7 / 11, 7 / 11, 33 / 49])  # seqeval: 0.6364, 0.6735


def test_bilou_is_bioes():
    tags = ["B-A", "I-A", "L-A", "U-A", "L-A", "O", "U-B"]
    assert spans.spans(tags) == [("A", 0, 2), ("A", 3, 3), ("A", 4, 4), ("B", 6, 6)]


def test_a_span_does_not_go_on_in_the_next_text():
    assert spans.score([["B-A"], ["I-A"]], [["B-A"], ["B-A"]])["f1"] == 1


@pytest.mark.parametrize("tag", ["PER", "X-PER", "BPER", "", "o", "O-PER"])
def test_what_is_no_tag(tag):
    assert not spans.is_tag(tag)
    with pytest.raises(UserError, match=f"tag '{tag}' does not mark a span"):
        spans.spans(["O", tag])


def test_tags_of_other_tokens_are_refused():
    with pytest.raises(ValueError):
        spans.score([["O"]], [["O", "O"]])


TAGS = st.lists(st.sampled_from(["O", *(f"{letter}-{kind}" for letter in "BIES" for kind in "XY")]), max_size=12)


@settings(deadline=None)
@given(TAGS)
def test_spans_always(tags):
    found = spans.spans(tags)
    inside = [token for _, first, last in found for token in range(first, last + 1)]
    assert inside == [token for token, tag in enumerate(tags) if tag != "O"]  # each in one span, in order
    assert all({tag[2:] for tag in tags[first : last + 1]} == {kind} for kind, first, last in found)
    rewritten = ["O"] * len(tags)
    for kind, first, last in found:
        rewritten[first : last + 1] = [f"B-{kind}"] + [f"I-{kind}"] * (last - first)
    assert spans.spans(rewritten) == found
