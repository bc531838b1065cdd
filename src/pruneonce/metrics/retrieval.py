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

from collections.abc import Iterable
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
    gains, sizes = _ranked(scores, relevances)
    # The mean of a sum is the sum of means: each rank of a tie gets the mean relevance of the tie.
    starts = np.cumsum(sizes) - sizes
    expected = np.repeat(np.add.reduceat(gains, starts) / sizes, sizes)[:cut] if len(gains) else gains
    best = np.sort(gains)[::-1][:cut]
    discounts = 1 / np.log2(np.arange(2, len(best) + 2))
    return float(expected @ discounts / (best @ discounts)) if best.any() else 0.0


def reciprocal_rank(scores: ArrayLike, relevances: ArrayLike, cut: int = CUT) -> float:
    """Reciprocal rank of the first relevant candidate of one query, 0 to 1; 0 if the rank is beyond the cut."""
    gains, sizes = _ranked(scores, relevances)
    ends = np.cumsum(sizes)
    if not gains.any():
        return 0.0
    tie = int(np.searchsorted(ends, np.flatnonzero(gains)[0], side="right"))  # the first with a relevant candidate
    size, before = int(sizes[tie]), int(ends[tie] - sizes[tie])
    relevant = int(np.count_nonzero(gains[before : before + size]))
    # In a random order of the tie, its first relevant candidate is at place i, from 1, with the probability that the
    # places before it are not relevant, and it is: none of the `relevant` ones is drawn in i - 1 draws, then one is.
    value, none_yet = 0.0, 1.0
    for place in range(1, min(size - relevant + 1, cut - before) + 1):
        left = size - place + 1
        value += none_yet * relevant / left / (before + place)
        none_yet *= 1 - relevant / left
    return value


def _ranked(scores: ArrayLike, relevances: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Relevances [n] by descending score, and the sizes of the ties of equal score, in that order."""
    scores = np.nan_to_num(np.asarray(scores, dtype=np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    gains = np.maximum(np.asarray(relevances, dtype=np.float64), 0)
    if scores.shape != gains.shape or scores.ndim != 1:
        raise ValueError(f"{scores.shape} scores for {gains.shape} relevances; both have to be [n]")
    order = np.argsort(-scores, kind="stable")
    _, sizes = np.unique(-scores, return_counts=True)
    return gains[order], sizes
