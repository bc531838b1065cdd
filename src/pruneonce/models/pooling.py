"""Pooling of the hidden states of a text's tokens to one vector, as set by sentence-transformers files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pruneonce.errors import UserError
from pruneonce.models import MODULE
from pruneonce.models.sentence_transformers import EMBEDDER, MODULES, NOTES, type_noted
from pruneonce.models.text_settings import folder_of, notes_of
from pruneonce.system import durable
from pruneonce.wording import as_in_file, listed


def _token(hidden: Tensor, index: Tensor) -> Tensor:
    """Return the hidden states [rows, width] of one token of each row; `index` is [rows, 1]."""
    return hidden.take_along_dim(index.unsqueeze(-1), 1).squeeze(1)


def _mean(hidden: Tensor, weights: Tensor, power: float = 1.0) -> Tensor:
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9) ** power


# By sentence-transformers' names, in the order in which older files set several: from hidden states
# [rows, tokens, width], mask [rows, tokens, 1] and positions [rows, tokens, 1] from 1 on to [rows, width].
MODES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cls": lambda hidden, mask, positions: _token(hidden, mask.argmax(1)),
    "max": lambda hidden, mask, positions: hidden.masked_fill(mask == 0, -torch.inf).amax(1),
    "mean": lambda hidden, mask, positions: _mean(hidden, mask),
    "mean_sqrt_len_tokens": lambda hidden, mask, positions: _mean(hidden, mask, 0.5),
    "weightedmean": lambda hidden, mask, positions: _mean(hidden, mask * positions),
    "lasttoken": lambda hidden, mask, positions: _token(hidden * mask, (mask * positions).argmax(1)),
}
OLDER = {
    **{f"pooling_mode_{mode}_tokens": mode for mode in ("max", "mean", "weightedmean")},
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_lasttoken": "lasttoken",
}  # keys in older files
SIZE_KEYS = ("embedding_dimension", "word_embedding_dimension")
NORMALIZE_KEYS = ("module_input_name", "module_output_name")
SENTENCE = "sentence_embedding"  # what `Normalize` normalizes
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


@dataclass(frozen=True)
class Pooling:
    """Pooling of hidden states; for a model without sentence-transformers files, the mean.

    Attributes:
        modes: one or several of MODES, whose vectors stand one after another.
        normalize: scale vectors to length 1.
        dimensions: numbers of a vector that are kept, after scaling; None: all.
        include_prompt: tokens of the prompt count.
        similarity: function that compares vectors, one of SIMILARITIES.
    """

    modes: tuple[str, ...] = ("mean",)
    normalize: bool = False
    dimensions: int | None = None
    include_prompt: bool = True
    similarity: str = SIMILARITIES[0]

    @classmethod
    def of(cls, source: str | Path) -> Pooling:
        """Read the pooling of a model folder or hub id, exported folders included.

        Raises:
            UserError: the files are damaged or cannot be read; the model makes its vectors in another way.
        """
        folder = folder_of(source)
        modules = durable.read_json(folder / MODULES)
        if modules is None:
            return cls()
        if (noted := type_noted(folder)) != EMBEDDER:
            raise UserError(f"{source} is a {noted} of sentence-transformers, which makes no vectors of texts")
        pooling, normalize = _modules(modules, source, folder)
        if normalize is not None:
            _check_normalize(folder / normalize / "config.json")
        modes, include_prompt = _pooling(folder / pooling / "config.json")
        dimensions, similarity = _notes(folder)
        return cls(modes, normalize is not None, dimensions, include_prompt, similarity)

    def width(self, hidden_size: int) -> int:
        """Return the numbers of a vector."""
        width = len(self.modes) * hidden_size
        return width if self.dimensions is None else min(width, self.dimensions)

    def __call__(self, hidden: Tensor, mask: Tensor, prompt_tokens: int = 0) -> Tensor:
        """Pool hidden states.

        Args:
            hidden: hidden states [rows, tokens, width].
            mask: [rows, tokens], 0 at padding; no row is padding alone.
            prompt_tokens: tokens at the beginning of each row that belong to a prompt.

        Returns:
            Vectors [rows, width], in fp32.
        """
        mask = mask.unsqueeze(-1).float()
        positions = torch.arange(1, mask.shape[1] + 1, device=mask.device).view(1, -1, 1) - mask.argmax(1, keepdim=True)
        if not self.include_prompt and prompt_tokens:
            mask = mask * (positions > prompt_tokens)
        vectors = torch.cat([MODES[mode](hidden.float(), mask, positions) for mode in self.modes], -1)
        if self.normalize:
            vectors = F.normalize(vectors, dim=-1)
        return vectors if self.dimensions is None else vectors[:, : self.dimensions]


def _modules(modules: Any, source: str | Path, folder: Path) -> tuple[str, str | None]:
    """Return the folders of pooling and of scaling (None: there is no scaling)."""
    try:
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        owners = {str(module["type"]).partition(".")[0] for module in modules}
        paths = [str(module["path"]) for module in modules]
    except (TypeError, KeyError):
        raise UserError(f"{folder / MODULES} is damaged: not a list of modules") from None
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"}:
        raise UserError(
            f"{source} makes its vectors by {', '.join(kinds)}; an embedding task is for models that do by "
            "Transformer, Pooling and perhaps Normalize"
        )
    if owners != {"sentence_transformers"}:
        raise UserError(f"{source} makes its vectors by code of its own, which is not run: {', '.join(sorted(owners))}")
    if not all(re.fullmatch(MODULE, path) for path in paths):
        raise UserError(f"{folder / MODULES} is damaged: its modules are in odd places")
    if paths[0]:
        raise UserError(
            f"the encoder of {source} is in its folder {paths[0]}; put it beside {MODULES}, with `path: ''`"
        )
    return paths[1], next((path for kind, path in zip(kinds, paths, strict=True) if kind == "Normalize"), None)


def _pooling(file: Path) -> tuple[tuple[str, ...], bool]:
    """Read the modes, and whether the prompt counts.

    `pooling_mode` is a name or a list; in older files, each true `pooling_mode_...` counts; by default, the mean.
    """
    config: Any = durable.read_json(file)
    if not isinstance(config, dict):
        raise UserError(f"{file} is missing or damaged; it says how vectors are made")
    if unknown := [key for key in config if key not in (*SIZE_KEYS, "pooling_mode", "include_prompt", *OLDER)]:
        raise UserError(f"{file}: an embedding task does not know {listed([f'`{key}`' for key in unknown])}")
    older = {OLDER[key] for key, on in config.items() if key in OLDER and on}
    configured = config.get("pooling_mode", [mode for mode in MODES if mode in older] or "mean")
    modes = tuple(str(mode) for mode in (configured if isinstance(configured, list) else [configured]))
    if not modes or set(modes) - set(MODES):
        raise UserError(
            f"{file}: an embedding task cannot pool by {' and '.join(modes) or 'nothing'}; it can by {', '.join(MODES)}"
        )
    return modes, bool(config.get("include_prompt", True))


def _check_normalize(file: Path) -> None:
    """Refuse a `Normalize` that scales something else than the vector."""
    config = durable.read_json(file)
    names = [(config or {}).get(key) for key in NORMALIZE_KEYS] if isinstance(config, dict | None) else [file]
    if any(name not in (None, SENTENCE) for name in names):
        raise UserError(f"{file}: an embedding task can normalize `{SENTENCE}` alone")


def _notes(folder: Path) -> tuple[int | None, str]:
    """Read the numbers that are kept of a vector, and the function that compares vectors."""
    notes = notes_of(folder)
    dimensions, similarity = notes.get("truncate_dim"), notes.get("similarity_fn_name") or SIMILARITIES[0]
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise UserError(
            f"{folder / NOTES}: `truncate_dim` has to be a number of 1 or more, not {as_in_file(dimensions)}"
        )
    if similarity not in SIMILARITIES:
        raise UserError(
            f"{folder / NOTES}: an embedding task cannot compare by {as_in_file(similarity)}; it can by "
            f"{listed(list(SIMILARITIES))}"
        )
    return dimensions, similarity
