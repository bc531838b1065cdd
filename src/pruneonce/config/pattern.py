"""Mask patterns by name; `pruneonce.sparsity.patterns` makes masks with them.

| name | pruned together |
| --- | --- |
| `unstructured` | each weight by itself |
| `1x4` | blocks of 1 output by 4 inputs, and so with any numbers |
| `row`, `column` | all weights of an output, of an input |
| `2:4` | each weight by itself, but of every 4 inputs of an output at most 2 are kept; so with any numbers |
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NAMES = "unstructured, row, column, blocks such as 1x4 (outputs x inputs), or N:M such as 2:4"
BLOCK, N_OF_M = re.compile(r"([1-9]\d{0,3})x([1-9]\d{0,3})"), re.compile(r"([1-9]\d?):([1-9]\d?)")


@dataclass(frozen=True)
class Pattern:
    """Pattern of blocks, `rows` outputs by `columns` inputs (0: all), or of at most `keep` in every `of` inputs."""

    name: str
    rows: int = 1
    columns: int = 1
    keep: int = 1
    of: int = 1

    @classmethod
    def parse(cls, name: str) -> Pattern:
        """Parse the name of a pattern.

        Raises:
            ValueError: there is no pattern of this name.
        """
        if name in (plain := {"unstructured": (1, 1), "row": (1, 0), "column": (0, 1)}):
            return cls(name, *plain[name])
        if match := BLOCK.fullmatch(name):
            return cls(name, int(match[1]), int(match[2]))
        if (match := N_OF_M.fullmatch(name)) and int(match[1]) < int(match[2]):
            return cls(name, keep=int(match[1]), of=int(match[2]))
        raise ValueError(f"a pattern is {NAMES}")

    @property
    def least_sparsity(self) -> float:
        """Lowest sparsity of a finished model: `1 - N / M` for N:M, 0 for other patterns."""
        return 1 - self.keep / self.of


UNSTRUCTURED = Pattern("unstructured")
