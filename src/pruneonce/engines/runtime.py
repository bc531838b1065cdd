"""Engine pruneonce-runtime, this project's own, which skips zeros and multiplies integers. Its source is `runtime/`."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pruneonce.engines.engine import Engine

if TYPE_CHECKING:
    from pruneonce.engines.session import Array, Outputs, Session

VOCABULARY_HEADS = ("ForMaskedLM", "ForPreTraining")  # of which it runs the encoder alone


def open_model(path: str | Path, threads: int | None, exact: bool) -> Session:
    """Open a packed file, or a model folder (or hub id), which is packed first and not rounded further.

    It always calculates exactly; the arguments are those of `pruneonce.engines.open_engine`.
    """
    import pruneonce_runtime
    import torch

    from pruneonce.engines.session import Session, in_one_line
    from pruneonce.storage.container import is_a_family, place_of

    threads = threads or torch.get_num_threads()
    with TemporaryDirectory() as scratch:
        file, member = place_of(path) or (_packed(path, Path(scratch)), None)
        with in_one_line(f"{ENGINE.title} cannot open {path}"):
            model = pruneonce_runtime.load(file, member, threads=threads)
    if isinstance(model, pruneonce_runtime.Family):
        raise is_a_family(file, list(model))

    def run(batch: dict[str, Array]) -> Outputs:
        with in_one_line(f"{ENGINE.title} cannot run {path}"):
            return outputs(model, **batch)

    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if model.takes_types else [])]
    return Session(ENGINE.name, inputs, "fp32", threads, run)


def outputs(model: Any, input_ids: Array, attention_mask: Array, token_type_ids: Array | None = None) -> Outputs:
    """Return the outputs of a padded batch, by the names of transformers. Padding is left out of the work.

    Args:
        model: of pruneonce_runtime.
        input_ids: integers [texts, length], wherever the padding is.
        attention_mask: likewise, 0 where there is padding.
        token_type_ids: likewise; None: the model takes none.

    Returns:
        `logits` [texts, labels] or [texts, length, labels], `start_logits` and `end_logits` [texts, length], or of a
        bare encoder `last_hidden_state` [texts, length, width]; 0 where there is padding.
    """
    import numpy as np
    from pruneonce_runtime.reference import logits

    kept = attention_mask.astype(bool)
    offsets = np.cumsum([0, *kept.sum(1)], dtype=np.int32)
    types = None if token_type_ids is None else token_type_ids[kept].astype(np.int32)
    hidden = model.engine.forward(input_ids[kept].astype(np.int32), offsets, types)

    def padded(values: Array) -> Array:
        """Return [tokens, width] as [texts, length, width]."""
        full = np.zeros((*kept.shape, values.shape[1]), values.dtype)
        full[kept] = values
        return full

    head = model.network.head
    if head is None:
        return {"last_hidden_state": padded(hidden)}
    values = logits(model.network, model.engine, hidden, offsets)
    if head.pool is not None:
        return {"logits": values}
    values = padded(values)
    if model.task == "question-answering":
        return {"start_logits": values[:, :, 0], "end_logits": values[:, :, 1]}
    return {"logits": values}


def limits(config: Any) -> str | None:
    """Return the reason why the engine does not run a model as it was saved; see `Engine`."""
    from pruneonce_runtime.architectures import ARCHITECTURES

    if config.model_type not in ARCHITECTURES:
        return f"it does not know the architecture {config.model_type}"
    if (config.architectures or [""])[0].endswith(VOCABULARY_HEADS):
        return "it runs no vocabulary head"
    return None


def _packed(source: str | Path, scratch: Path) -> Path:
    """Return a packed file of a model folder or hub id: fp32, but for weights whose grid is recorded beside them."""
    from pruneonce import storage
    from pruneonce.models import copy_sentence_transformer, load_as_saved, load_tokenizer
    from pruneonce.models.sentence_transformers import type_for

    folder = Path(source)
    if not folder.is_dir():
        folder = scratch / "model"
        model = load_as_saved(source)
        model.save_pretrained(folder, save_original_format=False)
        load_tokenizer(source).save_pretrained(folder)
        copy_sentence_transformer(source, folder, type_for(model.config))
    file = scratch / f"model{storage.SUFFIX}"
    storage.pack([folder], file, "fp32")
    return file


ENGINE = Engine(
    name="pruneonce",
    title="pruneonce-runtime",
    library="pruneonce_runtime",
    open=open_model,
    extra="runtime",
    opens_packed=True,
    limits=limits,
)
