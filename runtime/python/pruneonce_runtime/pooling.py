"""How a model makes a vector for a text of the hidden states of its tokens: as its sentence-transformers files say."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pruneonce_runtime.errors import PruneonceError
from pruneonce_runtime.file import Member
from pruneonce_runtime.functions import Doubles, rounded
from pruneonce_runtime.spec import Floats, Int32s

# By the name of sentence-transformers: hidden states of one text [tokens, width] to [width], in float64.
MODES: dict[str, Callable[[Doubles], Doubles]] = {
    "cls": lambda hidden: hidden[0],
    "max": lambda hidden: hidden.max(0),
    "mean": lambda hidden: hidden.mean(0),
    "mean_sqrt_len_tokens": lambda hidden: hidden.sum(0) / np.sqrt(len(hidden)),
}
OLDER = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean"}  # names, where they differ
KNOWN = ("Transformer", "Pooling", "Normalize")
MODULE = r"(\d+_[A-Za-z]\w*)?"


@dataclass(frozen=True)
class Pooling:
    """The vector of a text; of a model without sentence-transformers' files, the mean, as there.

    Attributes:
        mode: one of MODES.
        normalize: to length 1; lengths below 1e-12 count as that.
    """

    mode: str = "mean"
    normalize: bool = False

    @classmethod
    def of(cls, member: Member) -> Pooling:
        """
        Raises:
            PruneonceError: the files are damaged; the model makes its vectors in another way.
        """
        modules = member.json("modules.json")
        if modules is None:
            return cls()
        try:
            paths = {str(module["type"]).rpartition(".")[2]: str(module["path"]) for module in modules}
        except (TypeError, KeyError):
            raise PruneonceError(f"{member.packed.path} is damaged: modules.json is not a list of modules") from None
        if "Pooling" not in paths or set(paths) - set(KNOWN):
            raise PruneonceError(
                f"{member.packed.path} makes its vectors by {', '.join(paths)}; it can be by Transformer, Pooling and "
                "perhaps Normalize"
            )
        if not re.fullmatch(MODULE, paths["Pooling"]):
            raise PruneonceError(f"{member.packed.path} is damaged: its Pooling is in an odd place")
        file = f"{paths['Pooling']}/config.json".removeprefix("/")
        return cls(_mode(member.json(file), f"{member.packed.path}: {file}"), "Normalize" in paths)

    def __call__(self, hidden: Floats, offsets: Int32s) -> Floats:
        """Vectors [texts, width] of a ragged batch: sums in float64, rounded once."""
        wide = hidden.astype(np.float64)
        vectors = np.empty((len(offsets) - 1, hidden.shape[1]))
        for text, (start, end) in enumerate(pairwise(offsets)):
            vectors[text] = MODES[self.mode](wide[start:end])
        if self.normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return rounded(vectors)


def _mode(config: Any, where: str) -> str:
    """`pooling_mode`, one or a list; in older files each `pooling_mode_..._tokens` that is true; if none, the mean."""
    if not isinstance(config, dict):
        raise PruneonceError(f"{where} is missing or damaged; it says how vectors are made")
    older = [key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on]
    given = config.get("pooling_mode", [OLDER.get(name, name) for name in older] or "mean")
    modes = [str(mode) for mode in (given if isinstance(given, list) else [given])]
    if len(modes) != 1 or modes[0] not in MODES:
        raise PruneonceError(
            f"{where}: pooling by {' and '.join(modes) or 'nothing'} is not supported; it can be by one of "
            f"{', '.join(MODES)}"
        )
    return modes[0]
