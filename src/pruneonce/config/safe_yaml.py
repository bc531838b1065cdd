"""Reader of untrusted YAML: plain values of bounded size, with aliases counted at each use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pruneonce.errors import UserError

MOST_BYTES = 100_000  # PyYAML takes quadratic time for some texts
MOST_VALUES = 100_000
DEEPEST = 50
MERGE = "tag:yaml.org,2002:merge"  # of the key "<<"
MOST_BITS = 256  # of a whole number; Python refuses to print numbers of some thousands


def read(file: Path) -> Any:
    """Read the value of a YAML file.

    Raises:
        UserError: the file cannot be read, or is not valid YAML.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise UserError(f"{file} is not valid YAML for a recipe: it is larger than {MOST_BYTES:,} bytes")
    try:
        return parse(content.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None


def parse(text: str) -> Any:
    """Parse the value of a YAML text.

    Raises:
        ValueError: the text is not valid YAML, or its value is too large or nested too deep.
    """
    try:
        value = _load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError(f"values are nested deeper than {DEEPEST}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # PyYAML's, of odd dates and numbers
        raise ValueError(str(error)) from None
    _count(value, 0, {})
    return value


class _Loader(yaml.SafeLoader):
    """PyYAML's loader of plain values, which takes no key twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping, of which PyYAML would keep the last of two values under one key.

        Raises:
            ValueError: a key comes twice.
        """
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                before = first.setdefault((key.tag, key.value), key)
                if before is not key:
                    places = f"in line {before.start_mark.line + 1} and in line {key.start_mark.line + 1}"
                    raise ValueError(f"the key {key.value!r} comes twice, {places}; keep one of the two")
        return node


def _load(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _count(value: Any, depth: int, known: dict[int, int]) -> int:
    """Count the values in `value`, with each alias counted at each use."""
    if depth > DEEPEST:
        raise ValueError(f"values are nested deeper than {DEEPEST}")
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise ValueError("a number is far too large")
    if not isinstance(value, (dict, list, set, tuple)):
        return 1
    if id(value) not in known:
        inside = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(one, depth + 1, known) for one in inside)
    if known[id(value)] > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES:,} values")
    return known[id(value)]
