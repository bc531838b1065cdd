"""Metrics: pure functions of predictions and gold labels, with a module for each family of tasks.

All return `{name: value}` under the names of GLUE, SQuAD and seqeval. Values are fractions, except in `squad`, which
gives percent, as published.
"""

from pruneonce.metrics import glue, retrieval, spans, squad

__all__ = ["glue", "retrieval", "spans", "squad"]
