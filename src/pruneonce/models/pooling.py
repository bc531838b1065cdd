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
from pruneonce.models import MODULE, local_folder
from pruneonce.system import durable

# By sentence-transformers' names: from hidden states [rows, tokens, width] and mask [rows, tokens, 1] to [rows, width].
MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": lambda hidden, mask: hidden[:, 0],
    "max": lambda hidden, mask: hidden.masked_fill(mask == 0, -torch.inf).amax(1),
    "mean": lambda hidden, mask: (hidden * mask).sum(1) / mask.sum(1),
    "mean_sqrt_len_tokens": lambda hidden, mask: (hidden * mask).sum(1) / mask.sum(1).sqrt(),
}
OLDER = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean"}  # names in older files
KNOWN = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class Pooling:
    """Pooling of hidden states; for a model without sentence-transformers files, the mean.

    Attributes:
        mode: one of MODES.
        normalize: scale vectors to length 1.
    """

    mode: str = "mean"
    normalize: bool = False

    @classmethod
    def of(cls, source: str | Path) -> Pooling:
        """Read the pooling of a model folder or hub id, exported folders included.

        Raises:
            UserError: the files are damaged or cannot be read; the model makes its vectors in another way.
        """
        try:
            folder = local_folder(source)
        except OSError as error:
            raise UserError(f"cannot read how {source} makes its vectors: {error}".splitlines()[0]) from None
        modules = durable.read_json(folder / "modules.json")
        if modules is None:
            return cls()
        try:
            module_paths = {str(module["type"]).rpartition(".")[2]: str(module["path"]) for module in modules}
        except (TypeError, KeyError):
            raise UserError(f"{folder / 'modules.json'} is damaged: not a list of modules") from None
        if "Pooling" not in module_paths or set(module_paths) - set(KNOWN):
            raise UserError(
                f"{source} makes its vectors by {', '.join(module_paths)}; an embedding task is for models that do by "
                "Transformer, Pooling and perhaps Normalize"
            )
        if not re.fullmatch(MODULE, module_paths["Pooling"]):
            raise UserError(f"{folder / 'modules.json'} is damaged: its Pooling is in an odd place")
        return cls(_mode(folder / module_paths["Pooling"] / "config.json"), "Normalize" in module_paths)

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Pool hidden states.

        Args:
            hidden: hidden states [rows, tokens, width].
            mask: [rows, tokens], 0 at padding; no row is padding alone.

        Returns:
            Vectors [rows, width], in fp32.
        """
        vectors = MODES[self.mode](hidden.float(), mask.unsqueeze(-1).float())
        return F.normalize(vectors, dim=-1) if self.normalize else vectors


def _mode(file: Path) -> str:
    """Read `pooling_mode`, a name or a list; in older files the true `pooling_mode_..._tokens`; by default the mean."""
    config: Any = durable.read_json(file)
    if not isinstance(config, dict):
        raise UserError(f"{file} is missing or damaged; it says how vectors are made")
    older = [key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on]
    configured = config.get("pooling_mode", [OLDER.get(name, name) for name in older] or "mean")
    modes = [str(mode) for mode in (configured if isinstance(configured, list) else [configured])]
    if len(modes) != 1 or modes[0] not in MODES:
        raise UserError(
            f"{file}: an embedding task cannot pool by {' and '.join(modes) or 'nothing'}; it can by one of "
            f"{', '.join(MODES)}"
        )
    return modes[0]
