"""Loading of models, tokenizers and configurations through transformers' Auto classes.

Weights come from safetensors only, and remote code never runs.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining, AutoTokenizer

from pruneonce.console import logger
from pruneonce.errors import UserError
from pruneonce.models.source import first_line, must_be_bounded, must_exist


def load_model(auto_class: Any, source: str | Path, **config: Any) -> Any:
    """Load a model by `auto_class.from_pretrained(source)` in fp32; `config` overrides its configuration.

    Raises:
        UserError: there is no model, or no safetensors weights, or the model needs remote code.
    """
    return load_reporting(auto_class, source, **config)[0]


def load_reporting(auto_class: Any, source: str | Path, **config: Any) -> tuple[Any, set[str]]:
    """Load a model as `load_model` does; return it with the names of newly initialised parameters."""
    with _loading("load a model", source):
        model, info = auto_class.from_pretrained(
            source,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,  # without it, transformers would ask
            **config,
        )
    logger.debug("%s loaded from %s", type(model).__name__, source)
    return model, set(info["missing_keys"])


def load_encoder(source: str | Path, **config: Any) -> Any:
    """Load the bare encoder, whatever head it was saved with; without a pooler if the file has none."""
    model, missing = load_reporting(AutoModel, source, **config)
    if any(name.startswith("pooler.") for name in missing):
        model.pooler = None  # transformers would leave it random
    return model


def load_as_saved(source: str | Path) -> Any:
    """Load a model as it was saved, with its head or without a head.

    Raises:
        UserError: as in `load_model`, or the configuration names no model class of transformers.
    """
    name = (load_config(source).architectures or ["none"])[0]
    if name.endswith("Model"):
        return load_encoder(source)
    if not hasattr(transformers, name):
        raise UserError(f"{source} has a config.json whose `architectures` names no class of transformers: {name}")
    return load_model(getattr(transformers, name), source)


def load_vocabulary_model(source: Any, **config: Any) -> tuple[Any, bool]:
    """Load a model with its MLM head; return it with True if the head is new (the source had none).

    BERT is loaded as `BertForPreTraining`, which keeps the pooler: the pooler is pruned with the encoder, and
    classifiers need it.
    """
    model_type = load_config(source).model_type
    auto = AutoModelForPreTraining if model_type == "bert" else AutoModelForMaskedLM
    model, missing = load_reporting(auto, source, **config)
    head = {name for name in missing if not name.startswith((f"{model.base_model_prefix}.", "cls.seq_relationship"))}
    return model, bool(head)


def load_tokenizer(source: str | Path) -> Any:
    """Load the tokenizer of a model folder or hub id.

    Raises:
        UserError: there is no model, or its tokenizer is damaged.
    """
    with _loading("load a tokenizer", source):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def load_config(source: str | Path) -> Any:
    """Load the configuration of a model folder or hub id.

    Raises:
        UserError: there is no model, or its configuration is damaged.
    """
    with _loading("read a model configuration", source):
        return AutoConfig.from_pretrained(source, trust_remote_code=False)


@contextmanager
def _loading(what: str, source: str | Path) -> Generator[None, None, None]:
    """Turn the exceptions of transformers about a wrong folder or hub id into a `UserError` of one line."""
    must_exist(source)
    must_be_bounded(source)
    try:
        yield
    except Exception as error:  # damaged and malicious files fail anywhere in transformers, in any way
        if "trust_remote_code" in str(error):
            raise UserError(
                f"cannot {what} from {source}: it wants to run code of its own, which pruneonce never does; use "
                "a model of an architecture that transformers has"
            ) from error
        raise UserError(f"cannot {what} from {source}: {first_line(error)}") from error


def without_dropout(config: Any, dropout: float | None) -> dict[str, float]:
    """Configuration overrides that set every dropout probability to `dropout`; empty if it is None."""
    return {} if dropout is None else dict.fromkeys(dropouts(config), dropout)


def dropouts(config: Any) -> list[str]:
    """Names of the dropout probabilities in a configuration."""
    return [
        key
        for key, value in config.to_dict().items()
        if "dropout" in key and isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
