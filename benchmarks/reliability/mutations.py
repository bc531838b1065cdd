"""Damage by accident (bytes) and on purpose (values), as hypothesis draws it."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 400), st.floats(), st.text(max_size=8),
    st.sampled_from([2**31, 2**63, 10**40, "../x", "/etc/passwd", "2026-13-45", "1e999", "gaps", "bytes", "F32"]),
)  # fmt: skip
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner))
LINES = st.sampled_from([
    "[" * 400, "{" * 400, "a: &a [*a]", "- !!python/name:os.system", "? [a]", "<<: *t", "steps: " + "9" * 5000,
    "&x [*x, *x]", "\t", "---", "...", "%YAML 9", "!!binary x", "!!timestamp x", "extends: mine", "extends: ../../x",
])  # fmt: skip


def mutated(data: Any, content: bytes) -> bytes:
    """Cut off, with bits flipped (in the head, above all), with a lie about a length, or with a piece of another."""
    how = data.draw(st.sampled_from(["cut", "flip", "flip", "length", "splice"]))
    if how == "cut":
        return content[: data.draw(st.integers(0, len(content) - 1))]
    changed = bytearray(content)
    if how == "flip":
        for _ in range(data.draw(st.integers(1, 4))):
            where = data.draw(st.integers(0, min(400, len(content) - 1)) | st.integers(0, len(content) - 1))
            changed[where] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "length":
        length = data.draw(st.integers(0, 2**64 - 1) | st.sampled_from([len(content), 2**31, 2**40, 2**63]))
        changed[:8] = length.to_bytes(8, "little")
    else:
        start = data.draw(st.integers(0, len(content) - 1))
        changed[start : start + 8] = data.draw(st.binary(max_size=40))
    return bytes(changed)


def places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    """Every place in a JSON value."""
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def lie(data: Any, value: Any) -> Any:
    """The JSON value with another one somewhere in it."""
    changed = copy.deepcopy(value)
    path = data.draw(st.sampled_from(list(places(value))[1:]))
    target = changed
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = data.draw(VALUES)
    return changed
