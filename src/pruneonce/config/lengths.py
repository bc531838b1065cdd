"""Lengths of time in a recipe: `warmup`, `start`, `end`, `until`, `every`.

The rule is that of `warmup_steps` in transformers: a length below 1 is a fraction of the steps, and a length of 1 or
more is a number of steps.
"""


def as_steps(length: float, total: int) -> int:
    """Convert `length` to steps: a fraction of `total` below 1, a number of steps otherwise."""
    return round(length * total) if length < 1 else round(length)
