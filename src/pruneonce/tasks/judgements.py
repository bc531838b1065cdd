"""Relevance of passages to queries, by which both kinds of ranking are measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from pruneonce.data.readers import Table
from pruneonce.errors import UserError

METRICS = ["ndcg@10", "mrr@10"]

T = TypeVar("T")


def by_query(queries: Iterable[str], passages: Iterable[str], values: Iterable[T]) -> dict[str, dict[str, T]]:
    """Return `{query: {passage: value}}`, in the order of the rows."""
    values_by_query: dict[str, dict[str, T]] = {}
    for query, passage, value in zip(queries, passages, values, strict=True):
        values_by_query.setdefault(query, {})[passage] = value
    return values_by_query


def undecided(queries: Iterable[tuple[Any, Sequence[float]]]) -> str:
    """Return a sentence on queries that every model ranks as well; empty where there are none.

    Args:
        queries: the scores, which do not matter, and the relevances of each query's candidates.
    """
    relevances = [[max(value, 0.0) for value in values] for _, values in queries]
    without = sum(not any(values) for values in relevances)
    equal = sum(any(values) and min(values) == max(values) for values in relevances)
    parts = []
    if without:
        parts.append(f"{without} of {len(relevances)} queries have no relevant passage and count as 0")
    if equal:
        parts.append(f"{equal} of {len(relevances)} queries have passages of one relevance alone and count as 1")
    return ", ".join(parts)


def check_relevances(
    table: Table, queries: Sequence[str], passages: Sequence[str], relevances: Sequence[float]
) -> None:
    """Check that relevances agree and allow a ranking.

    Raises:
        UserError: a query has the same passage with two relevances; none is relevant, so every ranking is as good.
    """
    seen: dict[tuple[str, str], float] = {}
    for row, (query, passage, relevance) in enumerate(zip(queries, passages, relevances, strict=True)):
        before = seen.setdefault((query, passage), relevance)
        if before != relevance:
            raise UserError(
                f"{table.place(row)}: this passage has the relevance {relevance:g} for its query, further up "
                f"{before:g}; keep one of them"
            )
    if max(relevances) <= 0:
        raise UserError(f"{table.name}: no passage is relevant to its query; relevances have to be above 0 for some")
