"""Lengths of time in a recipe (`warmup`, `start`, `end`, `until`, `every`).

One rule, as for `warmup_steps` in transformers: below 1 a length is a fraction of the steps, from 1 on it is steps.
"""


def as_steps(length: float, total: int) -> int:
    """`length` in steps: a fraction of `total` when below 1, steps otherwise."""
    return round(length * total) if length < 1 else round(length)
