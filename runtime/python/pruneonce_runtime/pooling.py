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
from pruneonce_runtime.sentences import EMBEDDER, MODULES, NOTES, notes_of, type_noted
from pruneonce_runtime.spec import Floats, Int32s


def _mean(hidden: Doubles, weights: Doubles, power: float = 1.0) -> Doubles:
    found: Doubles = weights @ hidden / max(weights.sum(), 1e-9) ** power
    return found


# By sentence-transformers' names, in the order in which older files set several: of the hidden states of one text
# [tokens, width] and of which tokens count, 0 or 1 [tokens], to [width], in float64.
MODES: dict[str, Callable[[Doubles, Doubles], Doubles]] = {
    "cls": lambda hidden, counts: hidden[counts.argmax()],
    "max": lambda hidden, counts: hidden[counts > 0].max(0, initial=-np.inf),
    "mean": lambda hidden, counts: _mean(hidden, counts),
    "mean_sqrt_len_tokens": lambda hidden, counts: _mean(hidden, counts, 0.5),
    "weightedmean": lambda hidden, counts: _mean(hidden, counts * np.arange(1, len(counts) + 1)),
    "lasttoken": lambda hidden, counts: hidden[-1] * counts[-1],
}
OLDER = {
    **{f"pooling_mode_{mode}_tokens": mode for mode in ("max", "mean", "weightedmean")},
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_lasttoken": "lasttoken",
}  # keys in older files
KEYS = ("embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt", *OLDER)
SENTENCE = "sentence_embedding"  # what is normalized
MODULE = r"(\d+_[A-Za-z]\w*)?"


@dataclass(frozen=True)
class Pooling:
    """The vector of a text; of a model without sentence-transformers' files, the mean, as there.

    Attributes:
        modes: one or several of MODES, whose vectors stand one after another.
        normalize: to length 1; lengths below 1e-12 count as that.
        dimensions: numbers of a vector that are kept, after that; None: all.
        include_prompt: the tokens of the prompt count.
    """

    modes: tuple[str, ...] = ("mean",)
    normalize: bool = False
    dimensions: int | None = None
    include_prompt: bool = True

    @classmethod
    def of(cls, member: Member) -> Pooling:
        """
        Raises:
            PruneonceError: the files are damaged; the model makes its vectors in another way.
        """
        modules = member.json(MODULES)
        if modules is None:
            return cls()
        where = member.packed.path
        if type_noted(member) != EMBEDDER:
            raise PruneonceError(
                f"{where} is a {type_noted(member):.60} of sentence-transformers, which has no vectors"
            )
        pooling, normalize = _modules(modules, str(where))
        if normalize is not None:
            _check_normalize(member, f"{normalize}/config.json".removeprefix("/"))
        file = f"{pooling}/config.json".removeprefix("/")
        config = member.json(file)
        modes = _modes(config, f"{where}: {file}")
        dimensions = notes_of(member).get("truncate_dim")
        if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
            raise PruneonceError(f"{where} is damaged: `truncate_dim` in {NOTES} is {dimensions!r:.60}")
        return cls(modes, normalize is not None, dimensions, bool(config.get("include_prompt", True)))

    def width(self, hidden: int) -> int:
        """Numbers of a vector."""
        width = len(self.modes) * hidden
        return width if self.dimensions is None else min(width, self.dimensions)

    def __call__(self, hidden: Floats, offsets: Int32s, prompt_tokens: int = 0) -> Floats:
        """Vectors [texts, width] of a ragged batch: sums in float64, rounded once.

        Args:
            prompt_tokens: those at the beginning of each text that belong to the prompt.
        """
        wide = hidden.astype(np.float64)
        vectors = np.empty((len(offsets) - 1, len(self.modes) * hidden.shape[1]))
        for text, (start, end) in enumerate(pairwise(offsets)):
            counts = np.ones(end - start)
            if not self.include_prompt:
                counts[:prompt_tokens] = 0
            vectors[text] = np.concatenate([MODES[mode](wide[start:end], counts) for mode in self.modes])
        if self.normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return rounded(vectors[:, : self.dimensions])


def _modules(modules: Any, where: str) -> tuple[str, str | None]:
    """The folders of pooling and of scaling; None: there is none of it."""
    try:
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        owners = {str(module["type"]).partition(".")[0] for module in modules}
        paths = [str(module["path"]) for module in modules]
    except (TypeError, KeyError):
        raise PruneonceError(f"{where} is damaged: {MODULES} is not a list of modules") from None
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"}:
        raise PruneonceError(
            f"{where} makes its vectors by {', '.join(kinds):.200}; it can be by Transformer, Pooling and perhaps "
            "Normalize"
        )
    if owners != {"sentence_transformers"}:
        raise PruneonceError(f"{where} makes its vectors by code of its own: {', '.join(sorted(owners)):.200}")
    if paths[0] or not all(re.fullmatch(MODULE, path) for path in paths):
        raise PruneonceError(f"{where} is damaged: a module is in an odd place")
    return paths[1], next((path for kind, path in zip(kinds, paths, strict=True) if kind == "Normalize"), None)


def _check_normalize(member: Member, file: str) -> None:
    config = member.json(file)
    values = (
        [config.get(key) for key in ("module_input_name", "module_output_name")] if isinstance(config, dict) else []
    )
    if any(value not in (None, SENTENCE) for value in values):
        raise PruneonceError(f"{member.packed.path}: {file}: `{SENTENCE}` alone can be normalized")


def _modes(config: Any, where: str) -> tuple[str, ...]:
    """`pooling_mode`, one or a list; in older files each `pooling_mode_...` that is true; if none, the mean."""
    if not isinstance(config, dict):
        raise PruneonceError(f"{where} is missing or damaged; it says how vectors are made")
    if unknown := [key for key in config if key not in KEYS]:
        raise PruneonceError(f"{where}: `{unknown[0]:.60}` is not known")
    older = {OLDER[key] for key, on in config.items() if key in OLDER and on}
    given = config.get("pooling_mode", [mode for mode in MODES if mode in older] or "mean")
    modes = tuple(str(mode) for mode in (given if isinstance(given, list) else [given]))
    if not 0 < len(modes) <= len(MODES) or set(modes) - set(MODES):
        raise PruneonceError(
            f"{where}: pooling by {' and '.join(modes) or 'nothing':.200} is not supported; it can be by "
            f"{', '.join(MODES)}"
        )
    return modes
