"""Mask patterns by name: which weights are pruned together. What is done with one is in `pruneonce.sparsity.patterns`.

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
    """Blocks of `rows` outputs by `columns` inputs, 0 being all of them; or at most `keep` of every `of` inputs."""

    name: str
    rows: int = 1
    columns: int = 1
    keep: int = 1
    of: int = 1

    @classmethod
    def parse(cls, name: str) -> Pattern:
        """
        Raises:
            ValueError: there is no such pattern.
        """
        if name in (plain := {"unstructured": (1, 1), "row": (1, 0), "column": (0, 1)}):
            return cls(name, *plain[name])
        if found := BLOCK.fullmatch(name):
            return cls(name, int(found[1]), int(found[2]))
        if (found := N_OF_M.fullmatch(name)) and int(found[1]) < int(found[2]):
            return cls(name, keep=int(found[1]), of=int(found[2]))
        raise ValueError(f"a pattern is {NAMES}")

    @property
    def least_sparsity(self) -> float:
        """Where N of every M are kept, a finished model has no fewer zeros than this."""
        return 1 - self.keep / self.of


UNSTRUCTURED = Pattern("unstructured")
