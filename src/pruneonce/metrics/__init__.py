"""How good predictions are: pure functions of predictions and gold, a module for each family of tasks.

All give `{name: value}` under the names that GLUE, SQuAD and seqeval have. Values are fractions, but those of
`squad`, which are percent, as published.
"""

from pruneonce.metrics import glue, retrieval, spans, squad

__all__ = ["glue", "retrieval", "spans", "squad"]
