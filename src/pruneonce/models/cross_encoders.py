"""Check that a `CrossEncoder` of sentence-transformers makes its scores in a way that can be followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruneonce.errors import UserError
from pruneonce.models.loading import load_config
from pruneonce.models.sentence_transformers import MODULES, RERANKER, type_noted
from pruneonce.models.text_settings import folder_of, notes_of
from pruneonce.system import durable
from pruneonce.wording import as_in_file

ACTIVATIONS = ("torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity")
SHORT = {"torch.nn.Sigmoid": ACTIVATIONS[0], "torch.nn.Identity": ACTIVATIONS[1]}
OURS = "torch."  # of which sentence-transformers takes functions; it ignores others


def check_reranker(source: str | Path) -> None:
    """Check the function behind the score, and that a model's head alone makes it.

    Neither `Sigmoid` nor `Identity` changes a ranking.

    Raises:
        UserError: the score is made in another way; the files are damaged.
    """
    folder = folder_of(source)
    modules, notes = durable.read_json(folder / MODULES), {}
    if modules is not None and type_noted(folder) == RERANKER:
        notes = notes_of(folder)
        kinds = [str(one.get("type")) for one in modules if isinstance(one, dict)] if isinstance(modules, list) else []
        if len(kinds) != 1 or not kinds[0].startswith("sentence_transformers.") or not kinds[0].endswith("Transformer"):
            raise UserError(
                f"{source} makes its scores by {', '.join(kinds) or 'nothing'}; a reranking task is for models that do "
                "by a Transformer with a head"
            )
    name = activation(load_config(source), notes)
    if name is not None and name not in ACTIVATIONS:
        raise UserError(f"the score of {source} is a {as_in_file(name)}; it can be a Sigmoid or an Identity")


def activation(config: Any, notes: dict[str, Any]) -> str | None:
    """Return the function behind the score as files name it; None where they leave it to sentence-transformers."""
    in_config = getattr(config, "sentence_transformers", None)
    names = [
        notes.get("activation_fn"),
        in_config.get("activation_fn") if isinstance(in_config, dict) else None,
        getattr(config, "sbert_ce_default_activation_function", None),
    ]
    known = [name for name in names if isinstance(name, str) and name.startswith(OURS)]
    return SHORT.get(known[0], known[0]) if known else None
