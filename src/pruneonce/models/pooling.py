"""How a model makes a vector for a text of the hidden states of its tokens: as its sentence-transformers files say."""

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
from pruneonce.models import MODULE, local_folder
from pruneonce.system import durable

# By the name of sentence-transformers: hidden states [rows, tokens, width] and mask [rows, tokens, 1] to [rows, width].
MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": lambda hidden, mask: hidden[:, 0],
    "max": lambda hidden, mask: hidden.masked_fill(mask == 0, -torch.inf).amax(1),
    "mean": lambda hidden, mask: (hidden * mask).sum(1) / mask.sum(1),
    "mean_sqrt_len_tokens": lambda hidden, mask: (hidden * mask).sum(1) / mask.sum(1).sqrt(),
}
OLDER = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean"}  # names, where they differ
KNOWN = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class Pooling:
    """The vector of a text; of a model without sentence-transformers' files, the mean, as there.

    Attributes:
        mode: one of MODES.
        normalize: to length 1.
    """

    mode: str = "mean"
    normalize: bool = False

    @classmethod
    def of(cls, source: str | Path) -> Pooling:
        """That of a model folder or hub id, exported folders included.

        Raises:
            UserError: the files are damaged or not to be had; the model makes its vectors in another way.
        """
        try:
            folder = local_folder(source)
        except OSError as error:
            raise UserError(f"cannot read how {source} makes its vectors: {error}".splitlines()[0]) from None
        modules = durable.read_json(folder / "modules.json")
        if modules is None:
            return cls()
        try:
            found = {str(module["type"]).rpartition(".")[2]: str(module["path"]) for module in modules}
        except (TypeError, KeyError):
            raise UserError(f"{folder / 'modules.json'} is damaged: not a list of modules") from None
        if "Pooling" not in found or set(found) - set(KNOWN):
            raise UserError(
                f"{source} makes its vectors by {', '.join(found)}; an embedding task is for models that do by "
                "Transformer, Pooling and perhaps Normalize"
            )
        if not re.fullmatch(MODULE, found["Pooling"]):
            raise UserError(f"{folder / 'modules.json'} is damaged: its Pooling is in an odd place")
        return cls(_mode(folder / found["Pooling"] / "config.json"), "Normalize" in found)

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """
        Args:
            hidden: hidden states [rows, tokens, width].
            mask: [rows, tokens], 0 where there is padding; no row is padding alone.

        Returns:
            Vectors [rows, width], in fp32.
        """
        vectors = MODES[self.mode](hidden.float(), mask.unsqueeze(-1).float())
        return F.normalize(vectors, dim=-1) if self.normalize else vectors


def _mode(file: Path) -> str:
    """`pooling_mode`, one or a list; in older files each `pooling_mode_..._tokens` that is true; if none, the mean."""
    config: Any = durable.read_json(file)
    if not isinstance(config, dict):
        raise UserError(f"{file} is missing or damaged; it says how vectors are made")
    older = [key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on]
    given = config.get("pooling_mode", [OLDER.get(name, name) for name in older] or "mean")
    modes = [str(mode) for mode in (given if isinstance(given, list) else [given])]
    if len(modes) != 1 or modes[0] not in MODES:
        raise UserError(
            f"{file}: an embedding task cannot pool by {' and '.join(modes) or 'nothing'}; it can by one of "
            f"{', '.join(MODES)}"
        )
    return modes[0]
