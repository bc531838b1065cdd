"""Ranking metrics of a query's candidates: nDCG and MRR, each at a cut-off (10 by default).

Both are means over queries. A query's candidates are `(scores [n], relevances [n])`, with n of its own for each query.
A candidate with a relevance of 0 or less is not relevant. A query without a relevant candidate counts as 0, as in
trec_eval. A score of nan ranks below any other.

For candidates of equal score, the value is the mean over all their orders, as in scikit-learn's `ndcg_score` (McSherry
and Najork, Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores, ECIR 2008).
trec_eval orders them by document id. The candidates here have no ids, and in many files the relevant candidate comes
first: in the order of the file, a model with equal scores everywhere would be perfect.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pruneonce.errors import UserError

CUT = 10


def ranking(queries: Iterable[tuple[ArrayLike, ArrayLike]], cut: int = CUT) -> dict[str, float]:
    """Mean `ndcg@10` and `mrr@10` (or at another `cut`), 0 to 1, over the `(scores, relevances)` of each query.

    Raises:
        UserError: there are no queries.
    """
    return {name: float(np.mean(values)) for name, values in by_query_values(queries, cut).items()}


def by_query_values(
    queries: Iterable[tuple[ArrayLike, ArrayLike]], cut: int = CUT
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Return `ndcg@10` and `mrr@10` (or at another `cut`) of each query, as arrays [queries].

    Raises:
        UserError: there are no queries.
    """
    values = [
        (ndcg(scores, relevances, cut), reciprocal_rank(scores, relevances, cut)) for scores, relevances in queries
    ]
    if not values:
        raise UserError("there are no queries to rank candidates for")
    gains, ranks = np.array(values).T
    return {f"ndcg@{cut}": gains, f"mrr@{cut}": ranks}


def ndcg(scores: ArrayLike, relevances: ArrayLike, cut: int = CUT) -> float:
    """Normalized discounted cumulative gain of one query, 0 to 1.

    DCG = sum of relevance / log2(1 + rank), over DCG of the best order. The gain is the relevance itself, as in
    trec_eval's and hence BEIR's `ndcg_cut_10` (https://arxiv.org/abs/2104.08663), not 2^relevance - 1; for
    relevances of 0 and 1 these are the same.
    """
    groups = _ranked(scores, relevances)
    # The mean of a sum is the sum of means: each rank of a tie gets the mean relevance of the tie.
    expected = np.array([np.mean(group) for group in groups for _ in group])[:cut]
    best = np.sort([relevance for group in groups for relevance in group])[::-1][:cut]
    discounts = 1 / np.log2(np.arange(2, len(best) + 2))
    return float(expected @ discounts / (best @ discounts)) if best.any() else 0.0


def reciprocal_rank(scores: ArrayLike, relevances: ArrayLike, cut: int = CUT) -> float:
    """Reciprocal rank of the first relevant candidate of one query, 0 to 1; 0 if the rank is beyond the cut."""
    before = 0
    for group in _ranked(scores, relevances):
        size, relevant = len(group), int(np.count_nonzero(group))
        if relevant:
            # In a random order of the tie, its first relevant candidate is at place i, from 1, with a probability of
            # C(size - i, relevant - 1) / C(size, relevant): the other relevant candidates are at later places.
            places = range(1, min(size - relevant + 1, cut - before) + 1)
            ways = math.comb(size, relevant)
            return sum(math.comb(size - i, relevant - 1) / ways / (before + i) for i in places)
        before += size
    return 0.0


def _ranked(scores: ArrayLike, relevances: ArrayLike) -> list[list[float]]:
    """Relevances by descending score, grouped by equal score."""
    scores = np.nan_to_num(np.asarray(scores, dtype=np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    gains = np.maximum(np.asarray(relevances, dtype=np.float64), 0)
    if scores.shape != gains.shape or scores.ndim != 1:
        raise ValueError(f"{scores.shape} scores for {gains.shape} relevances; both have to be [n]")
    order = np.argsort(-scores, kind="stable")
    ties = groupby(order.tolist(), key=lambda candidate: scores[candidate])
    return [[float(gains[candidate]) for candidate in tie] for _, tie in ties]
