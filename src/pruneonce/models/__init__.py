"""Model folders: loading, saving, provenance, model cards, architectures."""

from typing import TYPE_CHECKING

from pruneonce.lazy import lazily

if TYPE_CHECKING:
    from pruneonce.models.folder import BEGUN, publish_folder, remove_scratch, save_model
    from pruneonce.models.loading import (
        check_weights,
        dropouts,
        load_as_saved,
        load_config,
        load_encoder,
        load_model,
        load_reporting,
        load_tokenizer,
        load_vocabulary_model,
        without_dropout,
    )
    from pruneonce.models.provenance import (
        CERTIFICATE,
        LIBRARIES,
        METRICS,
        PROVENANCE,
        content_key,
        key_of,
        read_provenance,
    )
    from pruneonce.models.sentence_transformers import MODULE, copy_sentence_transformer, local_folder
else:
    __getattr__ = lazily(
        __name__,
        *(f"{__name__}.{module}" for module in ("provenance", "sentence_transformers", "folder", "loading")),
    )

__all__ = [
    "BEGUN",
    "CERTIFICATE",
    "LIBRARIES",
    "METRICS",
    "MODULE",
    "PROVENANCE",
    "check_weights",
    "content_key",
    "copy_sentence_transformer",
    "dropouts",
    "key_of",
    "load_as_saved",
    "load_config",
    "load_encoder",
    "load_model",
    "load_reporting",
    "load_tokenizer",
    "load_vocabulary_model",
    "local_folder",
    "publish_folder",
    "read_provenance",
    "remove_scratch",
    "save_model",
    "without_dropout",
]
